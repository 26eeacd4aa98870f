#include "watch.h"

#include <chrono>

namespace norse_fast::cpu {
namespace {

using Check = void (*)();
std::atomic<Check> interrupt_check{nullptr};
std::atomic<int64_t> next_check{0};  // in nanoseconds

}  // namespace

void set_interrupt_check(Check check) { interrupt_check = check; }

bool Watch::is_due() {
  constexpr int64_t kInterval = 100'000'000;
  const int64_t now = std::chrono::steady_clock::now().time_since_epoch().count();
  if (now < next_check.load(std::memory_order_relaxed)) return false;
  next_check.store(now + kInterval, std::memory_order_relaxed);
  return true;
}

void Watch::check_interrupt() {
  if (const Check check = interrupt_check) check();
}

}  // namespace norse_fast::cpu
