#pragma once
// What the operators on spikes share: bits, and checks.

#include <optional>

#include "../cpu/matrix.h"
#include "../cpu/spike_sums.h"
#include "operators.h"

namespace norse_fast::cpu {

/// Spikes as bits: a row of words for each row.
struct Bits {
  const uint64_t* words;
  int64_t rows, columns;

  int64_t stride() const { return words_for(columns); }
  const uint64_t* row(int64_t r) const { return words + r * stride(); }
};

inline bool is_set(const uint64_t* bits, int64_t k) { return bits[k / kWordBits] >> (k % kWordBits) & 1; }

inline void check_float(const char* name, const char* argument, const Tensor& t, int64_t dims) {
  require(t.is_cpu() && t.dim() == dims && is_floating(t.scalar_type()) && !is_half(t.scalar_type()), name, ": ",
          argument, " is not one of float32 or float64, of ", dims, " dimensions, on the CPU");
}

/// The bits of a tensor that spike_bits made, of rows of so many spikes.
inline Bits bits_of(const char* name, const Tensor& bits, int64_t columns) {
  require(bits.is_cpu() && bits.dim() == 2 && bits.scalar_type() == ScalarType::Long && bits.is_contiguous(), name,
          ": bits are not a contiguous matrix of int64 on the CPU");
  require(columns >= 0 && columns <= INT64_MAX - kWordBits && bits.size(1) == words_for(columns), name,
          ": bits are not those of rows of ", columns);
  const Bits found{static_cast<const uint64_t*>(bits.data_ptr()), bits.size(0), columns};
  bool fits = true;
  for (int64_t r = 0; columns % kWordBits != 0 && r < found.rows; ++r) {
    fits &= found.row(r)[found.stride() - 1] >> (columns % kWordBits) == 0;
  }
  require(fits, name, ": bits have spikes beyond column ", columns);
  return found;
}

inline void check_bias(const char* name, const Tensor& weight, const std::optional<Tensor>& bias) {
  if (!bias) return;
  check_float(name, "bias", *bias, 1);
  require(bias->scalar_type() == weight.scalar_type() && bias->size(0) == weight.size(0), name,
          ": bias does not fit the weight");
}

/// to[c][r] = from[r][c].
template <class T>
void turn(const T* from, int64_t from_stride, int64_t rows, int64_t columns, T* to, int64_t to_stride) {
  products<T>().turn(from, from_stride, rows, columns, to, to_stride, false);
}

}  // namespace norse_fast::cpu
