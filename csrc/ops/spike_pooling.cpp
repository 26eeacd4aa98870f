// Max pooling of spikes, on the CPU: whether there is one in a window. The gradient goes to the first that is there,
// or, as in PyTorch, to the first element where there is none.

#include <atomic>

#include "spike_images.h"

namespace norse_fast::cpu {
namespace {

/// Calls f(row, column) of the input for the elements of a window that are in the image, row after row, until it
/// returns true.
template <class F>
void visit_window(const Axis& rows, const Axis& columns, int64_t row, int64_t column, F f) {
  for (int64_t y = 0; y < rows.kernel; ++y) {
    const int64_t at = row * rows.stride - rows.padding + y * rows.dilation;
    if (at < 0 || at >= rows.size) continue;
    for (int64_t x = 0; x < columns.kernel; ++x) {
      const int64_t place = column * columns.stride - columns.padding + x * columns.dilation;
      if (place >= 0 && place < columns.size && f(at, place)) return;
    }
  }
}

/// Whether rows, with what pads them, fit into a word: nearly all do.
bool is_narrow(const Plane& p) {
  return p.rows.size + 2 * p.rows.padding <= kWordBits && p.columns.size + 2 * p.columns.padding <= kWordBits;
}

/// Of the windows of one row of the output, the rows of a narrow image, shifted by what pads them; zeros beyond it.
struct Lines {
  uint64_t words[kWordBits];
  int64_t first;  // row of the image

  Lines(const Plane& p, const uint64_t* bits, int64_t image, int64_t row) : first(-1) {
    for (int64_t y = 0; y < p.rows.kernel; ++y) {
      const int64_t at = row * p.rows.stride - p.rows.padding + y * p.rows.dilation;
      const bool inside = at >= 0 && at < p.rows.size;
      words[y] = inside ? read_bits(bits, image + at * p.columns.size, p.columns.size) << p.columns.padding : 0;
      if (inside && first < 0) first = at;
    }
  }
};

Plane pool_of(const char* name, int64_t channels, const Sizes& size, const Sizes& kernel, const Sizes& stride,
              const Sizes& padding, const Sizes& dilation) {
  check_channels(name, channels);
  const Plane pool = plane_of(name, size, kernel, stride, padding, dilation);
  require(2 * padding[0] <= kernel[0] && 2 * padding[1] <= kernel[1], name, ": padding is more than half a window");
  // Or the padding could hold a whole window, whose gradient goes to no element.
  require(dilation[0] <= size[0] && dilation[1] <= size[1], name, ": dilation is more than the image");
  return pool;
}

/// Windows of two times two that do not overlap, nearly all that there are.
bool is_halving(const Plane& p) {
  const auto halves = [](const Axis& a) {
    return a.kernel == 2 && a.stride == 2 && a.padding == 0 && a.dilation == 1 && a.size <= kWordBits;
  };
  return halves(p.rows) && halves(p.columns);
}

/// Two rows of the input that such windows see.
struct RowPair {
  uint64_t upper, lower;

