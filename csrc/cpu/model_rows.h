#pragma once
// The rows of a model as plain functions: all that the recurrent driver knows of it. So that driver is compiled once,
// and not for every model.

#include <memory>

#include "../neurons/model.h"
#include "rows.h"
#include "tasks.h"

namespace norse_fast::cpu {

/// Functions of a block of n lanes; `params` are those that make_params made. See Driver for what they do.
template <class T>
struct ModelRows {
  int states, params, rates, thresholds, tape;
  Recurrence recurrence;
  int64_t params_size;  // in bytes, whole cache lines

  void (*make_params)(const Problem<T>& problem, int64_t begin, int64_t n, bool share, void* params);

  /// A step, which replaces the states: for its output, and for its tape.
  void (*step)(const void* params, int64_t n, const T* x, Block<T>* state, T* out);
  void (*record)(const void* params, int64_t n, const T* x, Block<T>* state, Block<T>* tape);

  /// The vjp of a step, which replaces the gradients of the states: with the default surrogate, or with the derivatives
  /// in `spikes`, without and with gradients of the parameters; `distances` finds what they are derivatives at.
  void (*vjp)(const void* params, int64_t n, const Block<T>* tape, T alpha, const T* grad_out, Block<T>* grad,
              T* grad_input);
  void (*distances)(const void* params, int64_t n, const Block<T>* tape, Block<T>* spikes);
  using Vjp = void(const void* params, int64_t n, const T* x, const Block<T>* state, const Block<T>* tape,
                   Block<T>* spikes, bool differentiable, const T* grad_out, Block<T>* grad, Block<T>* grad_params,
                   T* grad_input);
  Vjp *vjp_with_surrogate, *vjp_with_params;
};

/// A piece of a layer of a model; defined in recurrent.cpp.
template <class Isa, class T>
std::unique_ptr<Task> make_task(const ModelRows<T>& model, const RecurrentForward<T>& f, const Piece& piece);
template <class Isa, class T>
std::unique_ptr<Task> make_task(const ModelRows<T>& model, const RecurrentBackward<T>& b, const Piece& piece);

}  // namespace norse_fast::cpu
