#pragma once
// The vectors of the instruction set that a source file is compiled for; of that file alone, as they differ.

#include <cstdint>

namespace norse_fast::cpu {
namespace {

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
#elif defined(__AVX2__)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;
#endif

/// Elements as vectors of any alignment.
template <class T>
struct InVectors {
  // Compilers keep an array of accumulators in registers only if its elements are vectors already.
  typedef T Vector __attribute__((vector_size(kVectorBytes), aligned(alignof(T)), may_alias));
  static constexpr int kWidth = kVectorBytes / static_cast<int>(sizeof(T));

  static const Vector* at(const T* p) { return reinterpret_cast<const Vector*>(p); }
  static Vector* at(T* p) { return reinterpret_cast<Vector*>(p); }
};

}  // namespace
}  // namespace norse_fast::cpu
