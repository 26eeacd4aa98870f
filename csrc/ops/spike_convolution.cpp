// Convolutions of spikes with weights, as sums over those that are there, on the CPU.
//
// A spike takes part in the outputs around it. So the spikes of an image are handed out to lists, one for each place of
// the output, and every output sums the weights that its list names, in the order of the weights.

#include "spike_images.h"
#include "spike_lists.h"

namespace norse_fast::cpu {
namespace {

/// Calls f(place of the output, element of the kernel) for each meeting of a spike of an image, in the order of the
/// elements for every place, and in that of the places for every element.
class Meetings {
 public:
  explicit Meetings(const Convolution& c)
      : c_(c), down_(c.rows.meetings()), across_(c.columns.meetings()), width_(c.columns.outputs()) {}

  template <class F>
  void for_each(const uint64_t* image, F f) const {
    for (int64_t channel = 0, pixel = 0; channel < c_.channels; ++channel) {
      for (int64_t row = 0; row < c_.rows.size; ++row, pixel += c_.columns.size) {
        for (int64_t first = 0; first < c_.columns.size; first += kWordBits) {
          uint64_t spikes = read_bits(image, pixel + first, std::min(c_.columns.size - first, kWordBits));
          for (; spikes; spikes &= spikes - 1) {
            const auto& across = across_[first + __builtin_ctzll(spikes)];
            for (const Axis::Meeting& d : down_[row]) {
              const int64_t element = (channel * c_.rows.kernel + d.element) * c_.columns.kernel;
              for (const Axis::Meeting& a : across) f(d.output * width_ + a.output, element + a.element);
            }
          }
        }
      }
    }
  }

