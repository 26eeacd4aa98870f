#pragma once
// What sanitizers must be told, because they cannot see it; nothing in a usual build. See tests/sanitize.

#include <cstdint>

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#endif
#ifdef __SANITIZE_THREAD__
#include <sanitizer/tsan_interface.h>
#endif

namespace norse_fast::cpu {

#ifdef __SANITIZE_ADDRESS__

/// From now on AddressSanitizer reports whoever touches these bytes, until they are permitted, or freed.
inline void forbid(void* data, int64_t bytes) { __asan_poison_memory_region(data, bytes); }
inline void permit(void* data, int64_t bytes) { __asan_unpoison_memory_region(data, bytes); }

#else

inline void forbid(void*, int64_t) {}
inline void permit(void*, int64_t) {}

#endif

/// Comes before a store by an instruction that sanitizers do not know, and is one that they do.
template <class Line>
void announce_store([[maybe_unused]] Line* to) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  *to = Line{};
#endif
}

#ifdef __SANITIZE_THREAD__

/// The work of a parallel region. OpenMP is not instrumented, so ThreadSanitizer must be told that the work begins
/// after all that the caller did before, and ends before all that it does after. Only `this` is known before it was
/// told.
template <class F>
class Shared {
 public:
  explicit Shared(const F& f) : f_(f) { __tsan_release(this); }
  ~Shared() { __tsan_acquire(this); }
  Shared(const Shared&) = delete;
  Shared& operator=(const Shared&) = delete;

  void operator()(int64_t begin, int64_t end) const {
    auto* const self = const_cast<Shared*>(this);
    __tsan_acquire(self);
    f_(begin, end);
    __tsan_release(self);
  }

 private:
  const F& f_;
};

template <class F>
Shared<F> shared(const F& f) {
  return Shared<F>(f);
}

#else

template <class F>
const F& shared(const F& f) {
  return f;
}

#endif

}  // namespace norse_fast::cpu
