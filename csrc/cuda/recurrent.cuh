#pragma once
// The recurrent CUDA driver. A lane of a warp is a neuron, a warp a row of the batch at a time, and a block has the
// columns of the weights that lead to its neurons; see RecurrentPlan. A thread always meets the same neurons of the
// same rows, so that only spikes and the gradients of currents pass between threads. Forward, a warp waits for the
// spikes of its row and for nothing else.
//
// Recurrent currents are sums of the weights of those neurons that spiked, in the order of their indices, as on the
// CPU: the same bits.

#include "kernels.cuh"

namespace norse_fast::cuda {

/// Time steps whose operands are fetched together where nothing else hides how long that takes.
inline constexpr int kRecomputeFetch = 4;

/// Which neuron and which rows of the batch a thread computes.
struct Place {
  int warp, lane;
  int group, block;         // of the group
  int first_neuron, width;  // of the block
  int64_t neuron;
  bool active;                 // whether there is such a neuron
  int64_t first_row, end_row;  // of the group
  bool resident;               // whether a thread meets one row at most, so that its state stays in registers

  __device__ __forceinline__ Place(const RecurrentPlan& plan, int64_t neurons, int64_t batch)
      : warp(threadIdx.x / kBlockNeurons),
        lane(threadIdx.x % kBlockNeurons),
        group(blockIdx.x / plan.blocks),
        block(blockIdx.x % plan.blocks),
        first_neuron(block * plan.block_neurons),
        width(neurons - first_neuron < plan.block_neurons ? static_cast<int>(neurons - first_neuron)
                                                          : plan.block_neurons),
        neuron(first_neuron + lane),
        active(lane < width),
        first_row(batch * group / plan.groups),
        end_row(batch * (group + 1) / plan.groups),
        resident(plan.persistent && end_row - first_row <= plan.warps) {}
};

/// The columns of the neurons of a block, in shared memory.
template <class T>
__device__ __forceinline__ void load_columns(const T* matrix, int64_t rows, int64_t neurons, const Place& place,
                                             int stride, T* to) {
  for (int64_t k = threadIdx.x; k < rows * stride; k += blockDim.x) {
    const int64_t row = k / stride;
    const int column = static_cast<int>(k % stride);
    to[k] = column < place.width ? matrix[row * neurons + place.first_neuron + column] : T(0);
  }
}

/// Waits until all blocks of the group are here. What they wrote is visible then, to loads that bypass the L1 cache.
__device__ __forceinline__ void wait_for_group(uint32_t* arrivals, int blocks, uint32_t& expected) {
  __syncthreads();
  if (threadIdx.x == 0) {
    expected += blocks;
    __threadfence();
    atomicAdd(arrivals, 1u);
    while (static_cast<int32_t>(*static_cast<volatile uint32_t*>(arrivals) - expected) < 0) __nanosleep(20);
    __threadfence();
  }
  __syncthreads();
}

/// Appends the indices of the set bits of a warp's words to its list, in order; `first` is the index of a lane's lowest
/// bit.
__device__ __forceinline__ int append_bits(uint32_t word, int first, int lane, uint16_t* list, int count) {
  const int own = __popc(word);
  int end = own;  // of the bits of this lane and all before it
#pragma unroll
  for (int offset = 1; offset < 32; offset *= 2) {
    const int before = __shfl_up_sync(~0u, end, offset);
    if (lane >= offset) end += before;
  }
  for (int at = count + end - own; word; word &= word - 1) list[at++] = static_cast<uint16_t>(first + __ffs(word) - 1);
  return count + __shfl_sync(~0u, end, 31);
}

/// Lists the nonzero elements of a row; returns how many.
template <class T>
__device__ __forceinline__ int list_nonzero(const T* row, int64_t neurons, int lane, uint16_t* list) {
  int count = 0;
  for (int64_t first = 0; first < neurons; first += 32) {
    const int64_t index = first + lane;
    const bool found = index < neurons && row[index] != T(0);
    const uint32_t word = __ballot_sync(~0u, found);
    if (found) list[count + __popc(word & ((1u << lane) - 1))] = static_cast<uint16_t>(index);
    count += __popc(word);
  }
  __syncwarp();
  return count;
}

/// Spikes of the neurons of a block and, in the upper half, the step that they come before: whoever finds that step
/// has the spikes, so that one write and one read are all that an exchange takes.
struct Exchange {
  uint64_t* words;  // (step % 2, row, block)
  int64_t batch;
  int blocks;

