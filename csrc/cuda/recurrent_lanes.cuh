#pragma once
// What the threads of the recurrent CUDA driver share: their places, the spikes that pass between them, and sums of
// weights over these.

#include "lanes.cuh"

namespace norse_fast::cuda {

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

}  // namespace norse_fast::cuda
