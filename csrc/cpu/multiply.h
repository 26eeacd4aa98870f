#pragma once
// Products of matrices whose second is a panel; compiled with the file that includes it, for its instruction set, and
// with fused multiply-adds where that file allows them.

#include <cstring>

#include "products.h"
#include "vectors.h"

namespace norse_fast::cpu {
namespace {

template <class T>
struct Multiply : InVectors<T> {
  using typename InVectors<T>::Vector;
  using InVectors<T>::at;
  using InVectors<T>::kWidth;

  // A tile of 6 rows and 2 vectors: its sums, a row of the panel and one factor fill the 16 registers that most
  // instruction sets have.
  static constexpr int kTileRows = 6;
  static constexpr int kTileVectors = 2;

  // Rows of the panel that serve all rows of the result before the next do: they stay in the L2 cache.
  static constexpr int64_t kDepth = 256;

  /// Adds to the sums in `out` if they have been begun.
  template <int kRows>
  static void multiply_tile(const T* a, int64_t row_stride, int64_t step, int64_t depth, const T* panel, T* out,
                            int64_t out_stride, bool begun) {
    Vector total[kRows][kTileVectors] = {};
    for (int r = 0; begun && r < kRows; ++r) {
      for (int v = 0; v < kTileVectors; ++v) total[r][v] = at(out + r * out_stride)[v];
    }
    for (int64_t k = 0; k < depth; ++k) {
      const Vector* row = at(panel + k * kPanel<T>);
      for (int r = 0; r < kRows; ++r) {
        for (int v = 0; v < kTileVectors; ++v) total[r][v] += a[r * row_stride + k * step] * row[v];
      }
    }
    for (int r = 0; r < kRows; ++r) {
      for (int v = 0; v < kTileVectors; ++v) at(out + r * out_stride)[v] = total[r][v];
    }
  }

  /// As many whole tiles of kRows rows as there are, then smaller ones.
  template <int kRows>
  static void multiply_rows(const T* a, int64_t row_stride, int64_t step, int64_t rows, int64_t depth, const T* panel,
                            T* out, int64_t out_stride, int64_t columns, bool begun) {
    int64_t first = 0;
    for (; first + kRows <= rows; first += kRows) {
      T padded[kRows][kPanel<T>];
      const bool whole = columns == kPanel<T>;
      T* const to = whole ? out + first * out_stride : padded[0];
      for (int r = 0; !whole && begun && r < kRows; ++r) {
        std::memcpy(padded[r], out + (first + r) * out_stride, columns * sizeof(T));
      }
      for (int64_t c = 0; c < columns; c += kTileVectors * kWidth) {
        multiply_tile<kRows>(a + first * row_stride, row_stride, step, depth, panel + c, to + c,
                             whole ? out_stride : kPanel<T>, begun);
      }
      for (int r = 0; !whole && r < kRows; ++r) {
        std::memcpy(out + (first + r) * out_stride, padded[r], columns * sizeof(T));
      }
    }
    if constexpr (kRows > 1) {
      multiply_rows<kRows - 1>(a + first * row_stride, row_stride, step, rows - first, depth, panel,
                               out + first * out_stride, out_stride, columns, begun);
    }
  }

  static void multiply(const T* a, int64_t row_stride, int64_t step, int64_t rows, int64_t depth, const T* panel,
                       T* out, int64_t out_stride, int64_t columns, bool add) {
    int64_t first = 0;
    do {
      const int64_t length = depth - first < kDepth ? depth - first : kDepth;
      multiply_rows<kTileRows>(a + first * step, row_stride, step, rows, length, panel + first * kPanel<T>, out,
                               out_stride, columns, add || first > 0);
      first += length;
    } while (first < depth);
  }
};

}  // namespace
}  // namespace norse_fast::cpu
