#pragma once
// The operators as both backends see them: schemas, how arguments come off the stack, and the tensors they return.
//
// Every model has two operators, <name>_forward and <name>_backward, over a whole sequence (T, ...) or one step (...).
// They are private: norse_fast/_autograd.py gives them gradients and checks what users pass. A model is an entry of the
// kernel table here and no type, so that all this is compiled once, and not again when a model changes.

#include <string>
#include <utility>
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

// The operators of a model.

template <template <class> class Call, class Arguments>
void run_own(const ModelKernels& model, Arguments a, StableIValue* stack) {
  const auto run = [&](auto zero) { put(run_call<Call<decltype(zero)>>(a, model, kernel_table().memory), stack); };
  a.input.scalar_type() == ScalarType::Double ? run(0.0) : run(0.0f);
}

inline void forward(const ModelKernels& model, StableIValue* stack, uint64_t count) {
  run_own<ForwardCall>(model, take_forward(Stack(stack, count), model.signature), stack);
}

inline void backward(const ModelKernels& model, StableIValue* stack, uint64_t count) {
  run_own<BackwardCall>(model, take_backward(Stack(stack, count), model.signature), stack);
}

using Operator = void (*)(const ModelKernels& model, StableIValue* stack, uint64_t count);
using Boxed = void (*)(StableIValue* stack, uint64_t count, uint64_t);

/// What is registered gets nothing but the stack, so there is a function for every place in the table.
template <Operator kOperator, size_t kIndex>
void boxed(StableIValue* stack, uint64_t count, uint64_t) {
  kOperator(kernel_table().models[kIndex], stack, count);
}

template <Operator kOperator, size_t... kIndices>
Boxed boxed_at(size_t index, std::index_sequence<kIndices...>) {
  constexpr Boxed kAll[] = {&boxed<kOperator, kIndices>...};
  return kAll[index];
}

template <Operator kOperator, class Library>
void implement(Library& library, const ModelKernels& model, const char* suffix) {
  const size_t index = &model - kernel_table().models;
  library.impl((std::string(model.signature.name) + suffix).c_str(),
               boxed_at<kOperator>(index, std::make_index_sequence<kMaxModels>()));
}

template <class Library>
void define_all(Library& library) {
  for (const ModelKernels& model : kernel_table()) {
    library.def(forward_schema(model.signature).c_str());
    library.def(backward_schema(model.signature).c_str());
  }
}

template <class Library>
void implement_all(Library& library) {
  for (const ModelKernels& model : kernel_table()) {
    implement<&forward>(library, model, "_forward");
    implement<&backward>(library, model, "_backward");
  }
}

/// The table's address, as an operator can return it.
inline int64_t kernel_table_address() { return reinterpret_cast<int64_t>(&kernel_table()); }

}  // namespace norse_fast
