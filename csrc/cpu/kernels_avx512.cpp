// Compiled with the flags of its instruction set; see CMakeLists.txt.
#include "dispatch.h"

namespace norse_fast::cpu {

template <>
const KernelTable& table<Avx512>() {
  static const KernelTable kTable = make_table<Avx512>();
  return kTable;
}

}  // namespace norse_fast::cpu
