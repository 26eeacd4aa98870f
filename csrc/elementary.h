#pragma once
// Branch-free elementary functions that compilers vectorise on every instruction set, and that give the same bits on
// every device because they are built from operations that IEEE 754 rounds exactly.

#include <cmath>
#include <cstdint>
#include <cstring>

#include "portable.h"

namespace norse_fast {

template <class To, class From>
NORSE_FAST_INLINE To bit_cast(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  std::memcpy(&to, &from, sizeof(To));
  return to;
}

/// The Heaviside step of the reference: 1 where x > 0, else 0; NaN gives 0.
template <class T>
NORSE_FAST_INLINE T heaviside(T x) {
  return x > T(0) ? T(1) : T(0);
}

/// max(x, 0), with NaN passed on as torch.relu does.
template <class T>
NORSE_FAST_INLINE T relu(T x) {
  return x < T(0) ? T(0) : x;
}

namespace detail {

// exp(x) = 2^k exp(r) with k = round(x / ln 2) and |r| <= ln(2)/2. k is found by adding 1.5 * 2^(mantissa bits), which
// rounds to nearest without an instruction that the baseline lacks, and 2^k is applied as two factors so that results
// near overflow and among the denormals come out right. The range reduction and the degree of the Taylor polynomial
// follow J.-M. Muller, Elementary Functions, 3rd ed., chapters 4 and 11.
template <class T>
struct ExpConstants;

template <>
struct ExpConstants<float> {
  using Int = int32_t;
  static constexpr int kMantissaBits = 23, kBias = 127, kDegree = 7;
  static constexpr float kRound = 12582912.0f;  // 1.5 * 2^23
  static constexpr float kLn2High = 0.693145751953125f, kLn2Low = 1.42860682030941723e-6f;
  static constexpr float kMax = 89.0f, kMin = -104.0f;  // beyond these the result is inf, or 0
};

template <>
struct ExpConstants<double> {
  using Int = int64_t;
  static constexpr int kMantissaBits = 52, kBias = 1023, kDegree = 13;
  static constexpr double kRound = 6755399441055744.0;  // 1.5 * 2^52
  static constexpr double kLn2High = 0x1.62e42fefa3800p-1, kLn2Low = 0x1.ef35793c76730p-45;
  static constexpr double kMax = 710.0, kMin = -746.0;
};

template <class T>
constexpr T factorial(int n) {
  return n <= 1 ? T(1) : T(n) * factorial<T>(n - 1);
}

/// The tail sum_{k >= kTerm} r^(k - kTerm) / k! of the exponential series, by Horner's rule with constant coefficients.
template <class T, int kTerm = 2>
NORSE_FAST_INLINE T exp_series(T r) {
  constexpr T kCoefficient = T(1) / factorial<T>(kTerm);
  if constexpr (kTerm == ExpConstants<T>::kDegree) {
    return kCoefficient;
  } else {
    return kCoefficient + r * exp_series<T, kTerm + 1>(r);
  }
}

template <class T>
NORSE_FAST_INLINE T power_of_two(typename ExpConstants<T>::Int k) {
  using C = ExpConstants<T>;
  return bit_cast<T>(static_cast<typename C::Int>(k + C::kBias) << C::kMantissaBits);
}

}  // namespace detail

/// exp(x), within 1 unit in the last place; inf, 0 and NaN as in the C library.
template <class T>
NORSE_FAST_INLINE T exp(T x) {
  using C = detail::ExpConstants<T>;
  using Int = typename C::Int;
  const T clamped_low = x < C::kMin ? C::kMin : x;
  const T clamped = clamped_low > C::kMax ? C::kMax : clamped_low;
  const T shifted = clamped * T(1.4426950408889634074) + C::kRound;
  const T k = shifted - C::kRound;
  const Int n = bit_cast<Int>(shifted) - bit_cast<Int>(C::kRound);
  const T high = clamped - k * C::kLn2High;
  const T low = k * C::kLn2Low;
  const T r = high - low;
  const T error = (high - r) - low;
  const T poly = T(1) + (r + (r * r * detail::exp_series(r) + error));
  const Int half = n >> 1;
  return poly * detail::power_of_two<T>(half) * detail::power_of_two<T>(n - half);
}

/// tanh(x)^2, the only form in which a surrogate needs tanh.
template <class T>
NORSE_FAST_INLINE T tanh_squared(T x) {
  const T e = exp(T(-2) * (x < T(0) ? -x : x));
  const T t = (T(1) - e) / (T(1) + e);
  return t * t;
}

}  // namespace norse_fast
