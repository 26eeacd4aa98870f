// Products of dense matrices that the gradients of a recurrent layer need, on the CPU.

#include "../cpu/matrix.h"
#include "recurrent_calls.h"

namespace norse_fast {
namespace cpu {
namespace {

template <class T>
void accumulate(const Tensor& part, Tensor& sum) {
  const T* from = static_cast<const T*>(part.data_ptr());
  T* to = static_cast<T*>(sum.data_ptr());
  for (int64_t k = 0, count = part.numel(); k < count; ++k) to[k] += from[k];
}

bool is_double(const Tensor& t) { return t.scalar_type() == ScalarType::Double; }

}  // namespace
}  // namespace cpu

void multiply(const Tensor& a, const Tensor& b, Tensor& out) {
  cpu::Watch watch;
  if (cpu::is_double(a)) {
    cpu::multiply(watch, cpu::Matrix<double>::of(a), cpu::Matrix<double>::of(b), static_cast<double*>(out.data_ptr()),
                  false);
  } else {
    cpu::multiply(watch, cpu::Matrix<float>::of(a), cpu::Matrix<float>::of(b), static_cast<float*>(out.data_ptr()),
                  false);
  }
}

void accumulate(const Tensor& part, Tensor& sum) {
  cpu::is_double(part) ? cpu::accumulate<double>(part, sum) : cpu::accumulate<float>(part, sum);
}

}  // namespace norse_fast
