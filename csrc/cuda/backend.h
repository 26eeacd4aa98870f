#pragma once
// CUDA as a backend of Kernels.

#include "../launch.h"

namespace norse_fast::cuda {

struct Cuda {
  using Where = void*;  // a cudaStream_t, so that operators need no CUDA header
};

}  // namespace norse_fast::cuda
