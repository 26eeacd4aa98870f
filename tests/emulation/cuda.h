#pragma once
// As much of CUDA as the kernels use, on the CPU, for tests of their logic without a GPU. Included before everything
// else in place of the CUDA headers.
//
// A thread of a block is a fiber, which runs until it waits for others; the order in which they run is random. Blocks
// of a cooperative launch run at the same time. Memory is not emulated: what one thread writes, others see at once.

#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>

#define __host__
#define __device__
#define __global__
#define __forceinline__ inline
#define __noinline__
#define __launch_bounds__(...)
#define __grid_constant__
#define __shared__ __thread
#define __align__(n) __attribute__((aligned(n)))

struct dim3 {
  unsigned x, y, z;
  dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

enum cudaError_t { cudaSuccess, cudaErrorInvalidValue };
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize };
enum cudaDeviceAttr {
  cudaDevAttrCooperativeLaunch,
  cudaDevAttrMultiProcessorCount,
  cudaDevAttrMaxSharedMemoryPerBlockOptin
};
using cudaStream_t = void*;

namespace emulation {

struct Thread {
  dim3 index, block, block_size;
};

/// The thread that runs.
Thread& current();

/// The GPU: multiprocessors, and shared memory per block.
extern int limits[2];

/// Those of the last launch, in all its blocks.
extern int64_t threads;

/// Waits for the threads of the warp or of the block that have not returned.
void wait(bool warp);

/// Hands a value to the other lanes of the warp; returns those of all.
const uint64_t* share(uint64_t value);

cudaError_t launch(const std::function<void()>& kernel, dim3 blocks, dim3 threads, size_t shared_bytes,
                   bool cooperative);

template <class... Arguments, size_t... kIndex>
std::function<void()> with_arguments(void (*kernel)(Arguments...), void** arguments, std::index_sequence<kIndex...>) {
  return [=] { kernel(*static_cast<std::remove_const_t<Arguments>*>(arguments[kIndex])...); };
}

template <class... Arguments>
std::function<void()> with_arguments(void (*kernel)(Arguments...), void** arguments) {
  return with_arguments(kernel, arguments, std::index_sequence_for<Arguments...>());
}

}  // namespace emulation

#define threadIdx (::emulation::current().index)
#define blockIdx (::emulation::current().block)
#define blockDim (::emulation::current().block_size)

inline const char* cudaGetErrorString(cudaError_t) { return "invalid launch"; }
inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr which, int) {
  *value =
      which == cudaDevAttrCooperativeLaunch ? 1 : emulation::limits[which == cudaDevAttrMaxSharedMemoryPerBlockOptin];
  return cudaSuccess;
}
template <class Kernel>
cudaError_t cudaFuncSetAttribute(Kernel*, cudaFuncAttribute, int bytes) {
  return bytes <= emulation::limits[1] ? cudaSuccess : cudaErrorInvalidValue;
}
template <class Kernel>
cudaError_t cudaLaunchKernel(Kernel* kernel, dim3 blocks, dim3 threads, void** arguments, size_t shared, cudaStream_t) {
  return emulation::launch(emulation::with_arguments(kernel, arguments), blocks, threads, shared, false);
}
template <class Kernel>
cudaError_t cudaLaunchCooperativeKernel(Kernel* kernel, dim3 blocks, dim3 threads, void** arguments, size_t shared,
                                        cudaStream_t) {
  return emulation::launch(emulation::with_arguments(kernel, arguments), blocks, threads, shared, true);
}

inline void __syncthreads() { emulation::wait(false); }
inline void __syncwarp() { emulation::wait(true); }
inline void __threadfence() { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
void __nanosleep(unsigned);
inline uint32_t atomicAdd(uint32_t* at, uint32_t value) { return __atomic_fetch_add(at, value, __ATOMIC_SEQ_CST); }
template <class T>
T __ldcg(const T* at) {
  return *at;
}
inline int __popc(uint32_t x) { return __builtin_popcount(x); }
inline int __ffs(uint32_t x) { return __builtin_ffs(static_cast<int>(x)); }
inline uint32_t __ballot_sync(uint32_t, bool bit) {
  const uint64_t* all = emulation::share(bit);
  uint32_t word = 0;
  for (int lane = 0; lane < 32; ++lane) word |= static_cast<uint32_t>(all[lane]) << lane;
  emulation::wait(true);
  return word;
}
inline int __shfl_sync(uint32_t, int value, int lane) {
  const int other = static_cast<int>(emulation::share(static_cast<uint32_t>(value))[lane]);
  emulation::wait(true);
  return other;
}
inline int __shfl_up_sync(uint32_t, int value, int offset) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  const uint64_t* all = emulation::share(static_cast<uint32_t>(value));
  const int other = static_cast<int>(all[lane < offset ? lane : lane - offset]);
  emulation::wait(true);
  return other;
}
