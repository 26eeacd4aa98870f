#pragma once
// The driver of the backend that this translation unit is compiled for: `Backend`, and what Kernels<Backend, Model>
// does.

#ifdef __CUDACC__
#include "cuda/kernels.cuh"
#else
#include "cpu/kernels.h"
#endif
