#pragma once
// The CUDA driver: one thread walks one lane through all time steps with the state in registers; or two neighbouring
// lanes, which are one access to memory and one round of the loop (see lane_plan.h).
//
// A load never depends on the state, so the input of the next steps is fetched before the current ones are computed;
// without that, a narrow layer would wait for memory at every step. Backward repeats one segment at a time and keeps
// what it needs of it in shared memory, where each thread has a column of its own, so nothing synchronises.

#include <stdexcept>
#include <string>
#include <type_traits>

#include "../core/surrogates.h"
#include "../neurons/model.h"
#include "backend.h"
#include "lane_plan.h"

namespace norse_fast::cuda {

inline constexpr int kThreads = 128;

/// Out of line: it runs once per lane and parameter, but would be the larger part of a kernel's code.
template <class T>
__device__ __noinline__ T parameter_at(const void* values, Storage type, int64_t lane, int64_t period, bool rate,
                                       double dt) {
  return parameter_value<T>(values, type, lane % period, rate, dt);
}

template <class T>
__device__ __forceinline__ T parameter_of_lane(const Parameter<T>& p, bool rate, double dt, int64_t lane) {
  return p.is_shared() ? p.shared : parameter_at<T>(p.values, p.type, lane, p.period, rate, dt);
}

template <class Model, class T>
__device__ __forceinline__ typename Model::template Params<T> params_of_lane(const Problem<T>& problem, int64_t lane) {
  return make_params<Model, T>(
      [&](int k) { return parameter_of_lane(problem.params[k], k < Model::kRates, problem.dt, lane); });
}

/// Values of neighbouring lanes, which one thread reads and writes in one access.
template <class T, int kWidth>
struct alignas(sizeof(T) * kWidth) Pack {
  T of[kWidth];
};

/// The same as they are stored: two of 16 bits in one register.
template <class Stored, int kWidth>
using Word = std::conditional_t<kWidth == 2 && sizeof(Stored) == 2, uint32_t, Pack<Stored, kWidth>>;

template <class Stored, class T, int kWidth>
__device__ __forceinline__ Pack<T, kWidth> unpack(Word<Stored, kWidth> word) {
  if constexpr (std::is_same_v<Word<Stored, kWidth>, uint32_t>) {
    return {load_stored(Stored{static_cast<uint16_t>(word)}), load_stored(Stored{static_cast<uint16_t>(word >> 16)})};
  } else {
    Pack<T, kWidth> values;
#pragma unroll
    for (int l = 0; l < kWidth; ++l) values.of[l] = load_stored(word.of[l]);
    return values;
  }
}

/// One instruction rounds two lanes.
template <class Stored>
__device__ __forceinline__ uint32_t pack_rounded(float low, float high) {
#ifdef __CUDA_ARCH__
  uint32_t word;
  if constexpr (std::is_same_v<Stored, Half>) {
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(high), "f"(low));
  } else {
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(high), "f"(low));
  }
  return word;
#else
  Stored stored[2];
  store_rounded(low, stored[0]);
  store_rounded(high, stored[1]);
  return stored[0].bits | static_cast<uint32_t>(stored[1].bits) << 16;
#endif
}

template <class Stored, class T, int kWidth>
__device__ __forceinline__ void write_output(const Pack<T, kWidth>& z, Stored* at) {
  if constexpr (kWidth == 2 && sizeof(Stored) == 2) {
    *reinterpret_cast<uint32_t*>(at) = pack_rounded<Stored>(z.of[0], z.of[1]);
  } else {
    Pack<Stored, kWidth> stored;
#pragma unroll
    for (int l = 0; l < kWidth; ++l) store_rounded(z.of[l], stored.of[l]);
    *reinterpret_cast<Pack<Stored, kWidth>*>(at) = stored;
  }
}

/// Time steps that a thread fetches ahead: 64 bytes of them, or 16.
template <class Stored, int kWidth>
inline constexpr int kAhead = sizeof(Word<Stored, kWidth>) > 4 ? 8 : 16;

