#include "windows.h"

#include "vectors.h"

namespace norse_fast::cpu {
namespace {

typedef uint64_t Vector __attribute__((vector_size(kVectorBytes), aligned(8), may_alias));
constexpr int kLanes = kVectorBytes / 8;

/// A word of each of the windows that are looked through together.
struct Words {
  Vector parts[kWindowsTogether / kLanes] = {};

  template <class F>
  NORSE_FAST_INLINE void update(F f) {
    for (int k = 0; k < kWindowsTogether / kLanes; ++k) f(k, parts[k]);
  }
  void store(uint64_t* to) const { __builtin_memcpy(to, parts, sizeof(parts)); }
};

/// The bits from any on; at least 57 of them.
uint64_t read(const uint64_t* line, int64_t bit) {
  uint64_t found;
  __builtin_memcpy(&found, reinterpret_cast<const unsigned char*>(line) + bit / 8, sizeof(found));
  return found >> (bit % 8);
}

/// `kNear`: all windows are within what is read at once.
template <bool kNear>
void see(const Windows& w, const Span* spans, int64_t span_count, int64_t count, int64_t room, uint64_t* words) {
  uint64_t steps[kWindowsTogether];
  for (int64_t n = 0; n < kWindowsTogether; ++n) steps[n] = n * w.step;
  Words shifts;
  __builtin_memcpy(shifts.parts, steps, sizeof(steps));
  for (int64_t first = 0; first < count; first += kWindowsTogether) {
    uint64_t* to = words + first;
    Words word;
    int full = 0;
    for (int64_t plane = 0; plane < w.planes; ++plane) {
      for (int64_t row = 0; row < w.rows; ++row) {
        const uint64_t* line = w.lines + plane * w.plane_stride + row * w.row_stride;
        for (int64_t p = 0; p < span_count; ++p) {
          const auto [offset, bits] = spans[p];
          const uint64_t mask = (uint64_t{1} << bits) - 1;
          if (full + bits > 64) {
            word.store(to);
            to += room;
            word = Words();
            full = 0;
          }
          if constexpr (kNear) {
            const uint64_t seen = read(line, first * w.step + offset);
            word.update([&](int k, Vector& part) { part |= (((Vector{} + seen) >> shifts.parts[k]) & mask) << full; });
          } else {
            uint64_t each[kWindowsTogether] = {};
            for (int64_t n = 0; n < kWindowsTogether && first + n < count; ++n) {
              each[n] = (read(line, (first + n) * w.step + offset) & mask) << full;
            }
            Words seen;
            __builtin_memcpy(seen.parts, each, sizeof(each));
            word.update([&](int k, Vector& part) { part |= seen.parts[k]; });
          }
          full += bits;
        }
      }
    }
    word.store(to);
  }
}

}  // namespace

template <class Isa>
See see_of() {
  return [](const Windows& w, const Span* spans, int64_t span_count, int64_t count, int64_t room, uint64_t* words) {
    (most_bits(w.step) < kReadable ? see<true> : see<false>)(w, spans, span_count, count, room, words);
  };
}

template See see_of<NORSE_FAST_ISA>();

}  // namespace norse_fast::cpu
