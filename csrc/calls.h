#pragma once
// From tensors to launches: what a kernel is told about the tensors of a call, and the tensors that it fills.

#include <algorithm>
#include <optional>
#include <utility>
#include <vector>

#include "kernel_table.h"
#include "launch.h"
#include "tensor.h"

namespace norse_fast {

struct ForwardArguments {
  Tensor input;
  std::vector<Tensor> state, params;
  double dt;
  bool sequence, checkpoint, record;
  int64_t output;
};

struct BackwardArguments {
  Tensor input;
  std::vector<Tensor> state, params;
  Tensor alpha;
  std::vector<Tensor> checkpoints;
  std::optional<Tensor> grad_output;
  std::vector<std::optional<Tensor>> grad_state;
  std::vector<Tensor> grad_trace;
  int64_t surrogate, output;
  double dt;
  bool sequence, want_input, want_params;
};

inline DeviceId id_of(const Device& device) { return {static_cast<int32_t>(device.type()), device.index()}; }

inline Sizes sizes_of(const Tensor& t) { return Sizes(t.sizes().begin(), t.sizes().end()); }

inline Sizes with_leading(int64_t first, const Sizes& rest) {
  Sizes sizes{first};
  sizes.insert(sizes.end(), rest.begin(), rest.end());
  return sizes;
}

inline Storage storage_of(const Tensor& t) {
  switch (t.scalar_type()) {
    case ScalarType::Float:
      return Storage::kFloat;
    case ScalarType::Double:
      return Storage::kDouble;
    case ScalarType::Half:
      return Storage::kHalf;
    case ScalarType::BFloat16:
      return Storage::kBFloat16;
    case ScalarType::Long:
      return Storage::kLong;
    default:
      STD_TORCH_CHECK(false, "norse_fast: a tensor must be of a floating point dtype");
      return Storage::kFloat;
  }
}

/// The shape of a call: T, the shape of one step, and the number of lanes in it; and its device.
struct Shape {
  int64_t steps;
  Sizes step;
  int64_t lanes;
  Device device;

  Shape(const Tensor& input, bool sequence) : steps(1), step(sizes_of(input)), lanes(1), device(locate(input)) {
    if (sequence) {
      STD_TORCH_CHECK(!step.empty(), "norse_fast: a sequence needs a time dimension");
      steps = step.front();
      step.erase(step.begin());
    }
    for (int64_t size : step) lanes *= size;
  }
};

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
  if (!dense && !broadcast) {
    t = as_contiguous(t);
  }
  return {t.data_ptr(), sequence ? t.stride(0) : 0, !dense && broadcast};
}

/// What an operator's caller must have ensured already; a violation would read or write out of bounds.
inline void check_operand(const Tensor& t, const Sizes& sizes, ScalarType dtype, const Shape& shape, const char* what) {
  const auto actual = t.sizes();
  STD_TORCH_CHECK(actual.size() == sizes.size() && std::equal(actual.begin(), actual.end(), sizes.begin()),
                  "norse_fast: ", what, " has another shape than the input");
  STD_TORCH_CHECK(t.scalar_type() == dtype, "norse_fast: ", what, " has another dtype than the computation");
  STD_TORCH_CHECK(locate(t) == shape.device, "norse_fast: ", what, " is on another device than the input");
}

template <class T>
constexpr ScalarType kScalarType = sizeof(T) == sizeof(double) ? ScalarType::Double : ScalarType::Float;

