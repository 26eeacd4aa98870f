#pragma once
// One call of a model, with gradients where they are wanted: what `Fused` in norse_fast/_kernels/autograd.py does, as a
// node of autograd in C++, which takes a fraction of the time of a Python function. It knows nothing of Python.

#include "../calls.h"

namespace norse_fast::autograd {

/// A backward pass for PyTorch's own operators: what the node kept, the gradients that came, and which are wanted.
struct Pass {
  const char* model;
  int64_t surrogate;
  double dt;
  bool sequence, record;
  int64_t output;
  std::vector<Tensor> operands;
  const std::vector<Tensor>& grads;
  std::vector<bool> wanted;
};

/// What runs such a pass: a gradient, or none, for each that may be wanted.
using Differentiate = std::vector<Tensor> (*)(const Pass& pass);
void set_differentiate(Differentiate function);

/// What long calls ask from time to time; it throws where they are to end.
void set_interrupt_check(void (*check)());

/// Lets operators that are called where PyTorch keeps a graph, as in exported programs, raise at backward: by default
/// they would end the gradient with a warning.
void refuse_derivatives_of_operators();

/// Makes the kernels of a device type known.
void set_kernels(at::DeviceType type, const KernelTable* kernels);

/// The kernels for a device type, or null.
const KernelTable* kernels_of(at::DeviceType type);

inline const KernelTable* kernels_of(const Tensor& t) { return kernels_of(t.device().type()); }

/// A model, by its place in the tables. What it is like does not depend on the device.
struct Model {
  size_t index;

  const Signature& signature() const { return kernels_of(at::kCPU)->models[index].signature; }
};

/// Whether no mode of this thread wants to see operators: torch.func, FakeTensorMode, tracing.
bool is_plain_thread();

/// Whether a tensor is dense memory and no more, so that kernels may read it: no subclass, no conjugate, no dual
/// number.
bool is_plain(const Tensor& t);

/// Runs a forward pass, recorded by autograd where an argument needs a gradient. All tensors must be plain, and as the
/// model's operators want them, but that a state variable may be one value for all neurons.
ForwardResults run(const Model& model, ForwardArguments arguments, const Tensor& alpha, int64_t surrogate);

}  // namespace norse_fast::autograd
