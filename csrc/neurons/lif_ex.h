#pragma once
// Exponential integrate-and-fire neuron with an exponential synapse: near the threshold the voltage runs away by
// itself.
//
//   j  = i + x
//   vd = v + dt tau_mem_inv (((v_leak - v) + delta_T exp((v - v_th) / delta_T)) + j)
//   i' = j - dt tau_syn_inv j
//   z  = H(vd - v_th)
//   v' = (1 - z) vd + z v_reset
//
// N. Fourcaud-Trocme, D. Hansel, C. van Vreeswijk, N. Brunel: How Spike Generation Mechanisms Determine the Neuronal
// Response to Fluctuating Inputs, 2003; Neuronal Dynamics, 2014, chapter 5.2.

#include "../core/elementary.h"
#include "model.h"
#include "reset.h"

namespace norse_fast {

struct LIFEx {
  static constexpr const char* kName = "lif_ex";
  static constexpr const char* kStateNames[] = {"v", "i"};
  static constexpr const char* kParamNames[] = {"tau_syn_inv", "tau_mem_inv", "delta_T", "v_leak",
                                                "v_th",        "v_reset",     "reset"};
  static constexpr int kRates = 2;
  static constexpr int kThresholds = 1;
  static constexpr Recurrence kRecurrence{Arrival::kBefore, 1, {1}};

  template <class T>
  struct State {
    T v, i;
  };

  template <class T>
  struct Params {
    T dt_tau_syn, dt_tau_mem, delta_T, v_leak, v_th, v_reset, reset;
  };

  template <class T>
  struct Tape {
    T e, vd;
  };

  template <class T>
  NORSE_FAST_INLINE static T exponent(const State<T>& s, const Params<T>& p) {
    return (s.v - p.v_th) / p.delta_T;
  }

  template <class T>
  NORSE_FAST_INLINE static T step(State<T>& s, T x, const Params<T>& p, Tape<T>& tape) {
    const Reset<T> reset{p.reset, p.v_reset, p.v_th};
    const T j = s.i + x;
    const T vd = s.v + p.dt_tau_mem * (((p.v_leak - s.v) + p.delta_T * tape.e) + j);
    const T z = heaviside(vd - p.v_th);
    s.i = j - p.dt_tau_syn * j;
    s.v = reset.potential(z, vd);
    tape.vd = vd;
    return z;
  }

  template <class T, class Surrogate>
  NORSE_FAST_INLINE static T vjp(const State<T>& s, T x, const Params<T>& p, const Tape<T>& tape, Surrogate surrogate,
                                 T grad_out, State<T>& grad, Params<T>& grad_params) {
    const Reset<T> reset{p.reset, p.v_reset, p.v_th};
    const T j = s.i + x;
    const T e = tape.e;
    const T u = tape.vd - p.v_th;
    const T z = heaviside(u);
    const T grad_z = grad_out + reset.attached(reset.grad_z(tape.vd, grad.v));
    const T grad_u = surrogate(0, u, grad_z);
    const T grad_vd = reset.grad_vd(z, grad.v) + grad_u;
    const T grad_drive = grad_vd * p.dt_tau_mem;
    const T grad_j = (grad.i - grad.i * p.dt_tau_syn) + grad_drive;

    grad_params.dt_tau_syn -= chain(grad.i, j);
    grad_params.dt_tau_mem += chain(grad_vd, ((p.v_leak - s.v) + p.delta_T * e) + j);
    grad_params.delta_T += chain(grad_drive, e * (T(1) - exponent(s, p)));
    grad_params.v_leak += grad_drive;
    grad_params.v_th += reset.grad_v_th(z, grad.v) - (grad_u + chain(grad_drive, e));
    grad_params.v_reset += reset.grad_v_reset(z, grad.v);

    grad.v = grad_vd + chain(grad_drive, e - T(1));
    grad.i = grad_j;
    return grad_j;
  }
};

}  // namespace norse_fast
