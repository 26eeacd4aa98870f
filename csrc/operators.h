#pragma once
// The operators as both backends see them: schemas, how arguments come off the stack, and the tensors they return.
//
// Every model has two operators, <name>_forward and <name>_backward, over a whole sequence (T, ...) or one step (...).
// They are private: norse_fast/_autograd.py gives them gradients and checks what users pass. All but the last few lines
// sees a model as a Signature instead of a template argument, so that it is compiled once and not once per model.

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <iterator>
#include <optional>
#include <string>
#include <vector>

#include "launch.h"
#include "neurons/models.h"

namespace norse_fast {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using Sizes = std::vector<int64_t>;

/// What operators know of a model: see neurons/model.h.
struct Signature {
  const char* name;
  std::vector<const char*> state, params;
  int rates;

  template <class Model>
  static const Signature& of() {
    static_assert(kStateCount<Model> <= kMaxStates && kParamCount<Model> <= kMaxParams,
                  "raise kMaxStates or kMaxParams in launch.h");
    static const Signature kSignature{Model::kName,
                                      {std::begin(Model::kStateNames), std::end(Model::kStateNames)},
                                      {std::begin(Model::kParamNames), std::end(Model::kParamNames)},
                                      Model::kRates};
    return kSignature;
  }
};

/// Hands out the arguments of a boxed call in order. Every argument must be taken, because taking transfers ownership.
class Stack {
 public:
  Stack(StableIValue* values, uint64_t count) : values_(values), count_(count) {}

  template <class T>
  T take() {
    STD_TORCH_CHECK(next_ < count_, "norse_fast: operator called with ", count_, " arguments, which are too few");
    return torch::stable::detail::to<T>(values_[next_++]);
  }

  template <class T>
  std::vector<T> take(size_t count) {
    std::vector<T> values;
    values.reserve(count);
    for (size_t k = 0; k < count; ++k) values.push_back(take<T>());
    return values;
  }

 private:
  StableIValue* values_;
  uint64_t count_;
  uint64_t next_ = 0;
};

/// The part of the schema that forward and backward share: the input, the initial state and the parameters.
inline std::string problem_schema(const Signature& model) {
  std::string schema = "Tensor input";
  for (const char* name : model.state) schema += std::string(", Tensor ") + name;
  for (const char* name : model.params) schema += std::string(", Tensor ") + name;
  return schema;
}

inline std::string forward_schema(const Signature& model) {
  std::string schema = std::string(model.name) + "_forward(" + problem_schema(model) +
                       ", float dt, bool sequence, bool checkpoint, bool record) -> (Tensor";
  for (size_t k = 0; k < model.state.size(); ++k) schema += ", Tensor";
  return schema + ", Tensor[], Tensor[])";
}

inline std::string backward_schema(const Signature& model) {
  std::string schema = std::string(model.name) + "_backward(" + problem_schema(model) +
                       ", Tensor alpha, Tensor[] checkpoints, Tensor? grad_output";
  for (const char* name : model.state) schema += std::string(", Tensor? grad_") + name;
  schema +=
      ", Tensor[] grad_trace, int surrogate, float dt, bool sequence, bool want_input, bool want_params) -> (Tensor";
  for (size_t k = 0; k < model.state.size(); ++k) schema += ", Tensor";
  return schema + ", Tensor)";
}

struct ForwardArguments {
  Tensor input;
  std::vector<Tensor> state, params;
  double dt;
  bool sequence, checkpoint, record;

  static ForwardArguments take(Stack stack, const Signature& model) {
    // Braced initialisers are evaluated in order.
    return {stack.take<Tensor>(),
            stack.take<Tensor>(model.state.size()),
            stack.take<Tensor>(model.params.size()),
            stack.take<double>(),
            stack.take<bool>(),
            stack.take<bool>(),
            stack.take<bool>()};
  }
};

struct BackwardArguments {
  Tensor input;
  std::vector<Tensor> state, params;
  Tensor alpha;
  std::vector<Tensor> checkpoints;
  std::optional<Tensor> grad_output;
  std::vector<std::optional<Tensor>> grad_state;
  std::vector<Tensor> grad_trace;
  int64_t surrogate;
  double dt;
  bool sequence, want_input, want_params;

  static BackwardArguments take(Stack stack, const Signature& model) {
    return {stack.take<Tensor>(),
            stack.take<Tensor>(model.state.size()),
            stack.take<Tensor>(model.params.size()),
            stack.take<Tensor>(),
            stack.take<std::vector<Tensor>>(),
            stack.take<std::optional<Tensor>>(),
            stack.take<std::optional<Tensor>>(model.state.size()),
            stack.take<std::vector<Tensor>>(),
            stack.take<int64_t>(),
            stack.take<double>(),
            stack.take<bool>(),
            stack.take<bool>(),
            stack.take<bool>()};
  }
};

inline Sizes sizes_of(const Tensor& t) { return Sizes(t.sizes().begin(), t.sizes().end()); }

inline Sizes with_leading(int64_t first, const Sizes& rest) {
  Sizes sizes{first};
  sizes.insert(sizes.end(), rest.begin(), rest.end());
  return sizes;
}

struct DeviceId {
  int32_t type = 0, index = 0;

