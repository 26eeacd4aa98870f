#pragma once
// How many lanes a thread computes: plain arithmetic, so that the CPU's tests see it.

#include <cstdint>
#include <cstdlib>
#include <initializer_list>
#include <stdexcept>
#include <string>

#include "../core/launch.h"

namespace norse_fast::cuda {

/// Lanes from which on pairs leave enough threads: on 132 multiprocessors of 4 schedulers, a warp of pairs for each.
/// With fewer warps a scheduler waits for the operations of a step, one after another, and half the threads take
/// longer.
inline constexpr int64_t kPairLanes = 32 * 1024;

/// Whether two neighbouring lanes of every row are one aligned word.
inline bool are_pairs(const Rows& rows, int element_size) {
  const auto address = reinterpret_cast<uintptr_t>(rows.data);
  return rows.data == nullptr || (!rows.broadcast && rows.time_stride % 2 == 0 && address % (2 * element_size) == 0);
}

/// 2 where lanes lie in pairs in what is read, and are many, and a pair takes fewer instructions than memory leaves
/// time for where a single lane takes more (see docs/gpu.md): of 16 bits each, and in backward also of 32; else 1. What
/// a launch writes is new memory, which is aligned. NORSE_FAST_LANES_PER_THREAD (1, 2) overrides how many are many, for
/// tests.
inline int lanes_per_thread(Storage storage, bool backward, int64_t lanes, std::initializer_list<Rows> read) {
  const bool narrow = storage == Storage::kHalf || storage == Storage::kBFloat16;
  if (!narrow && !(backward && storage == Storage::kFloat)) return 1;
  for (const Rows& rows : read) {
    if (!are_pairs(rows, narrow ? 2 : 4)) return 1;
  }
  if (lanes % 2 != 0) return 1;
  const char* forced = std::getenv("NORSE_FAST_LANES_PER_THREAD");
  if (!forced || !*forced) return lanes >= kPairLanes ? 2 : 1;
  const std::string choice = forced;
  if (choice != "1" && choice != "2") {
    throw std::runtime_error("NORSE_FAST_LANES_PER_THREAD: got " + choice + ", expected 1 or 2");
  }
  return choice == "2" ? 2 : 1;
}

}  // namespace norse_fast::cuda
