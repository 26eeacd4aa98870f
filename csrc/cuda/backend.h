#pragma once
// CUDA as a backend of Kernels and RecurrentKernels.

#include "../core/launch.h"
#include "recurrent_plan.h"

namespace norse_fast::cuda {

struct Cuda {
  using Where = void*;  // a cudaStream_t, so that operators need no CUDA header
};

/// What a launch of a recurrent layer computes.
enum class Phase {
  kWhole,      // all steps, in a persistent launch
  kForward,    // of a stepwise launch: one step forward,
  kRecompute,  // the state that a step starts from, again,
  kBack,       // one step back
};

/// The rest of what the kernels of a recurrent layer are told. The input of the launch beside it is the currents.
template <class T>
struct RecurrentGrid {
  RecurrentPlan plan;
  int64_t batch = 0;
  Phase phase = Phase::kWhole;
  int64_t step = 0;  // of a stepwise launch

  // A row of neurons for every channel and neuron that spiked, of which each block reads its columns.
  const T* spike_weights = nullptr;
  // Of a persistent launch, and 0 before it: forward two steps of spikes (row, block), backward a counter per group.
  uint64_t* words = nullptr;
  uint32_t* arrivals = nullptr;
  // The currents of the spikes: (batch, channel, neuron) in kForward, in backward those of a segment.
  T* currents = nullptr;
  // Of backward: (step of the segment, state variable, lane).
  T* states = nullptr;
  // Of kBack: the gradient of the spikes through the currents of the next step, (batch, neuron).
  const T* grad_spikes = nullptr;
};

template <class Launch>
using Kernel = void (*)(const Launch& launch, void* stream);

template <class Launch, class T>
using RecurrentKernel = void (*)(const Launch& launch, const RecurrentGrid<T>& grid, void* stream);

/// Launches a kernel on the current stream; defined in gpu.h, which sees tensors.
template <class Launch>
void run_lanes(Kernel<Launch> kernel, const Launch& launch, DeviceId device);

/// Launches that of a recurrent layer, as often as it takes; defined there, too.
template <template <class> class Launch, class T>
void run_layer(RecurrentKernel<Launch<T>, T> kernel, int channels, int states, const Launch<T>& launch,
               DeviceId device);

/// Words between the counters of two groups, which then do not share a cache line.
inline constexpr int kArrivalStride = 32;

/// Those of the current device; of no multiprocessor where blocks of a grid cannot wait for each other.
DeviceLimits device_limits(int device);

}  // namespace norse_fast::cuda

namespace norse_fast {

/// The kernels of a model's recurrent layer; defined in recurrent.cuh, instantiated in neurons/<model>.cpp.
template <class Backend, class Model>
struct RecurrentKernels {
  static void run(const RecurrentForward<float>& f, const cuda::RecurrentGrid<float>& grid, void* stream);
  static void run(const RecurrentForward<double>& f, const cuda::RecurrentGrid<double>& grid, void* stream);
  static void run(const RecurrentBackward<float>& b, const cuda::RecurrentGrid<float>& grid, void* stream);
  static void run(const RecurrentBackward<double>& b, const cuda::RecurrentGrid<double>& grid, void* stream);
};

}  // namespace norse_fast
