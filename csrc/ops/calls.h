#pragma once
// From tensors to launches: what a kernel is told about the tensors of a call, and the tensors that it fills.

#include <algorithm>
#include <type_traits>

#include "arguments.h"

namespace norse_fast {

inline DeviceId id_of(const Device& device) { return {static_cast<int32_t>(device.type()), device.index()}; }

inline Storage storage_of(const Tensor& t) {
  switch (t.scalar_type()) {
    case ScalarType::Double:
      return Storage::kDouble;
    case ScalarType::Half:
      return Storage::kHalf;
    case ScalarType::BFloat16:
      return Storage::kBFloat16;
    case ScalarType::Long:
      return Storage::kLong;
    default:
      return Storage::kFloat;
  }
}

/// A tensor as rows over time, copied only if the lanes of one step are neither contiguous nor all the same element.
inline Rows rows_of(Tensor& t, bool sequence) {
  const int64_t first = sequence ? 1 : 0;
  bool dense = true, broadcast = true;
  int64_t expected = 1;
  for (int64_t d = t.dim() - 1; d >= first; --d) {
    if (t.size(d) == 1) continue;
    dense = dense && t.stride(d) == expected;
    broadcast = broadcast && t.stride(d) == 0;
    expected *= t.size(d);
  }
  if (!dense && !broadcast) t = as_contiguous(t);
  return {t.data_ptr(), sequence ? t.stride(0) : 0, !dense && broadcast};
}

/// The elements of a tensor of the computing type, made contiguous in place.
template <class T>
const T* read(Tensor& t) {
  t = as_contiguous(t);
  return static_cast<const T*>(t.data_ptr());
}

template <class T>
T* keep(std::vector<Tensor>& list, Tensor t) {
  list.push_back(std::move(t));
  return static_cast<T*>(list.back().data_ptr());
}

/// A parameter as the kernels take it. `t` must stay alive until they have run; it is replaced where it is not
/// contiguous.
template <class T>
Parameter<T> parameter_of(Tensor& t, bool rate, double dt) {
  t = as_contiguous(t);
  Parameter<T> p;
  p.values = t.data_ptr();
  p.type = storage_of(t);
  p.period = t.numel();
  if (p.period == 1 && t.is_cpu()) {
    p.shared = parameter_value<T>(p.values, p.type, 0, rate, dt);
    p.values = nullptr;
  }
  return p;
}

/// Fills what forward and backward have in common.
template <class Launch>
void set_problem(Launch& launch, ProblemArguments& a, const Signature& model, const Shape& shape) {
  using T = typename Launch::Type;
  launch.steps = shape.steps;
  launch.lanes = shape.lanes;
  launch.dt = a.dt;
  launch.storage = storage_of(a.input);
  for (size_t k = 0; k < model.params.size(); ++k) {
    launch.params[k] = parameter_of<T>(a.params[k], static_cast<int>(k) < model.rates, a.dt);
  }
  for (size_t k = 0; k < model.state.size(); ++k) {
    // To choose between values and tensors, the CUDA kernels of recurrent layers would spill registers.
    if (!kIsCoupled<Launch> && is_shared_state(a.state[k], shape.step.size())) {
      launch.start[k] = parameter_of<T>(a.state[k], false, a.dt).shared;
    } else {
      launch.state[k] = read<T>(a.state[k]);
    }
  }
  if constexpr (kIsCoupled<Launch>) {
    launch.input.data = read<T>(a.input);
    launch.inputs = a.input.size(a.input.dim() - 1);
    launch.neurons = shape.step.back();
    launch.projects = a.input_weights.has_value();
    if (launch.projects) launch.input_weights = read<T>(*a.input_weights);
    launch.spikes = read<T>(a.z);
    launch.weights = read<T>(a.weights);
  } else {
    launch.input = rows_of(a.input, a.sequence);
  }
}

/// The dtype of an output.
template <class T>
ScalarType type_of(Output kind, const Tensor& input) {
  switch (kind) {
    case Output::kByte:
      return ScalarType::Byte;
    case Output::kBool:
      return ScalarType::Bool;
    default:
      return is_reduced(kind) ? kScalarType<T> : input.scalar_type();
  }
}

/// Makes the tensors that a call fills.
struct Allocator {
  Device device;
  Memory memory;

