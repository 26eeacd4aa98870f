#include "spike_sums.h"

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

}  // namespace

template <class Isa, class T>
SpikeSums<T> spike_sums_of() {
  return {scan<T>, scan<uint8_t>, Sums<T>::sum};
}

template SpikeSums<float> spike_sums_of<NORSE_FAST_ISA, float>();
template SpikeSums<double> spike_sums_of<NORSE_FAST_ISA, double>();

}  // namespace norse_fast::cpu
