// The schemas of all operators, and their CPU implementations.

#include "../cpu/dispatch.h"
#include "../cpu/memory.h"
#include "../cpu/parallel.h"
#include "../cpu/products.h"
#include "operators.h"

namespace norse_fast::cpu {

/// Where waking a thread would take longer than the work, this one does it all.
template <class Launch>
void run_lanes(Kernel<Launch> kernel, const Launch& launch) {
  constexpr int64_t kSmall = 1 << 15;  // neuron-steps, about 10 us
  constexpr int64_t kGranule = 64;     // lanes; whole cache lines for every dtype
  constexpr int64_t kPortion = 1024;  // lanes, of which no more are taken at once than have to: whole blocks, and pages
  if (launch.steps * launch.lanes < kSmall) return kernel(launch, {0, launch.lanes});
  const int64_t threads = threads_for((launch.lanes + kGranule - 1) / kGranule);
  const int64_t share = ((launch.lanes + threads - 1) / threads + kGranule - 1) / kGranule * kGranule;
  const int64_t chunk = std::min(share, kPortion);
  Watch watch;
  parallel_ranges(watch, (launch.lanes + chunk - 1) / chunk, [&](int64_t begin, int64_t end) {
    kernel(launch, {begin * chunk, std::min(end * chunk, launch.lanes), &watch});
  });
}

template void run_lanes(Kernel<Forward<float>>, const Forward<float>&);
template void run_lanes(Kernel<Forward<double>>, const Forward<double>&);
template void run_lanes(Kernel<Backward<float>>, const Backward<float>&);
template void run_lanes(Kernel<Backward<double>>, const Backward<double>&);

namespace {

std::string capability_name() { return kCapabilityNames[static_cast<int>(capability())]; }

/// Checks that two matrices are of one floating point type and agree in the given dimensions.
void check_matrices(const char* name, const Tensor& a, int a_dim, const Tensor& b) {
  require(a.dim() == 2 && b.dim() == 2 && a.is_cpu() && b.is_cpu() && a.size(a_dim) == b.size(0), name,
          " needs two matrices that fit, on the CPU");
  require(a.scalar_type() == b.scalar_type() && is_floating(a.scalar_type()) && !is_half(a.scalar_type()), name,
          " needs two matrices of float32, or of float64");
}

Tensor product(const Tensor& a, const Tensor& b) {
  check_matrices("product", a, 1, b);
  Tensor out = Allocator{locate(a), kernel_table().memory}({a.size(0), b.size(1)}, a.scalar_type());
  multiply(as_contiguous(a), as_contiguous(b), out);
  return out;
}

Tensor spike_product(const Tensor& spikes, const Tensor& grads) {
  check_matrices("spike_product", spikes, 0, grads);
  Tensor sum = Allocator{locate(spikes), kernel_table().memory}({grads.size(1), spikes.size(1)}, spikes.scalar_type());
  torch::stable::zero_(sum);
  add_spike_product(as_contiguous(spikes), as_contiguous(grads), sum);
  return sum;
}

}  // namespace

STABLE_TORCH_LIBRARY(norse_fast, m) {
  m.def("cpu_capability() -> str");
  m.def("cpu_kernels() -> int");
  m.def("cuda_kernels() -> int");
  m.def("waiting_bytes() -> int");
  m.def("release_waiting() -> int");
  m.def("set_waiting_limit(int bytes) -> int");
  m.def("fail_allocation(int k) -> int");
  // a @ b, and grads.T @ spikes, which is quick where there are few spikes. Unlike torch's own, they give the same
  // result for any number of threads.
  m.def("product(Tensor a, Tensor b) -> Tensor");
  m.def("spike_product(Tensor spikes, Tensor grads) -> Tensor");
  define_all(m);
}

STABLE_TORCH_LIBRARY_IMPL(norse_fast, CompositeExplicitAutograd, m) {
  m.impl("cpu_capability", TORCH_BOX(&capability_name));
  m.impl("cpu_kernels", TORCH_BOX(&kernel_table_address));
  m.impl("waiting_bytes", TORCH_BOX(&waiting_bytes));
  m.impl("release_waiting", TORCH_BOX(&release_waiting));
  m.impl("set_waiting_limit", TORCH_BOX(&set_waiting_limit));
  m.impl("fail_allocation", TORCH_BOX(&fail_allocation));
}

STABLE_TORCH_LIBRARY_IMPL(norse_fast, CPU, m) {
  m.impl("product", TORCH_BOX(&product));
  m.impl("spike_product", TORCH_BOX(&spike_product));
  implement_all(m);
}

}  // namespace norse_fast::cpu
