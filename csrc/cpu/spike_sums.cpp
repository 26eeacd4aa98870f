#include "spike_sums.h"

#include <cstring>
#include <type_traits>
#include <utility>

#include "multiply.h"
#include "vectors.h"

#if defined(__BMI__)
#include <immintrin.h>
#endif

namespace norse_fast::cpu {
namespace {

/// Of kWordBits elements: a bit for each that is not 0; false to `binary` if one is neither 0 nor 1.
template <class Element>
uint64_t mark(const Element* z, bool& binary) {
  uint64_t word = 0;
#if defined(__AVX512F__)
  // Compilers do not find the comparisons that make bits.
  uint64_t other = 0;
  if constexpr (sizeof(Element) == 1) {
    const __m512i x = _mm512_loadu_si512(z);
    word = _mm512_test_epi8_mask(x, x);
    other = _mm512_cmpgt_epu8_mask(x, _mm512_set1_epi8(1));
  } else {
    for (int k = 0; k < kWordBits; k += 64 / sizeof(Element)) {
      uint64_t some;
      if constexpr (sizeof(Element) == sizeof(float)) {
        const __m512 x = _mm512_loadu_ps(z + k);
        some = _mm512_cmp_ps_mask(x, _mm512_setzero_ps(), _CMP_NEQ_UQ);
        other |= some & _mm512_cmp_ps_mask(x, _mm512_set1_ps(1), _CMP_NEQ_UQ);
      } else {
        const __m512d x = _mm512_loadu_pd(z + k);
        some = _mm512_cmp_pd_mask(x, _mm512_setzero_pd(), _CMP_NEQ_UQ);
        other |= some & _mm512_cmp_pd_mask(x, _mm512_set1_pd(1), _CMP_NEQ_UQ);
      }
      word |= some << k;
    }
  }
  binary &= other == 0;
#else
  // Bytes first, which compilers vectorise; then eight of them at a time, by a product that gathers their bits.
  alignas(64) uint8_t spiked[kWordBits];
  uint8_t odd = 0;
#pragma omp simd reduction(| : odd)
  for (int k = 0; k < kWordBits; ++k) {
    spiked[k] = z[k] != Element(0);
    odd |= static_cast<uint8_t>((z[k] != Element(0)) & (z[k] != Element(1)));
  }
  for (int byte = 0; byte < 8; ++byte) {
    uint64_t eight;
    __builtin_memcpy(&eight, spiked + 8 * byte, 8);
    word |= (eight * 0x0102040810204080u >> 56) << (8 * byte);
  }
  binary &= odd == 0;
#endif
  return word;
}

template <class Element>
bool scan(const Element* z, int64_t n, uint64_t* bits) {
  bool binary = true;
  int64_t first = 0;
  for (; first + kWordBits <= n; first += kWordBits) bits[first / kWordBits] = mark(z + first, binary);
  if (first < n) {
    Element rest[kWordBits] = {};
    std::memcpy(rest, z + first, (n - first) * sizeof(Element));
    bits[first / kWordBits] = mark(rest, binary);
  }
  return binary;
}

/// The place of the first bit; kWordBits if there is none.
int64_t first_bit(uint64_t word) {
#if defined(__BMI__)
  return static_cast<int64_t>(_tzcnt_u64(word));  // of a choice, compilers make a branch
#else
  return word ? __builtin_ctzll(word) : kWordBits;
#endif
}

int64_t count(const uint64_t* words, int64_t n) {
  int64_t found = 0;
  for (int64_t k = 0; k < n; ++k) found += __builtin_popcountll(words[k]);
  return found;
}

/// Eight elements as their bits.
template <class T>
struct Eight {
  static constexpr int kCount = 8;
  using Bits = std::conditional_t<sizeof(T) == 4, uint32_t, uint64_t>;
  typedef uint64_t Words __attribute__((vector_size(kCount * 8)));
  typedef Bits Elements __attribute__((vector_size(kCount * sizeof(T)), aligned(alignof(T)), may_alias));
  typedef Bits Half __attribute__((vector_size(kCount / 2 * sizeof(T)), aligned(alignof(T)), may_alias));

  /// Clears the elements whose bit is not set.
  static void keep(uint64_t bits, Elements& all) {
    const Words places = {0, 1, 2, 3, 4, 5, 6, 7};
    all &= -__builtin_convertvector((Words{} + bits) >> places & 1, Elements);
  }
};

/// The inverse of scan.
template <class T>
void values(const uint64_t* bits, int64_t n, T* z) {
  using E = Eight<T>;
  const T one = 1;
  typename E::Bits of_one;
  std::memcpy(&of_one, &one, sizeof(one));
  int64_t first = 0;
  for (; first + E::kCount <= n; first += E::kCount) {
    typename E::Elements all = typename E::Elements{} + of_one;
    E::keep(bits[first / kWordBits] >> (first % kWordBits), all);
    *reinterpret_cast<typename E::Elements*>(z + first) = all;
  }
  for (; first < n; ++first) z[first] = static_cast<T>(bits[first / kWordBits] >> (first % kWordBits) & 1);
}

void values_bytes(const uint64_t* bits, int64_t n, uint8_t* z) {
  constexpr uint64_t kOfBytes = 0x0101010101010101u;
  int64_t first = 0;
  for (; first + 8 <= n; first += 8) {
    // In every byte one of the bits; then 1 for those that are not 0.
    const uint64_t here = (bits[first / kWordBits] >> (first % kWordBits) & 255) * kOfBytes & 0x8040201008040201u;
    const uint64_t eight = (here + 0x7f * kOfBytes) >> 7 & kOfBytes;
    std::memcpy(z + first, &eight, 8);
  }
  for (; first < n; ++first) z[first] = bits[first / kWordBits] >> (first % kWordBits) & 1;
}

template <class T>
void add(const T* from, int64_t n, T* to) {
#pragma omp simd
  for (int64_t k = 0; k < n; ++k) to[k] += from[k];
}

template <class T>
void spread(uint64_t bits, const T* grads, int64_t n, T* out) {
  using E = Eight<T>;
  int64_t k = 0;
  for (; k + E::kCount <= n; k += E::kCount) {
    const auto half = *reinterpret_cast<const typename E::Half*>(grads + k / 2);
    typename E::Elements all = __builtin_shufflevector(half, half, 0, 0, 1, 1, 2, 2, 3, 3);
    E::keep(bits >> k, all);
    *reinterpret_cast<typename E::Elements*>(out + k) = all;
  }
  for (; k < n; ++k) out[k] = bits >> k & 1 ? grads[k / 2] : T(0);
}

template <class T>
struct Sums : InVectors<T> {
  using typename InVectors<T>::Vector;
  using InVectors<T>::at;
  static constexpr int kEighth = static_cast<int>(kPanel<T> * sizeof(T) / 8);  // bytes of a part of a panel

