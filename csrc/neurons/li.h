#pragma once
// Leaky integrator with an exponential synapse: a LIF neuron that never spikes, used as a readout.
//
//   j  = i + x
//   v' = v + dt tau_mem_inv ((v_leak - v) + j)  the output
//   i' = j - dt tau_syn_inv j
//
// W. Gerstner, W. Kistler, R. Naud, L. Paninski: Neuronal Dynamics, 2014, chapter 1.3.

#include "../core/elementary.h"

namespace norse_fast {

struct LI {
  static constexpr const char* kName = "li";
  static constexpr const char* kStateNames[] = {"v", "i"};
  static constexpr const char* kParamNames[] = {"tau_syn_inv", "tau_mem_inv", "v_leak"};
  static constexpr int kRates = 2;
  static constexpr int kThresholds = 0;

  template <class T>
  struct State {
    T v, i;
  };

  template <class T>
  struct Params {
    T dt_tau_syn, dt_tau_mem, v_leak;
  };

  template <class T>
  struct Tape {};

  template <class T>
  NORSE_FAST_INLINE static T step(State<T>& s, T x, const Params<T>& p, Tape<T>&) {
    const T j = s.i + x;
    s.v = s.v + p.dt_tau_mem * ((p.v_leak - s.v) + j);
    s.i = j - p.dt_tau_syn * j;
    return s.v;
  }

  template <class T, class Surrogate>
  NORSE_FAST_INLINE static T vjp(const State<T>& s, T x, const Params<T>& p, const Tape<T>&, Surrogate, T grad_out,
                                 State<T>& grad, Params<T>& grad_params) {
    const T j = s.i + x;
    const T grad_v = grad.v + grad_out;
    const T grad_drive = grad_v * p.dt_tau_mem;
    const T grad_j = (grad.i - grad.i * p.dt_tau_syn) + grad_drive;

    grad_params.dt_tau_syn -= chain(grad.i, j);
    grad_params.dt_tau_mem += chain(grad_v, (p.v_leak - s.v) + j);
    grad_params.v_leak += grad_drive;

    grad.v = grad_v - grad_drive;
    grad.i = grad_j;
    return grad_j;
  }
};

}  // namespace norse_fast
