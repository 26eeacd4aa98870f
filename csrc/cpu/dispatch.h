#pragma once
// The instruction sets for which the kernels are compiled, and the choice, made once, of the best that this machine
// has.

#include "../core/launch.h"

namespace norse_fast::cpu {

class Watch;

struct Lanes {
  int64_t begin, end;
  Watch* watch = nullptr;  // tells whether to go on; null: always
};

// One backend each. CMakeLists.txt compiles every model once for each, with the name of the backend in NORSE_FAST_ISA.
struct Baseline {
  using Where = Lanes;
};
struct Avx2 {
  using Where = Lanes;
};
struct Avx512 {
  using Where = Lanes;
};

enum class Capability { kBaseline, kAvx2, kAvx512 };

inline constexpr const char* kCapabilityNames[] = {"baseline", "avx2", "avx512"};

/// The chosen instruction set. NORSE_FAST_CPU_CAPABILITY (baseline, avx2, avx512) overrides the choice, for tests;
/// throws if it names one that this build or this machine lacks.
Capability capability();

template <class Launch>
using Kernel = void (*)(const Launch& launch, Lanes lanes);

/// Calls f with a value of the backend of the chosen instruction set.
template <class F>
auto dispatch(F f) {
  switch (capability()) {
#ifdef NORSE_FAST_X86
    case Capability::kAvx512:
      return f(Avx512{});
    case Capability::kAvx2:
      return f(Avx2{});
#endif
    default:
      return f(Baseline{});
  }
}

/// Runs a kernel on all lanes, split over the threads; defined in operators.cpp.
template <class Launch>
void run_lanes(Kernel<Launch> kernel, const Launch& launch);

/// The kernel of a model for the chosen instruction set.
template <class Model, class Launch>
Kernel<Launch> kernel() {
  return dispatch([](auto isa) -> Kernel<Launch> { return &Kernels<decltype(isa), Model>::run; });
}

}  // namespace norse_fast::cpu
