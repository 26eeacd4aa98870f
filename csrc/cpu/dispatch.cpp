#include "dispatch.h"

#include <cstdlib>
#include <stdexcept>
#include <string>
#include <vector>

namespace norse_fast::cpu {
namespace {

std::vector<Capability> available() {
  std::vector<Capability> found;
#ifdef NORSE_FAST_X86
  __builtin_cpu_init();
  const bool counts = __builtin_cpu_supports("bmi") && __builtin_cpu_supports("popcnt");
  if (counts && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")) {
    found.push_back(Capability::kAvx512);
  }
  if (counts && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
    found.push_back(Capability::kAvx2);
  }
#endif
  found.push_back(Capability::kBaseline);
  return found;
}

Capability choose() {
  const std::vector<Capability> found = available();
  const char* wanted = std::getenv("NORSE_FAST_CPU_CAPABILITY");
  if (!wanted || !*wanted) return found.front();
  std::string names;
  for (const Capability c : found) {
    const char* name = kCapabilityNames[static_cast<int>(c)];
    if (std::string(wanted) == name) return c;
    names += std::string(names.empty() ? "" : ", ") + name;
  }
  throw std::runtime_error("NORSE_FAST_CPU_CAPABILITY: got '" + std::string(wanted) + "', expected one of " + names +
                           "; unset it to use the best.");
}

}  // namespace

Capability capability() {
  static const Capability kChosen = choose();
  return kChosen;
}

}  // namespace norse_fast::cpu