  Tensor operator()(const Sizes& sizes, ScalarType dtype) const {
    const bool narrow = dtype == ScalarType::Byte || dtype == ScalarType::Bool;
    const int64_t size = dtype == ScalarType::Double  ? sizeof(double)
                         : dtype == ScalarType::Float ? sizeof(float)
                         : narrow                     ? sizeof(uint8_t)
                                                      : sizeof(Half);
    const int64_t bytes = count_of(sizes, size);
    void* data = memory.reserve(bytes);
    if (!data) return empty(sizes, dtype, device);
    return adopt(data, sizes, dtype, [bytes, release = memory.release](void* p) { release(p, bytes); });
  }
};

template <class Launch>
void run(const Launch& launch, const ModelKernels& model, const Shape& shape) {
  if (shape.lanes > 0) std::get<Runner<Launch>>(model.runners)(launch, id_of(shape.device));
}

/// A forward call: checks it, allocates its results and fills them.
template <class Launch>
ForwardResults run_forward(ForwardArguments& a, const ModelKernels& kernels, const Memory& memory) {
  using T = typename Launch::Type;
  const Signature& model = kernels.signature;
  const Shape shape(a);
  Checker(shape, model, kScalarType<T>).arguments(a);
  const Allocator allocate{shape.device, memory};

  Launch launch;
  set_problem(launch, a, model, shape);
  launch.kind = static_cast<Output>(a.kind);
  const Sizes all = a.sequence ? shape.of_all_steps() : shape.step;
  ForwardResults results;
  results.output = allocate(is_reduced(launch.kind) ? shape.step : all, type_of<T>(launch.kind, a.input));
  launch.output = results.output.data_ptr();
  const int64_t checkpoints = checkpoint_count(shape.steps, segment_of<Launch>()) + a.checkpoint - 1;
  for (size_t k = 0; k < model.state.size(); ++k) {
    launch.final_state[k] = keep<T>(results.final_state, allocate(shape.step, kScalarType<T>));
    if (a.checkpoint) {
      const Sizes sizes = with_leading(checkpoints, shape.step);
      launch.checkpoints[k] = keep<T>(results.checkpoints, allocate(sizes, kScalarType<T>));
    }
    if (a.record) launch.trace[k] = keep<T>(results.trace, allocate(shape.of_all_steps(), kScalarType<T>));
  }
  run(launch, kernels, shape);
  return results;
}

/// Fills what the backward passes of all calls have in common: what comes from outside.
template <class Launch>
void set_backward(Launch& launch, BackwardArguments& a, const Signature& model, const Shape& shape) {
  using T = typename Launch::Type;
  set_problem(launch, a, model, shape);
  launch.alpha = parameter_of<T>(a.alpha, false, a.dt);
  launch.surrogate = static_cast<Surrogate>(a.surrogate);
  for (size_t k = 0; k < a.derivatives.size(); ++k) launch.derivatives[k] = read<T>(a.derivatives[k]);
  launch.wanted = static_cast<Spikes>(a.spikes);
  const auto kind = static_cast<Output>(a.kind);
  if (a.grad_output && is_reduced(kind)) {
    launch.grad_reduced = read<T>(*a.grad_output);
    launch.reduced_from = kind == Output::kLast ? shape.steps - 1 : 0;
  } else if (a.grad_output) {
    launch.grad_output = rows_of(*a.grad_output, a.sequence);
  }
  for (size_t k = 0; k < model.state.size(); ++k) {
    if (!a.checkpoints.empty()) launch.checkpoints[k] = read<T>(a.checkpoints[k]);
    if (!a.grad_trace.empty()) launch.grad_trace[k] = read<T>(a.grad_trace[k]);
    if (a.grad_state[k]) launch.grad_final_state[k] = read<T>(*a.grad_state[k]);
  }
}

/// Allocates what is wanted of the spike functions.
template <class Launch>
void allocate_spikes(Launch& launch, const Signature& model, const Shape& shape, const Allocator& allocate,
                     std::vector<Tensor>& spikes) {
  using T = typename Launch::Type;
  for (int k = 0; launch.wanted != Spikes::kNothing && k < model.thresholds; ++k) {
    launch.of_spikes[k] = keep<T>(spikes, allocate(shape.of_all_steps(), kScalarType<T>));
  }
}

/// A backward call of neurons without recurrent weights, likewise.
template <class Launch>
BackwardResults run_backward(BackwardArguments& a, const ModelKernels& kernels, const Memory& memory) {
  using T = typename Launch::Type;
  const Signature& model = kernels.signature;
  const Shape shape(a);
  Checker(shape, model, kScalarType<T>).arguments(a);
  const Allocator allocate{shape.device, memory};

  Launch launch;
  set_backward(launch, a, model, shape);
  BackwardResults results;
  results.input = allocate(a.want_input ? sizes_of(a.input) : Sizes{0}, a.input.scalar_type());
  results.params = allocate(a.want_params ? with_leading(model.params.size(), shape.step) : Sizes{0}, kScalarType<T>);
  if (a.want_input) launch.grad_input = results.input.data_ptr();
  if (a.want_params) launch.grad_params = static_cast<T*>(results.params.data_ptr());
  for (size_t k = 0; k < model.state.size(); ++k) {
    launch.grad_state[k] = keep<T>(results.state, allocate(shape.step, kScalarType<T>));
  }
  allocate_spikes(launch, model, shape, allocate, results.spikes);
  run(launch, kernels, shape);
  return results;
}

}  // namespace norse_fast
