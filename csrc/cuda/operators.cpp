// The CUDA implementations of all operators. Their schemas are in the CPU library.

#include "gpu.h"

namespace norse_fast::cuda {
namespace {

Tensor product(const Tensor& a, const Tensor& b) { return torch::stable::matmul(a, b); }

Tensor spike_product(const Tensor& spikes, const Tensor& grads) {
  return torch::stable::matmul(torch::stable::transpose(spikes, 0, 1), grads);
}

std::vector<int64_t> limits(int64_t device) {
  const DeviceLimits found = device_limits(static_cast<int>(device));
  return {found.multiprocessors, found.shared_bytes};
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(norse_fast, m) { m.def("cuda_limits(int device) -> int[]"); }

STABLE_TORCH_LIBRARY_IMPL(norse_fast, CompositeExplicitAutograd, m) {
  m.impl("cuda_limits", TORCH_BOX(&limits));
  m.impl("cuda_kernels", TORCH_BOX(&kernel_table<Gpu>));
}

STABLE_TORCH_LIBRARY_IMPL(norse_fast, CUDA, m) {
  implement_all<Gpu>(m);
  implement_recurrent<Gpu>(m);
  m.impl("product", TORCH_BOX(&product));
  m.impl("spike_product", TORCH_BOX(&spike_product));
}

}  // namespace norse_fast::cuda
