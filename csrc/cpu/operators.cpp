// The schemas of all operators, and their CPU implementations.

#include "../operators.h"

#include <sys/mman.h>

#include <algorithm>

#include "dispatch.h"

namespace norse_fast::cpu {
namespace {

/// Asks for huge pages under a large fresh tensor. Without them the page faults of its first touch take longer than the
/// kernel: a fault per 4 KiB. Only advice, so a failure is of no interest.
void advise_huge_pages([[maybe_unused]] void* data, [[maybe_unused]] int64_t bytes) {
#ifdef MADV_HUGEPAGE
  constexpr int64_t kHugePage = int64_t{1} << 21;
  const int64_t begin = (reinterpret_cast<int64_t>(data) + kHugePage - 1) / kHugePage * kHugePage;
  const int64_t end = (reinterpret_cast<int64_t>(data) + bytes) / kHugePage * kHugePage;
  if (end > begin) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#endif
}

/// The backend, as operators.h wants it.
struct Cpu {
  static void prepare(void* data, int64_t bytes) { advise_huge_pages(data, bytes); }

  template <class Model, class Launch>
  static Kernel<Launch> kernel() {
    return cpu::kernel<Model, Launch>();
  }

  /// Splits the lanes over the threads, unless waking a thread takes longer than the work.
  template <class Launch>
  static void run(Kernel<Launch> kernel, const Launch& launch, int32_t) {
    constexpr int64_t kSmall = 1 << 15;  // neuron-steps, about 10 us
    constexpr int64_t kGranule = 64;     // lanes; whole cache lines for every dtype
    const int64_t threads = torch::stable::get_num_threads();
    if (threads == 1 || launch.lanes <= kGranule || launch.steps * launch.lanes < kSmall) {
      return kernel(launch, {0, launch.lanes});
    }
    const int64_t chunk = ((launch.lanes + threads - 1) / threads + kGranule - 1) / kGranule * kGranule;
    torch::stable::parallel_for(0, (launch.lanes + chunk - 1) / chunk, 1, [&](int64_t begin, int64_t end) {
      kernel(launch, {begin * chunk, std::min(end * chunk, launch.lanes)});
    });
  }
};

std::string capability_name() { return kCapabilityNames[static_cast<int>(capability())]; }

}  // namespace

STABLE_TORCH_LIBRARY(norse_fast, m) {
  m.def("cpu_capability() -> str");
  m.def("cpu_kernels() -> int");
  m.def("cuda_kernels() -> int");
  AllModels::for_each([&](auto model) {
    m.def(forward_schema(Signature::of<decltype(model)>()).c_str());
    m.def(backward_schema(Signature::of<decltype(model)>()).c_str());
  });
}

STABLE_TORCH_LIBRARY_IMPL(norse_fast, CompositeExplicitAutograd, m) {
  m.impl("cpu_capability", TORCH_BOX(&capability_name));
  m.impl("cpu_kernels", TORCH_BOX(&kernel_table<Cpu>));
}

STABLE_TORCH_LIBRARY_IMPL(norse_fast, CPU, m) { implement_all<Cpu>(m); }

}  // namespace norse_fast::cpu
