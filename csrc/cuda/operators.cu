// The CUDA implementations of all operators. Their schemas are in the CPU library.

#include <cuda_runtime.h>
#include <torch/csrc/stable/accelerator.h>

#include "../operators.h"
#include "kernels.cuh"

namespace norse_fast::cuda {
namespace {

struct Allocator {
  DeviceId device;

  Tensor operator()(const Sizes& sizes, ScalarType dtype) const { return empty(sizes, dtype, device); }
};

void check(cudaError_t status, const char* name) {
  STD_TORCH_CHECK(status == cudaSuccess, "norse_fast: ", name, " failed on the GPU: ", cudaGetErrorString(status));
}

/// Launches on the current stream of the input's device.
template <class Kernel, class Launch>
void run(Kernel kernel, const Launch& launch, int threads, size_t shared_bytes, const Tensor& input, const char* name) {
  if (launch.lanes == 0) return;
  const int64_t blocks = (launch.lanes + threads - 1) / threads;
  STD_TORCH_CHECK(blocks < (int64_t{1} << 31), "norse_fast: ", launch.lanes,
                  " neurons are more than one launch can take");
  constexpr size_t kDefaultLimit = 48 * 1024;
  if (shared_bytes > kDefaultLimit) {
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared_bytes)),
          name);
  }
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(input.get_device_index(), &stream));
  kernel<<<static_cast<unsigned>(blocks), threads, shared_bytes, static_cast<cudaStream_t>(stream)>>>(launch);
  check(cudaGetLastError(), name);
}

/// Calls f with a value of the type that the input is stored in, and one of the type that is computed in.
template <class F>
void dispatch_dtype(const Tensor& input, F f) {
  switch (storage_of(input)) {
    case Storage::kDouble:
      return f(double{}, double{});
    case Storage::kHalf:
      return f(Half{}, float{});
    case Storage::kBFloat16:
      return f(BFloat16{}, float{});
    default:
      return f(float{}, float{});
  }
}

template <class Model>
void forward(StableIValue* stack, uint64_t count, uint64_t) {
  auto a = ForwardArguments::take<Model>(Stack(stack, count));
  const torch::stable::accelerator::DeviceGuard guard(a.input.get_device_index());
  dispatch_dtype(a.input, [&](auto stored, auto computing) {
    using T = decltype(computing);
    const Shape shape(a.input, a.sequence);
    ForwardCall<Model, T> call(a, shape, Allocator{shape.device});
    run(forward_kernel<Model, T, decltype(stored)>, call.launch, kThreads, 0, a.input, Model::kName);
    call.put(stack);
  });
}

template <class Model>
void backward(StableIValue* stack, uint64_t count, uint64_t) {
  auto a = BackwardArguments::take<Model>(Stack(stack, count));
  const torch::stable::accelerator::DeviceGuard guard(a.input.get_device_index());
  dispatch_dtype(a.input, [&](auto stored, auto computing) {
    using T = decltype(computing);
    const Shape shape(a.input, a.sequence);
    using Stored = decltype(stored);
    BackwardCall<Model, T> call(a, shape, Allocator{shape.device});
    constexpr int kBlock = kBackwardThreads<Model, T>;
    constexpr size_t kShared = sizeof(T) * kColumnValues<Model, T> * kBlock;
    auto kernel = a.want_params ? backward_kernel<Model, T, Stored, true> : backward_kernel<Model, T, Stored, false>;
    run(kernel, call.launch, kBlock, kShared, a.input, Model::kName);
    call.put(stack);
  });
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(norse_fast, CUDA, m) {
  AllModels::for_each([&](auto model) {
    using Model = decltype(model);
    m.impl((std::string(Model::kName) + "_forward").c_str(), &forward<Model>);
    m.impl((std::string(Model::kName) + "_backward").c_str(), &backward<Model>);
  });
}

}  // namespace norse_fast::cuda
