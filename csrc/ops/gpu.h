#pragma once
// A GPU as a device of the operators.

#include <torch/csrc/stable/accelerator.h>

#include <cstdlib>

#include "../cuda/backend.h"
#include "../cuda/lane_plan.h"
#include "operators.h"

namespace norse_fast::cuda {

/// How recurrent layers are launched. NORSE_FAST_RECURRENT_PATH (persistent, stepwise) overrides the choice, for tests;
/// throws if it asks for a persistent launch of a layer that does not fit.
inline RecurrentPlan choose_plan(const RecurrentSize& size, bool backward, const DeviceLimits& device) {
  const char* forced = std::getenv("NORSE_FAST_RECURRENT_PATH");
  const std::string path = forced ? forced : "";
  STD_TORCH_CHECK(path.empty() || path == "persistent" || path == "stepwise", "NORSE_FAST_RECURRENT_PATH: got ", path,
                  ", expected persistent or stepwise");
  if (path == "stepwise") return stepwise_plan(size);
  const RecurrentPlan plan = plan_recurrence(size, backward, device);
  STD_TORCH_CHECK(plan.persistent || path.empty(), "NORSE_FAST_RECURRENT_PATH: got persistent, but a layer of ",
                  size.neurons, " neurons and a batch of ", size.batch, " does not fit this GPU; unset it");
  return plan;
}

/// How many lanes a thread would compute of a layer's, or of a step's, input.
inline int64_t lanes_per_thread_of(Tensor input, bool sequence, bool backward) {
  const Shape shape(input, sequence);
  return lanes_per_thread(storage_of(input), backward, shape.lanes, {rows_of(input, sequence)});
}

/// out = a b; the stable operators have no product with a given result.
inline void multiply_to(const Tensor& a, const Tensor& b, const Tensor& out) {
  using torch::stable::detail::from;
  StableIValue stack[] = {from(a), from(b), from(out)};
  TORCH_ERROR_CODE_CHECK(torch_call_dispatcher("aten::mm", "out", stack, TORCH_ABI_VERSION));
  torch::stable::detail::to<Tensor>(stack[0]);
}

/// A GPU, the current one while it lives.
struct Gpu {
  Device id;
  torch::stable::accelerator::DeviceGuard guard;

  explicit Gpu(DeviceId device) : id(device), guard(id.index()) {}

  Tensor operator()(const Sizes& sizes, ScalarType dtype) const { return empty(sizes, dtype, id); }

  void* stream() const {
    void* stream = nullptr;
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(id.index(), &stream));
    return stream;
  }

  template <class T>
  void run_layer(RecurrentKernel<RecurrentForward<T>, T> kernel, int channels, int, RecurrentForward<T> f) const {
    RecurrentGrid<T> grid = grid_of(f, channels, false);
    const Tensor currents = project(f, channels, nullptr);
    const Sizes step{grid.batch, channels * f.neurons};
    if (grid.plan.persistent) {
      const Tensor weights = spike_weights(f, channels);
      grid.spike_weights = static_cast<const T*>(weights.data_ptr());
      const Tensor words = zeros({2, grid.batch, grid.plan.blocks}, ScalarType::Long);
      grid.words = static_cast<uint64_t*>(words.data_ptr());
      kernel(f, grid, stream());
      return;
    }
    const Tensor recurrent = (*this)(step, kScalarType<T>);
    const Tensor weights = torch::stable::transpose(matrix(f.weights, channels * f.neurons, f.neurons), 0, 1);
    grid.currents = static_cast<T*>(recurrent.data_ptr());
    grid.phase = Phase::kForward;
    for (grid.step = 0; grid.step < f.steps; ++grid.step) {
      multiply_to(spikes_before(f, static_cast<const T*>(f.output), grid), weights, recurrent);
      kernel(f, grid, stream());
    }
  }

  template <class T>
  void run_layer(RecurrentKernel<RecurrentBackward<T>, T> kernel, int channels, int states,
                 RecurrentBackward<T> b) const {
    RecurrentGrid<T> grid = grid_of(b, channels, true);
    T* grad_currents = static_cast<T*>(b.grad_input);
    // A neuron's current is read before its gradient is written, so both have the same place.
    const Tensor currents = project(b, channels, grad_currents);
    const int64_t segment = std::min(b.steps, kRecurrentSegment);
    const Tensor kept = (*this)({segment, states, b.lanes}, kScalarType<T>);
    const Tensor recurrent = (*this)({segment, channels * b.lanes}, kScalarType<T>);
    grid.states = static_cast<T*>(kept.data_ptr());
    grid.currents = static_cast<T*>(recurrent.data_ptr());
    const Tensor weights = matrix(b.weights, channels * b.neurons, b.neurons);
    if (grid.plan.persistent) {
      const Tensor columns = spike_weights(b, channels);
      grid.spike_weights = static_cast<const T*>(columns.data_ptr());
      const Tensor arrivals = zeros({grid.plan.groups, kArrivalStride}, ScalarType::Int);
      grid.arrivals = static_cast<uint32_t*>(arrivals.data_ptr());
      kernel(b, grid, stream());
      return;
    }
    const Tensor transposed = torch::stable::transpose(weights, 0, 1);
    const Tensor grad_spikes = (*this)({grid.batch, b.neurons}, kScalarType<T>);
    grid.grad_spikes = static_cast<const T*>(grad_spikes.data_ptr());
    for (int64_t end = b.steps; end > 0;) {
      const int64_t first = (end - 1) / kRecurrentSegment * kRecurrentSegment;
      grid.phase = Phase::kRecompute;
      for (grid.step = first; grid.step < end; ++grid.step) {
        const Tensor to =
            matrix(grid.currents + (grid.step - first) * channels * b.lanes, grid.batch, channels * b.neurons);
        multiply_to(spikes_before(b, b.output, grid), transposed, to);
        kernel(b, grid, stream());
      }
      grid.phase = Phase::kBack;
      for (grid.step = end - 1; grid.step >= first; --grid.step) {
        if (grid.step + 1 < b.steps) {
          const T* next = grad_currents + (grid.step + 1) * channels * b.lanes;
          multiply_to(matrix(next, grid.batch, channels * b.neurons), weights, grad_spikes);
        }
        kernel(b, grid, stream());
      }
      end = first;
    }
  }

