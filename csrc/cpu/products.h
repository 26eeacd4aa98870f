#pragma once
// The products of a recurrent layer, as one thread computes a piece of them. They are compiled once per
// instruction set.
//
// The order of summation is fixed, row after row, for every element of a result on its own. So no result depends on how
// the work is cut into pieces, or on the number of threads.

#include "dispatch.h"

namespace norse_fast::cpu {

/// Columns that are summed together, in registers.
template <class T>
inline constexpr int64_t kPanel = 256 / sizeof(T);

/// Places of a list of indices beyond its last.
inline constexpr int kListRoom = 4;

NORSE_FAST_INLINE int64_t panel_count(int64_t columns, int64_t panel) { return (columns + panel - 1) / panel; }

template <class T>
struct Products {
  /// Lists the indices of the nonzero elements of z, in order, and returns how many there are; the list must have room
  /// for n + kListRoom.
  int64_t (*collect)(const T* z, int64_t n, int32_t* list);

  /// Copies columns [0, columns) of a matrix, at most kPanel, into a panel: its rows lie one after the other, with
  /// zeros up to kPanel.
  void (*pack)(const T* matrix, int64_t row_stride, int64_t column_stride, int64_t rows, int64_t columns, T* panel);

  /// to[c][r] = from[r][c]; `streamed`: past the caches where that pays, and the caller flushes them.
  void (*turn)(const T* from, int64_t from_stride, int64_t rows, int64_t columns, T* to, int64_t to_stride,
               bool streamed);

  /// out[c] += sum over k of factors[events[k]] * matrix[events[k]][c] for kPanel columns; without factors, they are 1.
  void (*sum_rows)(const T* matrix, int64_t row_stride, const int32_t* events, int64_t count, const T* factors, T* out);

  /// out[r][c] = sum over k < depth of a(r, k) * panel[k][c] for `columns` columns, at most kPanel, where a(r, k) is
  /// a[r * row_stride + k * step]; or, to `add`, += that.
  void (*multiply)(const T* a, int64_t row_stride, int64_t step, int64_t rows, int64_t depth, const T* panel, T* out,
                   int64_t out_stride, int64_t columns, bool add);
};

/// Defined for every backend that CMakeLists.txt compiles products.cpp for.
template <class Isa, class T>
Products<T> products_of();

/// The products for the chosen instruction set.
template <class T>
Products<T> products() {
  return dispatch([](auto isa) { return products_of<decltype(isa), T>(); });
}

}  // namespace norse_fast::cpu
