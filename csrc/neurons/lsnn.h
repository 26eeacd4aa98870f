#pragma once
// Long short-term memory spiking neuron: a LIF neuron whose threshold adapts to its own spikes.
//
//   vd = v + dt tau_mem_inv ((v_leak - v) + i)
//   id = i - dt tau_syn_inv i
//   bd = b + dt tau_adapt_inv (v_th - b)
//   z  = H(vd - bd)
//   v' = (1 - z) vd + z v_reset
//   b' = bd + z beta
//   i' = id + x                                 the input jumps the synaptic current last
//
// G. Bellec, D. Salaj, A. Subramoney, R. Legenstein, W. Maass: Long short-term memory and learning-to-learn in networks
// of spiking neurons, 2018. As in Norse, b is the whole threshold, which relaxes to v_th. The reset and the adaptation
// are detached from the gradient in the recurrent step: where reset is not 0, v' and b' send no gradient into
// the spike.

#include "../core/elementary.h"
#include "model.h"
#include "reset.h"

namespace norse_fast {

struct LSNN {
  static constexpr const char* kName = "lsnn";
  static constexpr const char* kStateNames[] = {"v", "i", "b"};
  static constexpr const char* kParamNames[] = {"tau_syn_inv", "tau_mem_inv", "tau_adapt_inv", "v_leak",
                                                "v_th",        "v_reset",     "beta",          "reset"};
  static constexpr int kRates = 3;
  static constexpr int kThresholds = 1;
  static constexpr Recurrence kRecurrence{Arrival::kAfter, 1, {1}};

  template <class T>
  struct State {
    T v, i, b;
  };

  template <class T>
  struct Params {
    T dt_tau_syn, dt_tau_mem, dt_tau_adapt, v_leak, v_th, v_reset, beta, reset;
  };

  template <class T>
  struct Tape {
    T vd, bd;
  };

  template <class T>
  NORSE_FAST_INLINE static T step(State<T>& s, T x, const Params<T>& p, Tape<T>& tape) {
    const T vd = s.v + p.dt_tau_mem * ((p.v_leak - s.v) + s.i);
    const T bd = s.b + p.dt_tau_adapt * (p.v_th - s.b);
    const T z = heaviside(vd - bd);
    const Reset<T> reset{p.reset, p.v_reset, bd};
    s.v = reset.potential(z, vd);
    s.i = (s.i - p.dt_tau_syn * s.i) + x;
    s.b = bd + z * p.beta;
    tape = {vd, bd};
    return z;
  }

  template <class T, class Surrogate>
  NORSE_FAST_INLINE static T vjp(const State<T>& s, T, const Params<T>& p, const Tape<T>& tape, Surrogate surrogate,
                                 T grad_out, State<T>& grad, Params<T>& grad_params) {
    const Reset<T> reset{p.reset, p.v_reset, tape.bd};
    const T u = tape.vd - tape.bd;
    const T z = heaviside(u);
    const T grad_z = grad_out + reset.attached(reset.grad_z(tape.vd, grad.v) + grad.b * p.beta);
    const T grad_u = surrogate(0, u, grad_z);
    const T grad_vd = reset.grad_vd(z, grad.v) + grad_u;
    const T grad_bd = (grad.b - grad_u) + reset.grad_v_th(z, grad.v);
    const T grad_drive = grad_vd * p.dt_tau_mem;
    const T grad_relax = grad_bd * p.dt_tau_adapt;
    const T grad_x = grad.i;

    grad_params.dt_tau_syn -= chain(grad.i, s.i);
    grad_params.dt_tau_mem += chain(grad_vd, (p.v_leak - s.v) + s.i);
    grad_params.dt_tau_adapt += chain(grad_bd, p.v_th - s.b);
    grad_params.v_leak += grad_drive;
    grad_params.v_th += grad_relax;
    grad_params.v_reset += reset.grad_v_reset(z, grad.v);
    grad_params.beta += grad.b * z;

    grad.v = grad_vd - grad_drive;
    grad.i = (grad.i - grad.i * p.dt_tau_syn) + grad_drive;
    grad.b = grad_bd - grad_relax;
    return grad_x;
  }
};

}  // namespace norse_fast
