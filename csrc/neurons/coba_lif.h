#pragma once
// Conductance-based LIF neuron with an excitatory and an inhibitory synapse.
//
//   je   = g_e + relu(x)                        the input jumps the conductances first
//   ji   = g_i + relu(-x)
//   g_e' = je - dt tau_syn_exc_inv je
//   g_i' = ji - dt tau_syn_inh_inv ji
//   vd   = v + dt c_m_inv (g_l (v_rest - v) + g_e' (e_rev_E - v) + g_i' (e_rev_I - v))
//   z    = H(vd - v_thresh)
//   v'   = (1 - z) vd + z v_reset
//
// W. Gerstner, W. Kistler, R. Naud, L. Paninski: Neuronal Dynamics, 2014, chapter 3.1.

#include "../core/elementary.h"
#include "model.h"
#include "reset.h"

namespace norse_fast {

struct CobaLIF {
  static constexpr const char* kName = "coba_lif";
  static constexpr const char* kStateNames[] = {"v", "g_e", "g_i"};
  static constexpr const char* kParamNames[] = {"tau_syn_exc_inv", "tau_syn_inh_inv", "c_m_inv", "g_l",      "e_rev_I",
                                                "e_rev_E",         "v_rest",          "v_reset", "v_thresh", "reset"};
  static constexpr int kRates = 3;
  static constexpr int kThresholds = 1;
  static constexpr Recurrence kRecurrence{Arrival::kBefore, 2, {1, 2}};

  template <class T>
  struct State {
    T v, g_e, g_i;
  };

  template <class T>
  struct Params {
    T dt_tau_exc, dt_tau_inh, dt_c_m, g_l, e_rev_I, e_rev_E, v_rest, v_reset, v_thresh, reset;
  };

  template <class T>
  struct Tape {
    T x, v, g_e, g_i, vd;
  };

  /// The current through the membrane, with the conductances after their decay.
  template <class T>
  NORSE_FAST_INLINE static T current(T v, T g_e, T g_i, const Params<T>& p) {
    return (p.g_l * (p.v_rest - v) + g_e * (p.e_rev_E - v)) + g_i * (p.e_rev_I - v);
  }

  template <class T>
  NORSE_FAST_INLINE static T step(State<T>& s, T x, const Params<T>& p, Tape<T>& tape) {
    const Reset<T> reset{p.reset, p.v_reset, p.v_thresh};
    const T v = s.v;
    const T jump_e = s.g_e + relu(x);
    const T jump_i = s.g_i + relu(-x);
    s.g_e = jump_e - p.dt_tau_exc * jump_e;
    s.g_i = jump_i - p.dt_tau_inh * jump_i;
    const T vd = v + p.dt_c_m * current(v, s.g_e, s.g_i, p);
    const T z = heaviside(vd - p.v_thresh);
    s.v = reset.potential(z, vd);
    tape = {x, v, s.g_e, s.g_i, vd};
    return z;
  }

  template <class T, class Surrogate>
  NORSE_FAST_INLINE static T vjp(const State<T>& s, T x, const Params<T>& p, const Tape<T>& tape, Surrogate surrogate,
                                 T grad_out, State<T>& grad, Params<T>& grad_params) {
    const Reset<T> reset{p.reset, p.v_reset, p.v_thresh};
    const T v = tape.v, g_e = tape.g_e, g_i = tape.g_i;
    const T u = tape.vd - p.v_thresh;
    const T z = heaviside(u);
    const T grad_z = grad_out + reset.attached(reset.grad_z(tape.vd, grad.v));
    const T grad_u = surrogate(0, u, grad_z);
    const T grad_vd = reset.grad_vd(z, grad.v) + grad_u;
    const T grad_current = grad_vd * p.dt_c_m;
    const T grad_decayed_e = grad.g_e + chain(grad_current, p.e_rev_E - v);
    const T grad_decayed_i = grad.g_i + chain(grad_current, p.e_rev_I - v);
    const T grad_jump_e = grad_decayed_e - grad_decayed_e * p.dt_tau_exc;
    const T grad_jump_i = grad_decayed_i - grad_decayed_i * p.dt_tau_inh;

    grad_params.dt_tau_exc -= chain(grad_decayed_e, s.g_e + relu(x));
    grad_params.dt_tau_inh -= chain(grad_decayed_i, s.g_i + relu(-x));
    grad_params.dt_c_m += chain(grad_vd, current(v, g_e, g_i, p));
    grad_params.g_l += chain(grad_current, p.v_rest - v);
    grad_params.e_rev_I += chain(grad_current, g_i);
    grad_params.e_rev_E += chain(grad_current, g_e);
    grad_params.v_rest += grad_current * p.g_l;
    grad_params.v_reset += reset.grad_v_reset(z, grad.v);
    grad_params.v_thresh += reset.grad_v_th(z, grad.v) - grad_u;

    grad.v = grad_vd - chain(grad_current, p.g_l + g_e + g_i);
    grad.g_e = grad_jump_e;
    grad.g_i = grad_jump_i;
    return relu_vjp(tape.x, grad_jump_e) - relu_vjp(-tape.x, grad_jump_i);
  }
};

}  // namespace norse_fast
