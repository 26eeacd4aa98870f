#pragma once
// The drivers of the backend that this translation unit is compiled for: `Backend`, and what Kernels<Backend, Model>
// and RecurrentKernels<Backend, Model> do.

#ifdef __CUDACC__
#include "../cuda/kernels.cuh"
#include "../cuda/recurrent.cuh"
#else
#include "../cpu/kernels.h"
#include "../cpu/recurrent.h"
#endif
