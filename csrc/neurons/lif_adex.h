#pragma once
// Adaptive exponential integrate-and-fire neuron with an exponential synapse: as LIFEx, slowed down by an adaptation
// current that follows the voltage and jumps at every spike.
//
//   j  = i + x
//   vd = v + dt tau_mem_inv ((((v_leak - v) + delta_T exp((v - v_th) / delta_T)) + j) - a)
//   i' = j - dt tau_syn_inv j
//   ad = a + dt tau_ada_inv (adaptation_current (v - v_leak) - a)     with the old voltage
//   z  = H(vd - v_th)
//   v' = (1 - z) vd + z v_reset
//   a' = ad + z adaptation_spike
//
// R. Brette, W. Gerstner: Adaptive Exponential Integrate-and-Fire Model as an Effective Description of Neuronal
// Activity, 2005; Neuronal Dynamics, 2014, chapter 6.1.

#include "../core/elementary.h"
#include "model.h"
#include "reset.h"

namespace norse_fast {

struct LIFAdEx {
  static constexpr const char* kName = "lif_adex";
  static constexpr const char* kStateNames[] = {"v", "i", "a"};
  static constexpr const char* kParamNames[] = {"tau_ada_inv",      "tau_syn_inv", "tau_mem_inv", "adaptation_current",
                                                "adaptation_spike", "delta_T",     "v_leak",      "v_th",
                                                "v_reset",          "reset"};
  static constexpr int kRates = 3;
  static constexpr int kThresholds = 1;
  static constexpr Recurrence kRecurrence{Arrival::kBefore, 1, {1}};

  template <class T>
  struct State {
    T v, i, a;
  };

  template <class T>
  struct Params {
    T dt_tau_ada, dt_tau_syn, dt_tau_mem, adaptation_current, adaptation_spike, delta_T, v_leak, v_th, v_reset, reset;
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
    const T vd = s.v + p.dt_tau_mem * ((((p.v_leak - s.v) + p.delta_T * tape.e) + j) - s.a);
    const T z = heaviside(vd - p.v_th);
    const T ad = s.a + p.dt_tau_ada * (p.adaptation_current * (s.v - p.v_leak) - s.a);
    s.i = j - p.dt_tau_syn * j;
    s.v = reset.potential(z, vd);
    s.a = ad + z * p.adaptation_spike;
    tape.vd = vd;
    return z;
  }

  template <class T, class Surrogate>
  NORSE_FAST_INLINE static T vjp(const State<T>& s, T x, const Params<T>& p, const Tape<T>& tape, Surrogate surrogate,
                                 T grad_out, State<T>& grad, Params<T>& grad_params) {
    const Reset<T> reset{p.reset, p.v_reset, p.v_th};
    const T j = s.i + x;
    const T above_leak = s.v - p.v_leak;
    const T e = tape.e;
    const T u = tape.vd - p.v_th;
    const T z = heaviside(u);
    const T grad_z =
        (grad_out + reset.attached(reset.grad_z(tape.vd, grad.v))) + reset.attached(grad.a * p.adaptation_spike);
    const T grad_u = surrogate(0, u, grad_z);
    const T grad_vd = reset.grad_vd(z, grad.v) + grad_u;
    const T grad_drive = grad_vd * p.dt_tau_mem;
    const T grad_j = (grad.i - grad.i * p.dt_tau_syn) + grad_drive;
    const T grad_adaptation = grad.a * p.dt_tau_ada;
    const T grad_above_leak = grad_adaptation * p.adaptation_current;

    grad_params.dt_tau_ada += chain(grad.a, p.adaptation_current * above_leak - s.a);
    grad_params.dt_tau_syn -= chain(grad.i, j);
    grad_params.dt_tau_mem += chain(grad_vd, (((p.v_leak - s.v) + p.delta_T * e) + j) - s.a);
    grad_params.adaptation_current += chain(grad_adaptation, above_leak);
    grad_params.adaptation_spike += grad.a * z;
    grad_params.delta_T += chain(grad_drive, e * (T(1) - exponent(s, p)));
    grad_params.v_leak += grad_drive - grad_above_leak;
    grad_params.v_th += reset.grad_v_th(z, grad.v) - (grad_u + chain(grad_drive, e));
    grad_params.v_reset += reset.grad_v_reset(z, grad.v);

    grad.v = (grad_vd + chain(grad_drive, e - T(1))) + grad_above_leak;
    grad.i = grad_j;
    grad.a = (grad.a - grad_adaptation) - grad_drive;
    return grad_j;
  }
};

}  // namespace norse_fast
