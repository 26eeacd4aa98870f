#pragma once
// The CPU as a device of the operators: where their tensors come from, and how threads share the work.

#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>

#include "../operators.h"
#include "dispatch.h"

namespace norse_fast::cpu {

inline constexpr int64_t kHugePage = int64_t{1} << 21;

/// Memory for a large tensor, in whole huge pages: where it is fresh, its first touch costs a fault per page, which for
/// pages of 4 KiB takes longer than the kernel that touches them.
inline void* reserve_huge_pages(int64_t bytes) {
  const int64_t whole = (bytes + kHugePage - 1) / kHugePage * kHugePage;
  void* data = std::aligned_alloc(kHugePage, whole);
  STD_TORCH_CHECK(data, "norse_fast: out of memory: could not allocate ", bytes, " bytes");
#ifdef MADV_HUGEPAGE
  madvise(data, whole, MADV_HUGEPAGE);  // only advice, so a failure is of no interest
#endif
  return data;
}

/// The CPU as a backend of operators.h, and as a device of recurrent_operators.h.
struct Cpu {
  template <class Launch>
  using Kernel = cpu::Kernel<Launch>;

  Device id;

  explicit Cpu(const Tensor& input) : id(locate(input)) {}

  static void* reserve(int64_t bytes) { return bytes < kHugePage ? nullptr : reserve_huge_pages(bytes); }

  Tensor operator()(const Sizes& sizes, ScalarType dtype) const { return Allocator{id, &reserve}(sizes, dtype); }

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

}  // namespace norse_fast::cpu
