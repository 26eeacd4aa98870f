#pragma once
// The vectors of the instruction set that a source file is compiled for; of that file alone, as they differ.

namespace norse_fast::cpu {
namespace {

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
#elif defined(__AVX2__)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;
#endif

}  // namespace
}  // namespace norse_fast::cpu
