#pragma once
// The backward kernel of a recurrent layer on a GPU.

#include "backward.cuh"
#include "recurrent_lanes.cuh"

namespace norse_fast::cuda {

/// Time steps whose operands are fetched together where nothing else hides how long that takes.
inline constexpr int kRecomputeFetch = 4;

/// The gradients of one lane on its way back through time.
template <class Model, class T>
struct LaneGradients {
  typename Model::template State<T> state;
  typename Model::template Params<T> params;

  /// Those after step t; they are kept in the results of the launch.
  __device__ __forceinline__ void load(const RecurrentBackward<T>& b, int64_t t, int64_t lane) {
    const bool last = t == b.steps - 1;
    state = make_state<Model, T>([&](int k) {
      const T* from = last ? b.grad_final_state[k] : b.grad_state[k];
      return from ? from[lane] : T(0);
    });
    params =
        make_params<Model, T>([&](int k) { return last || !b.grad_params ? T(0) : b.grad_params[k * b.lanes + lane]; });
  }

  __device__ __forceinline__ void store(const RecurrentBackward<T>& b, int64_t t, int64_t lane) {
    write_state<Model, T>(state, b.grad_state, lane);
    if (!b.grad_params) return;
    for_each_member<kParamCount<Model>>(params, [&](int k, T& member) {
      b.grad_params[k * b.lanes + lane] = t == 0 && k < Model::kRates ? member * static_cast<T>(b.dt) : member;
    });
  }
};

/// The states that steps [begin, end) of a segment start from, with what joins them, from the currents. Stepwise, the
/// state after the last of them is left where the next one begins.
template <class Model, class T>
__device__ __forceinline__ void recompute_states(const RecurrentBackward<T>& b, const RecurrentGrid<T>& g,
                                                 int64_t first, int begin, int end, bool more, int64_t row,
                                                 int64_t neuron) {
  constexpr int C = kChannels<Model>, kStates = kStateCount<Model>;
  const int64_t lane = row * b.neurons + neuron;
  const T* inputs = static_cast<const T*>(b.input.data) + first * b.lanes * C;
  const auto write = [&](typename Model::template State<T>& s, int step) {
    for_each_member<kStates>(s, [&](int k, T& member) { g.states[(step * kStates + k) * b.lanes + lane] = member; });
  };
  const auto p = params_of_lane<Model, T>(b, lane);
  auto s = make_state<Model, T>([&](int k) {
    if (begin > 0) return g.states[(begin * kStates + k) * b.lanes + lane];
    return first == 0 ? b.state[k][lane] : b.checkpoints[k][(first / kRecurrentSegment - 1) * b.lanes + lane];
  });
#pragma unroll 1
  for (int fetched = begin; fetched < end; fetched += kRecomputeFetch) {
    T x[kRecomputeFetch][C], r[kRecomputeFetch][C];
#pragma unroll
    for (int j = 0; j < kRecomputeFetch; ++j) {
      if (fetched + j >= end) break;
      read_currents<Model>(inputs + (fetched + j) * b.lanes * C, row, neuron, b.neurons, x[j]);
      read_currents<Model>(g.currents + (fetched + j) * b.lanes * C, row, neuron, b.neurons, r[j]);
    }
#pragma unroll
    for (int j = 0; j < kRecomputeFetch; ++j) {
      const int step = fetched + j;
      if (step >= end) break;
      const T joined = arrive<Model>(s, x[j], r[j]);
      if constexpr (Model::kRecurrence.arrival == Arrival::kWith) g.currents[step * b.lanes + lane] = joined;
      write(s, step);
      typename Model::template Tape<T> tape;
      advance<Model, T>(s, joined, p, tape);
      arrive_late<Model>(s, x[j], r[j]);
    }
  }
  if (more) write(s, end);
}

/// The sums of a tile of rows over a part of the product of gradients and weights; left in the memory of the warp,
/// (row, lane).
template <class T>
__device__ __forceinline__ void gather_part(const T* grads, int64_t depth, int64_t first_row, int64_t end_row,
                                            int64_t begin, int64_t end, const T* column, int stride, int lane,
                                            T* memory) {
  struct alignas(16) Factors {
    T of_row[kTileRows];
  };
  T sums[kTileRows] = {};
  for (int64_t base = begin; base < end; base += 32) {
    const int64_t index = base + lane;
#pragma unroll
    for (int j = 0; j < kTileRows; ++j) {
      const bool exists = index < end && first_row + j < end_row;
      memory[lane * kTileRows + j] = exists ? __ldcg(grads + (first_row + j) * depth + index) : T(0);
    }
    __syncwarp();
    const int count = static_cast<int>(end - base < 32 ? end - base : 32);
#pragma unroll 8
    for (int k = 0; k < count; ++k) {
      const Factors factors = reinterpret_cast<const Factors*>(memory)[k];
      const T weight = column[(base + k) * stride];
#pragma unroll
      for (int j = 0; j < kTileRows; ++j) sums[j] = std::fma(factors.of_row[j], weight, sums[j]);
    }
    __syncwarp();
  }
#pragma unroll
  for (int j = 0; j < kTileRows; ++j) memory[j * 32 + lane] = sums[j];
}

/// How the warps share the products of at most kTileRows * warps rows: every tile of rows in `parts` parts, one per
/// warp.
struct Tiles {
  int rows, parts;

