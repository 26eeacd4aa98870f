#pragma once
// What a neuron model is, and the few generic operations on its structs that every driver shares.
//
// A model is a struct without data members that provides
//
// - kName: the name of its operators;
// - kStateNames: the names of the state variables, in the order of State<T>;
// - kParamNames: the names of the parameters, in the order of Params<T>;
// - kRates: how many of the first parameters are rates (inverse time constants); they reach the model as dt * rate;
// - kThresholds: how many spike functions a step evaluates, each with a surrogate derivative;
// - State<T>: the state of one neuron, all members of type T;
// - Params<T>: its parameters, all members of type T;
// - step: advances the state by one time step and returns the output;
// - thresholds: the arguments u of the spike functions H(u), where kThresholds > 0;
// - kRecurrence, where it also comes as a recurrent layer: how input and recurrent spikes arrive;
// - vjp: given the state before the step, the surrogate derivatives H'(u) and the gradients of the output and of the
//   new state (grad), returns the gradient of the input, replaces grad by the gradient of the old state, and adds to
//   the gradients of the parameters.

#include <array>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <type_traits>

#include "../portable.h"

namespace norse_fast {

/// When the input x and the current r of the recurrent spikes join a neuron's state.
enum class Arrival {
  kBefore,  // receiver = (receiver + x) + r, then a step without input
  kWith,    // a step with the input x + r
  kAfter,   // a step without input, then receiver = (receiver + x) + r
};

struct Recurrence {
  Arrival arrival;
  int channels;     // currents to a neuron, each with weights of its own
  int receiver[2];  // the state variable that takes each
};

template <class Model, class = void>
inline constexpr bool kIsRecurrent = false;
template <class Model>
inline constexpr bool kIsRecurrent<Model, std::void_t<decltype(Model::kRecurrence)>> = true;

template <class Model>
inline constexpr int kStateCount = static_cast<int>(std::size(Model::kStateNames));

template <class Model>
inline constexpr int kParamCount = static_cast<int>(std::size(Model::kParamNames));

/// Names of a model that wraps another: those of the other, and one more.
template <std::size_t kCount>
constexpr std::array<const char*, kCount + 1> append_name(const char* const (&names)[kCount], const char* name) {
  std::array<const char*, kCount + 1> all{};
  for (std::size_t k = 0; k < kCount; ++k) all[k] = names[k];
  all[kCount] = name;
  return all;
}

/// Whether a State or Params wraps that of another model, as its first of two members: `inner`.
template <class Struct, class = void>
inline constexpr bool kWraps = false;
template <class Struct>
inline constexpr bool kWraps<Struct, std::void_t<decltype(Struct::inner)>> = true;

/// Calls f(index, member) for every member of a State or Params, in order.
template <int kCount, class Struct, class F>
NORSE_FAST_INLINE void for_each_member(Struct& s, F f) {
  static_assert(1 <= kCount && kCount <= 10, "add a case for structs of more members");
  if constexpr (kWraps<Struct>) {
    auto& [inner, own] = s;
    for_each_member<kCount - 1>(inner, f);
    f(kCount - 1, own);
  } else if constexpr (kCount == 1) {
    auto& [a] = s;
    f(0, a);
  } else if constexpr (kCount == 2) {
    auto& [a, b] = s;
    f(0, a), f(1, b);
  } else if constexpr (kCount == 3) {
    auto& [a, b, c] = s;
    f(0, a), f(1, b), f(2, c);
  } else if constexpr (kCount == 4) {
    auto& [a, b, c, d] = s;
    f(0, a), f(1, b), f(2, c), f(3, d);
  } else if constexpr (kCount == 5) {
    auto& [a, b, c, d, e] = s;
    f(0, a), f(1, b), f(2, c), f(3, d), f(4, e);
  } else if constexpr (kCount == 6) {
    auto& [a, b, c, d, e, g] = s;
    f(0, a), f(1, b), f(2, c), f(3, d), f(4, e), f(5, g);
  } else if constexpr (kCount == 7) {
    auto& [a, b, c, d, e, g, h] = s;
    f(0, a), f(1, b), f(2, c), f(3, d), f(4, e), f(5, g), f(6, h);
  } else if constexpr (kCount == 8) {
    auto& [a, b, c, d, e, g, h, i] = s;
    f(0, a), f(1, b), f(2, c), f(3, d), f(4, e), f(5, g), f(6, h), f(7, i);
  } else if constexpr (kCount == 9) {
    auto& [a, b, c, d, e, g, h, i, j] = s;
    f(0, a), f(1, b), f(2, c), f(3, d), f(4, e), f(5, g), f(6, h), f(7, i), f(8, j);
  } else {
    auto& [a, b, c, d, e, g, h, i, j, k] = s;
    f(0, a), f(1, b), f(2, c), f(3, d), f(4, e), f(5, g), f(6, h), f(7, i), f(8, j), f(9, k);
  }
}

template <class Model, class T, class F>
NORSE_FAST_INLINE typename Model::template State<T> make_state(F value_of) {
  typename Model::template State<T> s;
  for_each_member<kStateCount<Model>>(s, [&](int k, T& member) { member = value_of(k); });
  return s;
}

template <class Model, class T, class F>
NORSE_FAST_INLINE typename Model::template Params<T> make_params(F value_of) {
  typename Model::template Params<T> p;
  for_each_member<kParamCount<Model>>(p, [&](int k, T& member) { member = value_of(k); });
  return p;
}

/// Surrogate derivatives are handed over as an array that has at least one element, also for models without a
/// threshold.
template <class Model>
inline constexpr int kSurrogateCount = Model::kThresholds > 0 ? Model::kThresholds : 1;

template <class Model, class T>
NORSE_FAST_INLINE T vjp(const typename Model::template State<T>& s, T x, const typename Model::template Params<T>& p,
                        const T (&surrogate)[kSurrogateCount<Model>], T grad_out,
                        typename Model::template State<T>& grad, typename Model::template Params<T>& grad_params) {
  if constexpr (Model::kThresholds > 0) {
    return Model::vjp(s, x, p, surrogate, grad_out, grad, grad_params);
  } else {
    return Model::vjp(s, x, p, grad_out, grad, grad_params);
  }
}

}  // namespace norse_fast
