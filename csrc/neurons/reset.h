#pragma once
// What a spike does to the membrane potential, and the gradient of that. Which it is, tells the last parameter of every
// spiking model, `reset`: its magnitude is the kind, and where it is negative, the reset is detached from the gradient:
// what a spike changes sends no gradient into the spike.
//
//   1  to a value      v' = (1 - z) vd + z v_reset
//   2  by subtraction  v' = (1 - z) vd + z (vd - v_th)
//   3  none            v' = (1 - z) vd + z vd
//
// W. Gerstner, W. Kistler, R. Naud, L. Paninski: Neuronal Dynamics, 2014, chapter 1.3, for the first; B. Rueckauer et
// al.: Conversion of Continuous-Valued Deep Networks to Efficient Event-Driven Networks, 2017, for the second.

#include "../core/elementary.h"

namespace norse_fast {

template <class T>
struct Reset {
  T code, v_reset, v_th;

  NORSE_FAST_INLINE bool is(int kind) const { return std::fabs(code) == T(kind); }

  NORSE_FAST_INLINE T potential(T z, T vd) const { return (T(1) - z) * vd + z * target(vd); }

  /// A gradient that flows into the spike because of what the spike changes.
  NORSE_FAST_INLINE T attached(T grad) const { return keep_if(code > T(0), grad); }

  // Gradients, from that of the potential; that of the spike as if it were attached.
  NORSE_FAST_INLINE T grad_z(T vd, T grad_v) const { return keep_if(!is(3), chain(grad_v, target(vd) - vd)); }
  NORSE_FAST_INLINE T grad_vd(T z, T grad_v) const { return grad_v * (T(1) - keep_if(is(1), z)); }
  NORSE_FAST_INLINE T grad_v_reset(T z, T grad_v) const { return keep_if(is(1), grad_v * z); }
  NORSE_FAST_INLINE T grad_v_th(T z, T grad_v) const { return -keep_if(is(2), grad_v * z); }

 private:
  NORSE_FAST_INLINE T target(T vd) const { return is(1) ? v_reset : vd - keep_if(is(2), v_th); }
};

}  // namespace norse_fast
