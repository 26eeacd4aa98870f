#pragma once
// The forward kernel of a GPU: a thread walks its lanes through all time steps.

#include "lanes.cuh"

namespace norse_fast::cuda {

/// Blocks that a multiprocessor shall have room for at once: with 8, of 64 registers a thread, all lanes of a usual
/// layer are on their way at the same time, or in two turns of the same length. Larger models would spill, and LIF does
/// where halves are unpacked as well.
template <class Model, class T, class Stored, bool kPlain>
inline constexpr int kForwardBlocks =
    kPlain && sizeof(T) == 4 && !kHasExponent<Model> && kStateCount<Model> + kParamCount<Model> <= 8
        ? (sizeof(Stored) < 4 ? 7 : 8)
        : 1;

/// Outputs of all steps, without a trace, are compiled by themselves, so that the others do not cost them anything.
template <class Model, class T, class Stored, int kWidth, bool kPlain>
__global__ void __launch_bounds__(kThreads, kForwardBlocks<Model, T, Stored, kPlain>)
    forward_kernel(const __grid_constant__ Forward<T> f) {
  constexpr int kPrefetch = kAhead<Stored, kWidth>;
  static_assert(kSegment % kPrefetch == 0);
  const int64_t lane = (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) * kWidth;
  if (lane >= f.lanes) return;
  typename Model::template Params<T> p[kWidth];
  typename Model::template State<T> s[kWidth];
#pragma unroll
  for (int l = 0; l < kWidth; ++l) {
    p[l] = params_of_lane<Model, T>(f, lane + l);
    s[l] = make_state<Model, T>([&](int k) { return f.initial(k, lane + l); });
  }
  const Column<Stored, kWidth> input(f.input, lane);
  Pack<T, kWidth> reduced{};

  Word<Stored, kWidth> next[kPrefetch] = {};
  Stored* output = static_cast<Stored*>(f.output) + lane;  // of all steps: a row on at each
  int64_t offset = lane;
  // The first round only fetches.
  for (int64_t first = -kPrefetch; first < f.steps; first += kPrefetch) {
    Word<Stored, kWidth> now[kPrefetch];
#pragma unroll
    for (int k = 0; k < kPrefetch; ++k) now[k] = next[k];
    const int64_t done = first + kPrefetch;
    input.fetch(done, f.steps, next);
    if (first < 0) continue;
    const int count = count_steps<kPrefetch>(first, f.steps);
#pragma unroll
    for (int k = 0; k < kPrefetch; ++k) {
      if (k >= count) break;
      const Pack<T, kWidth> x = unpack<Stored, T, kWidth>(now[k]);
      Pack<T, kWidth> z;
#pragma unroll
      for (int l = 0; l < kWidth; ++l) {
        typename Model::template Tape<T> tape;
        z.of[l] = advance<Model, T>(s[l], x.of[l], p[l], tape);
      }
      if constexpr (kPlain) {
        write_output(z, output);
        output += f.lanes;
      } else {
        if (f.kind == Output::kAll) {
          write_output(z, static_cast<Stored*>(f.output) + offset);
        } else if (is_reduced(f.kind)) {
          const bool add = f.kind == Output::kSum && first + k > 0;
#pragma unroll
          for (int l = 0; l < kWidth; ++l) reduced.of[l] = add ? reduced.of[l] + z.of[l] : z.of[l];
        } else {
          write_output(z, static_cast<uint8_t*>(f.output) + offset);
        }
        if (f.trace[0]) write_states<Model>(s, f.trace, offset);
        offset += f.lanes;
      }
    }
    if (f.checkpoints[0] && done % kSegment == 0 && done < f.steps) {
      write_states<Model>(s, f.checkpoints, (done / kSegment - 1) * f.lanes + lane);
    }
  }
  if (!kPlain && is_reduced(f.kind)) write_output(reduced, static_cast<T*>(f.output) + lane);
  write_states<Model>(s, f.final_state, lane);
}

}  // namespace norse_fast::cuda
