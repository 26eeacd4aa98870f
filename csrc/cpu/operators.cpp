// The schemas of all operators, and their CPU implementations.

#include "../operators.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>

#include "dispatch.h"

namespace norse_fast::cpu {
namespace {

constexpr int64_t kHugePage = int64_t{1} << 21;

/// Memory for a large tensor, in whole huge pages: where it is fresh, its first touch costs a fault per page, which for
/// pages of 4 KiB takes longer than the kernel that touches them.
void* allocate_huge_pages(int64_t bytes) {
  const int64_t whole = (bytes + kHugePage - 1) / kHugePage * kHugePage;
  void* data = std::aligned_alloc(kHugePage, whole);
  STD_TORCH_CHECK(data, "norse_fast: out of memory: could not allocate ", bytes, " bytes");
#ifdef MADV_HUGEPAGE
  madvise(data, whole, MADV_HUGEPAGE);  // only advice, so a failure is of no interest
#endif
  return data;
}

/// The device of the operators of operators.h.
struct Cpu {
  template <class Launch>
  using Kernel = cpu::Kernel<Launch>;

  DeviceId id;

  explicit Cpu(const Tensor& input) : id(input) {}

  Tensor operator()(const Sizes& sizes, ScalarType dtype) const {
    int64_t bytes = dtype == ScalarType::Double  ? sizeof(double)
                    : dtype == ScalarType::Float ? sizeof(float)
                                                 : sizeof(Half);
    for (int64_t size : sizes) bytes *= size;
    if (bytes < kHugePage) return empty(sizes, dtype, id);
    return torch::stable::from_blob(allocate_huge_pages(bytes), sizes, contiguous_strides(sizes),
                                    torch::stable::Device(torch::headeronly::DeviceType::CPU), dtype, &std::free);
  }

  template <class Model, class Launch>
  static Kernel<Launch> kernel() {
    return cpu::kernel<Model, Launch>();
  }

  /// Splits the lanes over the threads, unless waking a thread takes longer than the work.
  template <class Launch>
  void run(Kernel<Launch> kernel, const Launch& launch) const {
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
  AllModels::for_each([&](auto model) {
    m.def(forward_schema(Signature::of<decltype(model)>()).c_str());
    m.def(backward_schema(Signature::of<decltype(model)>()).c_str());
  });
}

STABLE_TORCH_LIBRARY_IMPL(norse_fast, CompositeExplicitAutograd, m) {
  m.impl("cpu_capability", TORCH_BOX(&capability_name));
}

STABLE_TORCH_LIBRARY_IMPL(norse_fast, CPU, m) { implement_all<Cpu>(m); }

}  // namespace norse_fast::cpu
