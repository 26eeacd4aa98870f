#pragma once
// The operators as both backends see them: schemas, and how arguments come off the stack and results onto it.
//
// Every model has two operators, <name>_forward and <name>_backward, over a whole sequence (T, ...) or one step (...).
// One with kRecurrence has <name>_recurrent_forward and <name>_recurrent_backward, too, over a sequence (T, ...,
// inputs); without input weights the sequence is that of the currents, (T, ..., channels * N).
//
// They are private: norse_fast/_kernels/autograd.py gives them gradients and checks what users pass. None of them
// writes to an argument, which compilers may copy. A model is an entry of the kernel table here and no type, so that
// all this is compiled once, and not again when a model changes.

#include <string>
#include <utility>
#include <vector>

#include "recurrent_calls.h"

namespace norse_fast {

/// Writes down the types of arguments, with their names, or of results.
class SchemaWriter {
 public:
  explicit SchemaWriter(bool named) : named_(named) {}

  template <class T>
  void operator()(const std::string& name, const T&) {
    text +=
        std::string(text.empty() ? "" : ", ") + type_name(static_cast<const T*>(nullptr)) + (named_ ? " " + name : "");
  }

  template <class T>
  void each(const std::string& prefix, const Names& names, const std::vector<T>&) {
    for (const char* name : names) (*this)(prefix + name, T{});
  }

  std::string text;

 private:
  static const char* type_name(const Tensor*) { return "Tensor"; }
  static const char* type_name(const std::optional<Tensor>*) { return "Tensor?"; }
  static const char* type_name(const std::vector<Tensor>*) { return "Tensor[]"; }
  static const char* type_name(const double*) { return "float"; }
  static const char* type_name(const int64_t*) { return "int"; }
  static const char* type_name(const bool*) { return "bool"; }

  const bool named_;
};

/// Takes the arguments of a boxed call in order. Every argument must be taken, because taking transfers ownership.
class StackReader {
 public:
  StackReader(StableIValue* values, uint64_t count) : values_(values), count_(count) {}

  template <class T>
  void operator()(const char*, T& value) {
    require(next_ < count_, "operator called with ", count_, " arguments, which are too few");
    value = torch::stable::detail::to<T>(values_[next_++]);
  }

  template <class T>
  void each(const char*, const Names& names, std::vector<T>& values) {
    values.resize(names.size());
    for (T& value : values) (*this)("", value);
  }

 private:
  StableIValue* values_;
  uint64_t count_;
  uint64_t next_ = 0;
};

/// Puts the results of a boxed call in order.
class StackWriter {
 public:
  explicit StackWriter(StableIValue* values) : values_(values) {}

  template <class T>
  void operator()(const char*, const T& value) {
    values_[next_++] = torch::stable::detail::from(value);
  }

  template <class T>
  void each(const char*, const Names&, const std::vector<T>& values) {
    for (const T& value : values) (*this)("", value);
  }

 private:
  StableIValue* values_;
  uint64_t next_ = 0;
};

/// The operators of a model by their suffix: what they are told, what they return, and how they run; with and without
/// recurrent weights.
template <bool kCoupled>
struct ForwardOperator {
  static constexpr const char* kSuffix = kCoupled ? "_recurrent_forward" : "_forward";
  static constexpr bool kRecurrent = kCoupled;
  using Arguments = ForwardArguments;
  using Results = ForwardResults;

  template <class T>
  static Results run(Arguments& a, const ModelKernels& model, const Memory& memory) {
    Results results = run_forward<std::conditional_t<kCoupled, RecurrentForward<T>, Forward<T>>>(a, model, memory);
    if (a.checkpoint > 1) {
      const int64_t spare = a.checkpoint - 1;
      for (Tensor& t : results.checkpoints) {
        Tensor rest = torch::stable::narrow(t, 0, t.size(0) - spare, spare);
        torch::stable::fill_(rest, 0);
      }
    }
    return results;
  }
};

template <bool kCoupled>
struct BackwardOperator {
  static constexpr const char* kSuffix = kCoupled ? "_recurrent_backward" : "_backward";
  static constexpr bool kRecurrent = kCoupled;
  using Arguments = BackwardArguments;
  using Results = BackwardResults;

  template <class T>
  static Results run(Arguments& a, const ModelKernels& model, const Memory& memory) {
    if constexpr (kCoupled) return RecurrentBackwardCall<RecurrentBackward<T>>(a, model, memory).run();
    return run_backward<Backward<T>>(a, model, memory);
  }
};

template <class Operator>
std::string schema_of(const Signature& model) {
  typename Operator::Arguments arguments;
  typename Operator::Results results;
  arguments.recurrent = Operator::kRecurrent;
  if constexpr (std::is_same_v<typename Operator::Results, BackwardResults>) results.recurrent = Operator::kRecurrent;
  SchemaWriter told(true), returned(false);
  arguments.visit(told, model);
  results.visit(returned, model);
  return std::string(model.name) + Operator::kSuffix + "(" + told.text + ") -> (" + returned.text + ")";
}

/// What is registered gets nothing but the stack, so there is a function for every place in the table.
template <class Operator, size_t kIndex>
void boxed(StableIValue* stack, uint64_t count, uint64_t) {
  const ModelKernels& model = kernel_table().models[kIndex];
  typename Operator::Arguments a;
  a.recurrent = Operator::kRecurrent;
  a.visit(StackReader(stack, count), model.signature);
  auto results = a.input.scalar_type() == ScalarType::Double
                     ? Operator::template run<double>(a, model, kernel_table().memory)
                     : Operator::template run<float>(a, model, kernel_table().memory);
  results.visit(StackWriter(stack), model.signature);
}

using Boxed = void (*)(StableIValue* stack, uint64_t count, uint64_t);

template <class Operator, size_t... kIndices>
Boxed boxed_at(size_t index, std::index_sequence<kIndices...>) {
  constexpr Boxed kAll[] = {&boxed<Operator, kIndices>...};
  return kAll[index];
}

/// Calls f(operator, model) for every operator of every model.
template <class F>
void for_each_operator(F f) {
  for (const ModelKernels& model : kernel_table()) {
    f(ForwardOperator<false>{}, model);
    f(BackwardOperator<false>{}, model);
    if (model.signature.channels == 0) continue;
    f(ForwardOperator<true>{}, model);
    f(BackwardOperator<true>{}, model);
  }
}

template <class Operator, class Library>
void define(Library& library, const ModelKernels& model) {
  library.def(schema_of<Operator>(model.signature).c_str());
}

template <class Operator, class Library>
void implement(Library& library, const ModelKernels& model) {
  const size_t index = &model - kernel_table().models;
  library.impl((std::string(model.signature.name) + Operator::kSuffix).c_str(),
               boxed_at<Operator>(index, std::make_index_sequence<kMaxModels>()));
}

template <class Library>
void define_all(Library& library) {
  for_each_operator([&](auto op, const ModelKernels& model) { define<decltype(op)>(library, model); });
}

template <class Library>
void implement_all(Library& library) {
  for_each_operator([&](auto op, const ModelKernels& model) { implement<decltype(op)>(library, model); });
}

/// The table's address, as an operator can return it.
inline int64_t kernel_table_address() { return reinterpret_cast<int64_t>(&kernel_table()); }

}  // namespace norse_fast
