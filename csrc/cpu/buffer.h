#pragma once
// Memory of a thread or an operator for as long as it computes.

#include "memory.h"

namespace norse_fast::cpu {

/// Uninitialised memory. A type of its own for every instruction set, which those of the standard library are not.
template <class Isa, class Element>
class Buffer {
 public:
  explicit Buffer(int64_t count) : data_(static_cast<Element*>(allocate(bytes_of(count)))) {}
  ~Buffer() { deallocate(data_); }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;

  Element& operator[](int64_t k) const { return data_[k]; }
  Element* data() const { return data_; }

 private:
  static int64_t bytes_of(int64_t count) {
    int64_t bytes = 0;
    return __builtin_mul_overflow(count, static_cast<int64_t>(sizeof(Element)), &bytes) ? INT64_MAX : bytes;
  }

  Element* data_;
};

}  // namespace norse_fast::cpu