/// Time steps from `first` on that are fetched or computed together: kCount, or those before `end`.
template <int kCount>
__device__ __forceinline__ int count_steps(int64_t first, int64_t end) {
  return end - first < kCount ? static_cast<int>(end - first) : kCount;
}

/// The lanes of a thread in rows: those of step t are at data[t * stride].
template <class Stored, int kWidth>
struct Column {
  const Stored* __restrict__ data;
  int64_t stride;

  __device__ __forceinline__ Column(const Rows& rows, int64_t lane)
      : data(rows.data ? static_cast<const Stored*>(rows.data) + (rows.broadcast ? 0 : lane) : nullptr),
        stride(rows.time_stride) {}

  /// Fetches the steps from `first` on, or those before `end`, and leaves the others alone.
  template <int kCount>
  __device__ __forceinline__ void fetch(int64_t first, int64_t end, Word<Stored, kWidth> (&to)[kCount]) const {
    if (!data) {
#pragma unroll
      for (int k = 0; k < kCount; ++k) to[k] = Word<Stored, kWidth>{};
      return;
    }
    const Stored* at = data + first * stride;
    const int count = count_steps<kCount>(first, end);
    // The steps of a whole fetch need not be compared with its end.
    if (count == kCount) {
#pragma unroll
      for (int k = 0; k < kCount; ++k, at += stride) to[k] = *reinterpret_cast<const Word<Stored, kWidth>*>(at);
    } else {
#pragma unroll
      for (int k = 0; k < kCount; ++k, at += stride) {
        if (k < count) to[k] = *reinterpret_cast<const Word<Stored, kWidth>*>(at);
      }
    }
  }
};

/// Calls f(k, pack) with member k of the structs of all lanes of a thread.
template <int kCount, class T, int kWidth, class Struct, class F>
__device__ __forceinline__ void for_each_pack(Struct (&structs)[kWidth], F f) {
  if constexpr (kCount > 0) {
    Pack<T, kWidth> packs[kCount];
#pragma unroll
    for (int l = 0; l < kWidth; ++l) {
      for_each_member<kCount>(structs[l], [&](int k, T& member) { packs[k].of[l] = member; });
    }
#pragma unroll
    for (int k = 0; k < kCount; ++k) f(k, packs[k]);
  }
}

template <class Model, class T, int kWidth>
__device__ __forceinline__ void write_states(typename Model::template State<T> (&s)[kWidth], T* const* to,
                                             int64_t offset) {
  for_each_pack<kStateCount<Model>, T, kWidth>(
      s, [&](int k, const Pack<T, kWidth>& member) { *reinterpret_cast<Pack<T, kWidth>*>(to[k] + offset) = member; });
}

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
    return grad_z * derivative(k, u);
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
    return grad_z * DefaultSurrogate::derivative(u, alpha);
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

inline void check(cudaError_t status, const char* name) {
  if (status != cudaSuccess) {
    throw std::runtime_error(std::string("norse_fast: ") + name + " failed on the GPU: " + cudaGetErrorString(status));
  }
}

/// Launches a kernel; in a `cooperative` launch all blocks are resident, and may wait for each other.
template <class Kernel>
void launch_kernel(Kernel* kernel, int64_t blocks, int threads, int shared_bytes, bool cooperative, void** arguments,
                   void* stream, const char* name) {
  constexpr int kDefaultLimit = 48 * 1024;
  if (shared_bytes > kDefaultLimit) {
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_bytes), name);
  }
  const auto launch = cooperative ? cudaLaunchCooperativeKernel<Kernel> : cudaLaunchKernel<Kernel>;
  check(launch(kernel, dim3(static_cast<unsigned>(blocks)), dim3(threads), arguments, shared_bytes,
               static_cast<cudaStream_t>(stream)),
        name);
}

