#pragma once
// What the windows of a convolution see of lines of bits, as words. It is compiled once per instruction set.

#include "dispatch.h"

namespace norse_fast::cpu {

/// A run of bits of a line, from so many bits beyond the first of a window on.
struct Span {
  int64_t offset;
  int bits;
};

/// Windows that begin `step` bits apart. Each sees the same spans of the same rows of a few planes, one after the
/// other. Strides are words; a line must have a word beyond its last bit.
struct Windows {
  const uint64_t* lines;
  int64_t planes, plane_stride, rows, row_stride, step;
};

/// Windows that are looked through together.
inline constexpr int64_t kWindowsTogether = 8;

/// Bits that eight bytes hold from any bit of the first on.
inline constexpr int kReadable = 57;

/// The most bits of a span: those that are read at once for all windows that are looked through together, or, where
/// they begin too far apart, for one.
NORSE_FAST_INLINE int most_bits(int64_t step) {
  return step <= 4 ? kReadable - static_cast<int>((kWindowsTogether - 1) * step) : kReadable;
}

/// What `count` windows see: the spans follow each other in a word as long as they fit into it whole. Word k of window
/// n goes to words[k * room + n]; so do words of windows beyond the last, up to a multiple of kWindowsTogether.
using See = void (*)(const Windows& w, const Span* spans, int64_t span_count, int64_t count, int64_t room,
                     uint64_t* words);

/// Defined for every backend that CMakeLists.txt compiles windows.cpp for.
template <class Isa>
See see_of();

/// That for the chosen instruction set.
inline See see() {
  return dispatch([](auto isa) { return see_of<decltype(isa)>(); });
}

}  // namespace norse_fast::cpu
