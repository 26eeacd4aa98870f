#pragma once
// Work shared between torch's threads. All parallel regions of this library are here.

#include <algorithm>

#include "../ops/tensor.h"
#include "sanitize.h"
#include "watch.h"

namespace norse_fast::cpu {

inline int64_t threads_for(int64_t tasks) { return std::min<int64_t>(tasks, torch::stable::get_num_threads()); }

/// Calls f(begin, end) for ranges that make up [0, count), one for each thread. Exceptions reach the caller.
template <class F>
void parallel_ranges(Watch& watch, int64_t count, const F& f) {
  if (threads_for(count) > 1) {
    const auto work = [&](int64_t begin, int64_t end) { watch.run([&] { f(begin, end); }); };
    torch::stable::parallel_for(0, count, 1, shared(work));
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
