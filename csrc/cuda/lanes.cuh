#pragma once
// What a thread of the CUDA driver reads and writes: the parameters of its lanes, and their values over time.

#include <type_traits>

#include "../neurons/model.h"
#include "backend.h"

namespace norse_fast::cuda {

inline constexpr int kThreads = 128;

/// Out of line: it runs once per lane and parameter, but would be the larger part of a kernel's code.
template <class T>
__device__ __noinline__ T parameter_at(const void* values, Storage type, int64_t lane, int64_t period, bool rate,
                                       double dt) {
  return parameter_value<T>(values, type, lane % period, rate, dt);
}

template <class T>
__device__ __forceinline__ T parameter_of_lane(const Parameter<T>& p, bool rate, double dt, int64_t lane) {
  return p.is_shared() ? p.shared : parameter_at<T>(p.values, p.type, lane, p.period, rate, dt);
}

template <class Model, class T>
__device__ __forceinline__ typename Model::template Params<T> params_of_lane(const Problem<T>& problem, int64_t lane) {
  return make_params<Model, T>(
      [&](int k) { return parameter_of_lane(problem.params[k], k < Model::kRates, problem.dt, lane); });
}

/// Values of neighbouring lanes, which one thread reads and writes in one access.
template <class T, int kWidth>
struct alignas(sizeof(T) * kWidth) Pack {
  T of[kWidth];
};

/// The same as they are stored: two of 16 bits in one register.
template <class Stored, int kWidth>
using Word = std::conditional_t<kWidth == 2 && sizeof(Stored) == 2, uint32_t, Pack<Stored, kWidth>>;

template <class Stored, class T, int kWidth>
__device__ __forceinline__ Pack<T, kWidth> unpack(Word<Stored, kWidth> word) {
  if constexpr (std::is_same_v<Word<Stored, kWidth>, uint32_t>) {
    return {load_stored(Stored{static_cast<uint16_t>(word)}), load_stored(Stored{static_cast<uint16_t>(word >> 16)})};
  } else {
    Pack<T, kWidth> values;
#pragma unroll
    for (int l = 0; l < kWidth; ++l) values.of[l] = load_stored(word.of[l]);
    return values;
  }
}

/// One instruction rounds two lanes.
template <class Stored>
__device__ __forceinline__ uint32_t pack_rounded(float low, float high) {
#ifdef __CUDA_ARCH__
  uint32_t word;
  if constexpr (std::is_same_v<Stored, Half>) {
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(high), "f"(low));
  } else {
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(high), "f"(low));
  }
  return word;
#else
  Stored stored[2];
  store_rounded(low, stored[0]);
  store_rounded(high, stored[1]);
  return stored[0].bits | static_cast<uint32_t>(stored[1].bits) << 16;
#endif
}

template <class Stored, class T, int kWidth>
__device__ __forceinline__ void write_output(const Pack<T, kWidth>& z, Stored* at) {
  if constexpr (kWidth == 2 && sizeof(Stored) == 2) {
    *reinterpret_cast<uint32_t*>(at) = pack_rounded<Stored>(z.of[0], z.of[1]);
  } else {
    Pack<Stored, kWidth> stored;
#pragma unroll
    for (int l = 0; l < kWidth; ++l) store_rounded(z.of[l], stored.of[l]);
    *reinterpret_cast<Pack<Stored, kWidth>*>(at) = stored;
  }
}

/// Time steps that a thread fetches ahead: 64 bytes of them, or 16.
template <class Stored, int kWidth>
inline constexpr int kAhead = sizeof(Word<Stored, kWidth>) > 4 ? 8 : 16;

/// Time steps from `first` on that are fetched or computed together: kCount, or those before `end`.
template <int kCount>
__device__ __forceinline__ int count_steps(int64_t first, int64_t end) {
  return end - first < kCount ? static_cast<int>(end - first) : kCount;
}

/// The lanes of a thread in rows: those of step t are at data[t * stride].
template <class Stored, int kWidth>
struct Column {
  const Stored* __restrict__ data;
  int64_t stride;

  __device__ __forceinline__ Column(const Rows& rows, int64_t lane)
      : data(rows.data ? static_cast<const Stored*>(rows.data) + (rows.broadcast ? 0 : lane) : nullptr),
        stride(rows.time_stride) {}

  /// Fetches the steps from `first` on, or those before `end`, and leaves the others alone.
  template <int kCount>
  __device__ __forceinline__ void fetch(int64_t first, int64_t end, Word<Stored, kWidth> (&to)[kCount]) const {
    if (!data) {
#pragma unroll
      for (int k = 0; k < kCount; ++k) to[k] = Word<Stored, kWidth>{};
      return;
    }
    const Stored* at = data + first * stride;
    const int count = count_steps<kCount>(first, end);
    // The steps of a whole fetch need not be compared with its end.
    if (count == kCount) {
#pragma unroll
      for (int k = 0; k < kCount; ++k, at += stride) to[k] = *reinterpret_cast<const Word<Stored, kWidth>*>(at);
    } else {
#pragma unroll
      for (int k = 0; k < kCount; ++k, at += stride) {
        if (k < count) to[k] = *reinterpret_cast<const Word<Stored, kWidth>*>(at);
      }
    }
  }
};

/// Calls f(k, pack) with member k of the structs of all lanes of a thread.
template <int kCount, class T, int kWidth, class Struct, class F>
__device__ __forceinline__ void for_each_pack(Struct (&structs)[kWidth], F f) {
  if constexpr (kCount > 0) {
    Pack<T, kWidth> packs[kCount];
#pragma unroll
    for (int l = 0; l < kWidth; ++l) {
      for_each_member<kCount>(structs[l], [&](int k, T& member) { packs[k].of[l] = member; });
    }
#pragma unroll
    for (int k = 0; k < kCount; ++k) f(k, packs[k]);
  }
}

template <class Model, class T, int kWidth>
__device__ __forceinline__ void write_states(typename Model::template State<T> (&s)[kWidth], T* const* to,
                                             int64_t offset) {
  for_each_pack<kStateCount<Model>, T, kWidth>(
      s, [&](int k, const Pack<T, kWidth>& member) { *reinterpret_cast<Pack<T, kWidth>*>(to[k] + offset) = member; });
}

}  // namespace norse_fast::cuda