 private:
  /// A contiguous matrix somewhere in memory that outlives it.
  template <class T>
  Tensor matrix(const T* data, int64_t rows, int64_t columns) const {
    const int64_t sizes[] = {rows, columns}, strides[] = {columns, 1};
    AtenTensorHandle handle = nullptr;
    TORCH_ERROR_CODE_CHECK(aoti_torch_create_tensor_from_blob(
        const_cast<T*>(data), 2, sizes, strides, 0,
        torch::stable::detail::to<int32_t>(torch::stable::detail::from(kScalarType<T>)), id.type(), id.index(),
        &handle));
    return Tensor(handle);
  }

  template <class Launch>
  auto grid_of(const Launch& launch, int channels, bool backward) const {
    using T = std::remove_const_t<std::remove_pointer_t<decltype(launch.weights)>>;
    STD_TORCH_CHECK(launch.steps > 0, "norse_fast: the input needs at least one time step");
    RecurrentGrid<T> grid;
    grid.batch = launch.lanes / launch.neurons;
    const RecurrentSize size{launch.neurons, grid.batch, channels, static_cast<int>(sizeof(T))};
    grid.plan = choose_plan(size, backward, device_limits(id.index()));
    return grid;
  }

  /// Makes the input that of currents: one product for all steps, at `to` or in new memory. Returns what keeps it
  /// alive.
  template <class Launch>
  Tensor project(Launch& launch, int channels, void* to) const {
    using T = std::remove_const_t<std::remove_pointer_t<decltype(launch.weights)>>;
    if (!launch.projects) return (*this)({0}, kScalarType<T>);
    const int64_t rows = launch.steps * launch.lanes / launch.neurons, columns = channels * launch.neurons;
    const Tensor currents = to ? matrix(static_cast<T*>(to), rows, columns) : (*this)({rows, columns}, kScalarType<T>);
    const Tensor weights = matrix(launch.input_weights, columns, launch.inputs);
    multiply_to(matrix(static_cast<const T*>(launch.input.data), rows, launch.inputs),
                torch::stable::transpose(weights, 0, 1), currents);
    launch.input.data = currents.data_ptr();
    return currents;
  }

  /// The weights with a row for every channel and neuron that spiked.
  template <class Launch>
  Tensor spike_weights(const Launch& launch, int channels) const {
    const Tensor rows = matrix(launch.weights, channels * launch.neurons, launch.neurons);
    const Tensor by_channel = torch::stable::view(rows, {channels, launch.neurons, launch.neurons});
    return torch::stable::contiguous(torch::stable::transpose(by_channel, 1, 2));
  }

  /// Memory through which the blocks of a grid meet.
  Tensor zeros(const Sizes& sizes, ScalarType dtype) const {
    Tensor memory = (*this)(sizes, dtype);
    torch::stable::zero_(memory);
    return memory;
  }

  template <class Launch, class T>
  Tensor spikes_before(const Launch& launch, const T* output, const RecurrentGrid<T>& grid) const {
    const T* spikes = grid.step == 0 ? launch.spikes : output + (grid.step - 1) * launch.lanes;
    return matrix(spikes, grid.batch, launch.neurons);
  }
};

template <class Launch>
void run_lanes(Kernel<Launch> kernel, const Launch& launch, DeviceId device) {
  const Gpu gpu(device);
  kernel(launch, gpu.stream());
}

template <template <class> class Launch, class T>
void run_layer(RecurrentKernel<Launch<T>, T> kernel, int channels, int states, const Launch<T>& launch,
               DeviceId device) {
  Gpu(device).run_layer(kernel, channels, states, launch);
}

}  // namespace norse_fast::cuda

namespace norse_fast {

// Products of recurrent gradients.

inline void multiply(const Tensor& a, const Tensor& b, Tensor& out) { cuda::multiply_to(a, b, out); }

inline void accumulate(const Tensor& part, Tensor& sum) {
  torch::stable::copy_(sum, torch::stable::subtract(sum, part, -1.0));  // the stable ABI has no addition
}

inline void add_spike_product(const Tensor& spikes, const Tensor& grads, Tensor& sum) {
  accumulate(torch::stable::matmul(torch::stable::transpose(grads, 0, 1), spikes), sum);
}

}  // namespace norse_fast
