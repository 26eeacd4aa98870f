#pragma once
// The only macro of the core: marks a function that a model or a surrogate needs on the CPU and on the GPU.
//
// Such functions are always inlined, for speed and for correctness: the CPU library compiles the same headers once per
// instruction set, and an out-of-line copy built with AVX-512 must never be what the linker hands to the baseline.
#ifdef __CUDACC__
#define NORSE_FAST_INLINE __host__ __device__ __forceinline__
#else
#define NORSE_FAST_INLINE [[gnu::always_inline]] inline
#endif
