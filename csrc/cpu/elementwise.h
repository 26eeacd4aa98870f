#pragma once
// Functions of single numbers over a row of a block, for all models: they are compiled once per instruction set.

#include <cstdint>

#include "../surrogates.h"

namespace norse_fast::cpu {

/// Lanes that share a block.
inline constexpr int64_t kBlock = 512;

/// Rows of a block are computed in whole groups of lanes, whatever the number of lanes in use; a multiple of every
/// vector width.
inline constexpr int64_t kGroup = 16;
static_assert(kBlock % kGroup == 0);

NORSE_FAST_INLINE int64_t whole_groups(int64_t n) { return (n + kGroup - 1) & -kGroup; }

template <class Isa, class T>
struct Elementwise {
  /// row = exp(row)
  static void exp(int64_t n, T* row);

  /// row = the surrogate derivative at row, with the alpha of each lane.
  static void surrogate(Surrogate surrogate, const T* alpha, int64_t n, T* row);

 private:
  // In three passes: in one, the chain of operations that wait for each other is longer than a processor looks ahead.
  // The limits are arguments, hidden from the optimiser, which would make selects between constants of what follows a
  // clamp.
  [[gnu::noipa]] static void exp_between(int64_t n, T* row, T min, T max);
};

}  // namespace norse_fast::cpu
