// The CUDA implementations of all operators. Their schemas are in the CPU library.

#include "../operators.h"

#include <torch/csrc/stable/accelerator.h>

#include "backend.h"

namespace norse_fast::cuda {
namespace {

/// The backend, as operators.h wants it.
struct Gpu {
  static void prepare(void*, int64_t) {}

  template <class Model, class Launch>
  static auto kernel() {
    return static_cast<void (*)(const Launch&, void*)>(&Kernels<Cuda, Model>::run);
  }

  /// Launches on the current stream.
  template <class Launch>
  static void run(void (*kernel)(const Launch&, void*), const Launch& launch, int32_t device_index) {
    const torch::stable::accelerator::DeviceGuard guard(device_index);
    void* stream = nullptr;
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(device_index, &stream));
    kernel(launch, stream);
  }
};

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(norse_fast, CompositeExplicitAutograd, m) {
  m.impl("cuda_kernels", TORCH_BOX(&kernel_table<Gpu>));
}

STABLE_TORCH_LIBRARY_IMPL(norse_fast, CUDA, m) { implement_all<Gpu>(m); }

}  // namespace norse_fast::cuda
