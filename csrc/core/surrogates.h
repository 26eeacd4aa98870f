#pragma once
// Surrogate derivatives of the spike function z = H(x), x = v - v_th: a name and a formula each, and the list of them.
//
// E. Neftci, H. Mostafa, F. Zenke: Surrogate Gradient Learning in Spiking Neural Networks, 2019, for the idea. The
// forms that Norse has, including where alpha is a slope, an amplitude or a width, are Norse's.

#include "default_surrogate.h"
#include "launch.h"

namespace norse_fast {

/// alpha max(0, 1 - |x|); G. Bellec et al.: Long short-term memory in networks of spiking neurons, 2018.
struct Triangle {
  static constexpr const char* kName = "triangle";
  template <class T>
  NORSE_FAST_INLINE static T derivative(T x, T alpha) {
    const T height = T(1) - std::fabs(x);
    return alpha * (height < T(0) ? T(0) : height);
  }
};

/// 1 - tanh(alpha x)^2.
struct Tanh {
  static constexpr const char* kName = "tanh";
  template <class T>
  NORSE_FAST_INLINE static T derivative(T x, T alpha) {
    return T(1) - tanh_squared(alpha * x);
  }
};

/// alpha^3 / (alpha^2 + x^2)^(3/2).
struct Circ {
  static constexpr const char* kName = "circ";
  template <class T>
  NORSE_FAST_INLINE static T derivative(T x, T alpha) {
    const T d = alpha * alpha + x * x;
    return (alpha * alpha * alpha) / (d * std::sqrt(d));
  }
};

/// 2 exp(-(alpha x)^2) / sqrt(pi), with the root rounded to float as in the reference.
struct HeaviErfc {
  static constexpr const char* kName = "heavi_erfc";
  template <class T>
  NORSE_FAST_INLINE static T derivative(T x, T alpha) {
    const T scaled = alpha * x;
    return T(1.1283791331978021) * exp_decay(scaled * scaled);
  }
};

/// No gradient.
struct Heaviside {
  static constexpr const char* kName = "heaviside";
  template <class T>
  NORSE_FAST_INLINE static T derivative(T, T) {
    return T(0);
  }
};

/// alpha / (2 (1 + (pi alpha x / 2)^2)); W. Fang et al.: Deep Residual Learning in Spiking Neural Networks, 2021.
struct Atan {
  static constexpr const char* kName = "atan";
  template <class T>
  NORSE_FAST_INLINE static T derivative(T x, T alpha) {
    const T scaled = T(1.5707963267948966) * alpha * x;
    return alpha / (T(2) * (T(1) + scaled * scaled));
  }
};

/// alpha s (1 - s), s = 1 / (1 + exp(-alpha x)); of |x|, so that exp does not overflow.
struct Sigmoid {
  static constexpr const char* kName = "sigmoid";
  template <class T>
  NORSE_FAST_INLINE static T derivative(T x, T alpha) {
    const T e = exp_decay(std::fabs(alpha * x));
    const T d = T(1) + e;
    return alpha * e / (d * d);
  }
};

/// alpha where |x| < 1 / (2 alpha), else 0; Y. Wu et al.: Spatio-Temporal Backpropagation, 2018.
struct Rectangle {
  static constexpr const char* kName = "rectangle";
  template <class T>
  NORSE_FAST_INLINE static T derivative(T x, T alpha) {
    return alpha * std::fabs(x) < T(0.5) ? alpha : T(0);
  }
};

/// alpha max(0, 1 - alpha |x|); S. Esser et al.: Convolutional networks for fast, energy-efficient neuromorphic
/// computing, 2016.
struct TriangleWidth {
  static constexpr const char* kName = "triangle_width";
  template <class T>
  NORSE_FAST_INLINE static T derivative(T x, T alpha) {
    const T height = T(1) - alpha * std::fabs(x);
    return alpha * (height < T(0) ? T(0) : height);
  }
};

template <class... Kinds>
struct SurrogateList {
  /// Whether the surrogate of that number is of that kind.
  template <class Kind>
  static constexpr bool is(Surrogate surrogate) {
    int number = 0;
    return ((number++ == static_cast<int>(surrogate) && std::is_same_v<Kind, Kinds>) || ...);
  }

  static constexpr int kCount = sizeof...(Kinds);
  static constexpr const char* kNames[] = {Kinds::kName...};

  /// Calls f with an empty instance of the surrogate of that number.
  template <class F>
  NORSE_FAST_INLINE static void visit(Surrogate surrogate, F f) {
    int number = 0;
    ((number++ == static_cast<int>(surrogate) ? f(Kinds{}) : void()), ...);
  }
};

/// Operators, and Python, know a surrogate by its place here.
using Surrogates =
    SurrogateList<SuperSpike, Triangle, Tanh, Circ, HeaviErfc, Heaviside, Atan, Sigmoid, Rectangle, TriangleWidth>;
static_assert(Surrogates::is<DefaultSurrogate>(kDefaultSurrogate) && Surrogates::is<Heaviside>(kNoSurrogate));

}  // namespace norse_fast
