#pragma once
// The kernel table of a backend, from its list of models.

#include <iterator>

#include "../core/kernel_table.h"
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

template <class Runners, class Model, class Launch>
void set_runner(Runner<Launch>& runner) {
  if constexpr (!kIsCoupled<Launch>) {
    runner = &Runners::template run<Model, Launch>;
  } else if constexpr (kIsRecurrent<Model>) {
    runner = &Runners::template run_recurrent<Model, Launch>;
  }
}

/// The entry of a model. Its functions are Runners::run and, where it has a recurrent layer, Runners::run_recurrent.
template <class Runners, class Model>
ModelKernels model_kernels() {
  static_assert(
      kStateCount<Model> <= kMaxStates && kParamCount<Model> <= kMaxParams && Model::kThresholds <= kMaxThresholds,
      "raise kMaxStates, kMaxParams or kMaxThresholds in launch.h");
  ModelKernels kernels{{Model::kName, names_of(Model::kStateNames), names_of(Model::kParamNames), Model::kRates,
                        Model::kThresholds, channels_of<Model>(), kTapeCount<Model> == 0},
                       {}};
  std::apply([](auto&... runner) { (set_runner<Runners, Model>(runner), ...); }, kernels.runners);
  return kernels;
}

/// That of a list of models; Runners also has the rest.
template <class Runners, class... Models>
const KernelTable& table_of(ModelList<Models...>) {
  static_assert(sizeof...(Models) <= kMaxModels, "raise kMaxModels in kernel_table.h");
  static const ModelKernels kModels[] = {model_kernels<Runners, Models>()...};
  static const KernelTable kTable{kModels, sizeof...(Models), Runners::kMemory, Runners::kSetInterruptCheck};
  return kTable;
}

}  // namespace norse_fast
