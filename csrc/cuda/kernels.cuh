#pragma once
// The CUDA driver: one thread walks one lane through all time steps with the state in registers.
//
// A load never depends on the state, so the input of the next steps is fetched before the current ones are computed;
// without that, a narrow layer would wait for memory at every step. Backward repeats one segment at a time and keeps
// what it needs of it in shared memory, where each thread has a column of its own, so nothing synchronises.

#include <stdexcept>
#include <string>
#include <type_traits>

#include "../neurons/model.h"
#include "backend.h"

namespace norse_fast::cuda {

/// Time steps fetched ahead.
inline constexpr int kPrefetch = 16;
static_assert(kSegment % kPrefetch == 0);

inline constexpr int kThreads = 128;

template <class T>
__device__ __forceinline__ T parameter_of_lane(const Parameter<T>& p, bool rate, double dt, int64_t lane) {
  return p.is_shared() ? p.shared : parameter_value<T>(p.values, p.type, lane % p.period, rate, dt);
}

template <class Model, class T>
__device__ __forceinline__ typename Model::template Params<T> params_of_lane(const Problem<T>& problem, int64_t lane) {
  return make_params<Model, T>(
      [&](int k) { return parameter_of_lane(problem.params[k], k < Model::kRates, problem.dt, lane); });
}

/// One lane of rows: element t of the sequence is at data[t * stride].
template <class Stored>
struct Column {
  const Stored* __restrict__ data;
  int64_t stride;

  __device__ __forceinline__ Column(const Rows& rows, int64_t lane)
      : data(rows.data ? static_cast<const Stored*>(rows.data) + (rows.broadcast ? 0 : lane) : nullptr),
        stride(rows.time_stride) {}

  /// Fetches kPrefetch elements from `first` on; those at or beyond `end` are left alone.
  __device__ __forceinline__ void fetch(int64_t first, int64_t end, Stored (&to)[kPrefetch]) const {
#pragma unroll
    for (int k = 0; k < kPrefetch; ++k) {
      if (first + k < end) to[k] = data ? data[(first + k) * stride] : Stored{};
    }
  }
};

template <class Model, class T>
__device__ __forceinline__ void write_state(typename Model::template State<T>& s, T* const* to, int64_t offset) {
  for_each_member<kStateCount<Model>>(s, [&](int k, T& member) { to[k][offset] = member; });
}

template <class Stored, class T>
__device__ __forceinline__ void write_output(T z, void* to, int64_t offset) {
  Stored stored;
  store_rounded(z, stored);
  static_cast<Stored*>(to)[offset] = stored;
}

/// The ordinary output is compiled by itself, so that the others do not cost it anything.
template <class Model, class T, class Stored, bool kAll>
__global__ void __launch_bounds__(kThreads, 1) forward_kernel(const __grid_constant__ Forward<T> f) {
  const int64_t lane = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (lane >= f.lanes) return;
  const auto p = params_of_lane<Model, T>(f, lane);
  auto s = make_state<Model, T>([&](int k) { return f.state[k][lane]; });
  const Column<Stored> input(f.input, lane);
  T reduced = T(0);

  Stored next[kPrefetch];
  input.fetch(0, f.steps, next);
  for (int64_t first = 0; first < f.steps; first += kPrefetch) {
    Stored now[kPrefetch];
#pragma unroll
    for (int k = 0; k < kPrefetch; ++k) now[k] = next[k];
    input.fetch(first + kPrefetch, f.steps, next);
#pragma unroll
    for (int k = 0; k < kPrefetch; ++k) {
      const int64_t t = first + k;
      if (t >= f.steps) break;
      const int64_t offset = t * f.lanes + lane;
      typename Model::template Tape<T> tape;
      const T z = advance<Model, T>(s, load_stored(now[k]), p, tape);
      if constexpr (kAll) {
        write_output<Stored>(z, f.output, offset);
      } else if (is_reduced(f.kind)) {
        reduced = f.kind == Output::kSum && t > 0 ? reduced + z : z;
      } else {
        write_output<uint8_t>(z, f.output, offset);
      }
      if (f.trace[0]) write_state<Model, T>(s, f.trace, offset);
    }
    const int64_t done = first + kPrefetch;
    if (f.checkpoints[0] && done % kSegment == 0 && done < f.steps) {
      write_state<Model, T>(s, f.checkpoints, (done / kSegment - 1) * f.lanes + lane);
    }
  }
  if (!kAll && is_reduced(f.kind)) static_cast<T*>(f.output)[lane] = reduced;
  write_state<Model, T>(s, f.final_state, lane);
}

/// What one thread of backward keeps of every step of a segment, in a column of the shared memory: the gradient of the
/// output, and the tape; or, where gradients of parameters are wanted, the state before the step and the input. The
/// less it is, the more threads a multiprocessor has to choose from while others wait.
template <class Model, class T, bool kWithParams>
struct SharedColumn {
  static constexpr int kKept = kWithParams ? kStateCount<Model> + 1 : kTapeCount<Model>;
  static constexpr int kValues = kSegment * (kKept + 1);
  // As many as share the memory that every supported GPU gives to a block.
  static constexpr int kThreads =
      kValues * static_cast<int>(sizeof(T)) * cuda::kThreads <= 96 * 1024 ? cuda::kThreads : cuda::kThreads / 4;
  static constexpr int kBytes = kValues * kThreads * static_cast<int>(sizeof(T));
  T* base;

