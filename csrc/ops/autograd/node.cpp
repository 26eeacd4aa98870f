#include "node.h"

#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/record_function.h>
#include <torch/csrc/autograd/autograd_not_implemented_fallback.h>
#include <torch/csrc/autograd/functions/utils.h>
#include <torch/csrc/dynamo/compiled_autograd.h>
#include <torch/library.h>

#include <array>
#include <string_view>

namespace norse_fast::autograd {
namespace {

using torch::autograd::Node;
using torch::autograd::SavedVariable;
using torch::autograd::variable_list;

std::array<const KernelTable*, at::COMPILE_TIME_MAX_DEVICE_TYPES> tables{};

constexpr c10::DispatchKeySet kOrdinaryThread = c10::default_included_set | c10::autocast_dispatch_keyset;
constexpr c10::DispatchKeySet kOrdinaryTensor =
    c10::DispatchKeySet({c10::DispatchKey::CPU, c10::DispatchKey::CUDA, c10::DispatchKey::AutogradCPU,
                         c10::DispatchKey::AutogradCUDA, c10::DispatchKey::ADInplaceOrView}) |
    c10::autocast_dispatch_keyset;

/// Unlike the difference of two sets, this compares backends, too.
bool is_subset(c10::DispatchKeySet set, c10::DispatchKeySet of) { return (set.raw_repr() & ~of.raw_repr()) == 0; }

// The pointer to nodes depends on the version of torch.
constexpr bool kShared = std::is_same_v<decltype(torch::autograd::Edge::function), std::shared_ptr<Node>>;
template <class T>
using Pointer = std::conditional_t<kShared, std::shared_ptr<T>, c10::intrusive_ptr<T>>;

template <class T, class... Arguments>
Pointer<T> make_node(Arguments&&... arguments) {
  if constexpr (kShared) {
    return std::shared_ptr<T>(new T(std::forward<Arguments>(arguments)...), [](auto* node) { deleteNode(node); });
  } else {
    return c10::make_intrusive<T>(std::forward<Arguments>(arguments)...);
  }
}

/// Sums the gradient of one parameter over the lanes that share a value.
Tensor reduce(const Tensor& grad, const Tensor& param, const Sizes& sizes) {
  // A parameter that varies spans the trailing dimensions, after leading ones of size 1.
  const int64_t count = c10::multiply_integers(sizes);
  if (count == 0) return at::zeros(sizes, param.options());
  const Tensor reduced = count == 1 ? grad.sum() : grad.reshape({-1, count}).sum(0);
  return reduced.reshape(sizes).to(param.device(), param.scalar_type());
}

template <class Arguments>
bool is_shared_state(const Arguments& a, size_t k) {
  return norse_fast::is_shared_state(a.state[k], a.input.dim() - a.sequence);
}

/// Gives the state variables that are one value the shape of a step, where they must have that: for operators, and for
/// kernels where only the device can read the value.
template <class Arguments>
void spread_states(Arguments& a, bool plain) {
  for (size_t k = 0; k < a.state.size(); ++k) {
    Tensor& value = a.state[k];
    if (!is_shared_state(a, k) || (plain && value.is_cpu())) continue;
    value = value.to(a.input.device(), compute_type(a.input)).expand_symint(a.input.sym_sizes().slice(a.sequence));
  }
}

Differentiate differentiate_function = nullptr;

/// Whether gradients are batched, or carry a tangent.
bool is_transformed(const variable_list& grads) {
  constexpr c10::DispatchKeySet kTransforms(
      {c10::DispatchKey::FuncTorchBatched, c10::DispatchKey::FuncTorchGradWrapper, c10::DispatchKey::Batched});
  return std::any_of(grads.begin(), grads.end(), [&](const Tensor& t) {
    if (!t.defined()) return false;
    const auto* meta = torch::autograd::impl::get_autograd_meta(t);
    return t.key_set().has_any(kTransforms) || (meta && meta->fw_grad_);
  });
}

bool any_requires_grad(const std::vector<Tensor>& tensors) {
  return std::any_of(tensors.begin(), tensors.end(), [](const Tensor& t) { return t.requires_grad(); });
}

bool all_plain(const std::vector<Tensor>& tensors) {
  return std::all_of(tensors.begin(), tensors.end(), [](const Tensor& t) { return !t.defined() || is_plain(t); });
}

/// Puts arguments on the dispatcher's stack, or takes results from it, in order.
struct StackPusher {
  std::vector<c10::IValue>& stack;

