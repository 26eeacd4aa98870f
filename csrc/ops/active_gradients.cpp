// Gradients of the input of products, at those elements alone where something asks for them, on the CPU: a neuron that
// is far from its threshold passes none on if its surrogate derivative has compact support.
//
// Every element is a product of two rows, one of them listed. Rows of weights wait in the L2 cache meanwhile.

#include "spike_images.h"
#include "spike_lists.h"

namespace norse_fast::cpu {
namespace {

/// out = grads @ weight where there is a bit, else 0.
template <class T>
void multiply_active(const Bits& active, const Matrix<T>& grads, const Matrix<T>& weight, Device device, T* out) {
  constexpr int64_t kBlock = 1024;  // rows of weights that serve all gradients before the next do,
  constexpr int64_t kTogether = 2;  // so many panels of them
  constexpr int64_t kRows = 1024;   // of gradients
  constexpr int64_t kLine = 64 / sizeof(T);
  const Products<T> products = cpu::products<T>();
  const SpikeSums<T> sums = spike_sums<T>();
  const Matrix<T> rows = weight.transposed();  // a row for each element of the input
  Watch watch;
  const RowLists lists(watch, active, kBlock);
  // A tensor, because large ones lie on huge pages, where a row of weights costs no search for its page.
  const Tensor tensor = Allocator{device, kernel_table().memory}({rows.panels() * rows.panel_size()}, kScalarType<T>);
  T* const packed = static_cast<T*>(tensor.data_ptr());
  pack(watch, products, rows, packed);
  const Scratch<T> values(std::max<int64_t>(lists.size(), 1));
  parallel_ranges(watch, (active.rows + kRows - 1) / kRows, [&](int64_t begin, int64_t end) {
    for (int64_t first = begin * kRows, last = std::min(end * kRows, active.rows); first < last; first += kRows) {
      const int64_t count = std::min(kRows, last - first);
      for (int64_t panel = 0; panel < rows.panels(); panel += kTogether) {
        const int64_t column = panel * kPanel<T>, columns = std::min(rows.columns - column, kTogether * kPanel<T>);
        const int64_t of_x[] = {0, kPanel<T>}, of_row[] = {0, rows.panel_size()};
        const Runs runs{of_x, of_row, panel_count(columns, kPanel<T>), kPanel<T>};
        T padded[kTogether * kPanel<T>] = {};
        for (int64_t b = 0; b < lists.blocks(); ++b) {
          const T* const block = packed + panel * rows.panel_size() + b * kBlock * kPanel<T>;
          const SpikeLists from = lists.from(b, first);
          for (int64_t r = 0; r < count; ++r) {
            const T* x = grads.data + (first + r) * grads.columns + column;
            for (int64_t c = 0; c < columns && r + 1 < count; c += kLine) __builtin_prefetch(x + grads.columns + c);
            if (columns % kPanel<T> != 0) {
              std::copy_n(x, columns, padded);
              x = padded;
            }
            sums.dot(x, block, kPanel<T>, runs, from.events + from.begin[r], from.end[r] - from.begin[r],
                     values.data() + from.begin[r], panel > 0);
          }
        }
      }
      std::fill_n(out + first * active.columns, count * active.columns, T(0));
      for (int64_t b = 0; b < lists.blocks(); ++b) {
        for (int64_t r = first; r < first + count; ++r) {
          T* const to = out + r * active.columns + b * kBlock;
          const SpikeLists list = lists.from(b, r);
          for (int64_t k = list.begin[0]; k < list.end[0]; ++k) to[list.events[k]] = values[k];
        }
      }
    }
  });
}

/// The same of a convolution; grads are (image, output channel, place).
template <class T>
void convolve_active(const Convolution& c, const Bits& active, const T* grads, const T* weight, int64_t outputs,
                     T* out) {
  // Output channels come last, and elements of the kernel backwards along a row of it, so that without strides the
  // gradients that meet an element of the input are as few runs as the kernel has rows.
  const int64_t width = (outputs + kRun<T> - 1) / kRun<T> * kRun<T>, places = c.places();
  const int64_t down = c.rows.kernel, across = c.columns.kernel;
  const bool joined = c.columns.stride == 1 && c.columns.dilation == 1;
  const SpikeSums<T> sums = spike_sums<T>();
  const auto of_rows = c.rows.meetings(), of_columns = c.columns.meetings();
  Watch watch;
  const Scratch<T> rows(c.elements() * width);
  parallel(watch, c.channels, [&](int64_t channel) {
    for (int64_t y = 0; y < down; ++y) {
      for (int64_t x = 0; x < across; ++x) {
        T* const to = rows.data() + ((channel * down + y) * across + across - 1 - x) * width;
        for (int64_t o = 0; o < width; ++o) {
          to[o] = o < outputs ? weight[((o * c.channels + channel) * down + y) * across + x] : T(0);
        }
      }
    }
  });
  parallel_ranges(watch, active.rows, [&](int64_t begin, int64_t end) {
    RoomyLists lists(c.Plane::pixels(), c.channels);
    const Scratch<T> turned(places * width), values(c.channels);
    const Scratch<int64_t> of_x(down * across), of_row(down * across);
    std::fill_n(turned.data(), places * width, T(0));
    for (int64_t image = begin; image < end; ++image) {
      turn(grads + image * outputs * places, places, outputs, places, turned.data(), width);
      lists.clear(c.Plane::pixels());
      for (int64_t channel = 0; channel < c.channels; ++channel) {
        for_each_bit(active.row(image), channel * c.Plane::pixels(), c.Plane::pixels(),
                     [&](int64_t pixel) { lists.add(pixel, channel); });
      }
      T* const to = out + image * c.pixels();
      std::fill_n(to, c.pixels(), T(0));
      const SpikeLists all = lists.all();
      for (int64_t y = 0, pixel = 0; y < c.rows.size; ++y) {
        for (int64_t x = 0; x < c.columns.size; ++x, ++pixel) {
          const int64_t found = all.end[pixel] - all.begin[pixel];
          if (found == 0) continue;
          const auto& meet = of_columns[x];
          const int64_t together = joined && !meet.empty() ? static_cast<int64_t>(meet.size()) : 1;
          int64_t count = 0;
          for (const Axis::Meeting& d : of_rows[y]) {
            for (size_t k = together - 1; k < meet.size(); k += together, ++count) {
              of_x[count] = (d.output * c.columns.outputs() + meet[k].output) * width;
              of_row[count] = (d.element * across + across - 1 - meet[k].element) * width;
            }
          }
          sums.dot(turned.data(), rows.data(), down * across * width,
                   {of_x.data(), of_row.data(), count, together * width}, all.events + all.begin[pixel], found,
                   values.data(), false);
          const uint16_t* const channels = all.events + all.begin[pixel];
          for (int64_t k = 0; k < found; ++k) to[channels[k] * c.Plane::pixels() + pixel] = values[k];
        }
      }
    }
  });
}

/// grads @ weight, where the bits `active` of the input's elements are set; 0 elsewhere.
Tensor active_linear(const Tensor& active, int64_t columns, const Tensor& grads, const Tensor& weight) {
  const char* const name = "active_linear";
  const Bits bits = bits_of(name, active, columns);
  check_float(name, "grads", grads, 2);
  check_float(name, "weight", weight, 2);
  require(grads.scalar_type() == weight.scalar_type() && grads.size(0) == bits.rows &&
              grads.size(1) == weight.size(0) && weight.size(1) == columns,
          name, ": bits, grads and weight do not fit each other");
  const Tensor g = as_contiguous(grads), w = as_contiguous(weight);
  const Tensor out = Allocator{locate(grads), kernel_table().memory}({bits.rows, columns}, grads.scalar_type());
  with_type_of(grads, [&](auto zero) {
    using T = decltype(zero);
    T* const to = static_cast<T*>(out.data_ptr());
    if (weight.size(0) == 0) return static_cast<void>(std::fill_n(to, bits.rows * columns, T(0)));
    multiply_active<T>(bits, Matrix<T>::of(g), Matrix<T>::of(w), locate(grads), to);
  });
  return out;
}

/// The gradient of the input of conv2d, likewise.
Tensor active_conv2d(const Tensor& active, const Sizes& size, const Tensor& grads, const Tensor& weight,
                     const Sizes& stride, const Sizes& padding, const Sizes& dilation) {
  const char* const name = "active_conv2d";
  check_float(name, "weight", weight, 4);
  const Convolution c =
      convolution_of(name, weight.size(1), size, {weight.size(2), weight.size(3)}, stride, padding, dilation);
  const Bits bits = bits_of(name, active, c.pixels());
  check_float(name, "grads", grads, 4);
  require(grads.scalar_type() == weight.scalar_type() && grads.size(0) == bits.rows &&
              grads.size(1) == weight.size(0) && grads.size(2) == c.rows.outputs() &&
              grads.size(3) == c.columns.outputs(),
          name, ": grads are not those of the output");
  const Tensor g = as_contiguous(grads), w = as_contiguous(weight);
  const Tensor out =
      Allocator{locate(grads), kernel_table().memory}({bits.rows, c.channels, size[0], size[1]}, grads.scalar_type());
  with_type_of(grads, [&](auto zero) {
    using T = decltype(zero);
    convolve_active<T>(c, bits, static_cast<const T*>(g.data_ptr()), static_cast<const T*>(w.data_ptr()),
                       weight.size(0), static_cast<T*>(out.data_ptr()));
  });
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(norse_fast, m) {
  m.def("active_linear(Tensor active, int columns, Tensor grads, Tensor weight) -> Tensor");
  m.def(
      "active_conv2d(Tensor active, int[] size, Tensor grads, Tensor weight, int[] stride, int[] padding, int[] "
      "dilation) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(norse_fast, CPU, m) {
  m.impl("active_linear", TORCH_BOX(&active_linear));
  m.impl("active_conv2d", TORCH_BOX(&active_conv2d));
}

}  // namespace norse_fast::cpu
