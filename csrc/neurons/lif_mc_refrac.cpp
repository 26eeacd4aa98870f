#include "lif_mc_refrac.h"

#include "instantiate.h"

template struct norse_fast::Kernels<norse_fast::Backend, norse_fast::LIFMCRefrac>;
