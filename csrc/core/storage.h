#pragma once
// Element types as they lie in memory. Arithmetic on half types is done in float. On the CPU the conversions are
// integer arithmetic, which vectorises on every instruction set; a GPU has an instruction for each. All round to
// nearest even and give the same bits everywhere, but for those that tell one NaN from another.

#include "elementary.h"

namespace norse_fast {

/// kLong is for parameters only: some of the reference's defaults are integers.
enum class Storage : int { kFloat, kDouble, kHalf, kBFloat16, kLong };

struct BFloat16 {
  uint16_t bits;
};

/// IEEE 754 binary16.
struct Half {
  uint16_t bits;
};

NORSE_FAST_INLINE float load_stored(float x) { return x; }

NORSE_FAST_INLINE double load_stored(double x) { return x; }

NORSE_FAST_INLINE float load_stored(BFloat16 x) { return bit_cast<float>(static_cast<uint32_t>(x.bits) << 16); }

NORSE_FAST_INLINE float load_stored(Half x) {
#ifdef __CUDA_ARCH__
  float value;
  asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(x.bits));
  return value;
#else
  // Multiplication by 2^112 moves the exponent from half's bias to float's, also for denormals.
  const uint32_t sign = static_cast<uint32_t>(x.bits & 0x8000u) << 16;
  const uint32_t magnitude = static_cast<uint32_t>(x.bits & 0x7fffu) << 13;
  const uint32_t scaled = bit_cast<uint32_t>(bit_cast<float>(magnitude) * 0x1p112f);
  const uint32_t special = magnitude >= 0x0f800000u ? 0x7f800000u : 0u;  // inf and NaN keep their exponent
  return bit_cast<float>(sign | scaled | special);
#endif
}

NORSE_FAST_INLINE void store_rounded(float x, float& to) { to = x; }

NORSE_FAST_INLINE void store_rounded(double x, double& to) { to = x; }

/// A spike as a byte, which is also how a bool lies in memory.
template <class T>
NORSE_FAST_INLINE void store_rounded(T x, uint8_t& to) {
  to = x != T(0) ? 1 : 0;
}

NORSE_FAST_INLINE void store_rounded(float x, BFloat16& to) {
#ifdef __CUDA_ARCH__
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(to.bits) : "f"(x));
#else
  const uint32_t bits = bit_cast<uint32_t>(x);
  const uint32_t rounded = bits + 0x7fffu + ((bits >> 16) & 1u);
  to.bits = static_cast<uint16_t>((bits & 0x7fffffffu) > 0x7f800000u ? 0x7fc0u : rounded >> 16);
#endif
}

NORSE_FAST_INLINE void store_rounded(float x, Half& to) {
#ifdef __CUDA_ARCH__
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(to.bits) : "f"(x));
#else
  // Adding and subtracting a power of two whose last bit weighs as much as half's last bit rounds to nearest even.
  const uint32_t bits = bit_cast<uint32_t>(x);
  const uint32_t magnitude = bits & 0x7fffffffu;
  const uint32_t exponent = magnitude & 0x7f800000u;
  const uint32_t smallest = 0x38800000u;  // 2^-14, the smallest normal half
  const uint32_t power = (exponent < smallest ? smallest : exponent) + (13u << 23);
  const float rounded = (bit_cast<float>(magnitude) + bit_cast<float>(power)) - bit_cast<float>(power);
  const uint32_t r = bit_cast<uint32_t>(rounded);
  const uint32_t denormal = bit_cast<uint32_t>(rounded + 0.5f) & 0x7ffu;
  uint32_t half = r < smallest ? denormal : (r - 0x38000000u) >> 13;
  half = magnitude >= 0x477ff000u ? 0x7c00u : half;  // rounds beyond the largest half
  half = magnitude > 0x7f800000u ? 0x7e00u : half;
  to.bits = static_cast<uint16_t>((bits >> 16 & 0x8000u) | half);
#endif
}

}  // namespace norse_fast
