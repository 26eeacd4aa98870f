#pragma once
// What the operators on images of spikes share.

#include <algorithm>
#include <vector>

#include "spike_bits.h"

namespace norse_fast::cpu {

/// One dimension of images over which a kernel or a window moves.
struct Axis {
  int64_t size, kernel, stride, padding, dilation;
  int64_t places = (size + 2 * padding - dilation * (kernel - 1) - 1) / std::max<int64_t>(stride, 1) + 1;

  int64_t outputs() const { return places; }

  /// For each place of the input the elements of the kernel that meet it, and the outputs to which they belong.
  struct Meeting {
    int64_t element, output;
  };
  std::vector<std::vector<Meeting>> meetings() const {
    std::vector<std::vector<Meeting>> all(size);
    for (int64_t place = 0; place < size; ++place) {
      for (int64_t k = 0; k < kernel; ++k) {
        const int64_t from = place + padding - k * dilation;
        if (from >= 0 && from % stride == 0 && from / stride < outputs()) all[place].push_back({k, from / stride});
      }
    }
    return all;
  }
};

/// Up to 64 bits from any place on; without a branch, which a processor could not guess.
NORSE_FAST_INLINE uint64_t read_bits(const uint64_t* words, int64_t first, int64_t count) {
  const uint64_t from = first, word = from / kWordBits, shift = from % kWordBits, next = shift + count > kWordBits;
  const uint64_t bits = words[word] >> shift | words[word + next] << 1 << (kWordBits - 1 - shift);
  return bits & (~uint64_t{0} >> (kWordBits - count));
}

/// Adds them to bits that are 0 there.
NORSE_FAST_INLINE void write_bits(uint64_t* words, int64_t first, int64_t count, uint64_t bits) {
  const uint64_t from = first, word = from / kWordBits, shift = from % kWordBits, next = shift + count > kWordBits;
  words[word] |= bits << shift;
  words[word + next] |= bits >> 1 >> (kWordBits - 1 - shift);
}

/// Calls f with the places, from 0, of those that are set among so many bits.
template <class F>
void for_each_bit(const uint64_t* words, int64_t first, int64_t count, F f) {
  for (int64_t k = 0; k < count; k += kWordBits) {
    uint64_t left = read_bits(words, first + k, std::min(count - k, kWordBits));
    for (; left; left &= left - 1) f(k + __builtin_ctzll(left));
  }
}

inline Axis axis_of(const char* name, int64_t size, int64_t kernel, int64_t stride, int64_t padding, int64_t dilation) {
  constexpr int64_t kMost = 1 << 15;
  const Axis axis{size, kernel, stride, padding, dilation};
  require(size > 0 && kernel > 0 && stride > 0 && padding >= 0 && dilation > 0 && size <= kMost && kernel <= kMost &&
              stride <= kMost && padding <= kMost && dilation <= kMost && axis.outputs() > 0,
          name, ": size ", size, ", kernel ", kernel, ", stride ", stride, ", padding ", padding, " and dilation ",
          dilation, " do not fit each other");
  return axis;
}

/// An image of one channel, and what moves over it.
struct Plane {
  Axis rows, columns;

  int64_t pixels() const { return rows.size * columns.size; }
  int64_t places() const { return rows.outputs() * columns.outputs(); }
};

inline Plane plane_of(const char* name, const Sizes& size, const Sizes& kernel, const Sizes& stride,
                      const Sizes& padding, const Sizes& dilation) {
  for (const Sizes* sizes : {&size, &kernel, &stride, &padding, &dilation}) {
    require(sizes->size() == 2, name, ": sizes of an image, a kernel or window, and its steps are two numbers each");
  }
  return {axis_of(name, size[0], kernel[0], stride[0], padding[0], dilation[0]),
          axis_of(name, size[1], kernel[1], stride[1], padding[1], dilation[1])};
}

inline void check_channels(const char* name, int64_t channels) {
  require(channels > 0 && channels <= 1 << 20, name, ": got ", channels, " channels");
}

/// What is convolved: images (image, channel, row, column).
struct Convolution : Plane {
  int64_t channels;

  int64_t pixels() const { return channels * Plane::pixels(); }
  int64_t elements() const { return channels * rows.kernel * columns.kernel; }  // of the kernel of one output channel
};

inline Convolution convolution_of(const char* name, int64_t channels, const Sizes& size, const Sizes& kernel,
                                  const Sizes& stride, const Sizes& padding, const Sizes& dilation) {
  check_channels(name, channels);
  const Convolution c{plane_of(name, size, kernel, stride, padding, dilation), channels};
  require(c.elements() < 1 << 16, name, ": ", channels, " channels of ", c.rows.kernel, " times ", c.columns.kernel,
          " elements are more than a list can name");
  require(c.places() < 1 << 16, name, ": more than 65535 places of an output");
  return c;
}

}  // namespace norse_fast::cpu
