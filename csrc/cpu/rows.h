#pragma once
// What is done to the rows of a block whatever the model. Compiled once per instruction set, in rows.cpp.

#include <cstring>

#include "../core/launch.h"

namespace norse_fast::cpu {

/// Lanes that share a block.
inline constexpr int64_t kBlock = 512;

/// A row of a block.
template <class T>
using Block = T[kBlock];

/// Rows of a block are computed in whole groups of lanes, whatever the number n of lanes in use; a multiple of every
/// vector width.
inline constexpr int64_t kGroup = 16;
static_assert(kBlock % kGroup == 0);

NORSE_FAST_INLINE int64_t whole_groups(int64_t n) { return (n + kGroup - 1) & -kGroup; }

template <class T>
NORSE_FAST_INLINE void copy_row(const T* from, int64_t n, T* to) {
  std::memcpy(to, from, n * sizeof(T));
}

/// Whether `what` is wanted of the spike functions; then stores it, which is in the rows of a step.
template <class T, size_t kLength>
bool store_spikes(const Backward<T>& b, Spikes what, int thresholds, int64_t offset, int64_t n,
                  const T (*rows)[kLength]) {
  if (b.wanted != what) return false;
  for (int k = 0; k < thresholds; ++k) copy_row(rows[k], n, b.of_spikes[k] + offset);
  return true;
}

template <class Isa, class T>
struct BlockRows {
  static void fill(T value, int64_t n, T* to);

  /// Copies a row into a block, with zeros up to the end of its last group.
  static void load(const T* from, int64_t n, T* to);

  /// A variable of the state before the first step, likewise.
  static void load_initial(const Problem<T>& problem, int variable, int64_t begin, int64_t n, T* to);

  static void add(const T* from, int64_t n, T* to);

  /// Copies whole groups to aligned memory past the caches, where there are instructions for it. Other threads see them
  /// after flush.
  static void stream(const T* from, int64_t n, T* to);
  static void flush();

  /// Spreads a parameter over the lanes [begin, begin + n).
  static void spread(const Parameter<T>& p, bool rate, double dt, int64_t begin, int64_t n, T* to);

  /// Where exp clamps its argument. Hidden from the optimiser, which would make selects between constants of what
  /// follows a clamp.
  struct Limits {
    T min, max;
  };
  [[gnu::noipa]] static Limits exp_limits();

  /// Replaces the second of two rows by exp of what detail::reduce_exponent made them of.
  static void exp(int64_t n, Block<T>* reduced);

  /// Replaces a row of what the k-th spike function of a step is of by the surrogate derivative there, with the alpha
  /// of each lane, or by that which is given; `offset` is the place of the row in those of all steps.
  static void derive(const Backward<T>& b, int k, const T* alpha, int64_t offset, int64_t n, T* row);

  /// to = whether the derivative is above the level, or none of either; or, to `add`, that as well.
  static void mark(const T* derivative, const T* level, bool add, int64_t n, uint8_t* to);
};

/// What a later step reads and writes. A row asks for it group by group while it is computed: rows of neighbouring
/// steps lie so far apart that no processor expects the next one. It is asked into L2: in L1 it would take the place of
/// the rows in use, and hold one of the few buffers for misses until it arrives. Null is not asked for.
struct Ahead {
  /// How many steps later.
  static constexpr int64_t kSteps = 3;

  const char* read = nullptr;
  const char* write = nullptr;
  int64_t size = 0;  // of an element

  /// Asks for the group from lane l of the row on, where lanes are computed as T.
  template <class T>
  NORSE_FAST_INLINE void fetch(int64_t l) const {
    constexpr int kLines = kGroup * sizeof(T) / 64, kInL2 = 2;
    for (int k = 0; k < kLines; ++k) {
      if (read) __builtin_prefetch(read + l * size + k * 64, 0, kInL2);
      if (write) __builtin_prefetch(write + l * size + k * 64, 0, kInL2);
    }
  }
};

/// Rows of stored elements as rows of the computing type T: themselves where the types are the same and no group is
/// left incomplete, else converted in a pass over the cached block.
template <class Isa, class T>
struct StoredRows {
  /// Row t, lanes [begin, begin + n): in place, or in the buffer.
  static const T* read(Storage storage, const Rows& rows, int64_t t, int64_t begin, int64_t n, T* buffer);

  /// Row t of what is read and of what is written, from lane `begin` on.
  static Ahead ahead(Storage storage, const Rows& read, const Rows& write, int64_t t, int64_t begin);

  /// Whether rows are to be streamed: such as are too many for the caches, which would read every line before it is
  /// written, and drop others for it.
  static bool are_streamed(Storage storage, const void* data, int64_t steps, int64_t lanes);

  /// Where to compute a row of n lanes that starts at `offset`: in place, or in the buffer, from where `finish` stores
  /// it.
  static T* target(Storage storage, void* data, int64_t offset, int64_t n, T* buffer, bool streamed = false);

  static void finish(Storage storage, const T* buffer, int64_t n, void* data, int64_t offset, bool streamed = false);
};

/// The rows of outputs, as target and finish of StoredRows, and of their gradients, as its read: `t` is the step.
template <class Isa, class T>
struct OutputRows {
  static T* target(const Forward<T>& f, int64_t t, int64_t begin, int64_t n, T* buffer, bool streamed);

  /// A row that is a sum over time waits in the output between the steps.
  static void finish(const Forward<T>& f, const T* buffer, int64_t n, int64_t t, int64_t begin, bool streamed);

  static const T* read_gradient(const Backward<T>& b, int64_t t, int64_t begin, int64_t n, T* buffer);
};

}  // namespace norse_fast::cpu
