#pragma once
// The CPU as a device of the operators: where their tensors come from, and how threads share the work.

#include <algorithm>

#include "../operators.h"
#include "dispatch.h"
#include "memory.h"

namespace norse_fast::cpu {

/// The CPU as a backend of operators.h, and as a device of recurrent_operators.h.
struct Cpu {
  template <class Launch>
  using Kernel = cpu::Kernel<Launch>;

  Device id;

  explicit Cpu(const Tensor& input) : id(locate(input)) {}

  static constexpr Memory kMemory{&reserve, &release};

  Tensor operator()(const Sizes& sizes, ScalarType dtype) const { return Allocator{id, kMemory}(sizes, dtype); }

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
