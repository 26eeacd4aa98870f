// Compiled with the flags of its instruction set; see CMakeLists.txt.
#include "dispatch.h"

namespace norse_fast::cpu {

template <>
const KernelTable& table<Avx2>() {
  static const KernelTable kTable = make_table<Avx2>();
  return kTable;
}

}  // namespace norse_fast::cpu
