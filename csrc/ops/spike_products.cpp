// Products of spikes with matrices, as sums over those that are there, on the CPU.

#include <algorithm>
#include <atomic>
#include <tuple>

#include "spike_lists.h"

namespace norse_fast::cpu {
namespace {

/// How the sums are cut into pieces that stay in the caches. It changes no result.
struct Cut {
  int64_t block;  // columns of the spikes that are listed together, so that their rows of a panel stay near
  int64_t rows;   // rows of the result that these serve

  Cut(const Bits& bits, double density, bool few_columns) : rows(few_columns ? 256 : 1024) {
    const bool sparse = density < (few_columns ? 0.04 : 0.03), some = density < 0.08;
    const int64_t wide = few_columns ? kMostListed : 1024, medium = few_columns ? 128 : 256;
    block = std::min(sparse ? wide : some ? medium : 128, words_for(bits.columns) * kWordBits);
    block = std::max(block, kWordBits);
  }

  static constexpr int64_t kMostListed = 1 << 15;  // a list has 16 bits for each
};

/// For every row of bits the sum of the rows of x that they name: to out[row, column of x], from the bias on; or,
/// `transposed`, to out[column, row], or, to `add`, += that.
template <class T>
void sum_rows(const Bits& bits, const Matrix<T>& x, const T* bias, double density, bool transposed, bool add, T* out) {
  const Products<T> products = cpu::products<T>();
  const SpikeSums<T> sums = spike_sums<T>();
  Watch watch;
  const Cut cut(bits, density, !transposed);
  const RowLists lists(watch, bits, cut.block);
  const int64_t chunks = (bits.rows + cut.rows - 1) / cut.rows;
  parallel_ranges(watch, x.panels() * chunks, [&](int64_t begin, int64_t end) {
    // A panel of the whole matrix serves all rows; where that is long, one of a block serves some.
    const bool whole = !transposed;
    const Scratch<T> packed((whole ? x.rows : std::min(cut.block, x.rows)) * kPanel<T>);
    const Scratch<T> waiting(cut.rows * kPanel<T>);
    for (int64_t task = begin; task < end; ++task) {
      const int64_t panel = task / chunks, first = task % chunks * cut.rows;
      const int64_t rows = std::min(bits.rows - first, cut.rows), columns = x.columns_in(panel);
      if (whole && (task == begin || first == 0)) pack_panel(products, x, panel, packed.data());
      T start[kPanel<T>] = {};
      if (bias) std::copy_n(bias + panel * kPanel<T>, columns, start);
      const bool in_place = whole && columns == kPanel<T>;
      T* const to = in_place ? out + first * x.columns + panel * kPanel<T> : waiting.data();
      const int64_t stride = in_place ? x.columns : kPanel<T>;
      T* const turned = out + panel * kPanel<T> * bits.rows + first;  // if transposed
      if (add) turn(turned, bits.rows, columns, rows, to, kPanel<T>);
      for (int64_t b = 0; b < lists.blocks(); ++b) {
        const int64_t from = b * cut.block;
        const T* block = packed.data() + (whole ? from * kPanel<T> : 0);
        if (!whole) {
          pack_panel(products, x.rows_from(from, std::min(cut.block, x.rows - from)), panel, packed.data());
        }
        sums.sum(block, lists.from(b, first), rows, columns, b == 0 && !add ? start : nullptr, to, stride);
      }
      if (in_place) continue;
      if (transposed) {
        turn(to, kPanel<T>, rows, columns, turned, bits.rows);
        continue;
      }
      for (int64_t r = 0; r < rows; ++r) {
        std::copy_n(to + r * kPanel<T>, columns, out + (first + r) * x.columns + panel * kPanel<T>);
      }
    }
  });
}

/// Few rows: no panel pays, so every element gathers its sum, in the same order.
template <class T>
void gather_rows(const Bits& bits, const T* weight, int64_t columns, const T* bias, T* out) {
  Watch watch;
  const RowLists lists(watch, bits, Cut::kMostListed);
  parallel_ranges(watch, columns, [&](int64_t begin, int64_t end) {
    for (int64_t c = begin; c < end; ++c) {
      const T* row = weight + c * bits.columns;
      for (int64_t r = 0; r < bits.rows; ++r) {
        T sum = bias ? bias[c] : T(0);
        for (int64_t b = 0; b < lists.blocks(); ++b) {
          const SpikeLists list = lists.from(b, r);
          for (int64_t k = list.begin[0]; k < list.end[0]; ++k) sum += row[b * Cut::kMostListed + list.events[k]];
        }
        out[r * columns + c] = sum;
      }
    }
  });
}

/// The bits of the columns as rows, 64 times 64 at a time.
void transpose(Watch& watch, const Bits& bits, uint64_t* to) {
  const int64_t stride = words_for(bits.rows);
  parallel(watch, stride, [&](int64_t word) {
    for (int64_t column = 0; column < bits.stride(); ++column) {
      uint64_t square[kWordBits];
      for (int64_t k = 0; k < kWordBits; ++k) {
        const int64_t row = word * kWordBits + k;
        square[k] = row < bits.rows ? bits.row(row)[column] : 0;
      }
      // H. Warren: Hacker's Delight, 2012, chapter 7.3: halves of halves change places.
      uint64_t mask = ~uint64_t{0} >> 32;
      for (int width = 32; width > 0; width /= 2, mask ^= mask << width) {
        for (int k = 0; k < kWordBits; k = ((k | width) + 1) & ~width) {
          const uint64_t change = ((square[k] >> width) ^ square[k | width]) & mask;
          square[k] ^= change << width;
          square[k | width] ^= change;
        }
      }
      const int64_t first = column * kWordBits;
      for (int64_t k = 0; k < std::min(kWordBits, bits.columns - first); ++k)
        to[(first + k) * stride + word] = square[k];
    }
  });
}

/// sum = grads.T @ spikes, or, to `add`, += that.
void add_outer(const Bits& spikes, const Tensor& grads, double density, bool add, const Tensor& sum) {
  Watch watch;
  const Scratch<uint64_t> words(spikes.columns * words_for(spikes.rows));
  transpose(watch, spikes, words.data());
  const Bits turned{words.data(), spikes.columns, spikes.rows};
  with_type_of(grads, [&](auto zero) {
    using T = decltype(zero);
    sum_rows<T>(turned, Matrix<T>::of(grads), nullptr, density, true, add, static_cast<T*>(sum.data_ptr()));
  });
}

/// What makes bits of the rows of a matrix.
class Scan {
 public:
  explicit Scan(const Tensor& x)
      : type_(x.scalar_type()),
        columns_(x.size(1)),
        data_(static_cast<const uint8_t*>(x.data_ptr())),
        of_float_(spike_sums<float>()),
        of_double_(spike_sums<double>()) {}

