#pragma once
// The backward pass of a recurrent layer: the kernel goes back through a part of the steps after the other, from the
// last, and products make the gradients of the input and of the weights from those of the currents. So few of the
// currents' gradients are in memory at once.

#include "calls.h"

namespace norse_fast {

// The products of a backend, defined by it; all matrices are contiguous.

/// out = a b
void multiply(const Tensor& a, const Tensor& b, Tensor& out);

/// sum += grads^T spikes; quick where the spikes are 0 and 1, and few.
void add_spike_product(const Tensor& spikes, const Tensor& grads, Tensor& sum);

/// sum += part
void accumulate(const Tensor& part, Tensor& sum);

/// Steps that go back at once: few, to save memory; more where each part costs launches. Whole segments.
inline int64_t part_length(int64_t steps, bool cpu) {
  constexpr int64_t kParts = 8, kLeast = 4;
  const int64_t segments = (steps + kParts * kRecurrentSegment - 1) / (kParts * kRecurrentSegment);
  return kRecurrentSegment * (cpu ? 1 : std::max(kLeast, segments));
}

template <class Launch>
class RecurrentBackwardCall {
 public:
  RecurrentBackwardCall(BackwardArguments& a, const ModelKernels& kernels, const Memory& memory)
      : a_(a), kernels_(kernels), model_(kernels.signature), shape_(a), allocate_{shape_.device, memory} {
    Checker(shape_, model_, kScalarType<T>).arguments(a);
    set_backward(launch_, a, model_, shape_);
    launch_.output = read<T>(a.output);
    if (a.grad_z) launch_.grad_spikes = read<T>(*a.grad_z);
    results_.recurrent = true;
    results_.input = allocate_(a.want_input ? sizes_of(a.input) : Sizes{0}, kScalarType<T>);
    a.want_input_weights = a.want_input_weights && launch_.projects;
    results_.input_weights = zeros(a.want_input_weights ? sizes_of(*a.input_weights) : Sizes{0});
    results_.weights = zeros(a.want_weights ? sizes_of(a.weights) : Sizes{0});
    results_.params = new_params();
    allocate_spikes(launch_, model_, shape_, allocate_, results_.spikes);
  }

  BackwardResults run() {
    if (launch_.wanted == Spikes::kDistances) results_.z = zeros(shape_.step);  // without gradients
    if (shape_.lanes == 0) {
      torch::stable::zero_(results_.input);
      results_.z = zeros(a_.want_z ? shape_.step : Sizes{0});
      for (size_t k = 0; k < model_.state.size(); ++k) results_.state.push_back(zeros(shape_.step));
      return std::move(results_);
    }
    const int64_t rows = shape_.steps * batch(), width = model_.channels * launch_.neurons;
    input_ = torch::stable::reshape(a_.input, {rows, launch_.inputs});
    output_ = torch::stable::reshape(a_.output, {rows, launch_.neurons});
    const int64_t length = part_length(shape_.steps, a_.input.is_cpu());
    const bool in_place = a_.want_input && !launch_.projects;
    // In memory for whole segments, so that the parts, of which one is shorter, use the same.
    const int64_t most =
        (std::min(length, shape_.steps) + kRecurrentSegment - 1) / kRecurrentSegment * kRecurrentSegment;
    grad_currents_ = in_place ? torch::stable::reshape(results_.input, {rows, width})
                              : allocate_({most * batch(), width}, kScalarType<T>);
    for (int64_t first = (shape_.steps - 1) / length * length; first >= 0; first -= length) {
      run_part(first, std::min(first + length, shape_.steps), in_place);
    }
    if (!a_.want_z) results_.z = zeros({0});
    for (size_t k = 0; launch_.wanted == Spikes::kDistances && k < model_.state.size(); ++k) {
      torch::stable::zero_(results_.state[k]);
    }
    return std::move(results_);
  }

 private:
  using T = typename Launch::Type;

  int64_t batch() const { return shape_.lanes / launch_.neurons; }

  Tensor zeros(const Sizes& sizes) const {
    Tensor t = allocate_(sizes, kScalarType<T>);
    torch::stable::zero_(t);
    return t;
  }

  Tensor new_params() const {
    return allocate_(a_.want_params ? with_leading(model_.params.size(), shape_.step) : Sizes{0}, kScalarType<T>);
  }

