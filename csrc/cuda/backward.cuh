#pragma once
// The backward kernel of a GPU: a thread walks its lanes back, a segment at a time.

#include "../core/surrogates.h"
#include "lanes.cuh"

namespace norse_fast::cuda {

/// What one thread of backward keeps in a column of the shared memory: of every step of a segment the tape, or, where
/// gradients of parameters are wanted, the state before the step and the input; and values of a few steps that wait.
/// The less it is, the more threads a multiprocessor has to choose from while others wait.
template <class Model, class T, class Stored, int kWidth, bool kWithParams>
struct SharedColumn {
  using Value = Pack<T, kWidth>;
  static constexpr int kKept = kWithParams ? kStateCount<Model> + 1 : kTapeCount<Model>;
  static constexpr int kPrefetch = kAhead<Stored, kWidth>;
  static constexpr int kBytesOfThread = (kSegment * kKept + kPrefetch) * static_cast<int>(sizeof(Value));
  // As many lanes as one thread each would be, where they share the memory that every supported GPU gives to a block.
  static constexpr int kMostThreads = cuda::kThreads / kWidth;
  static constexpr int kThreads = kBytesOfThread * kMostThreads <= 96 * 1024 ? kMostThreads : 32;
  static constexpr int kBytes = kBytesOfThread * kThreads;
  Value* base;

  __device__ __forceinline__ Value& kept(int s, int k) const { return base[(s * kKept + k) * kThreads]; }
  __device__ __forceinline__ Value& waiting(int k) const { return base[(kSegment * kKept + k) * kThreads]; }
};

/// The spike functions of a step as vjp calls them; `at` is the place of the lane in the rows of all steps.
template <class T>
struct SurrogateOf {
  const Backward<T>& b;
  T alpha;
  int64_t at;

  __device__ __forceinline__ T operator()(int k, T u, T grad_z) const {
    if (b.wanted != Spikes::kNothing) b.of_spikes[k][at] = b.wanted == Spikes::kDistances ? u : grad_z;
    return b.is_differentiable() ? chain(grad_z, derivative(k, u)) : T(0);
  }

 private:
  __device__ __forceinline__ T derivative(int k, T u) const {
    if (b.derivatives[0]) return b.derivatives[k][at];
    // The default is worth a comparison of its own: the others are compared with one by one.
    if (b.surrogate == kDefaultSurrogate) return DefaultSurrogate::derivative(u, alpha);
    T derivative = T(0);
    Surrogates::visit(b.surrogate, [&](auto which) { derivative = decltype(which)::derivative(u, alpha); });
    return derivative;
  }
};

/// The default, without a choice.
template <class T>
struct DefaultSurrogateOf {
  T alpha;

  __device__ __forceinline__ T operator()(int, T u, T grad_z) const {
    return chain(grad_z, DefaultSurrogate::derivative(u, alpha));
  }
};

/// Some steps on the way of backward: forward through a segment to compute again what vjp needs of its steps, then
/// back; only back where vjp needs nothing.
template <int kPrefetch>
struct Part {
  static_assert(kSegment % kPrefetch == 0);
  static constexpr int64_t kOfSegment = kSegment / kPrefetch;
  int64_t index;  // negative: none
  bool back;

  __device__ __forceinline__ static Part first(int64_t parts, bool recomputes) {
    if (parts == 0 || !recomputes) return {parts - 1, true};
    return {(parts - 1) / kOfSegment * kOfSegment, false};
  }

  __device__ __forceinline__ bool begins_segment() const { return !back && index % kOfSegment == 0; }

