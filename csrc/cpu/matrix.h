#pragma once
// Matrices, and their panels (see products.h).

#include "buffer.h"
#include "parallel.h"
#include "products.h"

namespace norse_fast::cpu {

template <class T>
using Scratch = Buffer<Baseline, T>;

/// A matrix, of any strides.
template <class T>
struct Matrix {
  const T* data;
  int64_t rows, columns, row_stride, column_stride;

  static Matrix of(const Tensor& t) {
    return {static_cast<const T*>(t.data_ptr()), t.size(0), t.size(1), t.size(1), 1};
  }
  Matrix rows_from(int64_t first, int64_t count) const {
    return {data + first * row_stride, count, columns, row_stride, column_stride};
  }
  Matrix transposed() const { return {data, columns, rows, column_stride, row_stride}; }

  int64_t panels() const { return panel_count(columns, kPanel<T>); }
  int64_t panel_size() const { return rows * kPanel<T>; }
  int64_t columns_in(int64_t panel) const { return std::min(columns - panel * kPanel<T>, kPanel<T>); }
};

template <class T>
void pack_panel(const Products<T>& products, const Matrix<T>& m, int64_t panel, T* to) {
  products.pack(m.data + panel * kPanel<T> * m.column_stride, m.row_stride, m.column_stride, m.rows,
                m.columns_in(panel), to);
}

/// All panels, one after the other.
template <class T>
void pack(Watch& watch, const Products<T>& products, const Matrix<T>& m, T* to) {
  parallel(watch, m.panels(), [&](int64_t panel) { pack_panel(products, m, panel, to + panel * m.panel_size()); });
}

/// result = a @ b, or, to `add`, += that, shared between the threads.
template <class T>
void multiply(Watch& watch, const Matrix<T>& a, const Matrix<T>& b, T* result, bool add) {
  const Products<T> products = cpu::products<T>();
  constexpr int64_t kRows = 96;  // of a job
  const int64_t jobs = (a.rows + kRows - 1) / kRows;
  parallel_ranges(watch, b.panels() * jobs, [&](int64_t begin, int64_t end) {
    // One panel at a time, because all of them take as much memory as b.
    const Scratch<T> packed(b.panel_size());
    for (int64_t k = begin; k < end; ++k) {
      const int64_t panel = k / jobs, row = k % jobs * kRows;
      if (k == begin || row == 0) pack_panel(products, b, panel, packed.data());
      products.multiply(a.data + row * a.row_stride, a.row_stride, a.column_stride, std::min(a.rows - row, kRows),
                        a.columns, packed.data(), result + row * b.columns + panel * kPanel<T>, b.columns,
                        b.columns_in(panel), add);
    }
  });
}

}  // namespace norse_fast::cpu
