#pragma once
// The rows of kernels.h for the recurrent driver.

#include "kernels.h"
#include "model_rows.h"

namespace norse_fast::cpu {

template <class Isa, class Model, class T>
const ModelRows<T>& rows_of() {
  using Driver = cpu::Driver<Isa, Model, T>;
  using Params = typename Driver::BlockParams;
  using Rows = Block<T>*;
  using ConstRows = const Block<T>*;
  static_assert(kTapeCount<Model> > 0, "the recurrent driver keeps the first row of a tape apart from the others");
  static constexpr auto kParams = [](const void* params) -> const Params& {
    return *static_cast<const Params*>(params);
  };
  static constexpr auto kVjp = [](auto with_params) {
    return [](const void* params, int64_t n, const T* x, ConstRows state, ConstRows tape, Rows spikes,
              bool differentiable, const T* grad_out, Rows grad, Rows grad_params, T* grad_input) {
      Driver::template vjp_row<decltype(with_params)::value>(kParams(params), n, x, state, tape, spikes, differentiable,
                                                             grad_out, grad, grad_params, grad_input, {});
    };
  };
  static constexpr ModelRows<T> kRows{
      kStateCount<Model>,
      kParamCount<Model>,
      Model::kRates,
      Model::kThresholds,
      kTapeCount<Model>,
      Model::kRecurrence,
      sizeof(Params),
      [](const Problem<T>& problem, int64_t begin, int64_t n, bool share, void* params) {
        static_cast<Params*>(params)->set(problem, begin, n, share);
      },
      [](const void* params, int64_t n, const T* x, Rows state, T* out) {
        Driver::template step_row<Driver::Keep::kOutput>(kParams(params), n, x, state, state, nullptr, out, {});
      },
      [](const void* params, int64_t n, const T* x, Rows state, Rows tape) {
        Driver::template step_row<Driver::Keep::kTape>(kParams(params), n, x, state, state, tape, nullptr, {});
      },
      [](const void* params, int64_t n, ConstRows tape, T alpha, const T* grad_out, Rows grad, T* grad_input) {
        Driver::vjp_row(kParams(params), n, tape, alpha, grad_out, grad, grad_input, {});
      },
      [](const void* params, int64_t n, ConstRows tape, Rows spikes) {
        Driver::distance_rows(kParams(params), n, tape, spikes);
      },
      kVjp(std::false_type{}),
      kVjp(std::true_type{}),
  };
  return kRows;
}

}  // namespace norse_fast::cpu

namespace norse_fast {

template <class Isa, class Model>
auto RecurrentKernels<Isa, Model>::make(const RecurrentForward<float>& f, const cpu::Piece& piece) -> Made {
  return cpu::make_task<Isa>(cpu::rows_of<Isa, Model, float>(), f, piece);
}

template <class Isa, class Model>
auto RecurrentKernels<Isa, Model>::make(const RecurrentForward<double>& f, const cpu::Piece& piece) -> Made {
  return cpu::make_task<Isa>(cpu::rows_of<Isa, Model, double>(), f, piece);
}

template <class Isa, class Model>
auto RecurrentKernels<Isa, Model>::make(const RecurrentBackward<float>& b, const cpu::Piece& piece) -> Made {
  return cpu::make_task<Isa>(cpu::rows_of<Isa, Model, float>(), b, piece);
}

template <class Isa, class Model>
auto RecurrentKernels<Isa, Model>::make(const RecurrentBackward<double>& b, const cpu::Piece& piece) -> Made {
  return cpu::make_task<Isa>(cpu::rows_of<Isa, Model, double>(), b, piece);
}

}  // namespace norse_fast
