// The gradient of the images of a convolution, on the CPU: for each place of the output a product of its gradients with
// the weights, which is added to the pixels that the kernel met there. Channels are innermost meanwhile, so that what a
// row of the kernel met is added in one run. Unlike PyTorch's, it computes no more where channels are no multiple of a
// vector.

#include "spike_images.h"

namespace norse_fast::cpu {
namespace {

/// Places whose products wait together, so that they stay in a cache.
constexpr int64_t kTogether = 24;

/// Adds the products of one place, (row of the kernel, column, channel), to an image (row, column, channel).
template <class T>
void add_place(const SpikeSums<T>& sums, const Convolution& c, int64_t place, const T* products, T* image) {
  const Axis &rows = c.rows, &columns = c.columns;
  const int64_t top = place / columns.outputs() * rows.stride - rows.padding;
  const int64_t left = place % columns.outputs() * columns.stride - columns.padding;
  const int64_t run = columns.dilation == 1 ? columns.kernel : 1;
  for (int64_t row = 0; row < rows.kernel; ++row) {
    const int64_t y = top + row * rows.dilation;
    if (y < 0 || y >= rows.size) continue;
    for (int64_t column = 0; column < columns.kernel; column += run) {
      const int64_t x = left + column * columns.dilation;
      const int64_t first = std::max<int64_t>(-x, 0), last = std::min(columns.size - x, run);
      if (first >= last) continue;
      sums.add(products + (row * columns.kernel + column + first) * c.channels, (last - first) * c.channels,
               image + (y * columns.size + x + first) * c.channels);
    }
  }
}

/// out (image, channel, pixel) from weights (output channel, channel, element) and gradients (image, output channel,
/// place).
template <class T>
void spread(const Convolution& c, int64_t images, const T* weight, const T* grads, int64_t outputs, T* out) {
  const Products<T> products = cpu::products<T>();
  const SpikeSums<T> spike_sums = cpu::spike_sums<T>();
  const int64_t places = c.places(), elements = c.elements(), pixels = c.Plane::pixels();
  const int64_t width = panel_count(elements, kPanel<T>) * kPanel<T>;
  const Scratch<T> turned(outputs * elements), panels(outputs * width);
  for (int64_t k = 0; k < outputs; ++k) {
    const int64_t kernel = elements / c.channels;
    turn(weight + k * elements, kernel, c.channels, kernel, turned.data() + k * elements, c.channels);
  }
  Watch watch;
  pack(watch, products, Matrix<T>{turned.data(), outputs, elements, elements, 1}, panels.data());
  parallel_ranges(watch, images, [&](int64_t begin, int64_t end) {
    const Scratch<T> multiplied(kTogether * width), sums(pixels * c.channels);
    for (int64_t image = begin; image < end; ++image) {
      std::fill_n(sums.data(), pixels * c.channels, T(0));
      for (int64_t place = 0; place < places; place += kTogether) {
        const int64_t count = std::min(kTogether, places - place);
        for (int64_t column = 0; column < width; column += kPanel<T>) {
          spike_sums.multiply(grads + image * outputs * places + place, 1, places, count, outputs,
                              panels.data() + column * outputs, multiplied.data() + column, width, kPanel<T>, false);
        }
        for (int64_t k = 0; k < count; ++k)
          add_place(spike_sums, c, place + k, multiplied.data() + k * width, sums.data());
      }
      turn(sums.data(), c.channels, pixels, c.channels, out + image * c.channels * pixels, pixels);
    }
  });
}

/// The gradient of the input of conv2d, for images of that size.
Tensor conv2d_input(const Sizes& size, const Tensor& weight, const Tensor& grads, const Sizes& stride,
                    const Sizes& padding, const Sizes& dilation) {
  const char* const name = "conv2d_input";
  check_float(name, "weight", weight, 4);
  check_float(name, "grads", grads, 4);
  const Convolution c =
      convolution_of(name, weight.size(1), size, {weight.size(2), weight.size(3)}, stride, padding, dilation);
  require(grads.scalar_type() == weight.scalar_type() && grads.size(1) == weight.size(0) &&
              grads.size(2) == c.rows.outputs() && grads.size(3) == c.columns.outputs(),
          name, ": grads have another shape or type than the output");
  const Tensor w = as_contiguous(weight), g = as_contiguous(grads);
  const Tensor out = Allocator{locate(grads), kernel_table().memory}({grads.size(0), c.channels, size[0], size[1]},
                                                                     grads.scalar_type());
  with_type_of(grads, [&](auto zero) {
    using T = decltype(zero);
    spread<T>(c, grads.size(0), static_cast<const T*>(w.data_ptr()), static_cast<const T*>(g.data_ptr()),
              weight.size(0), static_cast<T*>(out.data_ptr()));
  });
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(norse_fast, m) {
  m.def("conv2d_input(int[] size, Tensor weight, Tensor grads, int[] stride, int[] padding, int[] dilation) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(norse_fast, CPU, m) { m.impl("conv2d_input", TORCH_BOX(&conv2d_input)); }

}  // namespace norse_fast::cpu
