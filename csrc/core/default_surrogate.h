#pragma once
// The default surrogate by itself: the kernels of the CPU compute it on the fly, so that they need no other.

#include "elementary.h"

namespace norse_fast {

/// 1 / (alpha |x| + 1)^2; F. Zenke, S. Ganguli: SuperSpike, 2018.
struct SuperSpike {
  static constexpr const char* kName = "super";
  template <class T>
  NORSE_FAST_INLINE static T derivative(T x, T alpha) {
    const T d = alpha * std::fabs(x) + T(1);
    return T(1) / (d * d);
  }
};

using DefaultSurrogate = SuperSpike;

}  // namespace norse_fast
