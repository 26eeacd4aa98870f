#pragma once
// What a tensor is: that of LibTorch's stable ABI, or, in the library that is compiled for one torch only
// (csrc/autograd), ATen's, whose calls are cheaper. Everything below knows both by the same names.

#include <cstdint>
#include <vector>

#include "../core/kernel_table.h"

#ifdef TORCH_TARGET_VERSION
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#else
#include <ATen/EmptyTensor.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <torch/headeronly/util/Exception.h>
#endif

namespace norse_fast {

using Sizes = std::vector<int64_t>;

#ifdef TORCH_TARGET_VERSION

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

class Device {
 public:
  explicit Device(const Tensor& t) {
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(t.get(), &type_));
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_index(t.get(), &index_));
  }
  explicit Device(DeviceId id) : type_(id.type), index_(id.index) {}

  bool operator==(const Device& other) const { return type_ == other.type_ && index_ == other.index_; }
  int32_t type() const { return type_; }
  int32_t index() const { return index_; }

 private:
  int32_t type_ = 0, index_ = 0;
};

inline Device locate(const Tensor& t) { return Device(t); }

inline Sizes contiguous_strides(const Sizes& sizes) {
  Sizes strides(sizes.size());
  int64_t stride = 1;
  for (size_t d = sizes.size(); d-- > 0;) {
    strides[d] = stride;
    stride *= sizes[d] > 0 ? sizes[d] : 1;
  }
  return strides;
}

/// A contiguous tensor. Straight to the allocator: this runs several times per time step of a cell.
inline Tensor empty(const Sizes& sizes, ScalarType dtype, Device device) {
  const Sizes strides = contiguous_strides(sizes);
  AtenTensorHandle handle = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(
      sizes.size(), sizes.data(), strides.data(),
      torch::stable::detail::to<int32_t>(torch::stable::detail::from(dtype)), device.type(), device.index(), &handle));
  return Tensor(handle);
}

/// A contiguous tensor on the CPU in memory that `release` gives back.
template <class Release>
Tensor adopt(void* data, const Sizes& sizes, ScalarType dtype, Release release) {
  return torch::stable::from_blob(data, sizes, contiguous_strides(sizes),
                                  torch::stable::Device(torch::headeronly::DeviceType::CPU), dtype, release);
}

inline Tensor as_contiguous(const Tensor& t) { return t.is_contiguous() ? t : torch::stable::contiguous(t); }

/// Calls f with a zero of the type of a tensor of float32 or float64.
template <class F>
void with_type_of(const Tensor& t, F f) {
  t.scalar_type() == ScalarType::Double ? f(0.0) : f(0.0f);
}

#else

using ScalarType = at::ScalarType;
using Tensor = at::Tensor;

using Device = at::Device;

inline Device locate(const Tensor& t) { return t.device(); }

/// A contiguous tensor; on the CPU straight from the allocator.
inline Tensor empty(const Sizes& sizes, ScalarType dtype, Device device) {
  if (device.is_cpu()) return at::detail::empty_cpu(sizes, dtype);
  return at::empty(sizes, at::TensorOptions(dtype).device(device));
}

/// A contiguous tensor on the CPU in memory that `release` gives back.
template <class Release>
Tensor adopt(void* data, const Sizes& sizes, ScalarType dtype, Release release) {
  return at::from_blob(data, sizes, release, at::TensorOptions(dtype));
}

inline Tensor as_contiguous(const Tensor& t) { return t.contiguous(); }

#endif

}  // namespace norse_fast
