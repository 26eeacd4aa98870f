#pragma once
// Leaky integrator without a synapse: the input is a current that drives the voltage directly.
//
//   v' = v + dt tau_mem_inv ((v_leak - v) + x)  the output
//
// W. Gerstner, W. Kistler, R. Naud, L. Paninski: Neuronal Dynamics, 2014, chapter 1.3.

#include "../core/elementary.h"

namespace norse_fast {

struct LIBox {
  static constexpr const char* kName = "li_box";
  static constexpr const char* kStateNames[] = {"v"};
  static constexpr const char* kParamNames[] = {"tau_mem_inv", "v_leak"};
  static constexpr int kRates = 1;
  static constexpr int kThresholds = 0;

  template <class T>
  struct State {
    T v;
  };

  template <class T>
  struct Params {
    T dt_tau_mem, v_leak;
  };

  template <class T>
  struct Tape {};

  template <class T>
  NORSE_FAST_INLINE static T step(State<T>& s, T x, const Params<T>& p, Tape<T>&) {
    s.v = s.v + p.dt_tau_mem * ((p.v_leak - s.v) + x);
    return s.v;
  }

  template <class T, class Surrogate>
  NORSE_FAST_INLINE static T vjp(const State<T>& s, T x, const Params<T>& p, const Tape<T>&, Surrogate, T grad_out,
                                 State<T>& grad, Params<T>& grad_params) {
    const T grad_v = grad.v + grad_out;
    const T grad_drive = grad_v * p.dt_tau_mem;

    grad_params.dt_tau_mem += chain(grad_v, (p.v_leak - s.v) + x);
    grad_params.v_leak += grad_drive;

    grad.v = grad_v - grad_drive;
    return grad_drive;
  }
};

}  // namespace norse_fast
