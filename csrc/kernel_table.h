#pragma once
// The kernels of a backend as plain functions: how a library reaches those of another. The libraries of the backends
// are made for many versions of torch, that of the autograd node (csrc/autograd) for one.

#include <cstdint>
#include <tuple>

#include "launch.h"
#include "neurons/models.h"

namespace norse_fast {

/// Runs a kernel on all lanes of a launch, with the threads that pay, or on the current stream of a GPU.
template <class Launch>
using Runner = void (*)(const Launch& launch, int32_t device_index);

/// Where large outputs of a backend lie.
struct Memory {
  void* (*reserve)(int64_t bytes);  // null where torch's allocator does as well
  void (*release)(void* data, int64_t bytes);
};

using ModelKernels =
    std::tuple<Runner<Forward<float>>, Runner<Forward<double>>, Runner<Backward<float>>, Runner<Backward<double>>>;

struct KernelTable {
  ModelKernels models[AllModels::kCount];  // in the order of AllModels
  Memory memory;
};

}  // namespace norse_fast
