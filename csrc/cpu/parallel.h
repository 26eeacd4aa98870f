#pragma once
// Work shared between torch's threads. All parallel regions of this library are here.

#include <algorithm>
#include <atomic>

#include "../ops/tensor.h"
#include "sanitize.h"
#include "watch.h"

namespace norse_fast::cpu {

inline int64_t threads_for(int64_t tasks) { return std::min<int64_t>(tasks, torch::stable::get_num_threads()); }

/// Calls f(begin, end) for ranges that make up [0, count). A thread that is done takes half of its share of what is
/// left, so that one whose core is busy with something else gets less to do. Exceptions reach the caller.
template <class F>
void parallel_ranges(Watch& watch, int64_t count, const F& f) {
  const int64_t threads = threads_for(count);
  if (threads > 1) {
    std::atomic<int64_t> next{0};
    const auto take = [&] {
      for (int64_t begin = next; begin < count && !watch.stops();) {
        const int64_t end = begin + std::max<int64_t>((count - begin) / (2 * threads), 1);
        if (!next.compare_exchange_weak(begin, end)) continue;
        f(begin, end);
        begin = next;
      }
    };
    const auto work = [&](int64_t, int64_t) { watch.run(take); };
    torch::stable::parallel_for(0, threads, 1, shared(work));
  } else if (count > 0) {
    f(0, count);
  }
  watch.finish();
}

/// Calls f(k) for k < count, shared between the threads.
template <class F>
void parallel(Watch& watch, int64_t count, const F& f) {
  parallel_ranges(watch, count, [&](int64_t begin, int64_t end) {
    for (int64_t k = begin; k < end; ++k) f(k);
  });
}

}  // namespace norse_fast::cpu
