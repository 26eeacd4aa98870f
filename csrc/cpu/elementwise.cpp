#include "elementwise.h"

#include "dispatch.h"

namespace norse_fast::cpu {

template <class Isa, class T>
void Elementwise<Isa, T>::exp(int64_t n, T* row) {
#pragma omp simd
  for (int64_t l = 0; l < n; ++l) row[l] = norse_fast::exp(row[l]);
}

template <class Isa, class T>
void Elementwise<Isa, T>::surrogate(Surrogate surrogate, const T* alpha, int64_t n, T* row) {
  dispatch_surrogate(surrogate, [&](auto constant) {
#pragma omp simd
    for (int64_t l = 0; l < n; ++l) row[l] = surrogate_derivative<decltype(constant)::value>(row[l], alpha[l]);
  });
}

template struct Elementwise<NORSE_FAST_ISA, float>;
template struct Elementwise<NORSE_FAST_ISA, double>;

}  // namespace norse_fast::cpu