/// A tensor of this shape and of the computing type, made contiguous in place.
template <class T>
const T* read_operand(Tensor& t, const Sizes& sizes, const Shape& shape, const char* what) {
  check_operand(t, sizes, kScalarType<T>, shape, what);
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
Parameter<T> parameter_of(Tensor& t, bool rate, double dt, const Shape& shape) {
  t = as_contiguous(t);
  Parameter<T> p;
  p.values = t.data_ptr();
  p.type = storage_of(t);
  p.period = t.numel();
  if (p.period == 1 && t.is_cpu()) {
    p.shared = parameter_value<T>(p.values, p.type, 0, rate, dt);
    p.values = nullptr;
    return p;
  }
  STD_TORCH_CHECK(locate(t) == shape.device, "norse_fast: a parameter is on another device than the input");
  int64_t d = t.dim() - 1;
  for (int64_t s = static_cast<int64_t>(shape.step.size()) - 1; d >= 0 && s >= 0; --d, --s) {
    if (t.size(d) != shape.step[s]) break;
  }
  for (; d >= 0; --d) STD_TORCH_CHECK(t.size(d) == 1, "norse_fast: a parameter does not match the trailing dimensions");
  return p;
}

template <class T>
void set_parameters(Problem<T>& problem, std::vector<Tensor>& params, int rates, const Shape& shape) {
  for (int k = 0; k < static_cast<int>(params.size()); ++k) {
    problem.params[k] = parameter_of<T>(params[k], k < rates, problem.dt, shape);
  }
}

/// Whether a state variable is one value for all lanes of a step of so many dimensions.
inline bool is_shared_state(const Tensor& t, int64_t step_dims) { return t.dim() == 0 && step_dims > 0; }

/// The initial state. The host reads values for all lanes where it can; kernels want others in every lane.
template <class T>
void set_state(Problem<T>& problem, std::vector<Tensor>& state, const Signature& model, const Shape& shape) {
  for (size_t k = 0; k < model.state.size(); ++k) {
    Tensor& t = state[k];
    if (is_shared_state(t, shape.step.size()) && t.is_cpu()) {
      problem.start[k] = parameter_of<T>(t, false, problem.dt, shape).shared;
    } else {
      problem.state[k] = read_operand<T>(t, shape.step, shape, model.state[k]);
    }
  }
}

/// What an operator is to return of the outputs, from its number.
inline Output output_of(int64_t number, const Shape& shape) {
  STD_TORCH_CHECK(number >= 0 && number < static_cast<int64_t>(Output::kCount), "norse_fast: output is ", number,
                  ", which is none");
  const auto kind = static_cast<Output>(number);
  STD_TORCH_CHECK(!is_reduced(kind) || shape.steps > 0, "norse_fast: there is no step to reduce the output of");
  return kind;
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
    int64_t bytes = dtype == ScalarType::Double  ? sizeof(double)
                    : dtype == ScalarType::Float ? sizeof(float)
                    : narrow                     ? sizeof(uint8_t)
                                                 : sizeof(Half);
    for (int64_t size : sizes) bytes *= size;
    void* data = memory.reserve(bytes);
    if (!data) return empty(sizes, dtype, device);
    return adopt(data, sizes, dtype, [bytes, release = memory.release](void* p) { release(p, bytes); });
  }
};

/// The outputs of a forward operator, allocated, and the launch that fills them.
template <class T>
struct ForwardCall {
  Forward<T> launch;
  Tensor output;
  std::vector<Tensor> final_state, checkpoints, trace;

  ForwardCall(ForwardArguments& a, const Signature& model, const Shape& shape, const Allocator& allocate) {
    launch.kind = output_of(a.output, shape);
    output = allocate(is_reduced(launch.kind) ? shape.step : sizes_of(a.input), type_of<T>(launch.kind, a.input));
    launch.steps = shape.steps;
    launch.lanes = shape.lanes;
    launch.dt = a.dt;
    launch.storage = storage_of(a.input);
    launch.input = rows_of(a.input, a.sequence);
    launch.output = output.data_ptr();
    set_parameters(launch, a.params, model.rates, shape);
    set_state(launch, a.state, model, shape);
    for (size_t k = 0; k < model.state.size(); ++k) {
      launch.final_state[k] = keep<T>(final_state, allocate(shape.step, kScalarType<T>));
      if (a.checkpoint) {
        const Sizes sizes = with_leading(checkpoint_count(shape.steps), shape.step);
        launch.checkpoints[k] = keep<T>(checkpoints, allocate(sizes, kScalarType<T>));
      }
      if (a.record) launch.trace[k] = keep<T>(trace, allocate(with_leading(shape.steps, shape.step), kScalarType<T>));
    }
  }
};