  __device__ __forceinline__ Tiles(int64_t left, int warps)
      : rows(static_cast<int>(left < kTileRows * warps ? left : kTileRows * warps)),
        parts(warps / ((rows + kTileRows - 1) / kTileRows)) {}
};

/// Their sums for the tile of this warp; `first` is the first of all rows.
template <class T>
__device__ __forceinline__ void gather(const RecurrentPlan& plan, const Place& place, const Tiles& tiles,
                                       const T* grads, int64_t depth, int64_t first) {
  const int tile = place.warp / tiles.parts, part = place.warp % tiles.parts;
  if (tile * kTileRows >= tiles.rows) return;
  const T* column = shared_values<T>() + (place.active ? place.lane : 0);
  gather_part(grads, depth, first + tile * kTileRows, first + tiles.rows, depth * part / tiles.parts,
              depth * (part + 1) / tiles.parts, column, plan.block_neurons, place.lane,
              warp_memory<T>(plan, place.warp));
}

template <class T>
__device__ __forceinline__ T gathered(const RecurrentPlan& plan, const Place& place, const Tiles& tiles, int row) {
  T sum = T(0);
  for (int part = 0; part < tiles.parts; ++part) {
    sum += warp_memory<T>(plan, row / kTileRows * tiles.parts + part)[row % kTileRows * 32 + place.lane];
  }
  return sum;
}

/// What a lane needs for one step back, besides the gradients.
template <class Model, class T>
struct LaneStep {
  typename Model::template State<T> state;
  T x, grad_output;