  __device__ __forceinline__ uint64_t* at(int64_t step, int64_t row, int block) const {
    return words + ((step % 2) * batch + row) * blocks + block;
  }

  __device__ __forceinline__ void publish(int64_t step, int64_t row, int block, uint32_t bits) const {
    // A place is free again: all blocks have read what it had, since they have sent what they made of it.
    *static_cast<volatile uint64_t*>(at(step, row, block)) = static_cast<uint64_t>(step) << 32 | bits;
  }

  __device__ __forceinline__ uint32_t await(int64_t step, int64_t row, int block) const {
    const volatile uint64_t* word = at(step, row, block);
    while (true) {
      const uint64_t value = *word;
      if (static_cast<uint32_t>(value >> 32) == static_cast<uint32_t>(step)) return static_cast<uint32_t>(value);
      __nanosleep(20);
    }
  }
};

/// Lists the neurons of a row that spiked before a step; returns how many.
__device__ __forceinline__ int list_spikes(const Exchange& exchange, int64_t step, int64_t row, int block_neurons,
                                           int lane, uint16_t* list) {
  int count = 0;
  for (int first = 0; first < exchange.blocks; first += 32) {
    const int block = first + lane;
    const uint32_t word = block < exchange.blocks ? exchange.await(step, row, block) : 0u;
    count = append_bits(word, block * block_neurons, lane, list, count);
  }
  __syncwarp();
  return count;
}

/// The sum of the listed rows of a column, in the order of the list; spikes that may be other than 0 and 1 are given as
/// factors.
template <class T>
__device__ __forceinline__ T sum_listed(const uint16_t* list, int count, const T* column, int stride,
                                        const T* factors) {
  constexpr int kAtOnce = 8;
  T sum = T(0);
  if (factors) {
    for (int k = 0; k < count; ++k) sum += factors[list[k]] * column[list[k] * stride];
    return sum;
  }
  struct alignas(16) Indices {
    uint16_t at[kAtOnce];
  };
  // Zeros after the last, which change no bit: the sum is never -0.
  const auto fetch = [&](int from, T(&weights)[kAtOnce]) {
    if (from >= count) return;
    const Indices rows = *reinterpret_cast<const Indices*>(list + from);
#pragma unroll
    for (int j = 0; j < kAtOnce; ++j) weights[j] = from + j < count ? column[rows.at[j] * stride] : T(0);
  };
  T next[kAtOnce] = {};
  fetch(0, next);
  for (int k = 0; k < count; k += kAtOnce) {
    T now[kAtOnce];
#pragma unroll
    for (int j = 0; j < kAtOnce; ++j) now[j] = next[j];
    fetch(k + kAtOnce, next);
#pragma unroll
    for (int j = 0; j < kAtOnce; ++j) sum += now[j];
  }
  return sum;
}

template <class Model, class T>
__device__ __forceinline__ void write_state(typename Model::template State<T>& s, T* const* to, int64_t offset) {
  for_each_member<kStateCount<Model>>(s, [&](int k, T& member) { to[k][offset] = member; });
}

template <class Model>
inline constexpr int kChannels = Model::kRecurrence.channels;

/// Whether state variable k takes channel c.
template <class Model>
__device__ __forceinline__ bool receives(int k, int c) {
  constexpr int kFirst = Model::kRecurrence.receiver[0], kSecond = Model::kRecurrence.receiver[1];
  return k == (c == 0 ? kFirst : kSecond);
}

/// Adds the currents x of the input and r of the spikes to the variables that receive them.
template <class Model, class T>
__device__ __forceinline__ void join(typename Model::template State<T>& s, const T (&x)[kChannels<Model>],
                                     const T (&r)[kChannels<Model>]) {
  for_each_member<kStateCount<Model>>(s, [&](int k, T& member) {
#pragma unroll
    for (int c = 0; c < kChannels<Model>; ++c) {
      if (receives<Model>(k, c)) member = (member + x[c]) + r[c];
    }
  });
}

/// What joins the state before a step joins it. Returns the step's input.
template <class Model, class T>
__device__ __forceinline__ T arrive(typename Model::template State<T>& s, const T (&x)[kChannels<Model>],
                                    const T (&r)[kChannels<Model>]) {
  if constexpr (Model::kRecurrence.arrival == Arrival::kBefore) join<Model, T>(s, x, r);
  return Model::kRecurrence.arrival == Arrival::kWith ? x[0] + r[0] : T(0);
}

template <class Model, class T>
__device__ __forceinline__ void arrive_late(typename Model::template State<T>& s, const T (&x)[kChannels<Model>],
                                            const T (&r)[kChannels<Model>]) {
  if constexpr (Model::kRecurrence.arrival == Arrival::kAfter) join<Model, T>(s, x, r);
}

/// Reads the currents of a neuron from (row, channel, neuron).
template <class Model, class T>
__device__ __forceinline__ void read_currents(const T* from, int64_t row, int64_t neuron, int64_t neurons,
                                              T (&to)[kChannels<Model>]) {
#pragma unroll
  for (int c = 0; c < kChannels<Model>; ++c) to[c] = from[(row * kChannels<Model> + c) * neurons + neuron];
}

template <class T>
__device__ __forceinline__ T* shared_values() {
  extern __shared__ __align__(16) unsigned char shared_memory[];
  return reinterpret_cast<T*>(shared_memory);
}

/// The part of a warp in shared memory, after the weights.
template <class T>
__device__ __forceinline__ T* warp_memory(const RecurrentPlan& plan, int warp) {
  return reinterpret_cast<T*>(shared_values<unsigned char>() + plan.weight_bytes + warp * plan.warp_bytes);
}

template <class Model, class T>
__global__ void __launch_bounds__(most_warps(false) * 32, 1)
    recurrent_forward_kernel(const __grid_constant__ RecurrentForward<T> f,
                             const __grid_constant__ RecurrentGrid<T> g) {
  constexpr int C = kChannels<Model>;
  const RecurrentPlan& plan = g.plan;
  const Place place(plan, f.neurons, g.batch);
  const int stride = plan.block_neurons;
  const T* inputs = static_cast<const T*>(f.input.data);
  uint16_t* list = nullptr;
  if (plan.persistent) {
    list = warp_memory<uint16_t>(plan, place.warp);
    load_columns(g.spike_weights, C * f.neurons, f.neurons, place, stride, shared_values<T>());
    __syncthreads();
  }
  const int64_t begin = plan.persistent ? 0 : g.step, end = plan.persistent ? f.steps : g.step + 1;
  const Exchange exchange{g.words, g.batch, plan.blocks};
  typename Model::template Params<T> p;
  typename Model::template State<T> s;
  T x[C];
  for (int64_t t = begin; t < end; ++t) {
    const T* step_inputs = inputs + t * f.lanes * C;
    for (int64_t row = place.first_row + place.warp; row < place.end_row; row += plan.warps) {
      const int64_t lane = row * f.neurons + place.neuron;
      if (place.active && (t == begin || !place.resident)) {
        p = params_of_lane<Model, T>(f, lane);
        s = make_state<Model, T>([&](int k) { return t == 0 ? f.state[k][lane] : f.final_state[k][lane]; });
        read_currents<Model>(step_inputs, row, place.neuron, f.neurons, x);
      }
      T r[C];
      if (plan.persistent) {
        const T* first_spikes = t == 0 ? f.spikes + row * f.neurons : nullptr;
        const int count = first_spikes ? list_nonzero(first_spikes, f.neurons, place.lane, list)
                                       : list_spikes(exchange, t, row, plan.block_neurons, place.lane, list);
#pragma unroll
        for (int c = 0; c < C; ++c) {
          // Idle lanes sum up another neuron's weights, so that the warp stays together.
          const T* column = shared_values<T>() + c * f.neurons * stride + (place.active ? place.lane : 0);
          r[c] = sum_listed(list, count, column, stride, first_spikes);
        }
        __syncwarp();
      } else if (place.active) {
        read_currents<Model>(g.currents, row, place.neuron, f.neurons, r);
      }
      bool spiked = false;
      if (place.active) {
        typename Model::template Tape<T> tape;
        const T joined = arrive<Model>(s, x, r);
        const T z = advance<Model, T>(s, joined, p, tape);
        arrive_late<Model>(s, x, r);
        spiked = z != T(0);
        const int64_t offset = t * f.lanes + lane;
        static_cast<T*>(f.output)[offset] = z;
        if (f.trace[0]) write_state<Model, T>(s, f.trace, offset);
        const int64_t done = t + 1;
        if (f.checkpoints[0] && done % kRecurrentSegment == 0 && done < f.steps) {
          write_state<Model, T>(s, f.checkpoints, (done / kRecurrentSegment - 1) * f.lanes + lane);
        }
        if (!place.resident || done == f.steps) write_state<Model, T>(s, f.final_state, lane);
        // Under way while the warp waits for the others of the row.
        if (place.resident && done < end)
          read_currents<Model>(step_inputs + f.lanes * C, row, place.neuron, f.neurons, x);
      }
      if (plan.persistent) {
        const uint32_t word = __ballot_sync(~0u, spiked);
        if (place.lane == 0 && t + 1 < end) exchange.publish(t + 1, row, place.block, word);
        __syncwarp();
      }
    }
  }
}

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

template <class Kernel, class Launch, class T>
void launch_recurrent(Kernel kernel, Launch launch, RecurrentGrid<T> grid, void* stream, const char* name) {
  const RecurrentPlan& plan = grid.plan;
  void* arguments[] = {&launch, &grid};
  launch_kernel(kernel, plan.blocks * plan.groups, plan.warps * 32, plan.shared_bytes(), plan.persistent, arguments,
                stream, name);
}

}  // namespace norse_fast::cuda

