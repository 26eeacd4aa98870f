#pragma once
// Integrate-and-fire neuron: the voltage sums the input, without a leak and whatever the length of the step.
//
//   vd = v + x
//   z  = H(vd - v_th)
//   v' = (1 - z) vd + z v_reset
//
// W. Gerstner, W. Kistler, R. Naud, L. Paninski: Neuronal Dynamics, 2014, chapter 1.3, without the leak.

#include "../core/elementary.h"
#include "model.h"
#include "reset.h"

namespace norse_fast {

struct IAF {
  static constexpr const char* kName = "iaf";
  static constexpr const char* kStateNames[] = {"v"};
  static constexpr const char* kParamNames[] = {"v_th", "v_reset", "reset"};
  static constexpr int kRates = 0;
  static constexpr int kThresholds = 1;
  static constexpr Recurrence kRecurrence{Arrival::kBefore, 1, {0}};

  template <class T>
  struct State {
    T v;
  };

  template <class T>
  struct Params {
    T v_th, v_reset, reset;
  };

  template <class T>
  struct Tape {
    T vd;
  };

  template <class T>
  NORSE_FAST_INLINE static T step(State<T>& s, T x, const Params<T>& p, Tape<T>& tape) {
    const Reset<T> reset{p.reset, p.v_reset, p.v_th};
    const T vd = s.v + x;
    const T z = heaviside(vd - p.v_th);
    s.v = reset.potential(z, vd);
    tape = {vd};
    return z;
  }

  template <class T, class Surrogate>
  NORSE_FAST_INLINE static T vjp(const State<T>&, T, const Params<T>& p, const Tape<T>& tape, Surrogate surrogate,
                                 T grad_out, State<T>& grad, Params<T>& grad_params) {
    const Reset<T> reset{p.reset, p.v_reset, p.v_th};
    const T u = tape.vd - p.v_th;
    const T z = heaviside(u);
    const T grad_z = grad_out + reset.attached(reset.grad_z(tape.vd, grad.v));
    const T grad_u = surrogate(0, u, grad_z);

    grad_params.v_th += reset.grad_v_th(z, grad.v) - grad_u;
    grad_params.v_reset += reset.grad_v_reset(z, grad.v);

    grad.v = reset.grad_vd(z, grad.v) + grad_u;
    return grad.v;
  }
};

}  // namespace norse_fast
