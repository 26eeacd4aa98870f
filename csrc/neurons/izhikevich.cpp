#include "izhikevich.h"

#include "instantiate.h"

template struct norse_fast::Kernels<norse_fast::Backend, norse_fast::Izhikevich>;
template struct norse_fast::RecurrentKernels<norse_fast::Backend, norse_fast::Izhikevich>;
