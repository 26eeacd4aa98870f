#include "lif.h"

#include "../instantiate.h"

template struct norse_fast::Kernels<norse_fast::Backend, norse_fast::LIF<false>>;
template struct norse_fast::Kernels<norse_fast::Backend, norse_fast::LIF<true>>;
template struct norse_fast::RecurrentKernels<norse_fast::Backend, norse_fast::LIF<false>>;
template struct norse_fast::RecurrentKernels<norse_fast::Backend, norse_fast::LIF<true>>;