/// The outputs of a backward operator, allocated, and the launch that fills them.
template <class T>
struct BackwardCall {
  Backward<T> launch;
  Tensor grad_input, grad_params;
  std::vector<Tensor> grad_state;

  BackwardCall(BackwardArguments& a, const Signature& model, const Shape& shape, const Allocator& allocate)
      : grad_input(allocate(a.want_input ? sizes_of(a.input) : Sizes{0}, a.input.scalar_type())),
        grad_params(
            allocate(a.want_params ? with_leading(model.params.size(), shape.step) : Sizes{0}, kScalarType<T>)) {
    launch.steps = shape.steps;
    launch.lanes = shape.lanes;
    launch.dt = a.dt;
    launch.storage = storage_of(a.input);
    launch.input = rows_of(a.input, a.sequence);
    set_parameters(launch, a.params, model.rates, shape);
    set_state(launch, a.state, model, shape);
    launch.alpha = parameter_of<T>(a.alpha, false, a.dt, shape);
    STD_TORCH_CHECK(a.surrogate >= 0 && a.surrogate < static_cast<int64_t>(Surrogate::kCount),
                    "norse_fast: surrogate is ", a.surrogate, ", which is none");
    launch.surrogate = static_cast<Surrogate>(a.surrogate);
    const Output kind = output_of(a.output, shape);
    if (a.grad_output && is_reduced(kind)) {
      launch.grad_reduced = read_operand<T>(*a.grad_output, shape.step, shape, "grad_output");
      launch.reduced_from = kind == Output::kLast ? shape.steps - 1 : 0;
    } else if (a.grad_output) {
      check_operand(*a.grad_output, sizes_of(a.input), a.input.scalar_type(), shape, "grad_output");
      launch.grad_output = rows_of(*a.grad_output, a.sequence);
    }
    if (a.want_input) launch.grad_input = grad_input.data_ptr();
    if (a.want_params) launch.grad_params = static_cast<T*>(grad_params.data_ptr());
    const bool checkpointed = checkpoint_count(shape.steps) > 0 && model.is_recomputed(a.want_params);
    STD_TORCH_CHECK(!checkpointed || a.checkpoints.size() == model.state.size(), "norse_fast: checkpoints are missing");
    const Sizes checkpoint_sizes = with_leading(checkpoint_count(shape.steps), shape.step);
    const Sizes trace_sizes = with_leading(shape.steps, shape.step);
    grad_state.reserve(model.state.size());
    for (size_t k = 0; k < model.state.size(); ++k) {
      if (checkpointed)
        launch.checkpoints[k] = read_operand<T>(a.checkpoints[k], checkpoint_sizes, shape, "checkpoint");
      if (!a.grad_trace.empty())
        launch.grad_trace[k] = read_operand<T>(a.grad_trace[k], trace_sizes, shape, "grad_trace");
      if (a.grad_state[k])
        launch.grad_final_state[k] = read_operand<T>(*a.grad_state[k], shape.step, shape, "grad_state");
      grad_state.push_back(allocate(shape.step, kScalarType<T>));
      launch.grad_state[k] = static_cast<T*>(grad_state.back().data_ptr());
    }
  }
};

/// Allocates the outputs of a call and fills them.
template <class Call, class Arguments>
Call run_call(Arguments& a, const ModelKernels& model, const Memory& memory) {
  const Shape shape(a.input, a.sequence);
  Call call(a, model.signature, shape, {shape.device, memory});
  if (shape.lanes > 0) std::get<Runner<decltype(call.launch)>>(model.own)(call.launch, id_of(shape.device));
  return call;
}

}  // namespace norse_fast
