#include "watch.h"

namespace norse_fast::cpu {
namespace {

using Check = void (*)();
std::atomic<Check> interrupt_check{nullptr};

}  // namespace

void set_interrupt_check(int64_t address) { interrupt_check = reinterpret_cast<Check>(address); }

void Watch::check_interrupt() {
  if (const Check check = interrupt_check) check();
}

}  // namespace norse_fast::cpu
