#pragma once
// Memory of a thread or an operator for as long as it computes.

#include <cstdint>
#include <cstdlib>

namespace norse_fast::cpu {

/// Uninitialised memory. A type of its own for every instruction set, which those of the standard library are not.
template <class Isa, class Element>
class Buffer {
 public:
  // Aligned here: what glibc's aligned_alloc is given back, it cannot give for the same size again, because it looks
  // for more than that.
  explicit Buffer(int64_t count) : memory_(std::malloc(count * sizeof(Element) + kAlignment)) {
    if (!memory_) std::abort();
    data_ = reinterpret_cast<Element*>((reinterpret_cast<uintptr_t>(memory_) / kAlignment + 1) * kAlignment);
  }
  ~Buffer() { std::free(memory_); }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;

  Element& operator[](int64_t k) const { return data_[k]; }
  Element* data() const { return data_; }

 private:
  static constexpr uintptr_t kAlignment = 64;

  void* memory_;
  Element* data_;
};

}  // namespace norse_fast::cpu
