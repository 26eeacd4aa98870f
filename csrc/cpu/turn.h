#pragma once
// Transposed copies, in squares of vectors; compiled with the file that includes it, for its instruction set.

#include <utility>

#include "stream.h"
#include "vectors.h"

namespace norse_fast::cpu {
namespace {

template <class T, int kSide>
struct Square {
  typedef T Vector __attribute__((vector_size(kSide * sizeof(T)), aligned(alignof(T)), may_alias));

  /// Rows r and r + kStep exchange the halves of their blocks of 2 * kStep elements.
  template <int kStep, size_t... k>
  static void exchange(Vector& a, Vector& b, std::index_sequence<k...>) {
    constexpr auto place = [](int element, int half) constexpr {
      const int within = element % (2 * kStep), block = element - within;
      return within < kStep ? block + half * kStep + within : kSide + block + half * kStep + within - kStep;
    };
    const Vector low = __builtin_shufflevector(a, b, place(k, 0)...);
    b = __builtin_shufflevector(a, b, place(k, 1)...);
    a = low;
  }

  template <int kStep>
  static void exchange_all(Vector* rows) {
    for (int r = 0; r < kSide; ++r) {
      if ((r & kStep) == 0) exchange<kStep>(rows[r], rows[r + kStep], std::make_index_sequence<kSide>());
    }
    if constexpr (kStep > 1) exchange_all<kStep / 2>(rows);
  }

  static void turn(const T* from, int64_t from_stride, T* to, int64_t to_stride, bool streamed) {
    Vector rows[kSide];
    for (int r = 0; r < kSide; ++r) rows[r] = *reinterpret_cast<const Vector*>(from + r * from_stride);
    exchange_all<kSide / 2>(rows);
    for (int r = 0; r < kSide; ++r) {
      auto* const row = reinterpret_cast<Vector*>(to + r * to_stride);
      if constexpr (kStreams && sizeof(Vector) == sizeof(Line) && sizeof(Line) == 64) {
        if (streamed && reinterpret_cast<uintptr_t>(row) % sizeof(Line) == 0) {
          stream_line(reinterpret_cast<Line*>(row), reinterpret_cast<const Line*>(&rows[r]));
          continue;
        }
      }
      *row = rows[r];
    }
  }
};

/// to[c][r] = from[r][c], in squares of kSide as far as they go, then in smaller ones; whole lines past the caches, if
/// `streamed`, where a vector is one.
template <class T, int kSide = kVectorBytes / sizeof(T)>
void turn(const T* from, int64_t from_stride, int64_t rows, int64_t columns, T* to, int64_t to_stride, bool streamed) {
  if constexpr (kSide == 1) {
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t c = 0; c < columns; ++c) to[c * to_stride + r] = from[r * from_stride + c];
    }
  } else {
    const int64_t whole_rows = rows / kSide * kSide, whole_columns = columns / kSide * kSide;
    for (int64_t r = 0; r < whole_rows; r += kSide) {
      for (int64_t c = 0; c < whole_columns; c += kSide) {
        Square<T, kSide>::turn(from + r * from_stride + c, from_stride, to + c * to_stride + r, to_stride, streamed);
      }
    }
    turn<T, kSide / 2>(from + whole_columns, from_stride, whole_rows, columns - whole_columns,
                       to + whole_columns * to_stride, to_stride, streamed);
    turn<T, kSide / 2>(from + whole_rows * from_stride, from_stride, rows - whole_rows, columns, to + whole_rows,
                       to_stride, streamed);
  }
}

}  // namespace
}  // namespace norse_fast::cpu