  /// Adds the spikes of a row to the count; returns whether all elements are 0 or 1.
  bool row(int64_t r, uint64_t* to, int64_t& count) const {
    const bool binary = is_binary(r * columns_, to);
    count += of_float_.count(to, words_for(columns_));
    return binary;
  }

 private:
  bool is_binary(int64_t at, uint64_t* to) const {
    if (type_ == ScalarType::Float) {
      return of_float_.scan(reinterpret_cast<const float*>(data_) + at, columns_, to);
    }
    if (type_ == ScalarType::Double) {
      return of_double_.scan(reinterpret_cast<const double*>(data_) + at, columns_, to);
    }
    return of_float_.scan_bytes(data_ + at, columns_, to);
  }

  const ScalarType type_;
  const int64_t columns_;
  const uint8_t* const data_;
  const SpikeSums<float> of_float_;
  const SpikeSums<double> of_double_;
};

/// The counts of spike_bits where it made no bits.
constexpr int64_t kNotBinary = -1, kTooMany = -2;

/// 0, or what is wrong with a few rows, spread over all, of which not more than a share may be 1.
int64_t look_at_sample(const Scan& scan, int64_t rows, int64_t columns, double most) {
  constexpr int64_t kApart = 32, kMostRows = 32;
  const int64_t apart = std::max(kApart, (rows + kMostRows - 1) / kMostRows);
  const Scratch<uint64_t> bits(words_for(columns));
  int64_t ones = 0, seen = 0;
  for (int64_t first = 0; first < rows; first += apart, ++seen) {
    // Not always the same sample of a batch, whose rows recur at each step.
    const int64_t row = std::min(first + 7 * seen % kApart, rows - 1);
    if (!scan.row(row, bits.data(), ones)) return kNotBinary;
  }
  return ones <= most * static_cast<double>(seen * columns) ? 0 : kTooMany;
}

/// The spikes of a matrix as bits, and how many there are. Where not all elements are 0 or 1, or where a sample of the
/// rows has more ones than that share, there are no bits, and the count says which it is.
std::tuple<Tensor, Tensor> spike_bits(const Tensor& x, double most) {
  const ScalarType type = x.scalar_type();
  const bool bytes = type == ScalarType::Byte || type == ScalarType::Bool;
  require(x.is_cpu() && x.dim() == 2 && (bytes || (is_floating(type) && !is_half(type))),
          "spike_bits: x is not a matrix of float32, float64, uint8 or bool on the CPU");
  const Tensor from = as_contiguous(x);
  const int64_t rows = x.size(0), columns = x.size(1), stride = words_for(columns);
  const Scan scan(from);
  const Tensor count = empty({}, ScalarType::Long, locate(x));
  const auto end = [&](int64_t result, const Tensor& bits) {
    *static_cast<int64_t*>(count.data_ptr()) = result;
    return std::tuple{bits, count};
  };
  const auto no_bits = [&] { return empty({0, stride}, ScalarType::Long, locate(x)); };
  if (const int64_t wrong = look_at_sample(scan, rows, columns, most)) return end(wrong, no_bits());
  const Tensor bits = empty({rows, stride}, ScalarType::Long, locate(x));
  std::atomic<int64_t> ones{0};
  std::atomic<bool> binary{true};
  Watch watch;
  parallel_ranges(watch, rows, [&](int64_t begin, int64_t last) {
    int64_t found = 0;
    bool all = true;
    for (int64_t r = begin; r < last && all; ++r) {
      all = scan.row(r, static_cast<uint64_t*>(bits.data_ptr()) + r * stride, found);
    }
    ones += found;
    if (!all) binary = false;
  });
  return binary ? end(ones, bits) : end(kNotBinary, no_bits());
}

template <class T>
void sum_weights(const Bits& bits, const Tensor& weight, const T* bias, double density, T* out) {
  constexpr int64_t kFew = 24;
  const auto* data = static_cast<const T*>(weight.data_ptr());
  if (bits.rows < kFew) return gather_rows(bits, data, weight.size(0), bias, out);
  sum_rows(bits, Matrix<T>::of(weight).transposed(), bias, density, false, false, out);
}

/// x @ weight.T + bias, from the bits of x.
Tensor spike_linear(const Tensor& bits, int64_t columns, const Tensor& weight, const std::optional<Tensor>& bias,
                    double density) {
  const Bits spikes = bits_of("spike_linear", bits, columns);
  check_float("spike_linear", "weight", weight, 2);
  require(weight.size(1) == columns, "spike_linear: weight has not ", columns, " columns");
  check_bias("spike_linear", weight, bias);
  const Tensor w = as_contiguous(weight);
  const Tensor b = bias ? as_contiguous(*bias) : w;
  const Tensor out =
      Allocator{locate(weight), kernel_table().memory}({spikes.rows, weight.size(0)}, weight.scalar_type());
  with_type_of(weight, [&](auto zero) {
    using T = decltype(zero);
    const T* start = bias ? static_cast<const T*>(b.data_ptr()) : nullptr;
    sum_weights<T>(spikes, w, start, density, static_cast<T*>(out.data_ptr()));
  });
  return out;
}

/// grads.T @ x, from the bits of x.
Tensor spike_outer(const Tensor& bits, int64_t columns, const Tensor& grads, double density) {
  const Bits spikes = bits_of("spike_outer", bits, columns);
  check_float("spike_outer", "grads", grads, 2);
  require(grads.size(0) == spikes.rows, "spike_outer: grads have not ", spikes.rows, " rows");
  const Tensor out = Allocator{locate(grads), kernel_table().memory}({grads.size(1), columns}, grads.scalar_type());
  add_outer(spikes, as_contiguous(grads), density, false, out);
  return out;
}

/// The spikes again, as numbers of the type of another tensor.
Tensor spike_values(const Tensor& bits, int64_t columns, const Tensor& like) {
  const Bits spikes = bits_of("spike_values", bits, columns);
  check_float("spike_values", "like", like, like.dim());
  const Tensor out = empty({spikes.rows, columns}, like.scalar_type(), locate(like));
  Watch watch;
  with_type_of(like, [&](auto zero) {
    using T = decltype(zero);
    const auto values = spike_sums<T>().values;
    parallel(watch, spikes.rows,
             [&](int64_t r) { values(spikes.row(r), columns, static_cast<T*>(out.data_ptr()) + r * columns); });
  });
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(norse_fast, m) {
  m.def("spike_bits(Tensor x, float most) -> (Tensor, Tensor)");
  m.def("spike_linear(Tensor bits, int columns, Tensor weight, Tensor? bias, float density) -> Tensor");
  m.def("spike_outer(Tensor bits, int columns, Tensor grads, float density) -> Tensor");
  m.def("spike_values(Tensor bits, int columns, Tensor like) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(norse_fast, CPU, m) {
  m.impl("spike_bits", TORCH_BOX(&spike_bits));
  m.impl("spike_linear", TORCH_BOX(&spike_linear));
  m.impl("spike_outer", TORCH_BOX(&spike_outer));
  m.impl("spike_values", TORCH_BOX(&spike_values));
}

}  // namespace norse_fast::cpu

namespace norse_fast {

void add_spike_product(const Tensor& spikes, const Tensor& grads, Tensor& sum) {
  constexpr int64_t kMostSpikes = 3;  // one in so many; with more, the dense product is faster
  const auto [bits, count] = cpu::spike_bits(spikes, 1.0 / kMostSpikes);
  const int64_t found = *static_cast<const int64_t*>(count.data_ptr()), all = spikes.numel();
  if (found >= 0 && found <= all / kMostSpikes) {
    const cpu::Bits own{static_cast<const uint64_t*>(bits.data_ptr()), spikes.size(0), spikes.size(1)};
    return cpu::add_outer(own, grads, all ? double(found) / all : 0.0, true, sum);
  }
  cpu::Watch watch;
  with_type_of(spikes, [&](auto zero) {
    using T = decltype(zero);
    cpu::multiply(watch, cpu::Matrix<T>::of(grads).transposed(), cpu::Matrix<T>::of(spikes),
                  static_cast<T*>(sum.data_ptr()), true);
  });
}

}  // namespace norse_fast
