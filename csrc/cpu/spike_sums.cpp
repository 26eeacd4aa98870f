#include "spike_sums.h"

#include <utility>

#include "vectors.h"

namespace norse_fast::cpu {
namespace {

template <class Element>
bool scan(const Element* z, int64_t n, uint64_t* bits) {
  bool binary = true;
  for (int64_t first = 0; first < n; first += kWordBits) {
    const int64_t count = n - first < kWordBits ? n - first : kWordBits;
    // Bytes first, which compilers vectorise; then eight of them at a time, by a product that gathers their bits.
    alignas(64) uint8_t spiked[kWordBits] = {};
    uint8_t odd = 0;
    const auto look = [&](int k) __attribute__((always_inline)) {
      const Element value = z[first + k];
      spiked[k] = value != Element(0);
      return static_cast<uint8_t>((value != Element(0)) & (value != Element(1)));
    };
    if (count == kWordBits) {
#pragma omp simd reduction(| : odd)
      for (int k = 0; k < kWordBits; ++k) odd |= look(k);
    } else {
      for (int k = 0; k < count; ++k) odd |= look(k);
    }
    uint64_t word = 0;
    for (int byte = 0; byte < 8; ++byte) {
      uint64_t eight;
      __builtin_memcpy(&eight, spiked + 8 * byte, 8);
      word |= (eight * 0x0102040810204080u >> 56) << (8 * byte);
    }
    bits[first / kWordBits] = word;
    binary &= odd == 0;
  }
  return binary;
}

template <class T>
struct Sums {
  typedef T Vector __attribute__((vector_size(kVectorBytes), aligned(alignof(T)), may_alias));
  static constexpr int kInPanel = static_cast<int>(kPanel<T> * sizeof(T) / kVectorBytes);

  static const Vector* at(const T* p) { return reinterpret_cast<const Vector*>(p); }
  static Vector* at(T* p) { return reinterpret_cast<Vector*>(p); }

  template <int kVectors>
  static void sum_vectors(const T* panel, SpikeLists lists, int64_t rows, const T* start, T* out, int64_t out_stride) {
    for (int64_t r = 0; r < rows; ++r) {
      Vector* const to = at(out + r * out_stride);
      const Vector* const from = start ? at(start) : to;
      Vector total[kVectors];
      for (int v = 0; v < kVectors; ++v) total[v] = from[v];
      const uint16_t* const end = lists.events + lists.end[r];
      for (const uint16_t* event = lists.events + lists.begin[r]; event < end; ++event) {
        const Vector* row = at(panel + *event * kPanel<T>);
        for (int v = 0; v < kVectors; ++v) total[v] += row[v];
      }
      for (int v = 0; v < kVectors; ++v) to[v] = total[v];
    }
  }

  /// In as few quarters of the panel as there must be.
  static void sum(const T* panel, SpikeLists lists, int64_t rows, int64_t columns, const T* start, T* out,
                  int64_t out_stride) {
    constexpr int kQuarter = kInPanel / 4;
    constexpr int64_t kColumns = kPanel<T> / 4;
    const auto run = columns > 3 * kColumns   ? sum_vectors<4 * kQuarter>
                     : columns > 2 * kColumns ? sum_vectors<3 * kQuarter>
                     : columns > kColumns     ? sum_vectors<2 * kQuarter>
                                              : sum_vectors<kQuarter>;
    run(panel, lists, rows, start, out, out_stride);
  }
};

template <class T>
struct Dots : Sums<T> {
  using Vector = typename Sums<T>::Vector;
  using Sums<T>::at;
  static constexpr int kWidth = kVectorBytes / sizeof(T);

  /// Vectors as blocks of 2 * kStep elements: the sum of the halves of every block, first of those of a, then of b.
  template <int kStep, size_t... k>
  static Vector join(const Vector& a, const Vector& b, std::index_sequence<k...>) {
    constexpr auto place = [](int element, int half) constexpr {
      return element / kStep * 2 * kStep + half * kStep + element % kStep;
    };
    return __builtin_shufflevector(a, b, place(k, 0)...) + __builtin_shufflevector(a, b, place(k, 1)...);
  }

  /// The sums of the elements of kCount vectors, in order.
  template <int kCount, int kStep = kWidth / 2>
  static Vector fold(const Vector* v) {
    if constexpr (kStep == 0) {
      return v[0];
    } else {
      constexpr int kHalf = kCount > 1 ? kCount / 2 : 1;
      Vector halves[kHalf];
      for (int k = 0; k < kHalf; ++k) {
        halves[k] = join<kStep>(v[2 * k], v[kCount > 1 ? 2 * k + 1 : 0], std::make_index_sequence<kWidth>());
      }
      return fold<kHalf, kStep / 2>(halves);
    }
  }

  /// For few rows in several sums each, as a sum that waits for the one before takes a few cycles.
  template <int kRows>
  static void dot_rows(const T* x, const T* matrix, int64_t row_stride, const Runs& runs, const uint16_t* events,
                       T* out, bool add) {
    constexpr int kSums = kRows < 4 ? 4 / kRows : 1;
    const T* rows[kRows];
    for (int g = 0; g < kRows; ++g) rows[g] = matrix + events[g] * row_stride;
    Vector total[kSums][kRows];
    for (int s = 0; s < kSums; ++s) {
      for (int g = 0; g < kRows; ++g) total[s][g] = Vector{};
    }
    for (int64_t r = 0; r < runs.count; ++r) {
      const T* a = x + runs.of_x[r];
      const int64_t b = runs.of_row[r];
      int64_t c = 0;
      for (; c + kSums * kWidth <= runs.length; c += kSums * kWidth) {
        for (int s = 0; s < kSums; ++s) {
          const Vector factor = *at(a + c + s * kWidth);
          for (int g = 0; g < kRows; ++g) total[s][g] += factor * *at(rows[g] + b + c + s * kWidth);
        }
      }
      for (; kSums > 1 && c < runs.length; c += kWidth) {
        const Vector factor = *at(a + c);
        for (int g = 0; g < kRows; ++g) total[0][g] += factor * *at(rows[g] + b + c);
      }
    }
    for (int s = 1; s < kSums; ++s) {
      for (int g = 0; g < kRows; ++g) total[0][g] += total[s][g];
    }
    const Vector found = fold<kRows>(total[0]);
    for (int g = 0; g < kRows; ++g) out[g] = add ? out[g] + found[g] : found[g];
  }

  /// As many rows at once as a vector has elements, then fewer.
  template <int kRows = kWidth>
  static void dot(const T* x, const T* matrix, int64_t row_stride, Runs runs, const uint16_t* events, int64_t count,
                  T* out, bool add) {
    int64_t k = 0;
    for (; k + kRows <= count; k += kRows) {
      dot_rows<kRows>(x, matrix, row_stride, runs, events + k, out + k, add);
    }
    if constexpr (kRows > 1) {
      dot<kRows / 2>(x, matrix, row_stride, runs, events + k, count - k, out + k, add);
    }
  }
};

}  // namespace

template <class Isa, class T>
SpikeSums<T> spike_sums_of() {
  return {scan<T>, scan<uint8_t>, Sums<T>::sum, Dots<T>::template dot<>};
}

template SpikeSums<float> spike_sums_of<NORSE_FAST_ISA, float>();
template SpikeSums<double> spike_sums_of<NORSE_FAST_ISA, double>();

}  // namespace norse_fast::cpu
