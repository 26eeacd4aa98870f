#pragma once
// The CPU as a device: where its tensors come from.

#include "../calls.h"
#include "memory.h"

namespace norse_fast::cpu {

struct Cpu {
  Device id;

  explicit Cpu(const Tensor& t) : id(locate(t)) {}
  explicit Cpu(DeviceId device) : id(device) {}

  Tensor operator()(const Sizes& sizes, ScalarType dtype) const {
    return Allocator{id, kernel_table().memory}(sizes, dtype);
  }
};

}  // namespace norse_fast::cpu
