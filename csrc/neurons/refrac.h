#pragma once
// Refractory period around any spiking model with a voltage v: for a time after a spike, rho counts down, the voltage
// stands still and spikes are suppressed.
//
//   (z1, v1, ...) = one step of the model from (v, ...)
//   m    = H(rho)                               1 while refractory; carries a surrogate gradient as a spike does
//   v'   = (1 - m) v1 + m v
//   z    = (1 - m) z1                           the output
//   rho' = (1 - z) relu(rho - m) + z rho_reset
//
// The other state variables of the model run on: the synaptic current takes its input, and adaptation jumps at z1, also
// where m suppresses that spike. W. Gerstner, W. Kistler, R. Naud, L. Paninski: Neuronal Dynamics, 2014, chapter 1.3.

#include "../core/elementary.h"
#include "model.h"

namespace norse_fast {

// Declared only, so that a change to one of them recompiles its own variants: refrac_<inner>.cpp.
struct LIF;
struct LIFAdEx;

template <class Inner>
inline constexpr const char* kRefracName = nullptr;
template <>
inline constexpr const char* kRefracName<LIF> = "lif_refrac";
template <>
inline constexpr const char* kRefracName<LIFAdEx> = "lif_adex_refrac";

template <class Inner>
struct Refrac {
  static_assert(Inner::kThresholds == 1);
  static constexpr const char* kName = kRefracName<Inner>;
  static constexpr auto kStateNames = append_name(Inner::kStateNames, "rho");
  static constexpr auto kParamNames = append_name(Inner::kParamNames, "rho_reset");
  static constexpr int kRates = Inner::kRates;
  static constexpr int kThresholds = 2;
  static constexpr Recurrence kRecurrence = Inner::kRecurrence;

  template <class T>
  struct State {
    typename Inner::template State<T> inner;
    T rho;
  };

  template <class T>
  struct Params {
    typename Inner::template Params<T> inner;
    T rho_reset;
  };

  /// What the inner step leaves, its spike, the voltage that it would have changed to less the old one, and rho.
  template <class T>
  struct Tape {
    typename Inner::template Tape<T> inner;
    T z, rise, rho;
  };

  template <class T, class I = Inner>
  NORSE_FAST_INLINE static auto exponent(const State<T>& s, const Params<T>& p)
      -> decltype(I::exponent(s.inner, p.inner)) {
    return I::exponent(s.inner, p.inner);
  }

  template <class T>
  NORSE_FAST_INLINE static T step(State<T>& s, T x, const Params<T>& p, Tape<T>& tape) {
    const T v = s.inner.v;
    const T mask = heaviside(s.rho);
    tape.z = Inner::step(s.inner, x, p.inner, tape.inner);
    tape.rise = s.inner.v - v;
    tape.rho = s.rho;
    const T z = (T(1) - mask) * tape.z;
    s.inner.v = (T(1) - mask) * s.inner.v + mask * v;
    s.rho = (T(1) - z) * relu(s.rho - mask) + z * p.rho_reset;
    return z;
  }

  template <class T, class Surrogate>
  NORSE_FAST_INLINE static T vjp(const State<T>& s, T x, const Params<T>& p, const Tape<T>& tape, Surrogate surrogate,
                                 T grad_out, State<T>& grad, Params<T>& grad_params) {
    const T mask = heaviside(tape.rho);
    const T z = (T(1) - mask) * tape.z;
    const T left = tape.rho - mask;
    const T grad_v = grad.inner.v;
    const T grad_z = grad_out + chain(grad.rho, p.rho_reset - relu(left));
    const T grad_left = relu_vjp(left, grad.rho * (T(1) - z));
    const T grad_mask = -(chain(grad_v, tape.rise) + grad_z * tape.z) - grad_left;

    grad_params.rho_reset += grad.rho * z;
    grad.rho = grad_left + surrogate(1, tape.rho, grad_mask);
    grad.inner.v = grad_v * (T(1) - mask);
    const T grad_x =
        Inner::vjp(s.inner, x, p.inner, tape.inner, surrogate, grad_z * (T(1) - mask), grad.inner, grad_params.inner);
    grad.inner.v += grad_v * mask;
    return grad_x;
  }
};

}  // namespace norse_fast