  template <class T>
  void operator()(const char*, const T& value) {
    stack.emplace_back(value);
  }

  template <class T>
  void each(const char*, const Names&, const std::vector<T>& values) {
    for (const T& value : values) stack.emplace_back(value);
  }
};

struct StackTaker {
  const std::vector<c10::IValue>& stack;
  size_t next = 0;

  void operator()(const char*, Tensor& value) { value = stack.at(next++).toTensor(); }
  void operator()(const char*, std::vector<Tensor>& value) { value = stack.at(next++).toTensorVector(); }

  void each(const char*, const Names& names, std::vector<Tensor>& values) {
    values.resize(names.size());
    for (Tensor& value : values) (*this)("", value);
  }
};

/// A backward pass through the dispatcher, where somebody wants to see the operator.
BackwardResults dispatch_backward(BackwardArguments& a, const Model& model) {
  std::vector<c10::IValue> stack;
  a.visit(StackPusher{stack}, model.signature());
  const std::string name = std::string("norse_fast::") + model.signature().name + "_backward";
  c10::Dispatcher::singleton().findSchemaOrThrow(name.c_str(), "").callBoxed(&stack);

  BackwardResults results;
  results.visit(StackTaker{stack}, model.signature());
  return results;
}

/// The tensors of which a profiler shows the sizes, as where operators are dispatched; made while one looks.
std::vector<c10::IValue> shown(const ProblemArguments& a) {
  std::vector<c10::IValue> values{a.input};
  values.insert(values.end(), a.state.begin(), a.state.end());
  values.insert(values.end(), a.params.begin(), a.params.end());
  return values;
}

/// Edges lead to the input, the states and, where some parameter needs a gradient, the parameters.
class FusedBackward : public Node {
 public:
  FusedBackward(const Model& model, const ForwardArguments& a, const Tensor& alpha, int64_t surrogate)
      : model_(model), surrogate_(surrogate), output_(a.kind), dt_(a.dt), sequence_(a.sequence), record_(a.record) {
    const bool with_params = any_requires_grad(a.params);
    const size_t states = model.signature().state.size(), params = model.signature().params.size();
    next_edges_.reserve(1 + states + (with_params ? params : 0));
    operands_.reserve(1 + states + (with_params ? params + 1 : 0));
    keep(a.input);
    for (const Tensor& t : a.state) keep(t);
    if (with_params) {
      for (const Tensor& t : a.params) {
        keep(t);
        param_sizes_.push_back(sizes_of(t));
      }
      operands_.emplace_back(alpha, false);
    } else {
      constants_.reserve(params + 1);
      versions_.reserve(params + 1);
      constants_.assign(a.params.begin(), a.params.end());
      constants_.push_back(alpha);
      for (const Tensor& t : constants_) versions_.push_back(t._version());
    }
  }

  void keep_checkpoints(const std::vector<Tensor>& checkpoints) {
    for (const Tensor& t : checkpoints) checkpoints_.emplace_back(t, false);
  }

  std::string name() const override { return "FusedBackward"; }

  variable_list apply(variable_list&& grads) override {
    const std::lock_guard<std::mutex> lock(mutex_);
    check_constants();
    // Those of torch.gather may be sparse.
    for (Tensor& grad : grads) {
      if (grad.defined() && grad.layout() != at::kStrided) grad = grad.to_dense();
    }
    if (at::GradMode::is_enabled() || is_transformed(grads)) return differentiate_in_pytorch(grads);
    const at::AutoGradMode no_grad(false);
    return differentiate(std::move(grads));
  }

  void release_variables() override {
    const std::lock_guard<std::mutex> lock(mutex_);
    for (SavedVariable& t : operands_) t.reset_data();
    for (SavedVariable& t : checkpoints_) t.reset_data();
    constants_.clear();
  }

  void compiled_args(torch::autograd::CompiledNodeArgs& args) const override {
    check_constants();
    args.collect(std::string(model_.signature().name));
    args.collect(surrogate_);
    args.collect(output_);
    args.collect(dt_);
    args.collect(sequence_);
    args.collect(record_);
    args.collect(param_sizes_);
    args.collect(operands_, false);
    args.collect(constants_);
    args.collect(checkpoints_, false);
  }