  RowPair(const Plane& pool, const uint64_t* bits, int64_t first) {
    const int64_t size = pool.columns.size, width = 2 * pool.columns.outputs();
    if (size + width <= kWordBits) {
      const uint64_t both = read_bits(bits, first, size + width);
      upper = both & (~uint64_t{0} >> (kWordBits - width));
      lower = both >> size;
    } else {
      upper = read_bits(bits, first, width);
      lower = read_bits(bits, first + size, width);
    }
  }
};

/// Every second bit, from the first on; as in H. Warren: Hacker's Delight, 2012, chapter 7.4.
uint64_t every_second(uint64_t bits) {
  bits &= 0x5555555555555555u;
  bits = (bits | bits >> 1) & 0x3333333333333333u;
  bits = (bits | bits >> 2) & 0x0f0f0f0f0f0f0f0fu;
  bits = (bits | bits >> 4) & 0x00ff00ff00ff00ffu;
  bits = (bits | bits >> 8) & 0x0000ffff0000ffffu;
  return (bits | bits >> 16) & 0x00000000ffffffffu;
}

/// The bits of a row of the output of a narrow image.
uint64_t pool_row(const Plane& pool, const uint64_t* bits, int64_t image, int64_t row) {
  uint64_t any = 0, windows = 0, pooled = 0;
  const Lines lines(pool, bits, image, row);
  for (int64_t y = 0; y < pool.rows.kernel; ++y) any |= lines.words[y];
  for (int64_t x = 0; x < pool.columns.kernel; ++x) windows |= any >> (x * pool.columns.dilation);
  for (int64_t column = 0; column < pool.columns.outputs(); ++column) {
    pooled |= (windows >> (column * pool.columns.stride) & 1) << column;
  }
  return pooled;
}

/// The bits of a channel of an image; the rest of the last word is 0.
void pool_channel(const Plane& pool, const uint64_t* bits, int64_t first, uint64_t* out) {
  const int64_t height = pool.rows.outputs(), width = pool.columns.outputs(), size = pool.columns.size;
  std::fill_n(out, words_for(pool.places()), uint64_t{0});
  if (is_halving(pool)) {
    const uint64_t pairs = ~uint64_t{0} >> (kWordBits - 2 * width);
    const auto any_of = [&](int64_t row) {
      const RowPair both(pool, bits, first + row * 2 * size);
      const uint64_t any = both.upper | both.lower;
      return (any | any >> 1) & pairs;
    };
    // Two rows at once where they are short.
    const int64_t together = 4 * width <= kWordBits ? 2 : 1, count = height / together * together;
    for (int64_t row = 0; row < count; row += together) {
      const uint64_t any = any_of(row) | (together > 1 ? any_of(row + 1) << 2 * width : 0);
      write_bits(out, row * width, together * width, every_second(any));
    }
    if (count < height) write_bits(out, count * width, width, every_second(any_of(count)));
  } else if (is_narrow(pool)) {
    for (int64_t row = 0; row < height; ++row) write_bits(out, row * width, width, pool_row(pool, bits, first, row));
  } else {
    for (int64_t place = 0; place < pool.places(); ++place) {
      bool any = false;
      visit_window(pool.rows, pool.columns, place / width, place % width,
                   [&](int64_t y, int64_t x) { return any = is_set(bits, first + y * size + x); });
      out[place / kWordBits] |= uint64_t{any} << (place % kWordBits);
    }
  }
}

/// Calls f with the pixel that the gradient of an output goes to, for those of one row of a narrow image in order.
template <class F>
void visit_sources_of_row(const Plane& pool, const uint64_t* bits, int64_t image, int64_t row, F f) {
  const Axis &rows = pool.rows, &columns = pool.columns;
  const Lines lines(pool, bits, image, row);
  uint64_t elements = 0;
  for (int64_t x = 0; x < columns.kernel; ++x) elements |= uint64_t{1} << (x * columns.dilation);
  for (int64_t column = 0; column < columns.outputs(); ++column) {
    const int64_t shift = column * columns.stride, left = shift - columns.padding;
    int64_t y = 0;
    uint64_t spikes = 0;
    for (; y < rows.kernel && !spikes; ++y) spikes = lines.words[y] >> shift & elements;
    if (spikes) {
      f((row * rows.stride - rows.padding + (y - 1) * rows.dilation) * columns.size + left + __builtin_ctzll(spikes));
    } else {
      const int64_t missing = left < 0 ? (-left + columns.dilation - 1) / columns.dilation : 0;
      f(lines.first * columns.size + left + missing * columns.dilation);
    }
  }
}

/// The same for all outputs of an image.
template <class F>
void visit_sources(const Plane& pool, const uint64_t* bits, int64_t first, F f) {
  for (int64_t row = 0; row < pool.rows.outputs(); ++row) {
    if (is_narrow(pool)) {
      visit_sources_of_row(pool, bits, first, row, f);
      continue;
    }
    for (int64_t column = 0; column < pool.columns.outputs(); ++column) {
      int64_t to = -1;
      visit_window(pool.rows, pool.columns, row, column, [&](int64_t y, int64_t x) {
        const int64_t pixel = y * pool.columns.size + x;
        const bool spiked = is_set(bits, first + pixel);
        if (to < 0 || spiked) to = pixel;
        return spiked;
      });
      f(to);
    }
  }
}

/// The elements that the gradients of two rows of such windows go to.
struct Sources {
  uint64_t upper, lower;

