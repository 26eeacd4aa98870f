#include "elementwise.h"

#include "dispatch.h"

namespace norse_fast::cpu {

template <class Isa, class T>
void Elementwise<Isa, T>::exp(int64_t n, T* row) {
  using C = detail::ExpConstants<T>;
  exp_between(n, row, C::kMin, C::kMax);
}

template <class Isa, class T>
void Elementwise<Isa, T>::exp_between(int64_t n, T* row, T min, T max) {
  const int64_t whole = whole_groups(n);
  alignas(64) T shifted[kBlock], tail[kBlock];
#pragma omp simd
  for (int64_t l = 0; l < whole; ++l) {
    const auto reduced = detail::reduce_exponent(row[l], min, max);
    shifted[l] = reduced.shifted;
    row[l] = reduced.r;
    tail[l] = reduced.error;
  }
#pragma omp simd
  for (int64_t l = 0; l < whole; ++l) tail[l] = detail::exp_tail(row[l], tail[l]);
#pragma omp simd
  for (int64_t l = 0; l < whole; ++l) row[l] = detail::scale_exp(shifted[l], row[l], tail[l]);
}

template <class Isa, class T>
void Elementwise<Isa, T>::surrogate(Surrogate surrogate, const T* alpha, int64_t n, T* row) {
  const int64_t whole = whole_groups(n);
  dispatch_surrogate(surrogate, [&](auto constant) {
#pragma omp simd
    for (int64_t l = 0; l < whole; ++l) row[l] = surrogate_derivative<decltype(constant)::value>(row[l], alpha[l]);
  });
}

template struct Elementwise<NORSE_FAST_ISA, float>;
template struct Elementwise<NORSE_FAST_ISA, double>;

}  // namespace norse_fast::cpu
