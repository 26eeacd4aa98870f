#pragma once
// The operators of recurrent layers as both backends see them; as in operators.h.
//
// A model with kRecurrence has <name>_recurrent_forward and <name>_recurrent_backward, over a sequence (T, ...,
// inputs). Without input weights the sequence is that of the currents (T, ..., channels * N), and backward returns the
// gradient of the currents in any case.

#include "operators.h"

namespace norse_fast {

inline std::string coupled_schema(const Signature& model) {
  std::string schema = "Tensor input, Tensor? input_weights, Tensor z";
  for (const char* name : model.state) schema += std::string(", Tensor ") + name;
  schema += ", Tensor weights";
  for (const char* name : model.params) schema += std::string(", Tensor ") + name;
  return schema;
}

inline std::string recurrent_forward_schema(const Signature& model) {
  std::string schema = std::string(model.name) + "_recurrent_forward(" + coupled_schema(model) +
                       ", float dt, bool checkpoint, bool record) -> (Tensor";
  for (size_t k = 0; k < model.state.size(); ++k) schema += ", Tensor";
  return schema + ", Tensor[], Tensor[])";
}

inline std::string recurrent_backward_schema(const Signature& model) {
  std::string schema = std::string(model.name) + "_recurrent_backward(" + coupled_schema(model) +
                       ", Tensor alpha, Tensor output, Tensor[] checkpoints, Tensor? grad_output, Tensor? grad_z";
  for (const char* name : model.state) schema += std::string(", Tensor? grad_") + name;
  schema += ", Tensor[] grad_trace, int surrogate, float dt, bool want_params) -> (Tensor, ";
  for (size_t k = 0; k < model.state.size(); ++k) schema += "Tensor, ";
  return schema + "Tensor)";
}

struct RecurrentForwardArguments {
  Tensor input;
  std::optional<Tensor> input_weights;
  Tensor z;
  std::vector<Tensor> state;
  Tensor weights;
  std::vector<Tensor> params;
  double dt;
  bool checkpoint, record;

  static RecurrentForwardArguments take(Stack stack, const Signature& model) {
    return {stack.take<Tensor>(), stack.take<std::optional<Tensor>>(),
            stack.take<Tensor>(), stack.take<Tensor>(model.state.size()),
            stack.take<Tensor>(), stack.take<Tensor>(model.params.size()),
            stack.take<double>(), stack.take<bool>(),
            stack.take<bool>()};
  }
};

struct RecurrentBackwardArguments {
  Tensor input;
  std::optional<Tensor> input_weights;
  Tensor z;
  std::vector<Tensor> state;
  Tensor weights;
  std::vector<Tensor> params;
  Tensor alpha, output;
  std::vector<Tensor> checkpoints;
  std::optional<Tensor> grad_output, grad_z;
  std::vector<std::optional<Tensor>> grad_state;
  std::vector<Tensor> grad_trace;
  int64_t surrogate;
  double dt;
  bool want_params;