  Tensor rows(const Tensor& matrix, int64_t first, int64_t last) const {
    Tensor t = matrix;
    return torch::stable::narrow(t, 0, first * batch(), (last - first) * batch());
  }

  void run_part(int64_t first, int64_t last, bool in_place) {
    Tensor grad_currents = in_place ? rows(grad_currents_, first, last) : rows(grad_currents_, 0, last - first);
    const bool adds_params = a_.want_params && last < shape_.steps;
    const Tensor part_params = adds_params ? new_params() : results_.params;
    norse_fast::run(part_of(first, last, grad_currents, part_params), kernels_, shape_);
    if (launch_.wanted == Spikes::kDistances) return;
    if (adds_params) accumulate(part_params, results_.params);

    const Tensor first_step = rows(grad_currents, 0, 1);
    if (a_.want_z || first > 0) {
      results_.z = allocate_(shape_.step, kScalarType<T>);
      Tensor grad_z = torch::stable::reshape(results_.z, {batch(), launch_.neurons});
      multiply(first_step, a_.weights, grad_z);
    }
    if (a_.want_input && launch_.projects) {
      Tensor grad_input =
          rows(torch::stable::reshape(results_.input, {shape_.steps * batch(), launch_.inputs}), first, last);
      multiply(grad_currents, *a_.input_weights, grad_input);
    }
    if (a_.want_input_weights) {
      add_spike_product(rows(input_, first, last), grad_currents, results_.input_weights);
    }
    if (!a_.want_weights) return;
    if (first > 0) {
      add_spike_product(rows(output_, first - 1, last - 1), grad_currents, results_.weights);
      return;
    }
    const Tensor z = torch::stable::reshape(a_.z, {batch(), launch_.neurons});
    add_spike_product(z, first_step, results_.weights);
    if (last > 1) {
      add_spike_product(rows(output_, 0, last - 1), rows(grad_currents, 1, last), results_.weights);
    }
  }

  /// The launch for steps [first, last), which starts from a checkpoint, and from the gradients of the part after it.
  Launch part_of(int64_t first, int64_t last, const Tensor& grad_currents, const Tensor& grad_params) {
    const int64_t lanes = shape_.lanes, segment = first / kRecurrentSegment;
    Launch part = launch_;
    part.steps = last - first;
    part.input.data = static_cast<const T*>(launch_.input.data) + first * batch() * launch_.inputs;
    part.output = launch_.output + first * lanes;
    if (first > 0) part.spikes = part.output - lanes;
    if (a_.grad_output) {
      part.grad_output.data = static_cast<const T*>(launch_.grad_output.data) + first * launch_.grad_output.time_stride;
    }
    for (int k = 0; k < model_.thresholds; ++k) {
      if (!a_.derivatives.empty()) part.derivatives[k] += first * lanes;
      if (part.of_spikes[k]) part.of_spikes[k] += first * lanes;
    }
    if (last < shape_.steps) part.grad_spikes = static_cast<const T*>(results_.z.data_ptr());
    later_ = std::exchange(results_.state, {});
    for (size_t k = 0; k < model_.state.size(); ++k) {
      if (first > 0) part.state[k] = launch_.checkpoints[k] + (segment - 1) * lanes;
      if (!a_.checkpoints.empty()) part.checkpoints[k] += segment * lanes;
      if (!a_.grad_trace.empty()) part.grad_trace[k] += first * lanes;
      if (last < shape_.steps) part.grad_final_state[k] = static_cast<const T*>(later_[k].data_ptr());
      part.grad_state[k] = keep<T>(results_.state, allocate_(shape_.step, kScalarType<T>));
    }
    part.grad_input = grad_currents.data_ptr();
    if (a_.want_params) part.grad_params = static_cast<T*>(grad_params.data_ptr());
    return part;
  }

  BackwardArguments& a_;
  const ModelKernels& kernels_;
  const Signature& model_;
  const Shape shape_;
  const Allocator allocate_;
  Launch launch_;
  BackwardResults results_;
  std::vector<Tensor> later_;  // the gradients of the states, of the part after this
  Tensor input_, output_, grad_currents_;
};

}  // namespace norse_fast