  __device__ __forceinline__ T& kept(int s, int k) const { return base[(s * kKept + k) * kThreads]; }
  __device__ __forceinline__ T& grad_output(int s) const { return base[(kSegment * kKept + s) * kThreads]; }

  /// The input waits in the last of the values, of which a tape then takes the place.
  __device__ __forceinline__ T& input(int s) const { return kept(s, kKept - 1); }
};

/// The surrogate derivative as vjp calls it.
template <class T>
struct SurrogateOf {
  Surrogate kind;
  T alpha;

  __device__ __forceinline__ T operator()(int, T u) const {
    T derivative = T(0);
    dispatch_surrogate(kind,
                       [&](auto constant) { derivative = surrogate_derivative<decltype(constant)::value>(u, alpha); });
    return derivative;
  }
};

template <class Model, class T, class Stored, bool kWithParams>
__global__ void __launch_bounds__(SharedColumn<Model, T, kWithParams>::kThreads, 1)
    backward_kernel(const __grid_constant__ Backward<T> b) {
  extern __shared__ __align__(16) unsigned char shared_memory[];
  using Kept = SharedColumn<Model, T, kWithParams>;
  const int64_t lane = static_cast<int64_t>(blockIdx.x) * Kept::kThreads + threadIdx.x;
  if (lane >= b.lanes) return;
  const Kept column{reinterpret_cast<T*>(shared_memory) + threadIdx.x};
  const auto p = params_of_lane<Model, T>(b, lane);
  const T alpha = parameter_of_lane(b.alpha, false, b.dt, lane);
  const Column<Stored> input(b.input, lane), grad_output(b.grad_output, lane);
  auto grad = make_state<Model, T>([&](int k) { return b.grad_final_state[k] ? b.grad_final_state[k][lane] : T(0); });
  auto grad_params = make_params<Model, T>([](int) { return T(0); });
  const T grad_reduced = b.grad_reduced ? b.grad_reduced[lane] : T(0);

  for (int64_t segment = b.steps > 0 ? checkpoint_count(b.steps) : -1; segment >= 0; --segment) {
    const int64_t start = segment * kSegment;
    const int length = static_cast<int>(b.steps - start < kSegment ? b.steps - start : kSegment);
#pragma unroll 1
    for (int first = 0; first < length; first += kPrefetch) {
      Stored x[kPrefetch], g[kPrefetch];
      if constexpr (Kept::kKept > 0) input.fetch(start + first, b.steps, x);
      grad_output.fetch(start + first, b.steps, g);
#pragma unroll
      for (int k = 0; k < kPrefetch; ++k) {
        if (first + k >= length) break;
        if constexpr (Kept::kKept > 0) column.input(first + k) = load_stored(x[k]);
        column.grad_output(first + k) = !b.grad_reduced                      ? load_stored(g[k])
                                        : start + first + k < b.reduced_from ? T(0)
                                                                             : grad_reduced;
      }
    }
    if constexpr (Kept::kKept > 0) {
      auto s = make_state<Model, T>(
          [&](int k) { return segment == 0 ? b.state[k][lane] : b.checkpoints[k][(segment - 1) * b.lanes + lane]; });
#pragma unroll 1
      for (int step = 0; step < length; ++step) {
        typename Model::template Tape<T> tape;
        if constexpr (kWithParams) {
          for_each_member<kStateCount<Model>>(s, [&](int k, T& member) { column.kept(step, k) = member; });
        }
        advance<Model, T>(s, column.input(step), p, tape);
        if constexpr (!kWithParams) {
          for_each_member<kTapeCount<Model>>(tape, [&](int k, T& member) { column.kept(step, k) = member; });
        }
      }
    }
#pragma unroll 1
    for (int step = length - 1; step >= 0; --step) {
      const int64_t offset = (start + step) * b.lanes + lane;
      if (b.grad_trace[0]) {
        for_each_member<kStateCount<Model>>(grad, [&](int k, T& member) { member += b.grad_trace[k][offset]; });
      }
      const SurrogateOf<T> surrogate{b.surrogate, alpha};
      T grad_x;
      if constexpr (kWithParams) {
        const auto s = make_state<Model, T>([&](int k) { return column.kept(step, k); });
        const T x = column.input(step);
        auto next = s;
        typename Model::template Tape<T> tape;
        advance<Model, T>(next, x, p, tape);
        grad_x = Model::vjp(s, x, p, tape, surrogate, column.grad_output(step), grad, grad_params);
      } else {
        const auto tape = make_tape<Model, T>([&](int k) { return column.kept(step, k); });
        // Only gradients of parameters need the state and the input.
        const auto s = make_state<Model, T>([](int) { return T(0); });
        auto scratch = make_params<Model, T>([](int) { return T(0); });
        grad_x = Model::vjp(s, T(0), p, tape, surrogate, column.grad_output(step), grad, scratch);
      }
      if (b.grad_input) write_output<Stored>(grad_x, b.grad_input, offset);
    }
  }
  write_state<Model, T>(grad, b.grad_state, lane);
  if constexpr (kWithParams) {
    for_each_member<kParamCount<Model>>(grad_params, [&](int k, T& member) {
      b.grad_params[k * b.lanes + lane] = k < Model::kRates ? member * static_cast<T>(b.dt) : member;
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

/// One thread per lane.
template <class Kernel, class Launch>
void launch_lanes(Kernel* kernel, Launch launch, int threads, int shared_bytes, void* stream, const char* name) {
  const int64_t blocks = (launch.lanes + threads - 1) / threads;
  if (blocks >= int64_t{1} << 31) {
    throw std::runtime_error("norse_fast: " + std::to_string(launch.lanes) +
                             " neurons are more than one launch can take");
  }
  void* arguments[] = {&launch};
  launch_kernel(kernel, blocks, threads, shared_bytes, false, arguments, stream, name);
}

/// Calls f with a value of the type that the input is stored in, where T is computed in.
template <class T, class F>
void dispatch_storage(Storage storage, F f) {
  if constexpr (std::is_same_v<T, double>) {
    return f(double{});
  } else {
    switch (storage) {
      case Storage::kHalf:
        return f(Half{});
      case Storage::kBFloat16:
        return f(BFloat16{});
      default:
        return f(float{});
    }
  }
}

template <class Model, class T>
void launch_forward(const Forward<T>& f, void* stream) {
  dispatch_storage<T>(f.storage, [&](auto stored) {
    using Stored = decltype(stored);
    auto kernel =
        f.kind == Output::kAll ? forward_kernel<Model, T, Stored, true> : forward_kernel<Model, T, Stored, false>;
    launch_lanes(kernel, f, kThreads, 0, stream, Model::kName);
  });
}

template <class Model, class T>
void launch_backward(const Backward<T>& b, void* stream) {
  dispatch_storage<T>(b.storage, [&](auto stored) {
    using Stored = decltype(stored);
    const auto launch = [&](auto with_params) {
      using Kept = SharedColumn<Model, T, decltype(with_params)::value>;
      launch_lanes(backward_kernel<Model, T, Stored, decltype(with_params)::value>, b, Kept::kThreads, Kept::kBytes,
                   stream, Model::kName);
    };
    b.grad_params ? launch(std::true_type{}) : launch(std::false_type{});
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