  variable_list apply_with_saved(const variable_list& grads, torch::autograd::SwapSavedVariables& saved) override {
    saved.before(operands_);
    saved.before(constants_);
    saved.before(checkpoints_);
    variable_list results = differentiate(variable_list(grads));
    saved.after(operands_);
    saved.after(constants_);
    saved.after(checkpoints_);
    return results;
  }

 private:
  void keep(const Tensor& t) {
    add_next_edge(torch::autograd::impl::gradient_edge(t));
    operands_.emplace_back(t, false);
  }

  void check_constants() const {
    for (size_t k = 0; k < constants_.size(); ++k) {
      TORCH_CHECK(constants_[k]._version() == versions_[k],
                  "p: got parameters that were modified by an inplace operation since forward, expected them unchanged "
                  "until backward; make new tensors instead.");
    }
  }

  /// The same from PyTorch's own operators, which differentiate further, and with batches of gradients.
  variable_list differentiate_in_pytorch(const variable_list& grads) {
    Pass pass{model_.signature().name, surrogate_, dt_, sequence_, record_, output_, {}, grads, {}};
    for (const SavedVariable& t : operands_) pass.operands.push_back(t.unpack());
    for (const Tensor& t : constants_) pass.operands.push_back(t.detach());
    for (size_t k = 0; k < num_outputs(); ++k) pass.wanted.push_back(task_should_compute_output(k));
    return differentiate_function(pass);
  }

  variable_list differentiate(variable_list&& grads) {
    const size_t states = model_.signature().state.size(), params = model_.signature().params.size();
    BackwardArguments a;
    a.input = operands_[0].unpack();
    for (size_t k = 0; k < states; ++k) a.state.push_back(operands_[1 + k].unpack());
    const bool with_params = num_outputs() > 1 + states;
    if (with_params) {
      for (size_t k = 0; k < params; ++k) a.params.push_back(operands_[1 + states + k].unpack());
      a.alpha = operands_.back().unpack();
    } else {
      a.params.assign(constants_.begin(), constants_.end() - 1);
      a.alpha = constants_.back();
    }
    for (const SavedVariable& t : checkpoints_) a.checkpoints.push_back(t.unpack());

    a.sequence = sequence_;
    const auto grad_at = [&](size_t k) { return grads[k].defined() ? std::optional<Tensor>(grads[k]) : std::nullopt; };
    a.grad_output = grad_at(0);
    for (size_t k = 0; k < states; ++k) a.grad_state.push_back(grad_at(1 + k));
    bool traced = false;
    for (size_t k = 1 + states; k < grads.size(); ++k) traced = traced || grads[k].defined();
    for (size_t k = 1 + states; traced && k < grads.size(); ++k) {
      a.grad_trace.push_back(grads[k].defined() ? grads[k]
                                                : a.input.new_zeros({}, compute_type(a.input)).expand_as(a.input));
    }

    a.surrogate = surrogate_;
    a.kind = output_;
    a.dt = dt_;
    a.want_input = task_should_compute_output(0);
    a.want_params = with_params && task_should_compute_output({{1 + states, 1 + states + params}});
    const std::vector<Tensor> state = a.state;
    std::vector<bool> shared;
    for (size_t k = 0; k < states; ++k) shared.push_back(is_shared_state(a, k));
    BackwardResults gradients = call(a, grads);

    variable_list results(num_outputs());
    if (a.want_input) results[0] = std::move(gradients.input);
    for (size_t k = 0; k < states; ++k) {
      if (!task_should_compute_output(1 + k)) continue;
      results[1 + k] = shared[k] ? reduce(gradients.state[k], state[k], {}) : std::move(gradients.state[k]);
    }
    for (size_t p = 0; with_params && p < params; ++p) {
      const size_t k = 1 + states + p;
      if (task_should_compute_output(k)) results[k] = reduce(gradients.params[p], a.params[p], param_sizes_[p]);
    }
    return results;
  }

