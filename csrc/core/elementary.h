#pragma once
// Branch-free elementary functions that compilers vectorise on every instruction set, and that give the same bits on
// all devices that have fused multiply-adds, because they are built from operations that IEEE 754 rounds exactly.

#include <cmath>
#include <cstdint>
#include <cstring>
#include <iterator>
#include <type_traits>

#include "portable.h"

namespace norse_fast {

template <class To, class From>
NORSE_FAST_INLINE To bit_cast(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  std::memcpy(&to, &from, sizeof(To));
  return to;
}

/// x where the condition holds, else 0. As a mask: GCC would follow a select into what is computed of it, and compute
/// that for either case.
template <class T>
NORSE_FAST_INLINE T keep_if(bool condition, T x) {
  using Bits = std::conditional_t<sizeof(T) == sizeof(uint32_t), uint32_t, uint64_t>;
  return bit_cast<T>(-static_cast<Bits>(condition) & bit_cast<Bits>(x));
}

/// A gradient times a derivative: 0 where the gradient is 0, also if the derivative is infinite or NaN. PyTorch does
/// not visit what no gradient reaches.
template <class T>
NORSE_FAST_INLINE T chain(T grad, T derivative) {
  return keep_if(grad != T(0), grad * derivative);
}

/// The Heaviside step of the reference: 1 where x > 0, else 0; NaN gives 0.
template <class T>
NORSE_FAST_INLINE T heaviside(T x) {
  return keep_if(x > T(0), T(1));
}

/// max(x, 0), with NaN passed on as torch.relu does.
template <class T>
NORSE_FAST_INLINE T relu(T x) {
  return keep_if(!(x < T(0)), x);
}

/// The gradient of relu at x, from that of its value; passed on where x is NaN, as in torch.
template <class T>
NORSE_FAST_INLINE T relu_vjp(T x, T grad) {
  return keep_if(!(x <= T(0)), grad);
}

/// a b + c, rounded once where the instruction set has such an operation, as nearly all have, and else twice.
template <class T>
NORSE_FAST_INLINE T multiply_add(T a, T b, T c) {
#if defined(__FP_FAST_FMA) || defined(__CUDA_ARCH__)
  return std::fma(a, b, c);
#else
  return a * b + c;
#endif
}

namespace detail {

// exp(x) = 2^k exp(r) with k = round(x / ln 2) and |r| <= ln(2)/2. k is found by adding 1.5 * 2^(mantissa bits), which
// rounds to nearest without an instruction that the baseline lacks; twice the exponent's bias on top of it makes the
// last bits of the sum, and half of them, ready exponents. 2^k is applied as two factors so that results near overflow
// and among the denormals come out right. The range reduction follows J.-M. Muller, Elementary Functions, 3rd ed.,
// chapter 11.
template <class T>
struct ExpConstants;

template <>
struct ExpConstants<float> {
  using Bits = uint32_t;
  static constexpr int kMantissaBits = 23;
  static constexpr Bits kBias = 127;
  static constexpr float kRound = 0x1.8p23f + 2 * kBias;
  static constexpr float kLn2High = 0.693145751953125f, kLn2Low = 1.42860682030941723e-6f;
  static constexpr float kMax = 89.0f, kMin = -104.0f;  // beyond these the result is inf, or 0
  static constexpr float kDecayed = 86.5f;              // up to here exp(-x) is a normal number
  // Of the polynomial that is nearest to (exp(r) - 1 - r) / r^2: its error is 2^-28 of exp(r).
  static constexpr float kSeries[] = {0x1.fffffcp-2f, 0x1.555492p-3f, 0x1.5558f2p-5f, 0x1.123a2p-7f, 0x1.6a23cep-10f};
};

template <>
struct ExpConstants<double> {
  using Bits = uint64_t;
  static constexpr int kMantissaBits = 52;
  static constexpr Bits kBias = 1023;
  static constexpr double kRound = 0x1.8p52 + 2 * kBias;
  static constexpr double kLn2High = 0x1.62e42fefa3800p-1, kLn2Low = 0x1.ef35793c76730p-45;
  static constexpr double kMax = 710.0, kMin = -746.0;
  static constexpr double kDecayed = 707.5;
  static constexpr double kSeries[] = {1.0 / 2,       1.0 / 6,        1.0 / 24,        1.0 / 120,
                                       1.0 / 720,     1.0 / 5040,     1.0 / 40320,     1.0 / 362880,
                                       1.0 / 3628800, 1.0 / 39916800, 1.0 / 479001600, 1.0 / 6227020800};
};

/// Every second coefficient from kFirst on, by Horner's rule in r^2: two short chains instead of a long one.
template <class T, int kFirst>
NORSE_FAST_INLINE T exp_series(T square) {
  constexpr T kCoefficient = ExpConstants<T>::kSeries[kFirst];
  if constexpr (kFirst + 2 < static_cast<int>(std::size(ExpConstants<T>::kSeries))) {
    return multiply_add(square, exp_series<T, kFirst + 2>(square), kCoefficient);
  } else {
    return kCoefficient;
  }
}

/// x as k ln 2 + r. `shifted` holds k plus twice the exponent's bias in its last bits.
template <class T>
struct Reduced {
  T shifted, r;
};

template <class T>
NORSE_FAST_INLINE Reduced<T> split_exponent(T x) {
  using C = ExpConstants<T>;
  const T shifted = multiply_add(x, T(1.4426950408889634074), T(C::kRound));
  const T k = shifted - C::kRound;
  return {shifted, multiply_add(-k, T(C::kLn2Low), multiply_add(-k, T(C::kLn2High), x))};
}

/// The same of x clamped to [min, max].
template <class T>
NORSE_FAST_INLINE Reduced<T> reduce_exponent(T x, T min, T max) {
  const T clamped_low = x < min ? min : x;
  return split_exponent(clamped_low > max ? max : clamped_low);
}

/// exp(r) - 1, |r| <= ln(2)/2
template <class T>
NORSE_FAST_INLINE T exp_minus_one(T r) {
  const T square = r * r;
  return multiply_add(square, multiply_add(r, exp_series<T, 1>(square), exp_series<T, 0>(square)), r);
}

/// 2^k exp(r)
template <class T>
NORSE_FAST_INLINE T exp_reduced(T shifted, T r) {
  using C = ExpConstants<T>;
  using Bits = typename C::Bits;
  const T minus_one = exp_minus_one(r);
  const Bits bits = bit_cast<Bits>(shifted);
  const Bits half = bits >> 1;
  const T scale = bit_cast<T>(half << C::kMantissaBits);
  return multiply_add(minus_one, scale, scale) * bit_cast<T>((bits - half) << C::kMantissaBits);
}

}  // namespace detail

/// exp(x): the floating point number nearest to it, or a neighbour of that; inf, 0 and NaN as in the C library.
template <class T>
NORSE_FAST_INLINE T exp(T x) {
  using C = detail::ExpConstants<T>;
  const auto [shifted, r] = detail::reduce_exponent(x, T(C::kMin), T(C::kMax));
  return detail::exp_reduced(shifted, r);
}

/// exp(-x) for x >= 0, as exp has it, but 0 near and below the least normal number: processors take many times as long
/// for a denormal one, and no gradient misses it.
template <class T>
NORSE_FAST_INLINE T exp_decay(T x) {
  using C = detail::ExpConstants<T>;
  const T clamped = x > T(C::kDecayed) ? T(C::kDecayed) : x;
  const auto [shifted, r] = detail::split_exponent(-clamped);
  const auto exponent = bit_cast<typename C::Bits>(shifted) - C::kBias;
  const T scale = bit_cast<T>(exponent << C::kMantissaBits);
  return keep_if(!(x > T(C::kDecayed)), multiply_add(detail::exp_minus_one(r), scale, scale));
}

/// tanh(x)^2, the only form in which a surrogate needs tanh.
template <class T>
NORSE_FAST_INLINE T tanh_squared(T x) {
  const T e = exp_decay(T(2) * std::fabs(x));
  const T t = (T(1) - e) / (T(1) + e);
  return t * t;
}

}  // namespace norse_fast
