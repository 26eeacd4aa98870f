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

#include "../elementary.h"
#include "model.h"

namespace norse_fast {

struct CobaLIF {
  static constexpr const char* kName = "coba_lif";
  static constexpr const char* kStateNames[] = {"v", "g_e", "g_i"};
  static constexpr const char* kParamNames[] = {"tau_syn_exc_inv", "tau_syn_inh_inv", "c_m_inv", "g_l",     "e_rev_I",
                                                "e_rev_E",         "v_rest",          "v_reset", "v_thresh"};
  static constexpr int kRates = 3;
  static constexpr int kThresholds = 1;
  static constexpr Recurrence kRecurrence{Arrival::kBefore, 2, {1, 2}};

  template <class T>
  struct State {
    T v, g_e, g_i;
  };

  template <class T>
  struct Params {
    T dt_tau_exc, dt_tau_inh, dt_c_m, g_l, e_rev_I, e_rev_E, v_rest, v_reset, v_thresh;
  };

  /// What decides about the spike: the conductances before and after their decay, the current and the potential.
  template <class T>
  struct Decayed {
    T jump_e, jump_i, g_e, g_i, current, v;
  };

  template <class T>
  NORSE_FAST_INLINE static Decayed<T> decayed(const State<T>& s, T x, const Params<T>& p) {
    Decayed<T> d;
    d.jump_e = s.g_e + (x < T(0) ? T(0) : x);
    d.jump_i = s.g_i + (x > T(0) ? T(0) : -x);
    d.g_e = d.jump_e - p.dt_tau_exc * d.jump_e;
    d.g_i = d.jump_i - p.dt_tau_inh * d.jump_i;
    d.current = (p.g_l * (p.v_rest - s.v) + d.g_e * (p.e_rev_E - s.v)) + d.g_i * (p.e_rev_I - s.v);
    d.v = s.v + p.dt_c_m * d.current;
    return d;
  }

  template <class T>
  NORSE_FAST_INLINE static void thresholds(const State<T>& s, T x, const Params<T>& p, T (&u)[1]) {
    u[0] = decayed(s, x, p).v - p.v_thresh;
  }

  template <class T>
  NORSE_FAST_INLINE static T step(State<T>& s, T x, const Params<T>& p) {
    const Decayed<T> d = decayed(s, x, p);
    const T z = heaviside(d.v - p.v_thresh);
    s.v = (T(1) - z) * d.v + z * p.v_reset;
    s.g_e = d.g_e;
    s.g_i = d.g_i;
    return z;
  }

  template <class T>
  NORSE_FAST_INLINE static T vjp(const State<T>& s, T x, const Params<T>& p, const T (&surrogate)[1], T grad_out,
                                 State<T>& grad, Params<T>& grad_params) {
    const Decayed<T> d = decayed(s, x, p);
    const T z = heaviside(d.v - p.v_thresh);
    const T grad_u = (grad_out + grad.v * (p.v_reset - d.v)) * surrogate[0];
    const T grad_vd = grad.v * (T(1) - z) + grad_u;
    const T grad_current = grad_vd * p.dt_c_m;
    const T grad_decayed_e = grad.g_e + grad_current * (p.e_rev_E - s.v);
    const T grad_decayed_i = grad.g_i + grad_current * (p.e_rev_I - s.v);
    const T grad_jump_e = grad_decayed_e - grad_decayed_e * p.dt_tau_exc;
    const T grad_jump_i = grad_decayed_i - grad_decayed_i * p.dt_tau_inh;

    grad_params.dt_tau_exc -= grad_decayed_e * d.jump_e;
    grad_params.dt_tau_inh -= grad_decayed_i * d.jump_i;
    grad_params.dt_c_m += grad_vd * d.current;
    grad_params.g_l += grad_current * (p.v_rest - s.v);
    grad_params.e_rev_I += grad_current * d.g_i;
    grad_params.e_rev_E += grad_current * d.g_e;
    grad_params.v_rest += grad_current * p.g_l;
    grad_params.v_reset += grad.v * z;
    grad_params.v_thresh -= grad_u;

    grad.v = grad_vd - grad_current * (p.g_l + d.g_e + d.g_i);
    grad.g_e = grad_jump_e;
    grad.g_i = grad_jump_i;
    return x > T(0) ? grad_jump_e : (x < T(0) ? -grad_jump_i : T(0));
  }
};

}  // namespace norse_fast
