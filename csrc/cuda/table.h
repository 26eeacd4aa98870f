#pragma once
// How a GPU runs the kernels of a model, as its kernel table has it.

#include "../neurons/table.h"
#include "backend.h"

namespace norse_fast::cuda {

struct Runners {
  static constexpr Memory kMemory{[](int64_t) -> void* { return nullptr; }, nullptr};
  static constexpr auto kSetInterruptCheck = [](void (*)()) {};  // launches return at once

  template <class Model, class Launch>
  static void run(const Launch& launch, DeviceId device) {
    run_lanes<Launch>(&Kernels<Cuda, Model>::run, launch, device);
  }

  template <class Model, class Launch>
  static void run_recurrent(const Launch& launch, DeviceId device) {
    run_layer(&RecurrentKernels<Cuda, Model>::run, Model::kRecurrence.channels, kStateCount<Model>, launch, device);
  }
};

}  // namespace norse_fast::cuda