namespace norse_fast {

template <class Cuda, class Model>
void RecurrentKernels<Cuda, Model>::run(const RecurrentForward<float>& f, const cuda::RecurrentGrid<float>& grid,
                                        void* stream) {
  cuda::launch_recurrent(cuda::recurrent_forward_kernel<Model, float>, f, grid, stream, Model::kName);
}

template <class Cuda, class Model>
void RecurrentKernels<Cuda, Model>::run(const RecurrentForward<double>& f, const cuda::RecurrentGrid<double>& grid,
                                        void* stream) {
  cuda::launch_recurrent(cuda::recurrent_forward_kernel<Model, double>, f, grid, stream, Model::kName);
}

template <class Cuda, class Model>
void RecurrentKernels<Cuda, Model>::run(const RecurrentBackward<float>& b, const cuda::RecurrentGrid<float>& grid,
                                        void* stream) {
  cuda::launch_recurrent(cuda::recurrent_backward_kernel<Model, float>, b, grid, stream, Model::kName);
}

template <class Cuda, class Model>
void RecurrentKernels<Cuda, Model>::run(const RecurrentBackward<double>& b, const cuda::RecurrentGrid<double>& grid,
                                        void* stream) {
  cuda::launch_recurrent(cuda::recurrent_backward_kernel<Model, double>, b, grid, stream, Model::kName);
}

}  // namespace norse_fast
