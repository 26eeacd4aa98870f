#pragma once
// Stores past the caches; compiled with the file that includes it, for its instruction set.

#include <cstdint>

#include "sanitize.h"

#if defined(__SSE2__)
#include <immintrin.h>
#endif

namespace norse_fast::cpu {
namespace {

// From this size of a result on, streaming is faster. Smaller ones stay in the caches, where whoever reads them finds
// them.
constexpr int64_t kStreamed = int64_t{1} << 23;

#if defined(__SSE2__)
constexpr bool kStreams = true;
inline void flush_lines() { _mm_sfence(); }
#if defined(__AVX512F__)
using Line = __m512i;
inline void store_line(Line* to, const Line* from) { _mm512_stream_si512(to, *from); }
#elif defined(__AVX2__)
using Line = __m256i;
inline void store_line(Line* to, const Line* from) { _mm256_stream_si256(to, *from); }
#else
using Line = __m128i;
inline void store_line(Line* to, const Line* from) { _mm_stream_si128(to, *from); }
#endif
#else
constexpr bool kStreams = false;
inline void flush_lines() {}
using Line = uint64_t;
inline void store_line(Line* to, const Line* from) { *to = *from; }
#endif

/// Needs flush_lines at the end.
inline void stream_line(Line* to, const Line* from) {
  announce_store(to);
  store_line(to, from);
}

}  // namespace
}  // namespace norse_fast::cpu
