#pragma once
// The kernel table of a backend, from its list of models.

#include <iterator>

#include "../kernel_table.h"
#include "models.h"

namespace norse_fast {

template <class List>
constexpr Names names_of(const List& names) {
  return {std::data(names), std::size(names)};
}

template <class Model>
constexpr int channels_of() {
  if constexpr (kIsRecurrent<Model>) return Model::kRecurrence.channels;
  return 0;
}

/// The entry of a model. Its functions are Runners::run and, where it has a recurrent layer, Runners::run_recurrent.
template <class Runners, class Model>
ModelKernels model_kernels() {
  static_assert(kStateCount<Model> <= kMaxStates && kParamCount<Model> <= kMaxParams,
                "raise kMaxStates or kMaxParams in launch.h");
  ModelKernels kernels{
      {Model::kName, names_of(Model::kStateNames), names_of(Model::kParamNames), Model::kRates, channels_of<Model>(),
       kTapeCount<Model> == 0},
      {&Runners::template run<Model, Forward<float>>, &Runners::template run<Model, Forward<double>>,
       &Runners::template run<Model, Backward<float>>, &Runners::template run<Model, Backward<double>>},
      {}};
  if constexpr (kIsRecurrent<Model>) {
    kernels.recurrent = {&Runners::template run_recurrent<Model, RecurrentForward<float>>,
                         &Runners::template run_recurrent<Model, RecurrentForward<double>>,
                         &Runners::template run_recurrent<Model, RecurrentBackward<float>>,
                         &Runners::template run_recurrent<Model, RecurrentBackward<double>>};
  }
  return kernels;
}

/// That of a list of models; Runners also has the memory.
template <class Runners, class... Models>
const KernelTable& table_of(ModelList<Models...>) {
  static_assert(sizeof...(Models) <= kMaxModels, "raise kMaxModels in kernel_table.h");
  static const ModelKernels kModels[] = {model_kernels<Runners, Models>()...};
  static const KernelTable kTable{kModels, sizeof...(Models), Runners::kMemory};
  return kTable;
}

}  // namespace norse_fast