  __device__ __forceinline__ void load(const RecurrentBackward<T>& b, const RecurrentGrid<T>& g, int64_t t, int step,
                                       int64_t lane) {
    constexpr int kStates = kStateCount<Model>;
    state = make_state<Model, T>([&](int k) { return g.states[(step * kStates + k) * b.lanes + lane]; });
    x = Model::kRecurrence.arrival == Arrival::kWith ? g.currents[step * b.lanes + lane] : T(0);
    const T* grads = static_cast<const T*>(b.grad_output.data);
    grad_output = grads ? grads[t * b.grad_output.time_stride + (b.grad_output.broadcast ? 0 : lane)] : T(0);
  }
};

/// One step back of one lane; `grad_spikes` is the gradient of the spikes through the next step's currents.
template <class Model, class T>
__device__ __forceinline__ void step_back(const RecurrentBackward<T>& b, int64_t t, int64_t row, int64_t neuron,
                                          const LaneStep<Model, T>& now, const typename Model::template Params<T>& p,
                                          T alpha, T grad_spikes, LaneGradients<Model, T>& grad) {
  constexpr int C = kChannels<Model>;
  const int64_t lane = row * b.neurons + neuron;
  if (b.grad_trace[0]) {
    for_each_member<kStateCount<Model>>(grad.state,
                                        [&](int k, T& member) { member += b.grad_trace[k][t * b.lanes + lane]; });
  }
  auto next = now.state;
  typename Model::template Tape<T> tape;
  advance<Model, T>(next, now.x, p, tape);
  const T grad_x = Model::vjp(now.state, now.x, p, tape, SurrogateOf<T>{b, alpha, t * b.lanes + lane},
                              grad_spikes + now.grad_output, grad.state, grad.params);
  T* to = static_cast<T*>(b.grad_input) + (t * b.lanes + row * b.neurons) * C + neuron;
  if constexpr (Model::kRecurrence.arrival == Arrival::kBefore) {
    for_each_member<kStateCount<Model>>(grad.state, [&](int k, T& member) {
#pragma unroll
      for (int c = 0; c < C; ++c) {
        if (receives<Model>(k, c)) to[c * b.neurons] = member;
      }
    });
  } else {
    to[0] = grad_x;
  }
}

template <class Model, class T>
__global__ void __launch_bounds__(most_warps(true) * 32, 1)
    recurrent_backward_kernel(const __grid_constant__ RecurrentBackward<T> b,
                              const __grid_constant__ RecurrentGrid<T> g) {
  constexpr int C = kChannels<Model>;
  const RecurrentPlan& plan = g.plan;
  const Place place(plan, b.neurons, g.batch);
  const int64_t depth = C * b.neurons;
  const int64_t rows = place.end_row - place.first_row;
  const int64_t last = checkpoint_count(b.steps, kRecurrentSegment);
  const int64_t own_row = place.first_row + place.warp;
  const bool owner = place.active && place.resident && own_row < place.end_row;

  if (plan.persistent) load_columns(b.weights, depth, b.neurons, place, plan.block_neurons, shared_values<T>());
  uint32_t expected = 0;
  typename Model::template Params<T> p;
  T alpha = T(0);
  LaneGradients<Model, T> grad;
  LaneStep<Model, T> now;
  const auto load = [&](int64_t t, int step, int64_t lane) {
    if (t == b.steps - 1 || !place.resident) {
      p = params_of_lane<Model, T>(b, lane);
      alpha = parameter_of_lane(b.alpha, false, b.dt, lane);
      grad.load(b, t, lane);
    }
    now.load(b, g, t, step, lane);
  };

  for (int64_t segment = plan.persistent ? last : g.step / kRecurrentSegment; segment >= 0; --segment) {
    const int64_t first = segment * kRecurrentSegment;
    const int length = static_cast<int>(segment == last ? b.steps - first : kRecurrentSegment);
    const int only = static_cast<int>(g.step - first);  // step of a stepwise launch
    if (plan.persistent) {
      // No step waits for another here, so the weights need not be near.
      __syncthreads();
      uint16_t* list = warp_memory<uint16_t>(plan, place.warp);
      for (int64_t k = place.warp; k < length * rows; k += plan.warps) {
        const int64_t t = first + k / rows, row = place.first_row + k % rows;
        const T* z = (t == 0 ? b.spikes : b.output + (t - 1) * b.lanes) + row * b.neurons;
        const int count = list_nonzero(z, b.neurons, place.lane, list);
#pragma unroll
        for (int c = 0; c < C; ++c) {
          const T* column = g.spike_weights + c * b.neurons * b.neurons + (place.active ? place.neuron : 0);
          const T r = sum_listed(list, count, column, static_cast<int>(b.neurons), t == 0 ? z : nullptr);
          if (place.active) g.currents[((t - first) * g.batch + row) * depth + c * b.neurons + place.neuron] = r;
        }
        __syncwarp();
      }
      __syncthreads();
    }
    if (g.phase != Phase::kBack && place.active) {
      const bool whole = plan.persistent;
      for (int64_t row = own_row; row < place.end_row; row += plan.warps) {
        recompute_states<Model>(b, g, first, whole ? 0 : only, whole ? length : only + 1, !whole && only + 1 < length,
                                row, place.neuron);
      }
    }
    if (g.phase == Phase::kRecompute) return;

    for (int step = plan.persistent ? length - 1 : only; step >= 0; --step) {
      const int64_t t = first + step;
      const bool coupled = t + 1 < b.steps;
      // Under way while the blocks wait for each other.
      if (owner) load(t, step, own_row * b.neurons + place.neuron);
      if (plan.persistent && coupled) wait_for_group(g.arrivals + place.group * kArrivalStride, plan.blocks, expected);
      const int64_t chunk = plan.persistent ? kTileRows * plan.warps : rows;
      for (int64_t from = place.first_row; from < place.end_row; from += chunk) {
        const Tiles tiles(place.end_row - from, plan.warps);
        if (plan.persistent && coupled) {
          gather(plan, place, tiles, static_cast<const T*>(b.grad_input) + (t + 1) * b.lanes * C, depth, from);
          __syncthreads();
        }
        const int64_t to = from + chunk < place.end_row ? from + chunk : place.end_row;
        for (int64_t row = from + place.warp; row < to && place.active; row += plan.warps) {
          const int64_t lane = row * b.neurons + place.neuron;
          T grad_spikes = T(0);
          if (!coupled) {
            if (b.grad_spikes) grad_spikes = b.grad_spikes[lane];
          } else {
            grad_spikes =
                plan.persistent ? gathered<T>(plan, place, tiles, static_cast<int>(row - from)) : g.grad_spikes[lane];
          }
          if (!place.resident) load(t, step, lane);
          step_back<Model>(b, t, row, place.neuron, now, p, alpha, grad_spikes, grad);
          if (!place.resident || t == 0) grad.store(b, t, lane);
        }
        if (plan.persistent) __syncthreads();
      }
      if (!plan.persistent) return;
    }
  }
}

}  // namespace norse_fast::cuda
