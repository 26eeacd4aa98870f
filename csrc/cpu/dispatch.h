#pragma once
// Chooses, once, the kernels of the best instruction set that this machine has.

#include "kernels.h"

namespace norse_fast::cpu {

struct Baseline {};
struct Avx2 {};
struct Avx512 {};

/// Defined once per instruction set, each in a file compiled for it.
template <class Isa>
const KernelTable& table();

struct Capability {
  const char* name;
  const KernelTable* kernels;
};

/// The chosen instruction set. NORSE_FAST_CPU_CAPABILITY (baseline, avx2, avx512) overrides the choice, for tests;
/// throws if it names one that this build or this machine lacks.
const Capability& capability();

template <class T>
const ModelKernels<T>& kernels(int model) {
  if constexpr (sizeof(T) == sizeof(double)) {
    return capability().kernels->double_kernels[model];
  } else {
    return capability().kernels->float_kernels[model];
  }
}

}  // namespace norse_fast::cpu
