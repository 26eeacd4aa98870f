// The CUDA implementations of all operators. Their schemas are in the CPU library.

#include "../operators.h"

#include <torch/csrc/stable/accelerator.h>

#include "backend.h"

namespace norse_fast::cuda {
namespace {

/// The device of the operators of operators.h; the current one while it lives.
struct Gpu {
  template <class Launch>
  using Kernel = void (*)(const Launch& launch, void* stream);

  DeviceId id;
  torch::stable::accelerator::DeviceGuard guard;

  explicit Gpu(const Tensor& input) : id(input), guard(id.index) {}

  Tensor operator()(const Sizes& sizes, ScalarType dtype) const { return empty(sizes, dtype, id); }

  template <class Model, class Launch>
  static Kernel<Launch> kernel() {
    return &Kernels<Cuda, Model>::run;
  }

  /// Launches on the current stream.
  template <class Launch>
  void run(Kernel<Launch> kernel, const Launch& launch) const {
    void* stream = nullptr;
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(id.index, &stream));
    kernel(launch, stream);
  }
};

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(norse_fast, CUDA, m) { implement_all<Gpu>(m); }

}  // namespace norse_fast::cuda