  BackwardResults call(BackwardArguments& a, const variable_list& grads) const {
    const KernelTable* kernels = kernels_of(a.input);
    const bool plain = kernels && is_plain_thread() && is_plain(a.input) && all_plain(a.state) && all_plain(a.params) &&
                       all_plain(a.checkpoints) && all_plain(grads);
    spread_states(a, plain);
    if (!plain) return dispatch_backward(a, model_);
    RECORD_FUNCTION(std::string("norse_fast::") + model_.signature().name + "_backward", shown(a));
    const ModelKernels& model = kernels->models[model_.index];
    return compute_type(a.input) == ScalarType::Double ? run_backward<Backward<double>>(a, model, kernels->memory)
                                                       : run_backward<Backward<float>>(a, model, kernels->memory);
  }

  Model model_;
  int64_t surrogate_, output_;
  double dt_;
  bool sequence_, record_;
  // The input, the states and, where some parameter needs a gradient, the parameters and alpha.
  std::vector<SavedVariable> operands_;
  // Of those parameters. torch.compile's autograd makes symbols of a tensor's own sizes.
  std::vector<Sizes> param_sizes_;
  // Where no parameter needs a gradient: the parameters and alpha. Autograd then has that much less to look after.
  // Their versions tell whether they are still the same in backward.
  std::vector<Tensor> constants_;
  std::vector<int64_t> versions_;
  std::vector<SavedVariable> checkpoints_;
};

}  // namespace

void refuse_derivatives_of_operators() {
  constexpr std::string_view kLibrary = "norse_fast::";
  // Never released: operators of programs that were exported may be called until the process ends.
  static auto* const library =
      new torch::Library(torch::Library::IMPL, "norse_fast", c10::DispatchKey::Autograd, __FILE__, __LINE__);
  for (const c10::OperatorName& op : c10::Dispatcher::singleton().getAllOpNames()) {
    if (op.name.rfind(kLibrary, 0) != 0) continue;
    library->impl(op.name.substr(kLibrary.size()).c_str(), torch::autograd::autogradNotImplementedFallback());
  }
}

void set_differentiate(Differentiate function) { differentiate_function = function; }

void set_kernels(at::DeviceType type, const KernelTable* kernels) { tables[static_cast<size_t>(type)] = kernels; }

void set_interrupt_check(void (*check)()) {
  for (const KernelTable* kernels : tables) {
    if (kernels) kernels->set_interrupt_check(check);
  }
}

const KernelTable* kernels_of(at::DeviceType type) { return tables[static_cast<size_t>(type)]; }

bool is_plain_thread() { return is_subset(c10::impl::tls_local_dispatch_key_set().included_, kOrdinaryThread); }

bool is_plain(const Tensor& t) {
  if (!is_subset(t.key_set(), kOrdinaryTensor)) return false;
  const auto* meta = torch::autograd::impl::get_autograd_meta(t);
  return !meta || !meta->fw_grad_;
}

ForwardResults run(const Model& model, ForwardArguments a, const Tensor& alpha, int64_t surrogate) {
  const KernelTable& kernels = *kernels_of(a.input);
  Pointer<FusedBackward> node;
  if (at::GradMode::is_enabled() &&
      (a.input.requires_grad() || any_requires_grad(a.state) || any_requires_grad(a.params))) {
    node = make_node<FusedBackward>(model, a, alpha, surrogate);
    a.checkpoint =
        a.sequence && a.input.size(0) > kSegment && model.signature().is_recomputed(any_requires_grad(a.params));
  }
  const at::AutoGradMode no_grad(false);
  spread_states(a, true);
  RECORD_FUNCTION(std::string("norse_fast::") + model.signature().name + "_forward", shown(a));
  const ModelKernels& own = kernels.models[model.index];
  ForwardResults results = compute_type(a.input) == ScalarType::Double
                               ? run_forward<Forward<double>>(a, own, kernels.memory)
                               : run_forward<Forward<float>>(a, own, kernels.memory);
  if (node) {
    // Bytes have no gradient, but are an output of the node.
    torch::autograd::set_history(results.output.is_floating_point() ? results.output : Tensor(), node);
    torch::autograd::set_history(results.final_state, node);
    torch::autograd::set_history(results.trace, node);
    node->keep_checkpoints(results.checkpoints);
  }
  return results;
}

}  // namespace norse_fast::autograd
