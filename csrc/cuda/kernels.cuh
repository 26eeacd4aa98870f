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

#include "backward.cuh"
#include "forward.cuh"
#include "lane_plan.h"

namespace norse_fast::cuda {

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
