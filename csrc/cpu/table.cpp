// The kernel table of the CPU.

#include "../neurons/table.h"

#include "memory.h"
#include "tasks.h"
#include "watch.h"

namespace norse_fast {
namespace cpu {
namespace {

struct Runners {
  static constexpr Memory kMemory{&reserve, &release};
  static constexpr auto kSetInterruptCheck = &set_interrupt_check;

  template <class Model, class Launch>
  static void run(const Launch& launch, DeviceId) {
    run_lanes(kernel<Model, Launch>(), launch);
  }

  template <class Model, class Launch>
  static void run_recurrent(const Launch& launch, DeviceId) {
    run_layer(task_maker<Model, Launch>(), Model::kRecurrence.channels, launch);
  }
};

}  // namespace
}  // namespace cpu

const KernelTable& kernel_table() { return table_of<cpu::Runners>(AllModels{}); }

}  // namespace norse_fast
