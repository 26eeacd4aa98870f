#pragma once
// How a GPU runs the kernels of a model, as its kernel table has it. The templates are in gpu.h, which sees tensors.

#include "../neurons/table.h"
#include "backend.h"

namespace norse_fast::cuda {

template <class Launch>
using Kernel = void (*)(const Launch& launch, void* stream);

template <class Launch, class T>
using RecurrentKernel = void (*)(const Launch& launch, const RecurrentGrid<T>& grid, void* stream);

/// Launches a kernel on the current stream.
template <class Launch>
void run_lanes(Kernel<Launch> kernel, const Launch& launch, DeviceId device);

/// Launches that of a recurrent layer, as often as it takes.
template <template <class> class Launch, class T>
void run_layer(RecurrentKernel<Launch<T>, T> kernel, int channels, int states, const Launch<T>& launch,
               DeviceId device);

struct Runners {
  static constexpr Memory kMemory{[](int64_t) -> void* { return nullptr; }, nullptr};

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