  /// Sums of the first eighths of a panel, in registers: vectors, and half a vector if these are longer than an eighth.
  template <int kEighths>
  class Row {
   public:
    explicit Row(const T* from) {
      for (int v = 0; v < kVectors; ++v) whole_[v] = at(from)[v];
      if constexpr (kHalf) half_ = *half_of(from);
    }
    NORSE_FAST_INLINE void add(const T* row) {
      for (int v = 0; v < kVectors; ++v) whole_[v] += at(row)[v];
      if constexpr (kHalf) half_ += *half_of(row);
    }
    void store(T* to) const {
      for (int v = 0; v < kVectors; ++v) at(to)[v] = whole_[v];
      if constexpr (kHalf) *const_cast<Half*>(half_of(to)) = half_;
    }

   private:
    typedef T Half __attribute__((vector_size(kEighth), aligned(alignof(T)), may_alias));
    static constexpr int kVectors = kEighths * kEighth / kVectorBytes;
    static constexpr bool kHalf = kVectors * kVectorBytes < kEighths * kEighth;
    static const Half* half_of(const T* p) { return reinterpret_cast<const Half*>(at(p) + kVectors); }

    Vector whole_[kVectors > 0 ? kVectors : 1];
    Half half_;
  };

  template <int kEighths>
  static void sum_lists(const T* panel, SpikeLists lists, int64_t rows, const T* start, T* out, int64_t out_stride) {
    for (int64_t r = 0; r < rows; ++r) {
      T* const to = out + r * out_stride;
      Row<kEighths> total(start ? start : to);
      const uint16_t* const end = lists.events + lists.end[r];
      for (const uint16_t* event = lists.events + lists.begin[r]; event < end; ++event) {
        total.add(panel + *event * kPanel<T>);
      }
      total.store(to);
    }
  }

  /// Adds the rows of the first bits of a word, and clears these.
  template <int kCount, int kEighths>
  NORSE_FAST_INLINE static void add_rows(const T* of_word, uint64_t& word, Row<kEighths>& total) {
    for (int n = 0; n < kCount; ++n, word &= word - 1) total.add(of_word + first_bit(word) * kPanel<T>);
  }

  template <int kEighths>
  static void sum_words(const T* panel, const WordRows& bits, int64_t rows, const T* start, T* out) {
    // Some at once: a processor that cannot guess how many there are loses more time than a few too many take.
    for (int64_t r = 0; r < rows; ++r) {
      T* const to = out + r * kPanel<T>;
      Row<kEighths> total(start ? start : to);
      for (int64_t k = 0; k < bits.count; ++k) {
        const T* const of_word = panel + k * kWordRows * kPanel<T>;
        uint64_t word = bits.words[k * bits.room + r];
        if (word) add_rows<4>(of_word, word, total);
        while (word) add_rows<2>(of_word, word, total);
      }
      total.store(to);
    }
  }

  /// Calls f with the number of eighths of a panel that so many columns are, as a constant.
  template <class F, int kEighths = 8>
  static void with_eighths(int64_t columns, F f) {
    if constexpr (kEighths > 1) {
      if (columns <= (kEighths - 1) * kPanel<T> / 8) return with_eighths<F, kEighths - 1>(columns, f);
    }
    f(std::integral_constant<int, kEighths>());
  }

  static void sum(const T* panel, SpikeLists lists, int64_t rows, int64_t columns, const T* start, T* out,
                  int64_t out_stride) {
    with_eighths(columns, [&](auto eighths) {
      sum_lists<decltype(eighths)::value>(panel, lists, rows, start, out, out_stride);
    });
  }

  static void sum(const T* panel, WordRows bits, int64_t rows, int64_t columns, const T* start, T* out) {
    with_eighths(columns, [&](auto eighths) { sum_words<decltype(eighths)::value>(panel, bits, rows, start, out); });
  }
};

template <class T>
struct Dots : InVectors<T> {
  using typename InVectors<T>::Vector;
  using InVectors<T>::at;
  using InVectors<T>::kWidth;

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
  return {scan<T>,
          scan<uint8_t>,
          count,
          values<T>,
          values_bytes,
          spread<T>,
          Sums<T>::sum,
          Sums<T>::sum,
          Dots<T>::template dot<>,
          Multiply<T>::multiply,
          add<T>};
}

template SpikeSums<float> spike_sums_of<NORSE_FAST_ISA, float>();
template SpikeSums<double> spike_sums_of<NORSE_FAST_ISA, double>();

}  // namespace norse_fast::cpu
