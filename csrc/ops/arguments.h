#pragma once
// What operators are told and what they return: one description of each, from which schemas, the readers of the
// dispatcher's stack, and the autograd node follow. And the checks of all of it, before any memory is touched.

#include <optional>
#include <sstream>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "../core/kernel_table.h"
#include "../core/launch.h"
#include "../core/surrogates.h"
#include "tensor.h"

namespace norse_fast {

// Every struct below has visit(v, model), which calls v(name, member) for each argument in the order of the schema, and
// v.each(prefix, names, members) for those that a model has several of.

/// What forward and backward are told alike. Those of a recurrent layer are also told its weights.
struct ProblemArguments {
  bool recurrent = false;
  Tensor input;
  std::optional<Tensor> input_weights;  // without them the input is the currents
  Tensor z, weights;
  std::vector<Tensor> state, params;
  double dt = 0;
  bool sequence = true;  // whether the first dimension of the input is time

 protected:
  template <class Visitor>
  void visit_problem(Visitor& v, const Signature& model) {
    v("input", input);
    if (recurrent) v("input_weights", input_weights), v("z", z);
    v.each("", model.state, state);
    if (recurrent) v("weights", weights);
    v.each("", model.params, params);
  }
};

struct ForwardArguments : ProblemArguments {
  int64_t checkpoint = 0;  // 0: keeps none; n: keeps them, and n - 1 rows of zeros behind them
  bool record = false;
  int64_t kind = 0;  // an Output

  template <class Visitor>
  void visit(Visitor&& v, const Signature& model) {
    visit_problem(v, model);
    v("dt", dt);
    if (!recurrent) v("sequence", sequence);
    v("checkpoint", checkpoint);
    v("record", record);
    if (!recurrent) v("kind", kind);
  }
};

struct ForwardResults {
  Tensor output;
  std::vector<Tensor> final_state, checkpoints, trace;

  template <class Visitor>
  void visit(Visitor&& v, const Signature& model) {
    v("output", output);
    v.each("", model.state, final_state);
    v("checkpoints", checkpoints);
    v("trace", trace);
  }
};

struct BackwardArguments : ProblemArguments {
  Tensor alpha, output;  // the output: of a recurrent layer
  std::vector<Tensor> checkpoints;
  std::optional<Tensor> grad_output, grad_z;
  std::vector<std::optional<Tensor>> grad_state;
  std::vector<Tensor> grad_trace;
  int64_t surrogate = 0, kind = 0;
  std::vector<Tensor> derivatives;  // of every spike function, instead of the surrogate's; or none
  int64_t spikes = 0;               // Spikes
  bool want_input = false, want_input_weights = false, want_z = false, want_weights = false, want_params = false;

  template <class Visitor>
  void visit(Visitor&& v, const Signature& model) {
    visit_problem(v, model);
    v("alpha", alpha);
    if (recurrent) v("output", output);
    v("checkpoints", checkpoints);
    v("grad_output", grad_output);
    if (recurrent) v("grad_z", grad_z);
    v.each("grad_", model.state, grad_state);
    v("grad_trace", grad_trace);
    v("surrogate", surrogate);
    if (!recurrent) v("kind", kind);
    v("dt", dt);
    if (!recurrent) v("sequence", sequence);
    v("want_input", want_input);
    if (recurrent) v("want_input_weights", want_input_weights), v("want_z", want_z), v("want_weights", want_weights);
    v("want_params", want_params);
    v("derivatives", derivatives);
    v("spikes", spikes);
  }
};

/// Gradients; without elements where they are not wanted.
struct BackwardResults {
  bool recurrent = false;
  Tensor input, input_weights, z;
  std::vector<Tensor> state;
  Tensor weights, params;
  std::vector<Tensor> spikes;

  template <class Visitor>
  void visit(Visitor&& v, const Signature& model) {
    v("grad_input", input);
    if (recurrent) v("grad_input_weights", input_weights), v("grad_z", z);
    v.each("grad_", model.state, state);
    if (recurrent) v("grad_weights", weights);
    v("grad_params", params);
    v("spikes", spikes);
  }
};

/// Throws an error of these parts where a condition does not hold.
template <class... Parts>
void require(bool holds, const Parts&... parts) {
  if (holds) return;
  std::ostringstream text;
  text << "norse_fast: ";
  (text << ... << parts);
  throw std::runtime_error(text.str());
}

// Sizes.

inline Sizes sizes_of(const Tensor& t) { return Sizes(t.sizes().begin(), t.sizes().end()); }

inline Sizes with_leading(int64_t first, const Sizes& rest) {
  Sizes sizes{first};
  sizes.insert(sizes.end(), rest.begin(), rest.end());
  return sizes;
}

/// The product of sizes. Throws where it is no number: an expanded tensor may have more elements than there are bytes.
inline int64_t count_of(const Sizes& sizes, int64_t unit = 1) {
  int64_t count = unit;
  bool empty = false, overflow = false;
  for (const int64_t size : sizes) {
    empty = empty || size == 0;
    overflow = overflow || __builtin_mul_overflow(count, size, &count);
  }
  if (empty) return 0;
  if (overflow) {
    std::string shape;
    for (const int64_t size : sizes) shape += (shape.empty() ? "(" : ", ") + std::to_string(size);
    require(false, "got a tensor of shape ", shape,
            "), expected one whose bytes can be counted in 63 bits; use fewer time steps or neurons at once.");
  }
  return count;
}

/// The shape of a call: T, the shape of one step, and the number of lanes in it; and its device.
struct Shape {
  int64_t steps;
  Sizes step;
  int64_t lanes;
  Device device;