  explicit DeviceId(const Tensor& t) {
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(t.get(), &type));
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_index(t.get(), &index));
  }
  bool operator==(const DeviceId& other) const { return type == other.type && index == other.index; }
};

inline Sizes contiguous_strides(const Sizes& sizes) {
  Sizes strides(sizes.size());
  int64_t stride = 1;
  for (size_t d = sizes.size(); d-- > 0;) {
    strides[d] = stride;
    stride *= sizes[d] > 0 ? sizes[d] : 1;
  }
  return strides;
}

/// A contiguous tensor. Straight to the allocator: this runs several times per time step of a cell.
inline Tensor empty(const Sizes& sizes, ScalarType dtype, DeviceId device) {
  const Sizes strides = contiguous_strides(sizes);
  AtenTensorHandle handle = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(
      sizes.size(), sizes.data(), strides.data(),
      torch::stable::detail::to<int32_t>(torch::stable::detail::from(dtype)), device.type, device.index, &handle));
  return Tensor(handle);
}

inline Tensor as_contiguous(const Tensor& t) { return t.is_contiguous() ? t : torch::stable::contiguous(t); }

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
  DeviceId device;

  Shape(const Tensor& input, bool sequence) : steps(1), step(sizes_of(input)), lanes(1), device(input) {
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
    t = torch::stable::contiguous(t);
  }
  return {t.data_ptr(), sequence ? t.stride(0) : 0, !dense && broadcast};
}