  static RecurrentBackwardArguments take(Stack stack, const Signature& model) {
    return {stack.take<Tensor>(),
            stack.take<std::optional<Tensor>>(),
            stack.take<Tensor>(),
            stack.take<Tensor>(model.state.size()),
            stack.take<Tensor>(),
            stack.take<Tensor>(model.params.size()),
            stack.take<Tensor>(),
            stack.take<Tensor>(),
            stack.take<std::vector<Tensor>>(),
            stack.take<std::optional<Tensor>>(),
            stack.take<std::optional<Tensor>>(),
            stack.take<std::optional<Tensor>>(model.state.size()),
            stack.take<std::vector<Tensor>>(),
            stack.take<int64_t>(),
            stack.take<double>(),
            stack.take<bool>()};
  }
};

/// The shape of a call: T from the input, the rest from the spikes.
inline Shape recurrent_shape(const Tensor& input, const Tensor& z) {
  STD_TORCH_CHECK(input.dim() == z.dim() + 1 && z.dim() > 0, "norse_fast: the input needs one dimension more than z");
  Shape shape(z, false);
  shape.steps = input.size(0);
  return shape;
}

/// The shape of the currents.
inline Sizes currents_sizes(const Shape& shape, int channels) {
  Sizes sizes = with_leading(shape.steps, shape.step);
  sizes.back() *= channels;
  return sizes;
}

/// Fills what forward and backward have in common.
template <class T, class Launch, class Arguments>
void set_coupled(Launch& launch, Arguments& a, const Signature& model, const Shape& shape) {
  launch.steps = shape.steps;
  launch.lanes = shape.lanes;
  launch.dt = a.dt;
  launch.storage = storage_of(a.input);
  launch.neurons = shape.step.back();
  Sizes input_sizes = currents_sizes(shape, model.channels);
  if (a.input_weights) {
    input_sizes.back() = a.input.size(a.input.dim() - 1);
    launch.input_weights = read_operand<T>(*a.input_weights, {model.channels * launch.neurons, input_sizes.back()},
                                           shape, "input_weights");
  }
  launch.inputs = input_sizes.back();
  launch.input.data = read_operand<T>(a.input, input_sizes, shape, "the input");
  launch.spikes = read_operand<T>(a.z, shape.step, shape, "z");
  launch.weights = read_operand<T>(a.weights, {model.channels * launch.neurons, launch.neurons}, shape, "weights");
  set_parameters(launch, a.params, model.rates, shape);
  // Not set_state: to choose between values and tensors, the CUDA kernels would spill registers.
  for (size_t k = 0; k < model.state.size(); ++k) {
    launch.state[k] = read_operand<T>(a.state[k], shape.step, shape, model.state[k]);
  }
}

/// As ForwardCall, of a recurrent layer.
template <class T>
struct RecurrentForwardCall {
  RecurrentForward<T> launch;
  Tensor output;
  std::vector<Tensor> final_state, checkpoints, trace;

