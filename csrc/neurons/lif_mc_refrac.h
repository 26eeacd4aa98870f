#pragma once
// Coupled LIF neuron with a refractory period. The input is the coupling current; synaptic input is added to the
// current i' after the step.
//
//   m    = H(rho)                               1 while refractory
//   vd   = v + (1 - m) dt tau_mem_inv ((v_leak - v) + i) + x
//   z    = H(vd - v_th)
//   v'   = (1 - z) vd + z v_reset
//   i'   = i - dt tau_syn_inv i
//   rho' = (1 - z) relu(rho - m) + z rho_reset
//
// As in Norse, the refractory mask holds back neither the coupling nor the spikes, and carries a surrogate gradient.

#include "../core/elementary.h"
#include "reset.h"

namespace norse_fast {

struct LIFMCRefrac {
  static constexpr const char* kName = "lif_mc_refrac";
  static constexpr const char* kStateNames[] = {"v", "i", "rho"};
  static constexpr const char* kParamNames[] = {"tau_syn_inv", "tau_mem_inv", "v_leak", "v_th",
                                                "v_reset",     "rho_reset",   "reset"};
  static constexpr int kRates = 2;
  static constexpr int kThresholds = 2;

  template <class T>
  struct State {
    T v, i, rho;
  };

  template <class T>
  struct Params {
    T dt_tau_syn, dt_tau_mem, v_leak, v_th, v_reset, rho_reset, reset;
  };

  template <class T>
  struct Tape {
    T rho, drive, vd;
  };

  template <class T>
  NORSE_FAST_INLINE static T step(State<T>& s, T x, const Params<T>& p, Tape<T>& tape) {
    const Reset<T> reset{p.reset, p.v_reset, p.v_th};
    const T mask = heaviside(s.rho);
    const T drive = (p.v_leak - s.v) + s.i;
    const T vd = s.v + ((T(1) - mask) * p.dt_tau_mem * drive + x);
    const T z = heaviside(vd - p.v_th);
    tape = {s.rho, drive, vd};
    s.rho = (T(1) - z) * relu(s.rho - mask) + z * p.rho_reset;
    s.v = reset.potential(z, vd);
    s.i = s.i - p.dt_tau_syn * s.i;
    return z;
  }

  template <class T, class Surrogate>
  NORSE_FAST_INLINE static T vjp(const State<T>& s, T, const Params<T>& p, const Tape<T>& tape, Surrogate surrogate,
                                 T grad_out, State<T>& grad, Params<T>& grad_params) {
    const Reset<T> reset{p.reset, p.v_reset, p.v_th};
    const T active = T(1) - heaviside(tape.rho);
    const T left = tape.rho - heaviside(tape.rho);
    const T u = tape.vd - p.v_th;
    const T z = heaviside(u);
    const T grad_z =
        grad_out + reset.attached(reset.grad_z(tape.vd, grad.v)) + chain(grad.rho, p.rho_reset - relu(left));
    const T grad_u = surrogate(1, u, grad_z);
    const T grad_vd = reset.grad_vd(z, grad.v) + grad_u;
    const T grad_drive = grad_vd * (active * p.dt_tau_mem);
    const T grad_left = relu_vjp(left, grad.rho * (T(1) - z));
    const T grad_mask = -(chain(grad_vd * p.dt_tau_mem, tape.drive) + grad_left);

    grad_params.dt_tau_syn -= chain(grad.i, s.i);
    grad_params.dt_tau_mem += chain(grad_vd, active * tape.drive);
    grad_params.v_leak += grad_drive;
    grad_params.v_th += reset.grad_v_th(z, grad.v) - grad_u;
    grad_params.v_reset += reset.grad_v_reset(z, grad.v);
    grad_params.rho_reset += grad.rho * z;

    grad.v = grad_vd - grad_drive;
    grad.i = (grad.i - grad.i * p.dt_tau_syn) + grad_drive;
    grad.rho = grad_left + surrogate(0, tape.rho, grad_mask);
    return grad_vd;
  }
};

}  // namespace norse_fast
