#pragma once
// The models of a backend as data: what operators know of each, and its kernels as plain functions. Operators, and the
// library of the autograd node (csrc/autograd), which is made for one version of torch where those of the backends are
// made for many, see models only so: a change to a model recompiles its kernels and the table.

#include <cstddef>
#include <cstdint>
#include <tuple>

#include "launch.h"

namespace norse_fast {

/// A list of names that lives forever.
struct Names {
  const char* const* first;
  size_t count;

  size_t size() const { return count; }
  const char* const* begin() const { return first; }
  const char* const* end() const { return first + count; }
  const char* operator[](size_t k) const { return first[k]; }
};

/// What operators know of a model: see neurons/model.h.
struct Signature {
  const char* name;
  Names state, params;
  int rates;
  int thresholds;
  int channels;  // of the currents of its recurrent layer; 0: there is none
  bool linear;   // the gradients of the input and the state need nothing of the steps

  /// Whether backward starts from checkpoints.
  bool is_recomputed(bool want_params) const { return want_params || !linear; }
};

/// Runs a kernel on all lanes of a launch, with the threads that pay, or on the current stream of a GPU.
template <class Launch>
using Runner = void (*)(const Launch& launch, DeviceId device);

struct ModelKernels {
  Signature signature;
  std::tuple<Runner<Forward<float>>, Runner<Forward<double>>, Runner<Backward<float>>, Runner<Backward<double>>,
             Runner<RecurrentForward<float>>, Runner<RecurrentForward<double>>, Runner<RecurrentBackward<float>>,
             Runner<RecurrentBackward<double>>>
      runners;  // null where there is no recurrent layer
};

/// Where large outputs of a backend lie.
struct Memory {
  void* (*reserve)(int64_t bytes);  // null where torch's allocator does as well
  void (*release)(void* data, int64_t bytes);
};

/// For so many models at most there are operators.
inline constexpr size_t kMaxModels = 32;

struct KernelTable {
  const ModelKernels* models;  // in the same order for all backends
  size_t count;
  Memory memory;
  void (*set_interrupt_check)(void (*check)());  // tells the backend what throws where the user wants a call to end

  const ModelKernels* begin() const { return models; }
  const ModelKernels* end() const { return models + count; }
};

/// Of the backend whose library this is in.
const KernelTable& kernel_table();

}  // namespace norse_fast
