#pragma once
// The CPU as a device of the operators: where their tensors come from, and how threads share the work.

#include <sys/mman.h>

#include <algorithm>

#include "../operators.h"
#include "dispatch.h"

namespace norse_fast::cpu {

/// Asks for huge pages under a large fresh tensor. Without them the page faults of its first touch take longer than the
/// kernel: a fault per 4 KiB. Only advice, so a failure is of no interest.
inline void advise_huge_pages(void* data, int64_t bytes) {
#ifdef MADV_HUGEPAGE
  constexpr int64_t kHugePage = int64_t{1} << 21;
  const int64_t begin = (reinterpret_cast<int64_t>(data) + kHugePage - 1) / kHugePage * kHugePage;
  const int64_t end = (reinterpret_cast<int64_t>(data) + bytes) / kHugePage * kHugePage;
  if (end > begin) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#endif
}

/// The device of the operators of operators.h.
struct Cpu {
  template <class Launch>
  using Kernel = cpu::Kernel<Launch>;

  DeviceId id;

  explicit Cpu(const Tensor& input) : id(input) {}

  Tensor operator()(const Sizes& sizes, ScalarType dtype) const {
    Tensor t = empty(sizes, dtype, id);
    advise_huge_pages(t.data_ptr(), t.numel() * t.element_size());
    return t;
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

}  // namespace norse_fast::cpu
