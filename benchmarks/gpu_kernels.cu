// Times the kernels by themselves, without torch, in two seconds: for variants of a kernel, each a program, side by
// side on a GPU that is at hand for minutes. `make gpu-kernels` builds it into build/gpu-kernels; FLAGS and NAME are
// for variants.

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <vector>

#include "cuda/recurrent.cuh"
#include "neurons/lif.h"

using namespace norse_fast;
using namespace norse_fast::cuda;

namespace {

void check_call(cudaError_t status) { check(status, "gpu_kernels"); }

/// Numbers of [0, 1) that look random, times a scale, plus a shift; or, with a rate, 1 that often and else 0.
__global__ void fill(float* to, size_t count, float scale, float shift, float rate) {
  for (size_t k = blockIdx.x * size_t{blockDim.x} + threadIdx.x; k < count; k += size_t{gridDim.x} * blockDim.x) {
    uint64_t h = k * 0x9E3779B97F4A7C15ull;
    h = (h ^ h >> 29) * 0xBF58476D1CE4E5B9ull;
    const float u = (h >> 40) / float(1 << 24);
    to[k] = rate > 0 ? float(u < rate) : scale * u + shift;
  }
}

__global__ void narrow(const float* from, BFloat16* to, size_t count) {
  for (size_t k = blockIdx.x * size_t{blockDim.x} + threadIdx.x; k < count; k += size_t{gridDim.x} * blockDim.x) {
    store_rounded(from[k], to[k]);
  }
}

template <class T>
T* memory(size_t count) {
  T* data = nullptr;
  check_call(cudaMalloc(&data, count * sizeof(T)));
  check_call(cudaMemset(data, 0, count * sizeof(T)));
  return data;
}

/// Median of the milliseconds of 11 calls.
double time_of(const std::function<void()>& call) {
  cudaEvent_t begin, end;
  check_call(cudaEventCreate(&begin));
  check_call(cudaEventCreate(&end));
  std::vector<float> times(11);
  call();
  for (float& time : times) {
    check_call(cudaEventRecord(begin));
    call();
    check_call(cudaEventRecord(end));
    check_call(cudaEventSynchronize(end));
    check_call(cudaEventElapsedTime(&time, begin, end));
  }
  std::sort(times.begin(), times.end());
  return times[times.size() / 2];
}

template <class Launch>
void set_params(Launch& launch) {
  const float values[] = {0.2f, 0.1f, 0.0f, 1.0f, 0.0f, 0.0f};
  for (int k = 0; k < kParamCount<LIF>; ++k) launch.params[k].shared = values[k];
}

/// LIF over time, with the share of the bandwidth of a copy.
void time_layer(int64_t steps, int64_t lanes) {
  const size_t count = steps * lanes;
  float *x = memory<float>(count), *g = memory<float>(count), *y = memory<float>(count);
  auto *half_x = memory<BFloat16>(count), *half_g = memory<BFloat16>(count);
  fill<<<1000, 256>>>(x, count, 6.0f, -2.0f, 0.0f);
  fill<<<1000, 256>>>(g, count, 2.0f, -1.0f, 0.0f);
  narrow<<<1000, 256>>>(x, half_x, count);
  narrow<<<1000, 256>>>(g, half_g, count);
  float *state = memory<float>(2 * lanes), *checkpoints = memory<float>(2 * lanes * (checkpoint_count(steps) + 1));
  const double copy = time_of([&] { check_call(cudaMemcpyAsync(y, x, count * 4, cudaMemcpyDeviceToDevice)); });
  std::printf("%ld x %ld, copy %.3f ms\n", long(steps), long(lanes), copy);
  for (const bool half : {false, true}) {
    Forward<float> f;
    Backward<float> b;
    set_params(f);
    set_params(b);
    f.steps = b.steps = steps;
    f.lanes = b.lanes = lanes;
    f.storage = b.storage = half ? Storage::kBFloat16 : Storage::kFloat;
    f.input = b.input = {half ? static_cast<void*>(half_x) : x, lanes, false};
    b.grad_output = {half ? static_cast<void*>(half_g) : g, lanes, false};
    b.alpha.shared = 100.0f;
    f.output = b.grad_input = y;
    for (int k = 0; k < 2; ++k) {
      f.final_state[k] = b.grad_state[k] = state + k * lanes;
      b.checkpoints[k] = checkpoints + k * lanes * (checkpoint_count(steps) + 1);
    }
    for (const char* width : {"1", "2"}) {
      setenv("NORSE_FAST_LANES_PER_THREAD", width, 1);
      f.checkpoints[0] = f.checkpoints[1] = nullptr;
      const double inference = time_of([&] { launch_forward<LIF>(f, nullptr); });
      for (int k = 0; k < 2; ++k) f.checkpoints[k] = const_cast<float*>(b.checkpoints[k]);
      const double forward = time_of([&] { launch_forward<LIF>(f, nullptr); });
      const double backward = time_of([&] { launch_backward<LIF>(b, nullptr); });
      const double element = half ? 0.5 : 1.0;
      std::printf("  %s, %s lane(s): inference %.3f ms, %.0f %%; forward %.3f, backward %.3f ms, training %.0f %%\n",
                  half ? "bfloat16" : "float32", width, inference, 100 * element * copy / inference, forward, backward,
                  100 * (2.5 * element + 0.0625) * copy / (forward + backward));
    }
  }
  for (void* data : {static_cast<void*>(x), static_cast<void*>(g), static_cast<void*>(y), static_cast<void*>(half_x),
                     static_cast<void*>(half_g), static_cast<void*>(state), static_cast<void*>(checkpoints)}) {
    check_call(cudaFree(data));
  }
}

/// A step of a recurrent layer whose neurons spike about as often as its inputs.
void time_recurrent(int64_t neurons, float rate) {
  constexpr int64_t kSteps = 500, kBatch = 16;
  const int64_t lanes = kBatch * neurons;
  float *x = memory<float>(kSteps * lanes), *z = memory<float>(kSteps * lanes), *state = memory<float>(5 * lanes);
  float* weights = memory<float>(neurons * neurons);
  fill<<<1000, 256>>>(x, kSteps * lanes, 0.0f, 0.0f, rate);
  fill<<<1000, 256>>>(weights, neurons * neurons, 2e-5f, -1e-5f, 0.0f);
  RecurrentForward<float> f;
  f.steps = kSteps;
  f.lanes = lanes;
  f.neurons = f.inputs = neurons;
  f.input = {x, lanes, false};
  f.output = z;
  const float values[] = {1.0f, 1.0f, 0.0f, 0.5f, 0.0f, 1.0f};
  for (int k = 0; k < kParamCount<LIF>; ++k) f.params[k].shared = values[k];
  for (int k = 0; k < 2; ++k) {
    f.state[k] = state + k * lanes;
    f.final_state[k] = state + (k + 2) * lanes;
  }
  f.spikes = state + 4 * lanes;
  f.weights = weights;
  RecurrentGrid<float> grid;
  grid.batch = kBatch;
  grid.plan = plan_recurrence({neurons, kBatch, 1, 4}, false, device_limits(0));
  grid.spike_weights = weights;
  const size_t words = 2 * kBatch * grid.plan.blocks;
  grid.words = memory<uint64_t>(words);
  const double time = time_of([&] {
    check_call(cudaMemsetAsync(grid.words, 0, words * sizeof(uint64_t)));
    launch_recurrent(recurrent_forward_kernel<LIF, float>, f, grid, nullptr, LIF::kName);
  });
  std::printf("recurrent, %ld neurons, %.0f %%: %.2f us a step\n", long(neurons), 100 * rate, 1e3 * time / kSteps);
}

}  // namespace

int main() {
  time_layer(500, 16 * 16384);
  time_layer(1000, 16384);
  for (const int64_t neurons : {128, 512, 1024}) {
    for (const float rate : {0.02f, 0.13f}) time_recurrent(neurons, rate);
  }
  check_call(cudaDeviceSynchronize());
}
