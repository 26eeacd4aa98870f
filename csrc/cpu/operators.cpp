// The schemas of all operators, and their CPU implementations.

#include "device.h"

namespace norse_fast::cpu {
namespace {

std::string capability_name() { return kCapabilityNames[static_cast<int>(capability())]; }

}  // namespace

STABLE_TORCH_LIBRARY(norse_fast, m) {
  m.def("cpu_capability() -> str");
  m.def("cpu_kernels() -> int");
  m.def("cuda_kernels() -> int");
  AllModels::for_each([&](auto model) {
    m.def(forward_schema(Signature::of<decltype(model)>()).c_str());
    m.def(backward_schema(Signature::of<decltype(model)>()).c_str());
  });
}

STABLE_TORCH_LIBRARY_IMPL(norse_fast, CompositeExplicitAutograd, m) {
  m.impl("cpu_capability", TORCH_BOX(&capability_name));
  m.impl("cpu_kernels", TORCH_BOX(&kernel_table<Cpu>));
}

STABLE_TORCH_LIBRARY_IMPL(norse_fast, CPU, m) { implement_all<Cpu>(m); }

}  // namespace norse_fast::cpu
