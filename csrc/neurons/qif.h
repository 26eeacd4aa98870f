#pragma once
// Quadratic integrate-and-fire neuron, driven by a current.
//
//   vd = v + dt tau_mem_inv (a (v - v_rest) (v - v_crit) + x)
//   z  = H(vd - v_th)
//   v' = (1 - z) vd + z v_reset
//
// W. Gerstner, W. Kistler, R. Naud, L. Paninski: Neuronal Dynamics, 2014, chapter 5.3.

#include "../core/elementary.h"
#include "model.h"
#include "reset.h"

namespace norse_fast {

struct QIF {
  static constexpr const char* kName = "qif";
  static constexpr const char* kStateNames[] = {"v"};
  static constexpr const char* kParamNames[] = {"tau_mem_inv", "a", "v_rest", "v_crit", "v_th", "v_reset", "reset"};
  static constexpr int kRates = 1;
  static constexpr int kThresholds = 1;

  template <class T>
  struct State {
    T v;
  };

  template <class T>
  struct Params {
    T dt_tau_mem, a, v_rest, v_crit, v_th, v_reset, reset;
  };

  template <class T>
  struct Tape {
    T v, vd;
  };

  template <class T>
  NORSE_FAST_INLINE static T step(State<T>& s, T x, const Params<T>& p, Tape<T>& tape) {
    const Reset<T> reset{p.reset, p.v_reset, p.v_th};
    const T v = s.v;
    const T vd = v + p.dt_tau_mem * ((p.a * (v - p.v_rest)) * (v - p.v_crit) + x);
    const T z = heaviside(vd - p.v_th);
    s.v = reset.potential(z, vd);
    tape = {v, vd};
    return z;
  }

  template <class T, class Surrogate>
  NORSE_FAST_INLINE static T vjp(const State<T>&, T x, const Params<T>& p, const Tape<T>& tape, Surrogate surrogate,
                                 T grad_out, State<T>& grad, Params<T>& grad_params) {
    const Reset<T> reset{p.reset, p.v_reset, p.v_th};
    const T above = tape.vd - p.v_th;
    const T z = heaviside(above);
    const T grad_z = grad_out + reset.attached(reset.grad_z(tape.vd, grad.v));
    const T grad_u = surrogate(0, above, grad_z);
    const T grad_vd = reset.grad_vd(z, grad.v) + grad_u;
    const T grad_drive = grad_vd * p.dt_tau_mem;
    const T rest = tape.v - p.v_rest, crit = tape.v - p.v_crit;

    grad_params.dt_tau_mem += chain(grad_vd, (p.a * rest) * crit + x);
    grad_params.a += chain(grad_drive, rest * crit);
    grad_params.v_rest -= chain(grad_drive, p.a * crit);
    grad_params.v_crit -= chain(grad_drive, p.a * rest);
    grad_params.v_th += reset.grad_v_th(z, grad.v) - grad_u;
    grad_params.v_reset += reset.grad_v_reset(z, grad.v);

    grad.v = grad_vd + chain(grad_drive, p.a * (rest + crit));
    return grad_drive;
  }
};

}  // namespace norse_fast
