#pragma once
// Izhikevich's neuron: a quadratic membrane equation and a recovery variable.
//
//   vd = v + rate (sq v^2 + mn v + bias - u + x)       rate = dt tau_inv
//   ud = u + recovery_rate (b v - u)                   recovery_rate = dt tau_inv a
//   z  = H(vd - v_th)
//   v' = (1 - z) vd + z c
//   u' = (1 - z) ud + z (ud + d)
//
// E. Izhikevich: Simple Model of Spiking Neurons, 2003. The two rates arrive ready-made: recovery_rate is a product of
// parameters, which rounds in their own dtype.

#include "../core/elementary.h"
#include "model.h"
#include "reset.h"

namespace norse_fast {

struct Izhikevich {
  static constexpr const char* kName = "izhikevich";
  static constexpr const char* kStateNames[] = {"v", "u"};
  static constexpr const char* kParamNames[] = {"rate", "recovery_rate", "b",    "c",    "d", "sq",
                                                "mn",   "bias",          "v_th", "reset"};
  static constexpr int kRates = 0;
  static constexpr int kThresholds = 1;
  static constexpr Recurrence kRecurrence{Arrival::kWith, 1, {}};

  template <class T>
  struct State {
    T v, u;
  };

  template <class T>
  struct Params {
    T rate, recovery_rate, b, c, d, sq, mn, bias, v_th, reset;
  };

  template <class T>
  struct Tape {
    T v, vd;
  };

  template <class T>
  NORSE_FAST_INLINE static T step(State<T>& s, T x, const Params<T>& p, Tape<T>& tape) {
    const Reset<T> reset{p.reset, p.c, p.v_th};
    const T v = s.v;
    const T vd = v + p.rate * ((((p.sq * (v * v) + p.mn * v) + p.bias) - s.u) + x);
    const T ud = s.u + p.recovery_rate * (p.b * v - s.u);
    const T z = heaviside(vd - p.v_th);
    s.v = reset.potential(z, vd);
    s.u = (T(1) - z) * ud + z * (ud + p.d);
    tape = {v, vd};
    return z;
  }

  template <class T, class Surrogate>
  NORSE_FAST_INLINE static T vjp(const State<T>& s, T x, const Params<T>& p, const Tape<T>& tape, Surrogate surrogate,
                                 T grad_out, State<T>& grad, Params<T>& grad_params) {
    const Reset<T> reset{p.reset, p.c, p.v_th};
    const T v = tape.v;
    const T above = tape.vd - p.v_th;
    const T z = heaviside(above);
    const T grad_z = grad_out + reset.attached(reset.grad_z(tape.vd, grad.v)) + reset.attached(grad.u * p.d);
    const T grad_threshold = surrogate(0, above, grad_z);
    const T grad_vd = reset.grad_vd(z, grad.v) + grad_threshold;
    const T grad_drive = grad_vd * p.rate;
    const T grad_recovery = grad.u * p.recovery_rate;

    grad_params.rate += chain(grad_vd, (((p.sq * (v * v) + p.mn * v) + p.bias) - s.u) + x);
    grad_params.recovery_rate += chain(grad.u, p.b * v - s.u);
    grad_params.b += chain(grad_recovery, v);
    grad_params.c += reset.grad_v_reset(z, grad.v);
    grad_params.d += grad.u * z;
    grad_params.sq += chain(grad_drive, v * v);
    grad_params.mn += chain(grad_drive, v);
    grad_params.bias += grad_drive;
    grad_params.v_th += reset.grad_v_th(z, grad.v) - grad_threshold;

    grad.v = (grad_vd + chain(grad_drive, T(2) * p.sq * v + p.mn)) + grad_recovery * p.b;
    grad.u = (grad.u - grad_recovery) - grad_drive;
    return grad_drive;
  }
};

}  // namespace norse_fast
