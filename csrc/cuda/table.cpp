// The kernel table of the GPU.

#include "table.h"

namespace norse_fast {

const KernelTable& kernel_table() { return table_of<cuda::Runners>(AllModels{}); }

}  // namespace norse_fast
