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
        rows_(share(down_, std::clamp<int64_t>(places / c.columns.outputs(), 1, down_))),
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
  /// At most so many rows of a tile, so that all tiles have about as many.
  static int64_t share(int64_t rows, int64_t most) {
    const int64_t tiles = (rows + most - 1) / most;
    return (rows + tiles - 1) / tiles;
  }

  const int64_t down_, rows_, images_, per_group_;
};

/// Places of a tile that is served by weights which stay in the L1 cache meanwhile: those of as many lines as these
/// words hold.
constexpr int64_t kPlaces = 256, kWords = 2;

/// Lines of so many elements that the words hold.
int64_t lines_together(int64_t elements) { return std::max<int64_t>(kWords * (kWordBits / elements), 1); }

/// Channels whose weights serve a tile before the next ones do.
int64_t channels_together(const Convolution& c, bool sparse) {
  constexpr int64_t kElements = 4096;
  const int64_t elements = c.rows.kernel * c.columns.kernel;
  const int64_t together = sparse ? kElements / elements : lines_together(c.columns.kernel) / c.rows.kernel;
  return std::clamp<int64_t>(together, 1, c.channels);
}

/// Elements of a part of a panel for each of so many words.
template <class T>
constexpr int64_t kPart = kWordRows * kPanel<T>;

template <class T>
void fill_last_row(T* part) {
  std::fill_n(part + kWordBits * kPanel<T>, kPanel<T>, -T(0));
}

/// out (image, output channel, place) from weights (output channel, element).
template <class T>
void convolve(const Convolution& c, const Bits& images, const Matrix<T>& weights, const T* bias, T* out) {
  const Products<T> products = cpu::products<T>();
  const SpikeSums<T> sums = spike_sums<T>();
  const Matrix<T> kernels = weights.transposed();  // a row for each element
  const int64_t outputs = weights.rows, panels = kernels.panels(), width = c.columns.outputs();
  const bool sparse = is_sparse(images);
  const int64_t together = channels_together(c, sparse);
  const Tiles tiles(c, kPlaces);
  const int64_t most = tiles.images() * tiles.rows() * width;  // places
  const bool streamed = images.rows * outputs * c.places() >= kStreamed / static_cast<int64_t>(sizeof(T));
  // Lines of the kernel in words; the same for all blocks of channels.
  const int64_t of_channel = c.rows.kernel, lines_of_block = together * of_channel;
  const WordPlan plan(lines_of_block, Spans(c.columns.kernel, c.columns.dilation, c.columns.stride));
  const int64_t parts = plan.words(lines_of_block), block_size = parts * kPart<T>;
  const int64_t panel_size = (c.channels + together - 1) / together * block_size;
  Watch watch;
  const Scratch<T> packed(panels * panel_size);
  parallel(watch, panels, [&](int64_t panel) {
    T* to = packed.data() + panel * panel_size;
    for (int64_t channel = 0; channel < c.channels; channel += together, to += block_size) {
      const int64_t lines = std::min(together, c.channels - channel) * of_channel;
      plan.visit(lines, [&](int64_t word, int64_t element, int64_t count) {
        const Matrix<T> rows = kernels.rows_from(channel * of_channel * c.columns.kernel + element, count);
        pack_panel(products, rows, panel, to + word * kPart<T>);
        fill_last_row(to + word * kPart<T>);
      });
    }
  });
  parallel_ranges(watch, tiles.count(images.rows), [&](int64_t begin, int64_t end) {
    PaddedLines lines(c, tiles.images(), tiles.rows());
    WindowWords words(most, width, lines_of_block, plan);
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
          sums.sum_words(packed.data() + panel * panel_size + channel / together * block_size,
                         words.all(channels * of_channel), tile.images * places, columns,
                         channel == 0 ? start : nullptr, waiting.data() + panel * most * kPanel<T>);
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

/// Transposes are fastest in squares.
constexpr int64_t kSquare = 16;

/// The gradients (image, output channel, place) of a panel of the outputs.
template <class T>
struct PanelGradients {
  const T* grads;
  int64_t outputs, columns, places, width;

  /// Packs those of a tile into parts of a panel, a few channels after the others, so that long runs are read.
  void pack(const Products<T>& products, const WordPlan& plan, const Tile& tile, T* parts) const {
    for (int64_t channel = 0; channel < columns; channel += kSquare) {
      plan.visit(tile.images * tile.rows, [&](int64_t word, int64_t place, int64_t count) {
        pack_part(products, tile, channel, place, count, parts + word * kPart<T> + channel);
      });
    }
  }

 private:
  void pack_part(const Products<T>& products, const Tile& tile, int64_t channel, int64_t place, int64_t count,
                 T* to) const {
    const int64_t of_image = tile.rows * width, left = places - tile.row * width;
    for (int64_t done = 0; done < count;) {
      const int64_t image = (place + done) / of_image, from = (place + done) % of_image;
      const int64_t some = std::min(count - done, of_image - from);
      // Up to a whole square, whose surplus nobody reads.
      const int64_t rows = std::min({(some + kSquare - 1) / kSquare * kSquare, left - from, kWordBits - done});
      products.turn(grads + ((tile.image + image) * outputs + channel) * places + tile.row * width + from, places,
                    std::min(columns - channel, kSquare), rows, to + done * kPanel<T>, kPanel<T>, false);
      done += some;
    }
  }
};

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
  const int64_t width = c.columns.outputs();
  // Few elements read each packed row so seldom that it need not stay in the L1 cache.
  constexpr int64_t kFew = 64;
  const Tiles tiles(c, is_sparse(images) || elements < kFew ? kPlaces : lines_together(width) * width);
  const int64_t lines_of_tile = tiles.images() * tiles.rows();
  const int64_t parts = std::min(kParts, (images.rows + tiles.images() - 1) / tiles.images());
  const WordPlan plan(lines_of_tile, Spans(width, c.columns.stride, c.columns.dilation));
  Watch watch;
  const Scratch<T> totals(parts * panels * rows * kPanel<T>);
  parallel_ranges(watch, parts, [&](int64_t begin, int64_t end) {
    PaddedLines lines(c, tiles.images(), tiles.rows());
    WindowWords words(rows, c.columns.kernel, lines_of_tile, plan);
    const int64_t all = plan.words(lines_of_tile);
    const Scratch<T> packed(all * kPart<T>);
    std::fill_n(packed.data(), all * kPart<T>, T(0));
    plan.visit(lines_of_tile, [&](int64_t word, int64_t, int64_t) { fill_last_row(packed.data() + word * kPart<T>); });
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
        const int64_t seen = tile.images * tile.rows;
        words.add_full(seen);
        for (int64_t panel = 0; panel < panels; ++panel) {
          const int64_t columns = std::min(outputs - panel * kPanel<T>, kPanel<T>);
          PanelGradients<T>{grads + panel * kPanel<T> * places, outputs, columns, places, width}.pack(
              products, plan, tile, packed.data());
          sums.sum_words(packed.data(), words.all(seen), rows, columns, k == 0 ? zeros : nullptr,
                         totals.data() + (part * panels + panel) * rows * kPanel<T>);
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