/// Blocks of `threads` threads, of `width` lanes each.
template <class Kernel, class Launch>
void launch_lanes(Kernel* kernel, Launch launch, int width, int threads, int shared_bytes, void* stream,
                  const char* name) {
  const int64_t lanes = int64_t{threads} * width;
  const int64_t blocks = (launch.lanes + lanes - 1) / lanes;
  if (blocks >= int64_t{1} << 31) {
    throw std::runtime_error("norse_fast: " + std::to_string(launch.lanes) +
                             " neurons are more than one launch can take");
  }
  void* arguments[] = {&launch};
  launch_kernel(kernel, blocks, threads, shared_bytes, false, arguments, stream, name);
}

/// Calls f with a value of the type that the input is stored in, where T is computed in, and how many lanes a thread
/// computes, as a constant; see lanes_per_thread.
template <class T, bool kBackward, class F>
void dispatch_lanes(Storage storage, int width, F f) {
  constexpr std::integral_constant<int, 1> kOne{};
  if constexpr (std::is_same_v<T, double>) {
    return f(double{}, kOne);
  } else {
    constexpr std::integral_constant<int, 2> kPair{};
    switch (storage) {
      case Storage::kHalf:
        return width == 2 ? f(Half{}, kPair) : f(Half{}, kOne);
      case Storage::kBFloat16:
        return width == 2 ? f(BFloat16{}, kPair) : f(BFloat16{}, kOne);
      default:
        if constexpr (kBackward) {
          if (width == 2) return f(float{}, kPair);
        }
        return f(float{}, kOne);
    }
  }
}

template <class Model, class T>
void launch_forward(const Forward<T>& f, void* stream) {
  const bool plain = f.kind == Output::kAll && !f.trace[0];
  // What is rarer has a lane per thread, and so half the code.
  const int lanes = plain ? lanes_per_thread(f.storage, false, f.lanes, {f.input}) : 1;
  dispatch_lanes<T, false>(f.storage, lanes, [&](auto stored, auto width) {
    using Stored = decltype(stored);
    constexpr int kWidth = decltype(width)::value;
    auto kernel = forward_kernel<Model, T, Stored, kWidth, true>;
    if constexpr (kWidth == 1) {
      if (!plain) kernel = forward_kernel<Model, T, Stored, kWidth, false>;
    }
    launch_lanes(kernel, f, kWidth, kThreads, 0, stream, Model::kName);
  });
}

template <class Model, class T>
void launch_backward(const Backward<T>& b, void* stream) {
  const int lanes = b.grad_params ? 1 : lanes_per_thread(b.storage, true, b.lanes, {b.input, b.grad_output});
  dispatch_lanes<T, true>(b.storage, lanes, [&](auto stored, auto width) {
    using Stored = decltype(stored);
    constexpr int kWidth = decltype(width)::value;
    const auto launch = [&](auto with_params) {
      constexpr bool kWithParams = decltype(with_params)::value;
      using Kept = SharedColumn<Model, T, Stored, kWidth, kWithParams>;
      launch_lanes(backward_kernel<Model, T, Stored, kWidth, kWithParams>, b, kWidth, Kept::kThreads, Kept::kBytes,
                   stream, Model::kName);
    };
    if constexpr (kWidth == 1) {
      if (b.grad_params) return launch(std::true_type{});
    }
    launch(std::false_type{});
  });
}

}  // namespace norse_fast::cuda

namespace norse_fast {

using Backend = cuda::Cuda;

template <class Cuda, class Model>
void Kernels<Cuda, Model>::run(const Forward<float>& f, Where stream) {
  cuda::launch_forward<Model>(f, stream);
}

template <class Cuda, class Model>
void Kernels<Cuda, Model>::run(const Forward<double>& f, Where stream) {
  cuda::launch_forward<Model>(f, stream);
}

template <class Cuda, class Model>
void Kernels<Cuda, Model>::run(const Backward<float>& b, Where stream) {
  cuda::launch_backward<Model>(b, stream);
}

template <class Cuda, class Model>
void Kernels<Cuda, Model>::run(const Backward<double>& b, Where stream) {
  cuda::launch_backward<Model>(b, stream);
}

}  // namespace norse_fast
