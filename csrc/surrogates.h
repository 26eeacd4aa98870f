#pragma once
// Surrogate derivatives of the spike function z = H(x), x = v - v_th.
//
// E. Neftci, H. Mostafa, F. Zenke: Surrogate Gradient Learning in Spiking Neural Networks, 2019, for the idea; the
// exact forms, including where alpha is a slope, an amplitude or a width, are those of Norse.

#include <type_traits>

#include "elementary.h"

namespace norse_fast {

/// The order is that of SURROGATES in norse_fast/functional/threshold.py.
enum class Surrogate : int { kSuper, kTriangle, kTanh, kCirc, kHeaviErfc, kHeaviside, kCount };

template <Surrogate kSurrogate, class T>
NORSE_FAST_INLINE T surrogate_derivative(T x, T alpha) {
  const T magnitude = std::fabs(x);
  if constexpr (kSurrogate == Surrogate::kSuper) {
    // 1 / (alpha |x| + 1)^2; F. Zenke, S. Ganguli: SuperSpike, 2018
    const T d = alpha * magnitude + T(1);
    return T(1) / (d * d);
  } else if constexpr (kSurrogate == Surrogate::kTriangle) {
    // alpha max(0, 1 - |x|); G. Bellec et al., 2018
    const T height = T(1) - magnitude;
    return alpha * (height < T(0) ? T(0) : height);
  } else if constexpr (kSurrogate == Surrogate::kTanh) {
    // 1 - tanh(alpha x)^2
    return T(1) - tanh_squared(alpha * x);
  } else if constexpr (kSurrogate == Surrogate::kCirc) {
    // alpha^3 / (alpha^2 + x^2)^(3/2)
    const T d = alpha * alpha + x * x;
    return (alpha * alpha * alpha) / (d * std::sqrt(d));
  } else if constexpr (kSurrogate == Surrogate::kHeaviErfc) {
    // 2 exp(-(alpha x)^2) / sqrt(pi), with the root rounded to float as in the reference
    const T scaled = alpha * x;
    return T(1.1283791331978021) * exp(-(scaled * scaled));
  } else {
    return T(0);
  }
}

/// Calls f with the surrogate as a compile-time constant.
template <class F>
NORSE_FAST_INLINE void dispatch_surrogate(Surrogate surrogate, F f) {
  switch (surrogate) {
    case Surrogate::kSuper:
      return f(std::integral_constant<Surrogate, Surrogate::kSuper>{});
    case Surrogate::kTriangle:
      return f(std::integral_constant<Surrogate, Surrogate::kTriangle>{});
    case Surrogate::kTanh:
      return f(std::integral_constant<Surrogate, Surrogate::kTanh>{});
    case Surrogate::kCirc:
      return f(std::integral_constant<Surrogate, Surrogate::kCirc>{});
    case Surrogate::kHeaviErfc:
      return f(std::integral_constant<Surrogate, Surrogate::kHeaviErfc>{});
    default:
      return f(std::integral_constant<Surrogate, Surrogate::kHeaviside>{});
  }
}

}  // namespace norse_fast
