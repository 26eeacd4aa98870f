// Max pooling of spikes, on the CPU: whether there is one in a window. The gradient goes to the first that is there,
// or, as in PyTorch, to the first element where there is none.

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

template <class T>
void pool_image(const Plane& pool, const uint64_t* bits, int64_t first, T* out) {
  const int64_t width = pool.columns.outputs();
  for (int64_t row = 0; row < pool.rows.outputs(); ++row, out += width) {
    if (is_narrow(pool)) {
      const Lines lines(pool, bits, first, row);
      uint64_t any = 0, windows = 0;
      for (int64_t y = 0; y < pool.rows.kernel; ++y) any |= lines.words[y];
      for (int64_t x = 0; x < pool.columns.kernel; ++x) windows |= any >> (x * pool.columns.dilation);
      for (int64_t column = 0; column < width; ++column) {
        out[column] = static_cast<T>(windows >> (column * pool.columns.stride) & 1);
      }
      continue;
    }
    for (int64_t column = 0; column < width; ++column) {
      bool any = false;
      visit_window(pool.rows, pool.columns, row, column,
                   [&](int64_t y, int64_t x) { return any = is_set(bits, first + y * pool.columns.size + x); });
      out[column] = any;
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

template <class T>
void spread_gradient(const Plane& pool, const uint64_t* bits, int64_t first, const T* grads, T* out) {
  std::fill_n(out, pool.pixels(), T(0));
  visit_sources(pool, bits, first, [&](int64_t pixel) { out[pixel] += *grads++; });
}

/// max_pool2d of images, (image, channel * row * column), whose bits are given, in the type of another tensor.
Tensor spike_max_pool2d(const Tensor& bits, int64_t channels, const Sizes& size, const Tensor& like,
                        const Sizes& kernel, const Sizes& stride, const Sizes& padding, const Sizes& dilation) {
  const Plane pool = pool_of("spike_max_pool2d", channels, size, kernel, stride, padding, dilation);
  const Bits images = bits_of("spike_max_pool2d", bits, channels * pool.pixels());
  check_float("spike_max_pool2d", "like", like, like.dim());
  const Tensor out = Allocator{locate(like), kernel_table().memory}(
      {images.rows, channels, pool.rows.outputs(), pool.columns.outputs()}, like.scalar_type());
  Watch watch;
  with_type_of(like, [&](auto zero) {
    using T = decltype(zero);
    parallel(watch, images.rows, [&](int64_t image) {
      T* to = static_cast<T*>(out.data_ptr()) + image * channels * pool.places();
      for (int64_t c = 0; c < channels; ++c, to += pool.places()) {
        pool_image(pool, images.row(image), c * pool.pixels(), to);
      }
    });
  });
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

/// Windows of two times two that do not overlap, nearly all that there are.
bool is_halving(const Axis& a) {
  return a.kernel == 2 && a.stride == 2 && a.padding == 0 && a.dilation == 1 && a.size <= kWordBits;
}

/// For a row of windows of two times two, from the bits of its two rows of spikes and of active elements.
void mark_windows(uint64_t upper, uint64_t lower, uint64_t active_upper, uint64_t active_lower, int64_t width,
                  uint8_t* out) {
  const uint64_t spikes[] = {upper, upper >> 1, lower, lower >> 1};
  const uint64_t active[] = {active_upper, active_upper >> 1, active_lower, active_lower >> 1};
  uint64_t found = 0, marked = 0;
  for (int k = 0; k < 4; ++k) {
    marked |= spikes[k] & ~found & active[k];
    found |= spikes[k];
  }
  marked |= ~found & active[0];
  for (int64_t column = 0; column < width; ++column) out[column] = marked >> (2 * column) & 1;
}

/// Whether the gradient of each output goes to an element of the input that is active, from the bits of both, as bytes.
Tensor spike_max_pool2d_active(const Tensor& bits, const Tensor& active, int64_t channels, const Sizes& size,
                               const Sizes& kernel, const Sizes& stride, const Sizes& padding, const Sizes& dilation) {
  const char* const name = "spike_max_pool2d_active";
  const Plane pool = pool_of(name, channels, size, kernel, stride, padding, dilation);
  const Bits images = bits_of(name, bits, channels * pool.pixels()), wanted = bits_of(name, active, images.columns);
  require(images.rows == wanted.rows, name, ": not as many images are active as there are");
  const Tensor out = empty({images.rows, channels * pool.places()}, ScalarType::Byte, locate(bits));
  Watch watch;
  parallel(watch, images.rows * channels, [&](int64_t k) {
    uint8_t* to = static_cast<uint8_t*>(out.data_ptr()) + k * pool.places();
    const int64_t image = k / channels, first = k % channels * pool.pixels(), size = pool.columns.size;
    if (is_halving(pool.rows) && is_halving(pool.columns)) {
      const int64_t width = pool.columns.outputs();
      for (int64_t row = 0, upper = first; row < pool.rows.outputs(); ++row, upper += 2 * size, to += width) {
        mark_windows(read_bits(images.row(image), upper, size), read_bits(images.row(image), upper + size, size),
                     read_bits(wanted.row(image), upper, size), read_bits(wanted.row(image), upper + size, size), width,
                     to);
      }
      return;
    }
    visit_sources(pool, images.row(image), first,
                  [&](int64_t pixel) { *to++ = is_set(wanted.row(image), first + pixel); });
  });
  return out;
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
      "padding, int[] dilation) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(norse_fast, CPU, m) {
  m.impl("spike_max_pool2d", TORCH_BOX(&spike_max_pool2d));
  m.impl("spike_max_pool2d_backward", TORCH_BOX(&spike_max_pool2d_backward));
  m.impl("spike_max_pool2d_active", TORCH_BOX(&spike_max_pool2d_active));
}

}  // namespace norse_fast::cpu