/// What an operator's caller must have ensured already; a violation would read or write out of bounds.
inline void check_operand(const Tensor& t, const Sizes& sizes, ScalarType dtype, const Shape& shape, const char* what) {
  const auto actual = t.sizes();
  STD_TORCH_CHECK(actual.size() == sizes.size() && std::equal(actual.begin(), actual.end(), sizes.begin()),
                  "norse_fast: ", what, " has another shape than the input");
  STD_TORCH_CHECK(t.scalar_type() == dtype, "norse_fast: ", what, " has another dtype than the computation");
  STD_TORCH_CHECK(DeviceId(t) == shape.device, "norse_fast: ", what, " is on another device than the input");
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
  STD_TORCH_CHECK(DeviceId(t) == shape.device, "norse_fast: a parameter is on another device than the input");
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

template <class T>
constexpr ScalarType kScalarType = sizeof(T) == sizeof(double) ? ScalarType::Double : ScalarType::Float;

/// The outputs of a forward operator, allocated, and the launch that fills them.
template <class T>
struct ForwardCall {
  Forward<T> launch;
  Tensor output;
  std::vector<Tensor> final_state, checkpoints, trace;

  template <class Allocate>
  ForwardCall(ForwardArguments& a, const Signature& model, const Shape& shape, const Allocate& allocate)
      : output(allocate(sizes_of(a.input), a.input.scalar_type())) {
    launch.steps = shape.steps;
    launch.lanes = shape.lanes;
    launch.dt = a.dt;
    launch.storage = storage_of(a.input);
    launch.input = rows_of(a.input, a.sequence);
    launch.output = output.data_ptr();
    set_parameters(launch, a.params, model.rates, shape);
    for (size_t k = 0; k < model.state.size(); ++k) {
      check_operand(a.state[k], shape.step, kScalarType<T>, shape, model.state[k]);
      a.state[k] = as_contiguous(a.state[k]);
      launch.state[k] = static_cast<const T*>(a.state[k].data_ptr());
      launch.final_state[k] = keep(final_state, allocate(shape.step, kScalarType<T>));
      if (a.checkpoint) {
        const Sizes sizes = with_leading(checkpoint_count(shape.steps), shape.step);
        launch.checkpoints[k] = keep(checkpoints, allocate(sizes, kScalarType<T>));
      }
      if (a.record) launch.trace[k] = keep(trace, allocate(with_leading(shape.steps, shape.step), kScalarType<T>));
    }
  }

  void put(StableIValue* stack) const {
    using torch::stable::detail::from;
    int next = 0;
    stack[next++] = from(output);
    for (const Tensor& t : final_state) stack[next++] = from(t);
    stack[next++] = from(checkpoints);
    stack[next++] = from(trace);
  }

 private:
  static T* keep(std::vector<Tensor>& list, Tensor t) {
    list.push_back(std::move(t));
    return static_cast<T*>(list.back().data_ptr());
  }
};

/// The outputs of a backward operator, allocated, and the launch that fills them.
template <class T>
struct BackwardCall {
  Backward<T> launch;
  Tensor grad_input, grad_params;
  std::vector<Tensor> grad_state;

  template <class Allocate>
  BackwardCall(BackwardArguments& a, const Signature& model, const Shape& shape, const Allocate& allocate)
      : grad_input(allocate(a.want_input ? sizes_of(a.input) : Sizes{0}, a.input.scalar_type())),
        grad_params(
            allocate(a.want_params ? with_leading(model.params.size(), shape.step) : Sizes{0}, kScalarType<T>)) {
    launch.steps = shape.steps;
    launch.lanes = shape.lanes;
    launch.dt = a.dt;
    launch.storage = storage_of(a.input);
    launch.input = rows_of(a.input, a.sequence);
    set_parameters(launch, a.params, model.rates, shape);
    launch.alpha = parameter_of<T>(a.alpha, false, a.dt, shape);
    STD_TORCH_CHECK(a.surrogate >= 0 && a.surrogate < static_cast<int64_t>(Surrogate::kCount),
                    "norse_fast: surrogate is ", a.surrogate, ", which is none");
    launch.surrogate = static_cast<Surrogate>(a.surrogate);
    if (a.grad_output) {
      check_operand(*a.grad_output, sizes_of(a.input), a.input.scalar_type(), shape, "grad_output");
      launch.grad_output = rows_of(*a.grad_output, a.sequence);
    }
    if (a.want_input) launch.grad_input = grad_input.data_ptr();
    if (a.want_params) launch.grad_params = static_cast<T*>(grad_params.data_ptr());
    const bool checkpointed = checkpoint_count(shape.steps) > 0;
    STD_TORCH_CHECK(!checkpointed || a.checkpoints.size() == model.state.size(), "norse_fast: checkpoints are missing");
    const Sizes checkpoint_sizes = with_leading(checkpoint_count(shape.steps), shape.step);
    const Sizes trace_sizes = with_leading(shape.steps, shape.step);
    grad_state.reserve(model.state.size());
    for (size_t k = 0; k < model.state.size(); ++k) {
      launch.state[k] = read(a.state[k], shape.step, shape, model.state[k]);
      if (checkpointed) launch.checkpoints[k] = read(a.checkpoints[k], checkpoint_sizes, shape, "checkpoint");
      if (!a.grad_trace.empty()) launch.grad_trace[k] = read(a.grad_trace[k], trace_sizes, shape, "grad_trace");
      if (a.grad_state[k]) launch.grad_final_state[k] = read(*a.grad_state[k], shape.step, shape, "grad_state");
      grad_state.push_back(allocate(shape.step, kScalarType<T>));
      launch.grad_state[k] = static_cast<T*>(grad_state.back().data_ptr());
    }
  }

  void put(StableIValue* stack) const {
    using torch::stable::detail::from;
    int next = 0;
    stack[next++] = from(grad_input);
    for (const Tensor& t : grad_state) stack[next++] = from(t);
    stack[next++] = from(grad_params);
  }

 private:
  static const T* read(Tensor& t, const Sizes& sizes, const Shape& shape, const char* what) {
    check_operand(t, sizes, kScalarType<T>, shape, what);
    t = as_contiguous(t);
    return static_cast<const T*>(t.data_ptr());
  }
};

// The operators of a backend, boxed. A Device is made for a call from its input; it allocates, and runs the kernel that
// it gives for a model.

template <class T, class Device>
void forward_as(ForwardArguments& a, const Signature& model, const Device& device,
                typename Device::template Kernel<Forward<T>> kernel, StableIValue* stack) {
  ForwardCall<T> call(a, model, Shape(a.input, a.sequence), device);
  if (call.launch.lanes > 0) device.run(kernel, call.launch);
  call.put(stack);
}

template <class T, class Device>
void backward_as(BackwardArguments& a, const Signature& model, const Device& device,
                 typename Device::template Kernel<Backward<T>> kernel, StableIValue* stack) {
  BackwardCall<T> call(a, model, Shape(a.input, a.sequence), device);
  if (call.launch.lanes > 0) device.run(kernel, call.launch);
  call.put(stack);
}

template <class Device, class Model>
void forward(StableIValue* stack, uint64_t count, uint64_t) {
  const Signature& model = Signature::of<Model>();
  auto a = ForwardArguments::take(Stack(stack, count), model);
  const Device device(a.input);
  a.input.scalar_type() == ScalarType::Double
      ? forward_as<double>(a, model, device, Device::template kernel<Model, Forward<double>>(), stack)
      : forward_as<float>(a, model, device, Device::template kernel<Model, Forward<float>>(), stack);
}

template <class Device, class Model>
void backward(StableIValue* stack, uint64_t count, uint64_t) {
  const Signature& model = Signature::of<Model>();
  auto a = BackwardArguments::take(Stack(stack, count), model);
  const Device device(a.input);
  a.input.scalar_type() == ScalarType::Double
      ? backward_as<double>(a, model, device, Device::template kernel<Model, Backward<double>>(), stack)
      : backward_as<float>(a, model, device, Device::template kernel<Model, Backward<float>>(), stack);
}

template <class Device, class Library>
void implement_all(Library& library) {
  AllModels::for_each([&](auto model) {
    using Model = decltype(model);
    library.impl((std::string(Model::kName) + "_forward").c_str(), &forward<Device, Model>);
    library.impl((std::string(Model::kName) + "_backward").c_str(), &backward<Device, Model>);
  });
}

}  // namespace norse_fast
