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

/// Eight bytes from the one on in which a bit lies.
uint64_t read(const uint64_t* line, uint64_t bit) {
  uint64_t found;
  __builtin_memcpy(&found, reinterpret_cast<const unsigned char*>(line) + bit / 8, sizeof(found));
  return found;
}

/// `kNear`: all windows are within what is read at once; `kOne`: there is one span, as nearly always.
template <bool kNear, bool kOne>
void see(const Windows& windows, const Span* spans, int64_t span_count, int64_t count, int64_t room, uint64_t* words) {
  const Windows w = windows;  // of its own, and so are the spans: what is written could be others'
  const Span only = spans[0];
  uint64_t steps[kWindowsTogether];
  for (int64_t n = 0; n < kWindowsTogether; ++n) steps[n] = n * w.step;
  Words shifts;
  __builtin_memcpy(shifts.parts, steps, sizeof(steps));
  for (int64_t first = 0; first < count; first += kWindowsTogether) {
    uint64_t* to = words + first;
    Words word;
    int full = 0;
    for (int64_t plane = 0; plane < w.planes; ++plane) {
      const uint64_t* line = w.lines + plane * w.plane_stride;
      for (int64_t row = 0; row < w.rows; ++row, line += w.row_stride) {
        for (int64_t p = 0; p < (kOne ? 1 : span_count); ++p) {
          const auto [offset, bits] = kOne ? only : spans[p];
          const uint64_t mask = (uint64_t{1} << bits) - 1, from = first * w.step + offset;
          if (full + bits > 64) {
            word.store(to);
            to += room;
            word = Words();
            full = 0;
          }
          if constexpr (kNear) {
            const uint64_t seen = read(line, from), before = from % 8;
            word.update([&](int k, Vector& part) {
              part |= (((Vector{} + seen) >> (shifts.parts[k] + before)) & mask) << full;
            });
          } else {
            uint64_t each[kWindowsTogether] = {};
            for (int64_t n = 0; n < kWindowsTogether && first + n < count; ++n) {
              const uint64_t bit = from + n * w.step;
              each[n] = (read(line, bit) >> bit % 8 & mask) << full;
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
    const bool near = most_bits(w.step) < kReadable, one = span_count == 1;
    (near ? one ? see<true, true> : see<true, false> : see<false, false>)(w, spans, span_count, count, room, words);
  };
}

template See see_of<NORSE_FAST_ISA>();

}  // namespace norse_fast::cpu
