#pragma once
// Sums of rows over spikes, as one thread computes a piece of them. Spikes come as bits: a row of words, of which bit
// k % 64 of word k / 64 is spike k. They are compiled once per instruction set.
//
// Every element of a result is a sum of its own, in the order of the spikes. So no result depends on how the work is
// cut into pieces, or on the number of threads.

#include "dispatch.h"
#include "products.h"

namespace norse_fast::cpu {

inline constexpr int64_t kWordBits = 64;

NORSE_FAST_INLINE int64_t words_for(int64_t bits) { return (bits + kWordBits - 1) / kWordBits; }

/// Lists of spikes: those of row r are from events[begin[r]] on, before events[end[r]], as numbers of rows of a panel.
struct SpikeLists {
  const int64_t *begin, *end;
  const uint16_t* events;
};

/// Rows of words of bits: word k of row r is words[k * room + r], and its bits are rows of part k of a panel.
struct WordRows {
  const uint64_t* words;
  int64_t room, count;
};

/// Rows of such a part: one for each bit, and one of negative zeros, which change no sum.
inline constexpr int64_t kWordRows = kWordBits + 1;

/// Where the elements of a product lie: `count` runs, each of `length` elements, a multiple of kRun<T>; run k begins at
/// x[of_x[k]] and at element of_row[k] of a row.
struct Runs {
  const int64_t *of_x, *of_row;
  int64_t count, length;
};

template <class T>
inline constexpr int64_t kRun = 64 / sizeof(T);

template <class T>
struct SpikeSums {
  /// The spikes among n elements as bits; returns whether all elements are 0 or 1.
  bool (*scan)(const T* z, int64_t n, uint64_t* bits);
  bool (*scan_bytes)(const uint8_t* z, int64_t n, uint64_t* bits);

  /// How many bits are set.
  int64_t (*count)(const uint64_t* words, int64_t n);

  /// Those bits as elements again.
  void (*values)(const uint64_t* bits, int64_t n, T* z);
  void (*values_bytes)(const uint64_t* bits, int64_t n, uint8_t* z);

  /// out[k] = grads[k / 2] where bit k is set, else 0, for an even n, at most kWordBits.
  void (*spread)(uint64_t bits, const T* grads, int64_t n, T* out);

  /// out[r] = start + the sum of the rows of the panel that list r names; without start, out[r] += that. It is done for
  /// at least so many columns, of the kPanel that all of these have.
  void (*sum)(const T* panel, SpikeLists lists, int64_t rows, int64_t columns, const T* start, T* out,
              int64_t out_stride);

  /// The same for rows of words; rows of the result are kPanel apart.
  void (*sum_words)(const T* panel, WordRows bits, int64_t rows, int64_t columns, const T* start, T* out);

  /// out[k] = the product of x and row events[k] of a matrix; or, to `add`, += that.
  void (*dot)(const T* x, const T* matrix, int64_t row_stride, Runs runs, const uint16_t* events, int64_t count, T* out,
              bool add);

  /// That of Products, but with fused multiply-adds where there are such instructions.
  void (*multiply)(const T* a, int64_t row_stride, int64_t step, int64_t rows, int64_t depth, const T* panel, T* out,
                   int64_t out_stride, int64_t columns, bool add);

  /// to[k] += from[k].
  void (*add)(const T* from, int64_t n, T* to);
};

/// Defined for every backend that CMakeLists.txt compiles spike_sums.cpp for.
template <class Isa, class T>
SpikeSums<T> spike_sums_of();

/// Those for the chosen instruction set.
template <class T>
SpikeSums<T> spike_sums() {
  return dispatch([](auto isa) { return spike_sums_of<decltype(isa), T>(); });
}

}  // namespace norse_fast::cpu
