// The operators of the CUDA library on the emulated GPU, for tensors on the CPU, in a namespace of their own.

#include "cuda/table.h"
#include "ops/gpu.h"

extern "C" {
// What torch without CUDA lacks, or has no device for.
AOTITorchError aoti_torch_get_current_cuda_stream(int32_t, void** stream) {
  *stream = nullptr;
  return AOTI_TORCH_SUCCESS;
}
AOTITorchError aoti_torch_create_device_guard(int32_t, DeviceGuardHandle* guard) {
  *guard = nullptr;
  return AOTI_TORCH_SUCCESS;
}
AOTITorchError aoti_torch_delete_device_guard(DeviceGuardHandle) { return AOTI_TORCH_SUCCESS; }
}

namespace emulation {
extern int limits[2];
extern int64_t threads;
}  // namespace emulation

namespace norse_fast {

const KernelTable& kernel_table() { return table_of<cuda::Runners>(AllModels{}); }

}  // namespace norse_fast

namespace norse_fast::cuda {
namespace {

void set_limits(int64_t multiprocessors, int64_t shared_bytes) {
  emulation::limits[0] = static_cast<int>(multiprocessors);
  emulation::limits[1] = static_cast<int>(shared_bytes);
}

std::vector<int64_t> plan(int64_t neurons, int64_t batch, int64_t channels, int64_t element_size, bool backward,
                          int64_t multiprocessors, int64_t shared_bytes) {
  const RecurrentSize size{neurons, batch, static_cast<int>(channels), static_cast<int>(element_size)};
  const RecurrentPlan p =
      plan_recurrence(size, backward, {static_cast<int>(multiprocessors), static_cast<int>(shared_bytes)});
  return {p.persistent, p.block_neurons, p.blocks, p.groups, p.warps, p.shared_bytes()};
}

int64_t threads() { return emulation::threads; }

}  // namespace

STABLE_TORCH_LIBRARY(norse_fast_emulated, m) {
  m.def("set_limits(int multiprocessors, int shared_bytes) -> ()");
  m.def("threads() -> int");
  m.def("lanes_per_thread(Tensor input, bool sequence, bool backward) -> int");
  m.def(
      "plan(int neurons, int batch, int channels, int element_size, bool backward, int multiprocessors, "
      "int shared_bytes) -> int[]");
  define_all(m);
}

STABLE_TORCH_LIBRARY_IMPL(norse_fast_emulated, CompositeExplicitAutograd, m) {
  m.impl("set_limits", TORCH_BOX(&set_limits));
  m.impl("plan", TORCH_BOX(&plan));
  m.impl("threads", TORCH_BOX(&threads));
  m.impl("lanes_per_thread", TORCH_BOX(&lanes_per_thread_of));
}

STABLE_TORCH_LIBRARY_IMPL(norse_fast_emulated, CPU, m) { implement_all(m); }

}  // namespace norse_fast::cuda
