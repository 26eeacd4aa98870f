#pragma once
// The forward kernel of a recurrent layer on a GPU.

#include "recurrent_lanes.cuh"

namespace norse_fast::cuda {

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

}  // namespace norse_fast::cuda
