#pragma once
// The recurrent CUDA driver. A lane of a warp is a neuron, a warp a row of the batch at a time, and a block has the
// columns of the weights that lead to its neurons; see RecurrentPlan. A thread always meets the same neurons of the
// same rows, so that only spikes and the gradients of currents pass between threads. Forward, a warp waits for the
// spikes of its row and for nothing else.
//
// Recurrent currents are sums of the weights of those neurons that spiked, in the order of their indices, as on the
// CPU: the same bits.

#include "kernels.cuh"
#include "recurrent_backward.cuh"
#include "recurrent_forward.cuh"

namespace norse_fast::cuda {

template <class Kernel, class Launch, class T>
void launch_recurrent(Kernel kernel, Launch launch, RecurrentGrid<T> grid, void* stream, const char* name) {
  const RecurrentPlan& plan = grid.plan;
  void* arguments[] = {&launch, &grid};
  launch_kernel(kernel, plan.blocks * plan.groups, plan.warps * 32, plan.shared_bytes(), plan.persistent, arguments,
                stream, name);
}

}  // namespace norse_fast::cuda

namespace norse_fast {

template <class Cuda, class Model>
void RecurrentKernels<Cuda, Model>::run(const RecurrentForward<float>& f, const cuda::RecurrentGrid<float>& grid,
                                        void* stream) {
  cuda::launch_recurrent(cuda::recurrent_forward_kernel<Model, float>, f, grid, stream, Model::kName);
}

template <class Cuda, class Model>
void RecurrentKernels<Cuda, Model>::run(const RecurrentForward<double>& f, const cuda::RecurrentGrid<double>& grid,
                                        void* stream) {
  cuda::launch_recurrent(cuda::recurrent_forward_kernel<Model, double>, f, grid, stream, Model::kName);
}

template <class Cuda, class Model>
void RecurrentKernels<Cuda, Model>::run(const RecurrentBackward<float>& b, const cuda::RecurrentGrid<float>& grid,
                                        void* stream) {
  cuda::launch_recurrent(cuda::recurrent_backward_kernel<Model, float>, b, grid, stream, Model::kName);
}

template <class Cuda, class Model>
void RecurrentKernels<Cuda, Model>::run(const RecurrentBackward<double>& b, const cuda::RecurrentGrid<double>& grid,
                                        void* stream) {
  cuda::launch_recurrent(cuda::recurrent_backward_kernel<Model, double>, b, grid, stream, Model::kName);
}

}  // namespace norse_fast
