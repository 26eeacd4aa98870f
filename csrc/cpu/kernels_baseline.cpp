// Compiled with the flags of its instruction set; see CMakeLists.txt.
#include "dispatch.h"

namespace norse_fast::cpu {

template <>
const KernelTable& table<Baseline>() {
  static const KernelTable kTable = make_table<Baseline>();
  return kTable;
}

}  // namespace norse_fast::cpu