  __device__ __forceinline__ Part following(int64_t parts, bool recomputes) const {
    if (back) return recomputes && index % kOfSegment == 0 ? Part{index - kOfSegment, false} : Part{index - 1, true};
    const bool last = (index + 1) % kOfSegment == 0 || index + 1 == parts;
    return last ? Part{index, true} : Part{index + 1, false};
  }
};

template <class Model, class T, class Stored, int kWidth, bool kWithParams>
__global__ void __launch_bounds__(SharedColumn<Model, T, Stored, kWidth, kWithParams>::kThreads, 1)
    backward_kernel(const __grid_constant__ Backward<T> b) {
  extern __shared__ __align__(16) unsigned char shared_memory[];
  using Kept = SharedColumn<Model, T, Stored, kWidth, kWithParams>;
  using Value = Pack<T, kWidth>;
  constexpr int kStates = kStateCount<Model>;
  constexpr int kPrefetch = Kept::kPrefetch;
  constexpr bool kRecomputes = Kept::kKept > 0;
  const int64_t lane = (static_cast<int64_t>(blockIdx.x) * Kept::kThreads + threadIdx.x) * kWidth;
  if (lane >= b.lanes) return;
  const Kept column{reinterpret_cast<Value*>(shared_memory) + threadIdx.x};
  const Column<Stored, kWidth> input(b.input, lane), grad_output(b.grad_output, lane);
  typename Model::template Params<T> p[kWidth], grad_params[kWidth];
  typename Model::template State<T> s[kWidth], grad[kWidth];
  T alpha[kWidth];
#pragma unroll
  for (int l = 0; l < kWidth; ++l) {
    p[l] = params_of_lane<Model, T>(b, lane + l);
    grad_params[l] = make_params<Model, T>([](int) { return T(0); });
    grad[l] =
        make_state<Model, T>([&](int k) { return b.grad_final_state[k] ? b.grad_final_state[k][lane + l] : T(0); });
    alpha[l] = parameter_of_lane(b.alpha, false, b.dt, lane + l);
  }

  const auto advance_lanes = [&](int step, const Value& x) {
    if constexpr (kWithParams) {
      for_each_pack<kStates, T, kWidth>(s, [&](int k, const Value& member) { column.kept(step, k) = member; });
      column.kept(step, kStates) = x;
    }
    typename Model::template Tape<T> tape[kWidth];
#pragma unroll
    for (int l = 0; l < kWidth; ++l) advance<Model, T>(s[l], x.of[l], p[l], tape[l]);
    if constexpr (!kWithParams) {
      for_each_pack<kTapeCount<Model>, T, kWidth>(tape,
                                                  [&](int k, const Value& member) { column.kept(step, k) = member; });
    }
  };
  const auto step_back = [&](int step, const Value& grad_z, auto surrogate_of) {
    Value kept[kRecomputes ? Kept::kKept : 1], grad_x;
#pragma unroll
    for (int k = 0; k < Kept::kKept; ++k) kept[k] = column.kept(step, k);
#pragma unroll
    for (int l = 0; l < kWidth; ++l) {
      const auto surrogate = surrogate_of(l);
      if constexpr (kWithParams) {
        const auto before = make_state<Model, T>([&](int k) { return kept[k].of[l]; });
        const T x = kept[kStates].of[l];
        auto next = before;
        typename Model::template Tape<T> tape;
        advance<Model, T>(next, x, p[l], tape);
        grad_x.of[l] = Model::vjp(before, x, p[l], tape, surrogate, grad_z.of[l], grad[l], grad_params[l]);
      } else {
        const auto tape = make_tape<Model, T>([&](int k) { return kept[k].of[l]; });
        // Only gradients of parameters need the state and the input.
        const auto before = make_state<Model, T>([](int) { return T(0); });
        auto scratch = make_params<Model, T>([](int) { return T(0); });
        grad_x.of[l] = Model::vjp(before, T(0), p[l], tape, surrogate, grad_z.of[l], grad[l], scratch);
      }
    }
    return grad_x;
  };

  const int64_t parts = (b.steps + kPrefetch - 1) / kPrefetch;
  // Steps of what nearly all calls ask for are laid out one after another, without a branch.
  const bool plain = b.is_default() && !b.grad_trace[0] && !b.grad_reduced && b.grad_input;
  Stored* const grad_input = static_cast<Stored*>(b.grad_input) + lane;
  Word<Stored, kWidth> next[kPrefetch] = {};
  // The first round only fetches.
  using Steps = Part<kPrefetch>;
  Steps now{-1, true}, upcoming = Steps::first(parts, kRecomputes);
  while (true) {
    Word<Stored, kWidth> values[kPrefetch];
#pragma unroll
    for (int k = 0; k < kPrefetch; ++k) values[k] = next[k];
    const bool computes = now.index >= 0, fetches = upcoming.index >= 0;
    const int64_t start = now.index * kPrefetch;
    const int count = count_steps<kPrefetch>(start, b.steps), first = static_cast<int>(start % kSegment);
    if (fetches) {
      Column<Stored, kWidth> from = input;
      if (upcoming.back) from = grad_output;
      from.fetch(upcoming.index * kPrefetch, b.steps, next);
    }
    if (computes && !now.back) {
      if constexpr (kRecomputes) {
        if (count == kPrefetch) {
#pragma unroll
          for (int k = 0; k < kPrefetch; ++k) advance_lanes(first + k, unpack<Stored, T, kWidth>(values[k]));
        } else {
#pragma unroll
          for (int k = 0; k < kPrefetch; ++k) column.waiting(k) = unpack<Stored, T, kWidth>(values[k]);
#pragma unroll 1
          for (int k = 0; k < count; ++k) advance_lanes(first + k, column.waiting(k));
        }
      }
    } else if (computes && plain && count == kPrefetch) {
      Stored* to = grad_input + (start + kPrefetch - 1) * b.lanes;
#pragma unroll
      for (int k = kPrefetch - 1; k >= 0; --k, to -= b.lanes) {
        write_output(step_back(first + k, unpack<Stored, T, kWidth>(values[k]),
                               [&](int l) { return DefaultSurrogateOf<T>{alpha[l]}; }),
                     to);
      }
    } else if (computes) {
#pragma unroll
      for (int k = 0; k < kPrefetch; ++k) column.waiting(k) = unpack<Stored, T, kWidth>(values[k]);
#pragma unroll 1
      for (int k = count - 1; k >= 0; --k) {
        const int64_t offset = (start + k) * b.lanes + lane;
        Value grad_z = column.waiting(k);
#pragma unroll
        for (int l = 0; l < kWidth; ++l) {
          if (b.grad_reduced && start + k >= b.reduced_from) grad_z.of[l] = b.grad_reduced[lane + l];
          if (b.grad_trace[0]) {
            for_each_member<kStates>(grad[l], [&](int m, T& member) { member += b.grad_trace[m][offset + l]; });
          }
        }
        const Value grad_x =
            step_back(first + k, grad_z, [&](int l) { return SurrogateOf<T>{b, alpha[l], offset + l}; });
        if (b.grad_input) write_output(grad_x, static_cast<Stored*>(b.grad_input) + offset);
      }
    }
    if (!fetches) break;
    // The states are free between two segments.
    if (upcoming.begins_segment()) {
      const int64_t segment = upcoming.index / Steps::kOfSegment;
#pragma unroll
      for (int l = 0; l < kWidth; ++l) {
        s[l] = make_state<Model, T>([&](int k) {
          return segment == 0 ? b.initial(k, lane + l) : b.checkpoints[k][(segment - 1) * b.lanes + lane + l];
        });
      }
    }
    now = upcoming;
    upcoming = upcoming.following(parts, kRecomputes);
  }
  write_states<Model>(grad, b.grad_state, lane);
  if constexpr (kWithParams) {
    for_each_pack<kParamCount<Model>, T, kWidth>(grad_params, [&](int k, Value member) {
#pragma unroll
      for (int l = 0; l < kWidth; ++l)
        member.of[l] = k < Model::kRates ? member.of[l] * static_cast<T>(b.dt) : member.of[l];
      *reinterpret_cast<Value*>(b.grad_params + k * b.lanes + lane) = member;
    });
  }
}

}  // namespace norse_fast::cuda
