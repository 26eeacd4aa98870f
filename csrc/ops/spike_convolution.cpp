// Convolutions of spikes with weights, as sums over those that are there, on the CPU.
//
// Every place of the output sees a window of the image, and sums the weights of the spikes in it. The gradient of a
// weight sums the gradients of the places where it met a spike: these are a window as well, for each element of the
// kernel one, which has a bit for each place.

#include "../cpu/stream.h"
#include "window_words.h"

namespace norse_fast::cpu {
namespace {

/// Rows of the output of one image, or, where these are few places, of several images.
struct Tile {
  int64_t image, images, row, rows;
};

/// Images cut into tiles of about so many places.
class Tiles {
 public:
  Tiles(const Convolution& c, int64_t places)
      : down_(c.rows.outputs()),
        rows_(std::clamp<int64_t>(places / c.columns.outputs(), 1, down_)),
        images_(std::max<int64_t>(places / c.places(), 1)),
        per_group_((down_ + rows_ - 1) / rows_) {}

  int64_t rows() const { return rows_; }
  int64_t images() const { return images_; }
  int64_t count(int64_t images) const { return (images + images_ - 1) / images_ * per_group_; }

  /// Tile k of images [begin, end).
  Tile tile(int64_t k, int64_t begin, int64_t end) const {
    const int64_t image = begin + k / per_group_ * images_, row = k % per_group_ * rows_;
    return {image, std::min(images_, end - image), row, std::min(rows_, down_ - row)};
  }

