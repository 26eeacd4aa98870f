#include "products.h"

#include <cstring>

#include "vectors.h"

#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace norse_fast::cpu {
namespace {

template <class T>
struct Vectors {
  // Compilers keep an array of accumulators in registers only if its elements are vectors already.
  typedef T Vector __attribute__((vector_size(kVectorBytes), aligned(alignof(T)), may_alias));
  static constexpr int64_t kWidth = kVectorBytes / sizeof(T);
  static constexpr int kInPanel = static_cast<int>(kPanel<T> / kWidth);

  static const Vector* at(const T* p) { return reinterpret_cast<const Vector*>(p); }
  static Vector* at(T* p) { return reinterpret_cast<Vector*>(p); }

  /// A bit for each of kStride elements that is not zero.
  static constexpr int64_t kStride = 32;
  static uint32_t mark_nonzero(const T* z) {
    uint32_t mask = 0;
#if defined(__AVX2__)
    // Compilers do not find the instruction that gathers the results of a comparison.
    for (int64_t k = 0; k < kStride; k += 32 / sizeof(T)) {
      if constexpr (sizeof(T) == sizeof(float)) {
        const __m256 nonzero = _mm256_cmp_ps(_mm256_loadu_ps(z + k), _mm256_setzero_ps(), _CMP_NEQ_UQ);
        mask |= static_cast<uint32_t>(_mm256_movemask_ps(nonzero)) << k;
      } else {
        const __m256d nonzero = _mm256_cmp_pd(_mm256_loadu_pd(z + k), _mm256_setzero_pd(), _CMP_NEQ_UQ);
        mask |= static_cast<uint32_t>(_mm256_movemask_pd(nonzero)) << k;
      }
    }
#else
    for (int64_t k = 0; k < kStride; ++k) mask |= static_cast<uint32_t>(z[k] != T(0)) << k;
#endif
    return mask;
  }

  static int64_t collect(const T* z, int64_t n, int32_t* list) {
    int64_t count = 0, first = 0;
    for (; first + kStride <= n; first += kStride) {
      const uint32_t mask = mark_nonzero(z + first);
      const int found = __builtin_popcount(mask);
      // kListRoom at once, which are enough most often: a processor that cannot guess how many there are loses more
      // time than a few indices too many take. These are overwritten by the next, and found in the bits beyond.
      uint64_t left = mask | uint64_t{(1 << kListRoom) - 1} << kStride;
      int done = 0;
      do {
        for (int k = 0; k < kListRoom; ++k, left &= left - 1) {
          list[count + done + k] = static_cast<int32_t>(first + __builtin_ctzll(left));
        }
        done += kListRoom;
      } while (done < found);
      count += found;
    }
    for (; first < n; ++first) {
      list[count] = static_cast<int32_t>(first);
      count += z[first] != T(0);
    }
    return count;
  }

  static void pack(const T* matrix, int64_t row_stride, int64_t column_stride, int64_t rows, int64_t columns,
                   T* panel) {
    if (column_stride == 1) {
      for (int64_t r = 0; r < rows; ++r) {
        T* to = panel + r * kPanel<T>;
        std::memcpy(to, matrix + r * row_stride, columns * sizeof(T));
        std::memset(to + columns, 0, (kPanel<T> - columns) * sizeof(T));
      }
      return;
    }
    // A few rows at a time, so that a cache line of every column is used up while it is there.
    constexpr int64_t kRows = 64 / sizeof(T);
    for (int64_t first = 0; first < rows; first += kRows) {
      const int64_t count = rows - first < kRows ? rows - first : kRows;
      for (int64_t c = 0; c < kPanel<T>; ++c) {
        T* to = panel + first * kPanel<T> + c;
        for (int64_t r = 0; r < count; ++r) {
          to[r * kPanel<T>] = c < columns ? matrix[(first + r) * row_stride + c * column_stride] : T(0);
        }
      }
    }
  }

  template <bool kFactors>
  static void sum(const T* matrix, int64_t row_stride, const int32_t* events, int64_t count, const T* factors, T* out) {
    Vector total[kInPanel];
    for (int v = 0; v < kInPanel; ++v) total[v] = at(out)[v];
    for (int64_t k = 0; k < count; ++k) {
      const Vector* row = at(matrix + events[k] * row_stride);
      for (int v = 0; v < kInPanel; ++v) {
        if constexpr (kFactors) {
          total[v] += factors[events[k]] * row[v];
        } else {
          total[v] += row[v];
        }
      }
    }
    for (int v = 0; v < kInPanel; ++v) at(out)[v] = total[v];
  }

  static void sum_rows(const T* matrix, int64_t row_stride, const int32_t* events, int64_t count, const T* factors,
                       T* out) {
    factors ? sum<true>(matrix, row_stride, events, count, factors, out)
            : sum<false>(matrix, row_stride, events, count, factors, out);
  }

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

template <class Isa, class T>
Products<T> products_of() {
  return {Vectors<T>::collect, Vectors<T>::pack, Vectors<T>::sum_rows, Vectors<T>::multiply};
}

template Products<float> products_of<NORSE_FAST_ISA, float>();
template Products<double> products_of<NORSE_FAST_ISA, double>();

}  // namespace norse_fast::cpu
