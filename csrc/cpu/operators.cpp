// The schemas of all operators, and their CPU implementations.

#include "device.h"

namespace norse_fast::cpu {
namespace {

std::string capability_name() { return kCapabilityNames[static_cast<int>(capability())]; }

}  // namespace

STABLE_TORCH_LIBRARY(norse_fast, m) {
  m.def("cpu_capability() -> str");
  AllModels::for_each([&](auto model) {
    m.def(forward_schema(Signature::of<decltype(model)>()).c_str());
    m.def(backward_schema(Signature::of<decltype(model)>()).c_str());
  });
}

STABLE_TORCH_LIBRARY_IMPL(norse_fast, CompositeExplicitAutograd, m) {
  m.impl("cpu_capability", TORCH_BOX(&capability_name));
}

STABLE_TORCH_LIBRARY_IMPL(norse_fast, CPU, m) { implement_all<Cpu>(m); }

}  // namespace norse_fast::cpu
