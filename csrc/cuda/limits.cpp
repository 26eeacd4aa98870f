// What the plans need to know of a GPU.

#include "backend.h"

namespace norse_fast::cuda {

DeviceLimits device_limits(int device) {
  const auto attribute = [&](cudaDeviceAttr which) {
    int value = 0;
    return cudaDeviceGetAttribute(&value, which, device) == cudaSuccess ? value : 0;
  };
  if (!attribute(cudaDevAttrCooperativeLaunch)) return {1, 0};
  return {attribute(cudaDevAttrMultiProcessorCount), attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin)};
}

}  // namespace norse_fast::cuda
