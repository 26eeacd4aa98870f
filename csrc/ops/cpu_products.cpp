// Products of dense matrices that the gradients of a recurrent layer need, on the CPU.

#include "../cpu/matrix.h"
#include "recurrent_calls.h"

namespace norse_fast {

void multiply(const Tensor& a, const Tensor& b, Tensor& out) {
  cpu::Watch watch;
  with_type_of(a, [&](auto zero) {
    using T = decltype(zero);
    cpu::multiply(watch, cpu::Matrix<T>::of(a), cpu::Matrix<T>::of(b), static_cast<T*>(out.data_ptr()), false);
  });
}

void accumulate(const Tensor& part, Tensor& sum) {
  with_type_of(part, [&](auto zero) {
    using T = decltype(zero);
    const T* from = static_cast<const T*>(part.data_ptr());
    T* to = static_cast<T*>(sum.data_ptr());
    for (int64_t k = 0, count = part.numel(); k < count; ++k) to[k] += from[k];
  });
}

}  // namespace norse_fast
