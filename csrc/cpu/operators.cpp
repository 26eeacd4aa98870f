// The schemas of all operators, and their CPU implementations.

#include "../operators.h"

#include <algorithm>

#include "dispatch.h"
#include "sanitize.h"

namespace norse_fast::cpu {

/// Where waking a thread would take longer than the work, this one does it all.
template <class Launch>
void run_lanes(Kernel<Launch> kernel, const Launch& launch) {
  constexpr int64_t kSmall = 1 << 15;  // neuron-steps, about 10 us
  constexpr int64_t kGranule = 64;     // lanes; whole cache lines for every dtype
  const int64_t threads = torch::stable::get_num_threads();
  if (threads == 1 || launch.lanes <= kGranule || launch.steps * launch.lanes < kSmall) {
    return kernel(launch, {0, launch.lanes});
  }
  const int64_t chunk = ((launch.lanes + threads - 1) / threads + kGranule - 1) / kGranule * kGranule;
  const auto work = [&](int64_t begin, int64_t end) {
    kernel(launch, {begin * chunk, std::min(end * chunk, launch.lanes)});
  };
  torch::stable::parallel_for(0, (launch.lanes + chunk - 1) / chunk, 1, shared(work));
}

template void run_lanes(Kernel<Forward<float>>, const Forward<float>&);
template void run_lanes(Kernel<Forward<double>>, const Forward<double>&);
template void run_lanes(Kernel<Backward<float>>, const Backward<float>&);
template void run_lanes(Kernel<Backward<double>>, const Backward<double>&);

namespace {

std::string capability_name() { return kCapabilityNames[static_cast<int>(capability())]; }

}  // namespace

STABLE_TORCH_LIBRARY(norse_fast, m) {
  m.def("cpu_capability() -> str");
  m.def("cpu_kernels() -> int");
  m.def("cuda_kernels() -> int");
  define_all(m);
}

STABLE_TORCH_LIBRARY_IMPL(norse_fast, CompositeExplicitAutograd, m) {
  m.impl("cpu_capability", TORCH_BOX(&capability_name));
  m.impl("cpu_kernels", TORCH_BOX(&kernel_table_address));
}

STABLE_TORCH_LIBRARY_IMPL(norse_fast, CPU, m) { implement_all(m); }

}  // namespace norse_fast::cpu
