#include "instantiate.h"
#include "lif.h"
#include "refrac.h"

template struct norse_fast::Kernels<norse_fast::Backend, norse_fast::Refrac<norse_fast::LIF>>;
template struct norse_fast::RecurrentKernels<norse_fast::Backend, norse_fast::Refrac<norse_fast::LIF>>;
