// The CUDA implementations of all operators. Their schemas are in the CPU library.

#include "gpu.h"

namespace norse_fast::cuda {

template void run_lanes(Kernel<Forward<float>>, const Forward<float>&, DeviceId);
template void run_lanes(Kernel<Forward<double>>, const Forward<double>&, DeviceId);
template void run_lanes(Kernel<Backward<float>>, const Backward<float>&, DeviceId);
template void run_lanes(Kernel<Backward<double>>, const Backward<double>&, DeviceId);

template void run_layer(RecurrentKernel<RecurrentForward<float>, float>, int, int, const RecurrentForward<float>&,
                        DeviceId);
template void run_layer(RecurrentKernel<RecurrentForward<double>, double>, int, int, const RecurrentForward<double>&,
                        DeviceId);
template void run_layer(RecurrentKernel<RecurrentBackward<float>, float>, int, int, const RecurrentBackward<float>&,
                        DeviceId);
template void run_layer(RecurrentKernel<RecurrentBackward<double>, double>, int, int, const RecurrentBackward<double>&,
                        DeviceId);

namespace {

Tensor product(const Tensor& a, const Tensor& b) { return torch::stable::matmul(a, b); }

Tensor spike_product(const Tensor& spikes, const Tensor& grads) {
  return torch::stable::matmul(torch::stable::transpose(grads, 0, 1), spikes);
}

std::string recurrent_path(int64_t neurons, int64_t batch, int64_t channels, int64_t element_size, bool backward,
                           int64_t device) {
  const RecurrentSize size{neurons, batch, static_cast<int>(channels), static_cast<int>(element_size)};
  return choose_plan(size, backward, device_limits(static_cast<int>(device))).persistent ? "persistent" : "stepwise";
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(norse_fast, m) {
  // How a recurrent layer would be launched.
  m.def("recurrent_path(int neurons, int batch, int channels, int element_size, bool backward, int device) -> str");
  // How many lanes a thread would compute.
  m.def("lanes_per_thread(Tensor input, bool sequence, bool backward) -> int");
}

STABLE_TORCH_LIBRARY_IMPL(norse_fast, CompositeExplicitAutograd, m) {
  m.impl("cuda_kernels", TORCH_BOX(&kernel_table_address));
  m.impl("recurrent_path", TORCH_BOX(&recurrent_path));
  m.impl("lanes_per_thread", TORCH_BOX(&lanes_per_thread_of));
}

STABLE_TORCH_LIBRARY_IMPL(norse_fast, CUDA, m) {
  implement_all(m);
  m.impl("product", TORCH_BOX(&product));
  m.impl("spike_product", TORCH_BOX(&spike_product));
}

}  // namespace norse_fast::cuda
