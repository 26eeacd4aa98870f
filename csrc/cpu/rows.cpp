#include "rows.h"

#include "../core/surrogates.h"
#include "dispatch.h"
#include "stream.h"

namespace norse_fast::cpu {
namespace {

template <class T>
void complete_group(int64_t n, T* row) {
  for (int64_t l = n; l < whole_groups(n); ++l) row[l] = T(0);
}

template <class Stored, class T>
void widen(const void* from, int64_t offset, int64_t n, T* to) {
  const Stored* row = static_cast<const Stored*>(from) + offset;
#pragma omp simd
  for (int64_t l = 0; l < n; ++l) to[l] = load_stored(row[l]);
  complete_group(n, to);
}

template <class Stored, class T>
void narrow(const T* from, int64_t n, void* to, int64_t offset) {
  Stored* row = static_cast<Stored*>(to) + offset;
#pragma omp simd
  for (int64_t l = 0; l < n; ++l) store_rounded(from[l], row[l]);
}

// Half types are only ever computed in float.
template <class T>
bool is_half(Storage storage) {
  return sizeof(T) == sizeof(float) && (storage == Storage::kHalf || storage == Storage::kBFloat16);
}

template <class T>
bool in_place(Storage storage, const void* data, int64_t n) {
  return data && !is_half<T>(storage) && n == whole_groups(n);
}

}  // namespace

template <class Isa, class T>
void BlockRows<Isa, T>::fill(T value, int64_t n, T* to) {
  const int64_t whole = whole_groups(n);
#pragma omp simd
  for (int64_t l = 0; l < whole; ++l) to[l] = value;
}

template <class Isa, class T>
void BlockRows<Isa, T>::load(const T* from, int64_t n, T* to) {
  copy_row(from, n, to);
  complete_group(n, to);
}

template <class Isa, class T>
void BlockRows<Isa, T>::load_initial(const Problem<T>& problem, int variable, int64_t begin, int64_t n, T* to) {
  const T* from = problem.state[variable];
  from ? load(from + begin, n, to) : fill(problem.start[variable], n, to);
}

template <class Isa, class T>
void BlockRows<Isa, T>::add(const T* from, int64_t n, T* to) {
#pragma omp simd
  for (int64_t l = 0; l < n; ++l) to[l] += from[l];
}

template <class Isa, class T>
void BlockRows<Isa, T>::stream(const T* from, int64_t n, T* to) {
  constexpr int64_t kLanes = sizeof(Line) / sizeof(T);
  for (int64_t l = 0; l < n; l += kLanes) {
    stream_line(reinterpret_cast<Line*>(to + l), reinterpret_cast<const Line*>(from + l));
  }
}

template <class Isa, class T>
void BlockRows<Isa, T>::flush() {
  flush_lines();
}

template <class Isa, class T>
void BlockRows<Isa, T>::spread(const Parameter<T>& p, bool rate, double dt, int64_t begin, int64_t n, T* to) {
  fill(p.shared, n, to);
  if (p.is_shared()) return;
  int64_t phase = begin % p.period;
  for (int64_t l = 0; l < n; phase = 0) {
    const int64_t run = p.period - phase < n - l ? p.period - phase : n - l;
#pragma omp simd
    for (int64_t k = 0; k < run; ++k) to[l + k] = parameter_value<T>(p.values, p.type, phase + k, rate, dt);
    l += run;
  }
}

template <class Isa, class T>
auto BlockRows<Isa, T>::exp_limits() -> Limits {
  return {detail::ExpConstants<T>::kMin, detail::ExpConstants<T>::kMax};
}

template <class Isa, class T>
void BlockRows<Isa, T>::exp(int64_t n, Block<T>* reduced) {
  const int64_t whole = whole_groups(n);
#pragma omp simd
  for (int64_t l = 0; l < whole; ++l) reduced[1][l] = detail::exp_reduced(reduced[0][l], reduced[1][l]);
}

template <class Isa, class T>
void BlockRows<Isa, T>::derive(const Backward<T>& b, int k, const T* alpha, int64_t offset, int64_t n, T* row) {
  if (b.derivatives[k]) return load(b.derivatives[k] + offset, n, row);
  const int64_t whole = whole_groups(n);
  Surrogates::visit(b.surrogate, [&](auto kind) {
#pragma omp simd
    for (int64_t l = 0; l < whole; ++l) row[l] = decltype(kind)::derivative(row[l], alpha[l]);
  });
}

template <class Isa, class T>
void BlockRows<Isa, T>::mark(const T* derivative, const T* level, bool add, int64_t n, uint8_t* to) {
#pragma omp simd
  for (int64_t l = 0; l < n; ++l) {
    const uint8_t above = !(std::fabs(derivative[l]) <= level[l]);
    to[l] = add ? to[l] | above : above;
  }
}

template <class Isa, class T>
const T* StoredRows<Isa, T>::read(Storage storage, const Rows& rows, int64_t t, int64_t begin, int64_t n, T* buffer) {
  if (!rows.data) {
    BlockRows<Isa, T>::fill(T(0), n, buffer);
    return buffer;
  }
  const int64_t offset = t * rows.time_stride + (rows.broadcast ? 0 : begin);
  const int64_t count = rows.broadcast ? 1 : n;
  if (is_half<T>(storage)) {
    storage == Storage::kHalf ? widen<Half>(rows.data, offset, count, buffer)
                              : widen<BFloat16>(rows.data, offset, count, buffer);
  } else if (!rows.broadcast && n == whole_groups(n)) {
    return static_cast<const T*>(rows.data) + offset;
  } else {
    BlockRows<Isa, T>::load(static_cast<const T*>(rows.data) + offset, count, buffer);
  }
  if (rows.broadcast) BlockRows<Isa, T>::fill(T(buffer[0]), n, buffer);
  return buffer;
}

template <class Isa, class T>
Ahead StoredRows<Isa, T>::ahead(Storage storage, const Rows& read, const Rows& write, int64_t t, int64_t begin) {
  const int64_t size = is_half<T>(storage) ? sizeof(Half) : sizeof(T);
  const auto at = [&](const Rows& rows) {
    const auto* data = static_cast<const char*>(rows.data);
    return data && !rows.broadcast ? data + (t * rows.time_stride + begin) * size : nullptr;
  };
  return {at(read), at(write), size};
}

template <class Isa, class T>
bool StoredRows<Isa, T>::are_streamed(Storage storage, const void* data, int64_t steps, int64_t lanes) {
  // Whole groups are whole cache lines.
  const bool aligned = reinterpret_cast<uintptr_t>(data) % 64 == 0 && lanes % kGroup == 0;
  return kStreams && in_place<T>(storage, data, kGroup) && aligned &&
         steps * lanes >= kStreamed / static_cast<int64_t>(sizeof(T));
}

template <class Isa, class T>
T* StoredRows<Isa, T>::target(Storage storage, void* data, int64_t offset, int64_t n, T* buffer, bool streamed) {
  return in_place<T>(storage, data, n) && !streamed ? static_cast<T*>(data) + offset : buffer;
}

template <class Isa, class T>
void StoredRows<Isa, T>::finish(Storage storage, const T* buffer, int64_t n, void* data, int64_t offset,
                                bool streamed) {
  if (streamed) return BlockRows<Isa, T>::stream(buffer, n, static_cast<T*>(data) + offset);
  if (!data || in_place<T>(storage, data, n)) return;
  if (!is_half<T>(storage)) return copy_row(buffer, n, static_cast<T*>(data) + offset);
  storage == Storage::kHalf ? narrow<Half>(buffer, n, data, offset) : narrow<BFloat16>(buffer, n, data, offset);
}

template <class Isa, class T>
T* OutputRows<Isa, T>::target(const Forward<T>& f, int64_t t, int64_t begin, int64_t n, T* buffer, bool streamed) {
  if (f.kind != Output::kAll) return buffer;
  return StoredRows<Isa, T>::target(f.storage, f.output, t * f.lanes + begin, n, buffer, streamed);
}

template <class Isa, class T>
void OutputRows<Isa, T>::finish(const Forward<T>& f, const T* buffer, int64_t n, int64_t t, int64_t begin,
                                bool streamed) {
  const int64_t offset = t * f.lanes + begin;
  T* reduced = static_cast<T*>(f.output) + begin;
  switch (f.kind) {
    case Output::kByte:
    case Output::kBool:
      for (int64_t l = 0; t + Ahead::kSteps < f.steps && l < n; l += 64) {
        __builtin_prefetch(static_cast<const char*>(f.output) + offset + Ahead::kSteps * f.lanes + l, 1);
      }
      return narrow<uint8_t>(buffer, n, f.output, offset);
    case Output::kSum:
      return t == 0 ? copy_row(buffer, n, reduced) : BlockRows<Isa, T>::add(buffer, n, reduced);
    case Output::kLast:
      if (t == f.steps - 1) copy_row(buffer, n, reduced);
      return;
    default:
      return StoredRows<Isa, T>::finish(f.storage, buffer, n, f.output, offset, streamed);
  }
}

template <class Isa, class T>
const T* OutputRows<Isa, T>::read_gradient(const Backward<T>& b, int64_t t, int64_t begin, int64_t n, T* buffer) {
  if (!b.grad_reduced) return StoredRows<Isa, T>::read(b.storage, b.grad_output, t, begin, n, buffer);
  constexpr Storage kOwn = sizeof(T) == sizeof(double) ? Storage::kDouble : Storage::kFloat;
  return StoredRows<Isa, T>::read(kOwn, {t < b.reduced_from ? nullptr : b.grad_reduced}, 0, begin, n, buffer);
}

template struct BlockRows<NORSE_FAST_ISA, float>;
template struct BlockRows<NORSE_FAST_ISA, double>;
template struct StoredRows<NORSE_FAST_ISA, float>;
template struct StoredRows<NORSE_FAST_ISA, double>;
template struct OutputRows<NORSE_FAST_ISA, float>;
template struct OutputRows<NORSE_FAST_ISA, double>;

}  // namespace norse_fast::cpu