 private:
  const int64_t down_, rows_, images_, per_group_;
};

/// Elements of the kernel whose weights stay in the L1 cache while they serve a tile, and places of such a tile.
constexpr int64_t kBlock = 128, kPlaces = 256;

/// Channels whose weights serve a tile before the next ones do.
int64_t channels_together(const Convolution& c, bool sparse) {
  const int64_t elements = sparse ? 4096 : kBlock;
  return std::clamp<int64_t>(elements / (c.rows.kernel * c.columns.kernel), 1, c.channels);
}

/// out (image, output channel, place) from weights (output channel, element).
template <class T>
void convolve(const Convolution& c, const Bits& images, const Matrix<T>& weights, const T* bias, T* out) {
  const Products<T> products = cpu::products<T>();
  const SpikeSums<T> sums = spike_sums<T>();
  const Matrix<T> kernels = weights.transposed();  // a row for each element
  const int64_t outputs = weights.rows, panels = kernels.panels(), width = c.columns.outputs();
  const bool sparse = is_sparse(images);
  const int64_t together = channels_together(c, sparse), of_channel = c.rows.kernel * c.columns.kernel;
  const Tiles tiles(c, kPlaces);
  const int64_t most = tiles.images() * tiles.rows() * width;  // places
  const bool streamed = images.rows * outputs * c.places() >= kStreamed / static_cast<int64_t>(sizeof(T));
  const Spans spans(c.columns.kernel, c.columns.dilation, c.columns.stride);
  Watch watch;
  // With a row of negative zeros.
  const int64_t panel_size = kernels.panel_size() + kPanel<T>;
  const Scratch<T> packed(panels * panel_size);
  parallel(watch, panels, [&](int64_t panel) {
    T* const to = packed.data() + panel * panel_size;
    pack_panel(products, kernels, panel, to);
    std::fill_n(to + kernels.panel_size(), kPanel<T>, -T(0));
  });
  parallel_ranges(watch, tiles.count(images.rows), [&](int64_t begin, int64_t end) {
    PaddedLines lines(c, tiles.images(), tiles.rows());
    WindowWords words(most, together * c.rows.kernel, width, spans);
    const Scratch<T> waiting(panels * most * kPanel<T>);
    for (int64_t k = begin; k < end; ++k) {
      const Tile tile = tiles.tile(k, 0, images.rows);
      const int64_t places = tile.rows * width;
      for (int64_t image = 0; image < tile.images; ++image) {
        lines.take(images.row(tile.image + image), image, tile.row, tile.rows);
      }
      for (int64_t channel = 0; channel < c.channels; channel += together) {
        const int64_t channels = std::min(together, c.channels - channel);
        words.clear();
        for (int64_t image = 0; image < tile.images; ++image) {
          for (int64_t row = 0; row < tile.rows; ++row) {
            words.add({lines.line(image, channel, row * c.rows.stride), channels, lines.of_channel(), c.rows.kernel,
                       c.rows.dilation * lines.words(), c.columns.stride});
          }
        }
        for (int64_t panel = 0; panel < panels; ++panel) {
          const int64_t columns = kernels.columns_in(panel);
          T start[kPanel<T>] = {};
          if (bias) std::copy_n(bias + panel * kPanel<T>, columns, start);
          sums.sum_words(packed.data() + panel * panel_size + channel * of_channel * kPanel<T>,
                         words.all(channels * c.rows.kernel), c.elements() - channel * of_channel, tile.images * places,
                         columns, channel == 0 ? start : nullptr, waiting.data() + panel * most * kPanel<T>);
        }
      }
      for (int64_t image = 0; image < tile.images; ++image) {
        for (int64_t panel = 0; panel < panels; ++panel) {
          const int64_t first = (tile.image + image) * outputs + panel * kPanel<T>;
          products.turn(waiting.data() + (panel * most + image * places) * kPanel<T>, kPanel<T>, places,
                        kernels.columns_in(panel), out + first * c.places() + tile.row * width, c.places(), streamed);
        }
      }
    }
    if (streamed) flush_lines();
  });
}

/// Images go into this many sums at most, which are added at the end, in order, so that threads change no result.
constexpr int64_t kParts = 8;

/// of_weights (output channel, element) and of_bias from the gradients (image, output channel, place).
template <class T>
void convolve_gradients(const Convolution& c, const Bits& images, const T* grads, int64_t outputs, T* of_weights,
                        T* of_bias) {
  const Products<T> products = cpu::products<T>();
  const SpikeSums<T> sums = spike_sums<T>();
  // The bias is like the weight of an element that always spikes.
  const int64_t places = c.places(), elements = c.elements(), rows = elements + 1;
  const int64_t panels = panel_count(outputs, kPanel<T>);
  const bool sparse = is_sparse(images);
  const Tiles tiles(c, sparse ? kPlaces : kBlock);
  const int64_t width = c.columns.outputs(), most = tiles.images() * tiles.rows() * width;
  const int64_t parts = std::min(kParts, (images.rows + tiles.images() - 1) / tiles.images());
  const Spans spans(width, c.columns.stride, c.columns.dilation);
  Watch watch;
  const Scratch<T> totals(parts * panels * rows * kPanel<T>);
  parallel_ranges(watch, parts, [&](int64_t begin, int64_t end) {
    PaddedLines lines(c, tiles.images(), tiles.rows());
    WindowWords words(rows, tiles.images() * tiles.rows(), c.columns.kernel, spans);
    const Scratch<T> packed((most + 1) * kPanel<T>);
    std::fill_n(packed.data() + most * kPanel<T>, kPanel<T>, -T(0));
    const T zeros[kPanel<T>] = {};
    for (int64_t part = begin; part < end; ++part) {
      const int64_t first = images.rows * part / parts, last = images.rows * (part + 1) / parts;
      for (int64_t k = 0; k < tiles.count(last - first); ++k) {
        const Tile tile = tiles.tile(k, first, last);
        for (int64_t image = 0; image < tile.images; ++image) {
          lines.take(images.row(tile.image + image), image, tile.row, tile.rows);
        }
        words.clear();
        for (int64_t channel = 0; channel < c.channels; ++channel) {
          for (int64_t row = 0; row < c.rows.kernel; ++row) {
            words.add({lines.line(0, channel, row * c.rows.dilation), tile.images, lines.of_image(), tile.rows,
                       c.rows.stride * lines.words(), c.columns.dilation});
          }
        }
        words.add_full(tile.images * tile.rows);
        for (int64_t panel = 0; panel < panels; ++panel) {
          const int64_t columns = std::min(outputs - panel * kPanel<T>, kPanel<T>), count = tile.rows * width;
          for (int64_t image = 0; image < tile.images; ++image) {
            const T* g = grads + ((tile.image + image) * outputs + panel * kPanel<T>)*places + tile.row * width;
            products.pack(g, 1, places, count, columns, packed.data() + image * count * kPanel<T>);
          }
          sums.sum_words(packed.data(), words.all(tile.images * tile.rows), most, rows, columns,
                         k == 0 ? zeros : nullptr, totals.data() + (part * panels + panel) * rows * kPanel<T>);
        }
      }
    }
  });
  parallel(watch, panels, [&](int64_t panel) {
    T* const total = totals.data() + panel * rows * kPanel<T>;
    for (int64_t part = 1; part < parts; ++part) {
      sums.add(totals.data() + (part * panels + panel) * rows * kPanel<T>, rows * kPanel<T>, total);
    }
    const int64_t first = panel * kPanel<T>, columns = std::min(outputs - first, kPanel<T>);
    turn(total, kPanel<T>, elements, columns, of_weights + first * elements, elements);
    std::copy_n(total + elements * kPanel<T>, columns, of_bias + first);
  });
}

/// conv2d(x, weight, bias), from the bits of x, (image, channel * row * column).
Tensor spike_conv2d(const Tensor& bits, const Sizes& size, const Tensor& weight, const std::optional<Tensor>& bias,
                    const Sizes& stride, const Sizes& padding, const Sizes& dilation) {
  check_float("spike_conv2d", "weight", weight, 4);
  const Convolution c =
      convolution_of("spike_conv2d", weight.size(1), size, {weight.size(2), weight.size(3)}, stride, padding, dilation);
  const Bits images = bits_of("spike_conv2d", bits, c.pixels());
  check_bias("spike_conv2d", weight, bias);
  const Tensor w = as_contiguous(weight), b = bias ? as_contiguous(*bias) : w;
  const int64_t outputs = weight.size(0);
  const Tensor out = Allocator{locate(weight), kernel_table().memory}(
      {images.rows, outputs, c.rows.outputs(), c.columns.outputs()}, weight.scalar_type());
  with_type_of(weight, [&](auto zero) {
    using T = decltype(zero);
    convolve<T>(c, images, {static_cast<const T*>(w.data_ptr()), outputs, c.elements(), c.elements(), 1},
                bias ? static_cast<const T*>(b.data_ptr()) : nullptr, static_cast<T*>(out.data_ptr()));
  });
  return out;
}

/// The gradients of the weight and of the bias of conv2d.
std::tuple<Tensor, Tensor> spike_conv2d_outer(const Tensor& bits, int64_t channels, const Sizes& size,
                                              const Tensor& grads, const Sizes& kernel, const Sizes& stride,
                                              const Sizes& padding, const Sizes& dilation) {
  check_float("spike_conv2d_outer", "grads", grads, 4);
  const Convolution c = convolution_of("spike_conv2d_outer", channels, size, kernel, stride, padding, dilation);
  const Bits images = bits_of("spike_conv2d_outer", bits, c.pixels());
  require(grads.size(0) == images.rows && grads.size(2) == c.rows.outputs() && grads.size(3) == c.columns.outputs(),
          "spike_conv2d_outer: grads are not of ", images.rows, " images of ", c.rows.outputs(), " times ",
          c.columns.outputs());
  const Tensor g = as_contiguous(grads);
  const int64_t outputs = grads.size(1);
  const Tensor of_weights = empty({outputs, channels, kernel[0], kernel[1]}, grads.scalar_type(), locate(grads));
  const Tensor of_bias = empty({outputs}, grads.scalar_type(), locate(grads));
  with_type_of(grads, [&](auto zero) {
    using T = decltype(zero);
    T* const weights = static_cast<T*>(of_weights.data_ptr());
    T* const bias = static_cast<T*>(of_bias.data_ptr());
    if (images.rows == 0) {
      std::fill_n(weights, outputs * c.elements(), T(0));
      std::fill_n(bias, outputs, T(0));
    } else {
      convolve_gradients<T>(c, images, static_cast<const T*>(g.data_ptr()), outputs, weights, bias);
    }
  });
  return {of_weights, of_bias};
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(norse_fast, m) {
  m.def(
      "spike_conv2d(Tensor bits, int[] size, Tensor weight, Tensor? bias, int[] stride, int[] padding, int[] dilation) "
      "-> "
      "Tensor");
  m.def(
      "spike_conv2d_outer(Tensor bits, int channels, int[] size, Tensor grads, int[] kernel, int[] stride, int[] "
      "padding, "
      "int[] dilation) -> (Tensor, Tensor)");
}

STABLE_TORCH_LIBRARY_IMPL(norse_fast, CPU, m) {
  m.impl("spike_conv2d", TORCH_BOX(&spike_conv2d));
  m.impl("spike_conv2d_outer", TORCH_BOX(&spike_conv2d_outer));
}

}  // namespace norse_fast::cpu
