#pragma once
// The operators as both backends see them: schemas, how arguments come off the stack, and the tensors they return.
//
// Every model has two operators, <name>_forward and <name>_backward, over a whole sequence (T, ...) or one step (...).
// They are private: norse_fast/_autograd.py gives them gradients and checks what users pass. All but the last few lines
// sees a model as a Signature instead of a template argument, so that it is compiled once and not once per model.

#include <string>
#include <vector>

#include "calls.h"

namespace norse_fast {

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
                       ", float dt, bool sequence, bool checkpoint, bool record, int output) -> (Tensor";
  for (size_t k = 0; k < model.state.size(); ++k) schema += ", Tensor";
  return schema + ", Tensor[], Tensor[])";
}

inline std::string backward_schema(const Signature& model) {
  std::string schema = std::string(model.name) + "_backward(" + problem_schema(model) +
                       ", Tensor alpha, Tensor[] checkpoints, Tensor? grad_output";
  for (const char* name : model.state) schema += std::string(", Tensor? grad_") + name;
  schema +=
      ", Tensor[] grad_trace, int surrogate, int output, float dt, bool sequence, bool want_input, bool want_params)"
      " -> (Tensor";
  for (size_t k = 0; k < model.state.size(); ++k) schema += ", Tensor";
  return schema + ", Tensor)";
}

inline ForwardArguments take_forward(Stack stack, const Signature& model) {
  // Braced initialisers are evaluated in order.
  return {stack.take<Tensor>(),
          stack.take<Tensor>(model.state.size()),
          stack.take<Tensor>(model.params.size()),
          stack.take<double>(),
          stack.take<bool>(),
          stack.take<bool>(),
          stack.take<bool>(),
          stack.take<int64_t>()};
}

inline BackwardArguments take_backward(Stack stack, const Signature& model) {
  return {stack.take<Tensor>(),
          stack.take<Tensor>(model.state.size()),
          stack.take<Tensor>(model.params.size()),
          stack.take<Tensor>(),
          stack.take<std::vector<Tensor>>(),
          stack.take<std::optional<Tensor>>(),
          stack.take<std::optional<Tensor>>(model.state.size()),
          stack.take<std::vector<Tensor>>(),
          stack.take<int64_t>(),
          stack.take<int64_t>(),
          stack.take<double>(),
          stack.take<bool>(),
          stack.take<bool>(),
          stack.take<bool>()};
}

template <class T>
void put(const ForwardCall<T>& call, StableIValue* stack) {
  using torch::stable::detail::from;
  int next = 0;
  stack[next++] = from(call.output);
  for (const Tensor& t : call.final_state) stack[next++] = from(t);
  stack[next++] = from(call.checkpoints);
  stack[next++] = from(call.trace);
}

template <class T>
void put(const BackwardCall<T>& call, StableIValue* stack) {
  using torch::stable::detail::from;
  int next = 0;
  stack[next++] = from(call.grad_input);
  for (const Tensor& t : call.grad_state) stack[next++] = from(t);
  stack[next++] = from(call.grad_params);
}

// The operators of a backend, boxed. Backend is the backend: it says where large outputs are and how a kernel is run.

template <class Backend, class Model, class Launch>
void run_model(const Launch& launch, int32_t device_index) {
  Backend::run(Backend::template kernel<Model, Launch>(), launch, device_index);
}

template <class Backend, class Model, class T>
void forward_as(ForwardArguments& a, StableIValue* stack) {
  put(run_call<ForwardCall<T>>(a, Signature::of<Model>(), Backend::kMemory, &run_model<Backend, Model, Forward<T>>),
      stack);
}

template <class Backend, class Model, class T>
void backward_as(BackwardArguments& a, StableIValue* stack) {
  put(run_call<BackwardCall<T>>(a, Signature::of<Model>(), Backend::kMemory, &run_model<Backend, Model, Backward<T>>),
      stack);
}

template <class Backend, class Model>
void forward(StableIValue* stack, uint64_t count, uint64_t) {
  auto a = take_forward(Stack(stack, count), Signature::of<Model>());
  const bool wide = a.input.scalar_type() == ScalarType::Double;
  wide ? forward_as<Backend, Model, double>(a, stack) : forward_as<Backend, Model, float>(a, stack);
}

template <class Backend, class Model>
void backward(StableIValue* stack, uint64_t count, uint64_t) {
  auto a = take_backward(Stack(stack, count), Signature::of<Model>());
  const bool wide = a.input.scalar_type() == ScalarType::Double;
  wide ? backward_as<Backend, Model, double>(a, stack) : backward_as<Backend, Model, float>(a, stack);
}

template <class Backend, class Library>
void implement_all(Library& library) {
  AllModels::for_each([&](auto model) {
    using Model = decltype(model);
    library.impl((std::string(Model::kName) + "_forward").c_str(), &forward<Backend, Model>);
    library.impl((std::string(Model::kName) + "_backward").c_str(), &backward<Backend, Model>);
  });
}

/// The address of the backend's table of kernels, as an operator can return it.
template <class Backend>
int64_t kernel_table() {
  static const KernelTable kTable = [] {
    KernelTable table{};
    table.memory = Backend::kMemory;
    int k = 0;
    AllModels::for_each([&](auto model) {
      using Model = decltype(model);
      table.models[k++] = {&run_model<Backend, Model, Forward<float>>, &run_model<Backend, Model, Forward<double>>,
                           &run_model<Backend, Model, Backward<float>>, &run_model<Backend, Model, Backward<double>>};
    });
    return table;
  }();
  return reinterpret_cast<int64_t>(&kTable);
}

}  // namespace norse_fast