 private:
  const Convolution c_;
  const std::vector<std::vector<Axis::Meeting>> down_, across_;
  const int64_t width_;
};

/// out (image, output channel, place) from weights (output channel, element).
template <class T>
void convolve(const Convolution& c, const Bits& images, const Matrix<T>& weights, const T* bias, T* out) {
  const Products<T> products = cpu::products<T>();
  const SpikeSums<T> sums = spike_sums<T>();
  const Matrix<T> kernels = weights.transposed();  // a row for each element
  const int64_t places = c.places(), outputs = weights.rows;
  const Meetings meetings(c);
  Watch watch;
  const Scratch<T> panels(kernels.panels() * kernels.panel_size());
  pack(watch, products, kernels, panels.data());
  parallel_ranges(watch, images.rows, [&](int64_t begin, int64_t end) {
    RoomyLists lists(places, c.elements());
    const Scratch<T> waiting(places * kPanel<T>);
    for (int64_t image = begin; image < end; ++image) {
      lists.clear(places);
      meetings.for_each(images.row(image), [&](int64_t place, int64_t element) { lists.add(place, element); });
      for (int64_t panel = 0; panel < kernels.panels(); ++panel) {
        const int64_t columns = kernels.columns_in(panel), first = panel * kPanel<T>;
        T start[kPanel<T>] = {};
        if (bias) std::copy_n(bias + first, columns, start);
        sums.sum(panels.data() + panel * kernels.panel_size(), lists.all(), places, columns, start, waiting.data(),
                 kPanel<T>);
        turn(waiting.data(), kPanel<T>, places, columns, out + (image * outputs + first) * places, places);
      }
    }
  });
}

/// Images go into this many sums at most, which are added at the end, in order, so that threads change no result.
constexpr int64_t kParts = 8;
/// Places of the output whose gradients wait in a panel together.
constexpr int64_t kPlaces = 256;

/// out (output channel, element) from the gradients (image, output channel, place).
template <class T>
void convolve_gradients(const Convolution& c, const Bits& images, const T* grads, int64_t outputs, T* out) {
  const Products<T> products = cpu::products<T>();
  const SpikeSums<T> sums = spike_sums<T>();
  const int64_t places = c.places(), elements = c.elements(), panels = panel_count(outputs, kPanel<T>);
  const int64_t together = std::max<int64_t>(kPlaces / places, 1);  // images
  const int64_t parts = std::min(kParts, (images.rows + together - 1) / together);
  const Meetings meetings(c);
  Watch watch;
  const Scratch<T> totals(parts * panels * elements * kPanel<T>);
  parallel_ranges(watch, parts, [&](int64_t begin, int64_t end) {
    RoomyLists lists(elements, together * places);
    const Scratch<T> packed(together * places * kPanel<T>);
    const T zeros[kPanel<T>] = {};
    for (int64_t part = begin; part < end; ++part) {
      const int64_t last = images.rows * (part + 1) / parts;
      bool begun = false;
      for (int64_t image = images.rows * part / parts; image < last; image += together, begun = true) {
        const int64_t count = std::min(together, last - image);
        lists.clear(elements);
        for (int64_t k = 0; k < count; ++k) {
          meetings.for_each(images.row(image + k),
                            [&](int64_t place, int64_t element) { lists.add(element, k * places + place); });
        }
        for (int64_t panel = 0; panel < panels; ++panel) {
          for (int64_t k = 0; k < count; ++k) {
            const Matrix<T> g{grads + (image + k) * outputs * places, places, outputs, 1, places};
            pack_panel(products, g, panel, packed.data() + k * places * kPanel<T>);
          }
          T* const total = totals.data() + (part * panels + panel) * elements * kPanel<T>;
          sums.sum(packed.data(), lists.all(), elements, std::min(outputs - panel * kPanel<T>, kPanel<T>),
                   begun ? nullptr : zeros, total, kPanel<T>);
        }
      }
    }
  });
  parallel(watch, panels, [&](int64_t panel) {
    T* const total = totals.data() + panel * elements * kPanel<T>;
    for (int64_t part = 1; part < parts; ++part) {
      const T* more = totals.data() + (part * panels + panel) * elements * kPanel<T>;
      for (int64_t k = 0; k < elements * kPanel<T>; ++k) total[k] += more[k];
    }
    const int64_t first = panel * kPanel<T>, columns = std::min(outputs - first, kPanel<T>);
    turn(total, kPanel<T>, elements, columns, out + first * elements, elements);
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

/// The gradient of the weight of conv2d.
Tensor spike_conv2d_outer(const Tensor& bits, int64_t channels, const Sizes& size, const Tensor& grads,
                          const Sizes& kernel, const Sizes& stride, const Sizes& padding, const Sizes& dilation) {
  check_float("spike_conv2d_outer", "grads", grads, 4);
  const Convolution c = convolution_of("spike_conv2d_outer", channels, size, kernel, stride, padding, dilation);
  const Bits images = bits_of("spike_conv2d_outer", bits, c.pixels());
  require(grads.size(0) == images.rows && grads.size(2) == c.rows.outputs() && grads.size(3) == c.columns.outputs(),
          "spike_conv2d_outer: grads are not of ", images.rows, " images of ", c.rows.outputs(), " times ",
          c.columns.outputs());
  const Tensor g = as_contiguous(grads);
  const int64_t outputs = grads.size(1);
  const Tensor out = empty({outputs, channels, kernel[0], kernel[1]}, grads.scalar_type(), locate(grads));
  with_type_of(grads, [&](auto zero) {
    using T = decltype(zero);
    T* const to = static_cast<T*>(out.data_ptr());
    if (images.rows == 0) return static_cast<void>(std::fill_n(to, outputs * c.elements(), T(0)));
    convolve_gradients<T>(c, images, static_cast<const T*>(g.data_ptr()), outputs, to);
  });
  return out;
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
      "int[] dilation) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(norse_fast, CPU, m) {
  m.impl("spike_conv2d", TORCH_BOX(&spike_conv2d));
  m.impl("spike_conv2d_outer", TORCH_BOX(&spike_conv2d_outer));
}

}  // namespace norse_fast::cpu