  explicit Shape(const ProblemArguments& a) : Shape(a.recurrent ? a.z : a.input, a.sequence && !a.recurrent) {
    if (!a.recurrent) return;
    require(a.input.dim() == a.z.dim() + 1 && a.z.dim() > 0, "the input needs one dimension more than z");
    steps = a.input.size(0);
    require(steps > 0, "the input of a recurrent layer needs at least one time step");
    check_size();
    count_of(sizes_of(a.input), kMostBytes);
  }

  Shape(const Tensor& input, bool sequence) : steps(1), step(sizes_of(input)), lanes(1), device(locate(input)) {
    if (sequence) {
      require(!step.empty(), "a sequence needs a time dimension");
      steps = step.front();
      step.erase(step.begin());
    }
    lanes = count_of(step);
    check_size();
  }

  /// The shape of something that every step has.
  Sizes of_all_steps() const { return with_leading(steps, step); }

 private:
  // What is allocated for a neuron-step at most: the gradients of all parameters, or the currents of two channels.
  static constexpr int64_t kMostBytes = kMaxParams * sizeof(double);

  void check_size() const { count_of({steps > 1 ? steps : 1, lanes}, kMostBytes); }
};

/// The shape of the currents of a recurrent layer.
inline Sizes currents_sizes(const Shape& shape, int channels) {
  Sizes sizes = shape.of_all_steps();
  sizes.back() *= channels;
  return sizes;
}

// Checks. What users pass has been checked in Python, with errors that name the fix; whoever calls an operator by
// itself gets an error, too, and never a wrong result.

template <class T>
constexpr ScalarType kScalarType = sizeof(T) == sizeof(double) ? ScalarType::Double : ScalarType::Float;

/// What a model computes in for such an input.
inline ScalarType compute_type(const Tensor& input) {
  return input.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

inline bool is_half(ScalarType type) { return type == ScalarType::Half || type == ScalarType::BFloat16; }

inline bool is_floating(ScalarType type) {
  return type == ScalarType::Float || type == ScalarType::Double || is_half(type);
}

/// Whether a state variable is one value for all lanes of a step of so many dimensions.
inline bool is_shared_state(const Tensor& t, int64_t step_dims) { return t.dim() == 0 && step_dims > 0; }

/// How many rows behind the checkpoints may be asked for.
constexpr int64_t kMostSpare = 2;

class Checker {
 public:
  Checker(const Shape& shape, const Signature& model, ScalarType compute)
      : shape_(shape), model_(model), compute_(compute) {}

  void operand(const char* name, const Tensor& t, const Sizes& sizes, ScalarType dtype) const {
    require(sizes_of(t) == sizes, model_.name, ": ", name, " has another shape than the input");
    require(t.scalar_type() == dtype, model_.name, ": ", name, " has another dtype than the computation");
    require(locate(t) == shape_.device, model_.name, ": ", name, " is on another device than the input");
  }

  void operand(const char* name, const Tensor& t, const Sizes& sizes) const { operand(name, t, sizes, compute_); }
  void operand(const char* name, const std::optional<Tensor>& t, const Sizes& sizes) const {
    if (t) operand(name, *t, sizes);
  }

  /// One value that the host or the device can read, or values for the trailing dimensions of a step.
  void parameter(const char* name, const Tensor& t) const {
    const ScalarType type = t.scalar_type();
    require(is_floating(type) || type == ScalarType::Long, model_.name, ": ", name,
            " must be of a floating point dtype, or int64");
    if (t.numel() == 1 && t.is_cpu()) return;
    require(locate(t) == shape_.device, model_.name, ": ", name, " is on another device than the input");
    int64_t d = t.dim() - 1;
    for (int64_t s = static_cast<int64_t>(shape_.step.size()) - 1; d >= 0 && s >= 0; --d, --s) {
      if (t.size(d) != shape_.step[s]) break;
    }
    for (; d >= 0; --d) {
      require(t.size(d) == 1, model_.name, ": ", name, " does not match the trailing dimensions of a step");
    }
  }

  /// A list of `count` tensors, or of none.
  void list_of(size_t count, const char* name, const std::vector<Tensor>& list, const Sizes& sizes) const {
    require(list.empty() || list.size() == count, model_.name, ": ", name, " has ", list.size(), " tensors, expected ",
            count, " or none");
    for (const Tensor& t : list) operand(name, t, sizes);
  }

  void number(const char* name, int64_t value, int64_t count) const {
    require(value >= 0 && value < count, model_.name, ": ", name, " is ", value, ", which is none; expected 0 to ",
            count - 1);
  }

  void problem(const ProblemArguments& a) const {
    require(is_floating(a.input.scalar_type()), model_.name, ": the input must be of a floating point dtype");
    for (size_t k = 0; k < model_.state.size(); ++k) {
      const bool shared = !a.recurrent && is_shared_state(a.state[k], shape_.step.size()) && a.state[k].is_cpu();
      shared ? parameter(model_.state[k], a.state[k]) : operand(model_.state[k], a.state[k], shape_.step);
    }
    for (size_t k = 0; k < model_.params.size(); ++k) parameter(model_.params[k], a.params[k]);
    if (!a.recurrent) return;
    const int64_t rows = model_.channels * shape_.step.back();
    Sizes input = currents_sizes(shape_, model_.channels);
    if (a.input_weights) {
      input.back() = a.input.size(a.input.dim() - 1);
      operand("input_weights", *a.input_weights, {rows, input.back()});
    }
    operand("the input", a.input, input);
    operand("z", a.z, shape_.step);
    operand("weights", a.weights, {rows, shape_.step.back()});
  }

  void arguments(const ForwardArguments& a) const {
    number("output", a.kind, static_cast<int64_t>(Output::kCount));
    check_steps(static_cast<Output>(a.kind));
    number("checkpoint", a.checkpoint, kMostSpare + 2);
    problem(a);
  }

  void arguments(const BackwardArguments& a) const {
    number("output", a.kind, static_cast<int64_t>(Output::kCount));
    number("surrogate", a.surrogate, Surrogates::kCount);
    const auto kind = static_cast<Output>(a.kind);
    check_steps(kind);
    problem(a);
    parameter("alpha", a.alpha);
    const int64_t count = checkpoint_count(shape_.steps, a.recurrent ? kRecurrentSegment : kSegment);
    if (count > 0 && (a.recurrent || model_.is_recomputed(a.want_params))) {
      require(!a.checkpoints.empty(), model_.name, ": checkpoints are missing");
    }
    const size_t states = model_.state.size();
    if (!a.checkpoints.empty()) {
      const Tensor& first = a.checkpoints.front();
      const int64_t kept = first.dim() > 0 ? first.size(0) : 0;
      require(kept >= count, model_.name, ": there are ", kept, " checkpoints, expected ", count, " or more");
      list_of(states, "checkpoints", a.checkpoints, with_leading(kept, shape_.step));
    }
    list_of(states, "grad_trace", a.grad_trace, shape_.of_all_steps());
    list_of(model_.thresholds, "derivatives", a.derivatives, shape_.of_all_steps());
    number("spikes", a.spikes, static_cast<int64_t>(Spikes::kCount));
    const bool wants_gradients = a.want_input || a.want_input_weights || a.want_z || a.want_weights || a.want_params;
    require(a.spikes != static_cast<int64_t>(Spikes::kDistances) || (!wants_gradients && a.derivatives.empty()),
            model_.name, ": where the distances are wanted, no gradients are computed, and no derivatives are taken");
    for (const auto& t : a.grad_state) operand("a gradient of the state", t, shape_.step);
    if (a.recurrent) {
      operand("output", a.output, shape_.of_all_steps());
      operand("grad_output", a.grad_output, shape_.of_all_steps());
      operand("grad_z", a.grad_z, shape_.step);
    } else if (a.grad_output) {
      require(kind != Output::kByte && kind != Output::kBool, model_.name,
              ": bytes have no gradient, but there is a grad_output");
      is_reduced(kind) ? operand("grad_output", *a.grad_output, shape_.step)
                       : operand("grad_output", *a.grad_output, sizes_of(a.input), a.input.scalar_type());
    }
  }

 private:
  void check_steps(Output kind) const {
    require(!is_reduced(kind) || shape_.steps > 0, model_.name, ": there is no step to reduce the output of");
  }

  const Shape& shape_;
  const Signature& model_;
  const ScalarType compute_;
};

}  // namespace norse_fast