  explicit Sources(const RowPair& rows) {
    constexpr uint64_t kEven = 0x5555555555555555u;
    const uint64_t up = rows.upper, low = rows.lower;
    const uint64_t first = up & kEven, second = up >> 1 & kEven & ~first, above = first | second;
    const uint64_t third = low & kEven & ~above, fourth = low >> 1 & kEven & ~(above | third);
    upper = first | second << 1 | (kEven & ~(above | third | fourth));
    lower = third | fourth << 1;
  }
};

/// Calls f(row of the output, the elements that its gradients go to, the first pixel of the upper row of the input).
template <class F>
void visit_halves(const Plane& pool, const uint64_t* bits, int64_t image, F f) {
  for (int64_t row = 0, pixel = 0; row < pool.rows.outputs(); ++row, pixel += 2 * pool.columns.size) {
    f(row, Sources(RowPair(pool, bits, image + pixel)), pixel);
  }
}

/// Whether the gradients of a channel of an image go to elements that are active, as bits from a place on.
void mark_channel(const Plane& pool, const uint64_t* bits, const uint64_t* active, int64_t first, uint64_t* out,
                  int64_t place) {
  if (is_halving(pool)) {
    const int64_t width = pool.columns.outputs();
    visit_halves(pool, bits, first, [&](int64_t row, Sources from, int64_t pixel) {
      const RowPair wanted(pool, active, first + pixel);
      const uint64_t marked = (from.upper & wanted.upper) | (from.lower & wanted.lower);
      write_bits(out, place + row * width, width, every_second(marked | marked >> 1));
    });
  } else {
    visit_sources(pool, bits, first,
                  [&](int64_t pixel) { write_bits(out, place++, 1, is_set(active, first + pixel)); });
  }
}

template <class T>
void spread_gradient(const Plane& pool, const uint64_t* bits, int64_t first, const T* grads, T* out) {
  if (is_halving(pool)) {
    const auto spread = spike_sums<T>().spread;
    const int64_t size = pool.columns.size, width = 2 * pool.columns.outputs(), height = 2 * pool.rows.outputs();
    visit_halves(pool, bits, first, [&](int64_t row, Sources to, int64_t pixel) {
      spread(to.upper, grads + row * width / 2, width, out + pixel);
      spread(to.lower, grads + row * width / 2, width, out + pixel + size);
    });
    for (int64_t y = 0; y < height && width < size; ++y) out[y * size + width] = T(0);
    std::fill(out + height * size, out + pool.pixels(), T(0));
    return;
  }
  std::fill_n(out, pool.pixels(), T(0));
  visit_sources(pool, bits, first, [&](int64_t pixel) { out[pixel] += *grads++; });
}

/// Writes the pooled bits of all channels as elements, by a function of spike sums.
template <class Element>
void pool_images(const Plane& pool, const Bits& images, int64_t channels,
                 void (*values)(const uint64_t* bits, int64_t n, Element* z), const Tensor& out) {
  Watch watch;
  parallel_ranges(watch, images.rows, [&](int64_t begin, int64_t end) {
    const Scratch<uint64_t> pooled(words_for(pool.places()));
    Element* to = static_cast<Element*>(out.data_ptr()) + begin * channels * pool.places();
    for (int64_t image = begin; image < end; ++image) {
      for (int64_t channel = 0; channel < channels; ++channel, to += pool.places()) {
        pool_channel(pool, images.row(image), channel * pool.pixels(), pooled.data());
        values(pooled.data(), pool.places(), to);
      }
    }
  });
}

/// max_pool2d of images, (image, channel * row * column), whose bits are given, in the type of another tensor.
Tensor spike_max_pool2d(const Tensor& bits, int64_t channels, const Sizes& size, const Tensor& like,
                        const Sizes& kernel, const Sizes& stride, const Sizes& padding, const Sizes& dilation) {
  const Plane pool = pool_of("spike_max_pool2d", channels, size, kernel, stride, padding, dilation);
  const Bits images = bits_of("spike_max_pool2d", bits, channels * pool.pixels());
  const bool bytes = like.scalar_type() == ScalarType::Byte;
  require(like.is_cpu() && (bytes || (is_floating(like.scalar_type()) && !is_half(like.scalar_type()))),
          "spike_max_pool2d: like is not one of float32, float64 or uint8 on the CPU");
  const Tensor out = Allocator{locate(like), kernel_table().memory}(
      {images.rows, channels, pool.rows.outputs(), pool.columns.outputs()}, like.scalar_type());
  if (bytes) {
    pool_images(pool, images, channels, spike_sums<float>().values_bytes, out);
  } else {
    with_type_of(like,
                 [&](auto zero) { pool_images(pool, images, channels, spike_sums<decltype(zero)>().values, out); });
  }
  return out;
}

/// The gradient of its input.
Tensor spike_max_pool2d_backward(const Tensor& bits, int64_t channels, const Sizes& size, const Tensor& grads,
                                 const Sizes& kernel, const Sizes& stride, const Sizes& padding,
                                 const Sizes& dilation) {
  const char* const name = "spike_max_pool2d_backward";
  const Plane pool = pool_of(name, channels, size, kernel, stride, padding, dilation);
  const Bits images = bits_of(name, bits, channels * pool.pixels());
  check_float(name, "grads", grads, 4);
  require(grads.size(0) == images.rows && grads.size(1) == channels && grads.size(2) == pool.rows.outputs() &&
              grads.size(3) == pool.columns.outputs(),
          name, ": grads have another shape than the output");
  const Tensor g = as_contiguous(grads);
  const Tensor out =
      Allocator{locate(grads), kernel_table().memory}({images.rows, channels, size[0], size[1]}, grads.scalar_type());
  Watch watch;
  with_type_of(grads, [&](auto zero) {
    using T = decltype(zero);
    parallel(watch, images.rows * channels, [&](int64_t k) {
      spread_gradient(pool, images.row(k / channels), k % channels * pool.pixels(),
                      static_cast<const T*>(g.data_ptr()) + k * pool.places(),
                      static_cast<T*>(out.data_ptr()) + k * pool.pixels());
    });
  });
  return out;
}

/// Whether the gradient of each output goes to an element of the input that is active, from the bits of both, as
/// spike_bits returns it.
std::tuple<Tensor, Tensor> spike_max_pool2d_active(const Tensor& bits, const Tensor& active, int64_t channels,
                                                   const Sizes& size, const Sizes& kernel, const Sizes& stride,
                                                   const Sizes& padding, const Sizes& dilation) {
  const char* const name = "spike_max_pool2d_active";
  const Plane pool = pool_of(name, channels, size, kernel, stride, padding, dilation);
  const Bits images = bits_of(name, bits, channels * pool.pixels()), wanted = bits_of(name, active, images.columns);
  require(images.rows == wanted.rows, name, ": not as many images are active as there are");
  const int64_t words = words_for(channels * pool.places());
  const Tensor out = empty({images.rows, words}, ScalarType::Long, locate(bits));
  const Tensor count = empty({}, ScalarType::Long, locate(bits));
  std::atomic<int64_t> ones{0};
  const auto count_bits = spike_sums<float>().count;
  Watch watch;
  parallel_ranges(watch, images.rows, [&](int64_t begin, int64_t end) {
    int64_t found = 0;
    for (int64_t image = begin; image < end; ++image) {
      uint64_t* const to = static_cast<uint64_t*>(out.data_ptr()) + image * words;
      std::fill_n(to, words, uint64_t{0});
      for (int64_t channel = 0; channel < channels; ++channel) {
        mark_channel(pool, images.row(image), wanted.row(image), channel * pool.pixels(), to, channel * pool.places());
      }
      found += count_bits(to, words);
    }
    ones += found;
  });
  *static_cast<int64_t*>(count.data_ptr()) = ones;
  return {out, count};
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(norse_fast, m) {
  m.def(
      "spike_max_pool2d(Tensor bits, int channels, int[] size, Tensor like, int[] kernel, int[] stride, int[] padding, "
      "int[] dilation) -> Tensor");
  m.def(
      "spike_max_pool2d_backward(Tensor bits, int channels, int[] size, Tensor grads, int[] kernel, int[] stride, "
      "int[] "
      "padding, int[] dilation) -> Tensor");
  m.def(
      "spike_max_pool2d_active(Tensor bits, Tensor active, int channels, int[] size, int[] kernel, int[] stride, int[] "
      "padding, int[] dilation) -> (Tensor, Tensor)");
}

STABLE_TORCH_LIBRARY_IMPL(norse_fast, CPU, m) {
  m.impl("spike_max_pool2d", TORCH_BOX(&spike_max_pool2d));
  m.impl("spike_max_pool2d_backward", TORCH_BOX(&spike_max_pool2d_backward));
  m.impl("spike_max_pool2d_active", TORCH_BOX(&spike_max_pool2d_active));
}

}  // namespace norse_fast::cpu