  RecurrentForwardCall(RecurrentForwardArguments& a, const Signature& model, const Allocator& allocate) {
    const Shape shape = recurrent_shape(a.input, a.z);
    set_coupled<T>(launch, a, model, shape);
    output = allocate(with_leading(shape.steps, shape.step), kScalarType<T>);
    launch.output = output.data_ptr();
    for (size_t k = 0; k < model.state.size(); ++k) {
      launch.final_state[k] = keep<T>(final_state, allocate(shape.step, kScalarType<T>));
      if (a.checkpoint) {
        const Sizes sizes = with_leading(checkpoint_count(shape.steps, kRecurrentSegment), shape.step);
        launch.checkpoints[k] = keep<T>(checkpoints, allocate(sizes, kScalarType<T>));
      }
      if (a.record) launch.trace[k] = keep<T>(trace, allocate(with_leading(shape.steps, shape.step), kScalarType<T>));
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
};

/// As BackwardCall, of a recurrent layer.
template <class T>
struct RecurrentBackwardCall {
  RecurrentBackward<T> launch;
  Tensor grad_currents, grad_params;
  std::vector<Tensor> grad_state;

  RecurrentBackwardCall(RecurrentBackwardArguments& a, const Signature& model, const Allocator& allocate)
      : grad_params(allocate({0}, kScalarType<T>)) {
    const Shape shape = recurrent_shape(a.input, a.z);
    const Sizes trace_sizes = with_leading(shape.steps, shape.step);
    set_coupled<T>(launch, a, model, shape);
    // In memory for whole segments, so that the parts of a sequence, of which one is shorter, use the same.
    Sizes whole = currents_sizes(shape, model.channels);
    whole[0] = (shape.steps + kRecurrentSegment - 1) / kRecurrentSegment * kRecurrentSegment;
    grad_currents = allocate(whole, kScalarType<T>);
    grad_currents = torch::stable::narrow(grad_currents, 0, 0, shape.steps);
    launch.grad_input = grad_currents.data_ptr();
    launch.alpha = parameter_of<T>(a.alpha, false, a.dt, shape);
    STD_TORCH_CHECK(a.surrogate >= 0 && a.surrogate < static_cast<int64_t>(Surrogate::kCount),
                    "norse_fast: surrogate is ", a.surrogate, ", which is none");
    launch.surrogate = static_cast<Surrogate>(a.surrogate);
    launch.output = read_operand<T>(a.output, trace_sizes, shape, "output");
    if (a.grad_output) {
      check_operand(*a.grad_output, trace_sizes, kScalarType<T>, shape, "grad_output");
      launch.grad_output = rows_of(*a.grad_output, true);
    }
    if (a.grad_z) launch.grad_spikes = read_operand<T>(*a.grad_z, shape.step, shape, "grad_z");
    if (a.want_params) {
      grad_params = allocate(with_leading(model.params.size(), shape.step), kScalarType<T>);
      launch.grad_params = static_cast<T*>(grad_params.data_ptr());
    }
    const int64_t count = checkpoint_count(shape.steps, kRecurrentSegment);
    STD_TORCH_CHECK(count == 0 || a.checkpoints.size() == model.state.size(), "norse_fast: checkpoints are missing");
    for (size_t k = 0; k < model.state.size(); ++k) {
      if (count) {
        launch.checkpoints[k] = read_operand<T>(a.checkpoints[k], with_leading(count, shape.step), shape, "checkpoint");
      }
      if (!a.grad_trace.empty()) {
        launch.grad_trace[k] = read_operand<T>(a.grad_trace[k], trace_sizes, shape, "grad_trace");
      }
      if (a.grad_state[k]) {
        launch.grad_final_state[k] = read_operand<T>(*a.grad_state[k], shape.step, shape, "grad_state");
      }
      launch.grad_state[k] = keep<T>(grad_state, allocate(shape.step, kScalarType<T>));
    }
  }

  void put(StableIValue* stack) const {
    using torch::stable::detail::from;
    int next = 0;
    stack[next++] = from(grad_currents);
    for (const Tensor& t : grad_state) stack[next++] = from(t);
    stack[next++] = from(grad_params);
  }
};

// The operators of a model.

template <template <class> class Call, class Arguments>
void run_recurrent(const ModelKernels& model, Arguments a, StableIValue* stack) {
  const Allocator allocate{locate(a.input), kernel_table().memory};
  const auto run = [&](auto zero) {
    Call<decltype(zero)> call(a, model.signature, allocate);
    if (call.launch.lanes > 0) {
      std::get<Runner<decltype(call.launch)>>(model.recurrent)(call.launch, id_of(allocate.device));
    }
    call.put(stack);
  };
  a.input.scalar_type() == ScalarType::Double ? run(0.0) : run(0.0f);
}

inline void recurrent_forward(const ModelKernels& model, StableIValue* stack, uint64_t count) {
  run_recurrent<RecurrentForwardCall>(model, RecurrentForwardArguments::take(Stack(stack, count), model.signature),
                                      stack);
}

inline void recurrent_backward(const ModelKernels& model, StableIValue* stack, uint64_t count) {
  run_recurrent<RecurrentBackwardCall>(model, RecurrentBackwardArguments::take(Stack(stack, count), model.signature),
                                       stack);
}

template <class Library>
void define_recurrent(Library& library) {
  for (const ModelKernels& model : kernel_table()) {
    if (model.signature.channels == 0) continue;
    library.def(recurrent_forward_schema(model.signature).c_str());
    library.def(recurrent_backward_schema(model.signature).c_str());
  }
}

template <class Library>
void implement_recurrent(Library& library) {
  for (const ModelKernels& model : kernel_table()) {
    if (model.signature.channels == 0) continue;
    implement<&recurrent_forward>(library, model, "_recurrent_forward");
    implement<&recurrent_backward>(library, model, "_recurrent_backward");
  }
}

}  // namespace norse_fast
