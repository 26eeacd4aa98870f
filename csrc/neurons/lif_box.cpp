#include "lif_box.h"

#include "instantiate.h"

template struct norse_fast::Kernels<norse_fast::Backend, norse_fast::LIFBox>;
