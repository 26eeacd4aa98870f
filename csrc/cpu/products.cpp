#include "products.h"

#include <cstring>

#include "multiply.h"
#include "turn.h"

#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace norse_fast::cpu {
namespace {

template <class T>
struct Vectors : InVectors<T> {
  using typename InVectors<T>::Vector;
  using InVectors<T>::at;
  using InVectors<T>::kWidth;
  static constexpr int kInPanel = static_cast<int>(kPanel<T> / kWidth);

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
    for (int64_t r = 0; r < rows && columns < kPanel<T>; ++r) {
      std::memset(panel + r * kPanel<T> + columns, 0, (kPanel<T> - columns) * sizeof(T));
    }
    if (row_stride == 1 && column_stride != 1)
      return turn<T>(matrix, column_stride, columns, rows, panel, kPanel<T>, false);
    for (int64_t r = 0; r < rows; ++r) {
      T* const to = panel + r * kPanel<T>;
      const T* const from = matrix + r * row_stride;
      if (column_stride == 1) {
        std::memcpy(to, from, columns * sizeof(T));
      } else {
        for (int64_t c = 0; c < columns; ++c) to[c] = from[c * column_stride];
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
};

}  // namespace

template <class Isa, class T>
Products<T> products_of() {
  return {Vectors<T>::collect, Vectors<T>::pack, turn<T>, Vectors<T>::sum_rows, Multiply<T>::multiply};
}

template Products<float> products_of<NORSE_FAST_ISA, float>();
template Products<double> products_of<NORSE_FAST_ISA, double>();

}  // namespace norse_fast::cpu
