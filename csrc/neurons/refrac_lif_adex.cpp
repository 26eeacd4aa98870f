#include "instantiate.h"
#include "lif_adex.h"
#include "refrac.h"

template struct norse_fast::Kernels<norse_fast::Backend, norse_fast::Refrac<norse_fast::LIFAdEx>>;
template struct norse_fast::RecurrentKernels<norse_fast::Backend, norse_fast::Refrac<norse_fast::LIFAdEx>>;
