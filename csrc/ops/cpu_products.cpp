// The products that the gradients of a recurrent layer need, on the CPU.

#include <algorithm>
#include <vector>

#include "../cpu/matrix.h"
#include "recurrent_calls.h"

namespace norse_fast {
namespace cpu {
namespace {

/// For every column of the spikes the rows that spiked, one list after the other; empty where the spikes are too many,
/// or not all 0 or 1.
struct Columns {
  std::vector<int64_t> begin;
  std::vector<int32_t> rows;

  template <class T>
  Columns(Watch& watch, const Products<T>& products, const T* z, int64_t count, int64_t width) {
    // From this rate on, the dense product is faster.
    const int64_t limit = count * width / 3;
    if (count >= int64_t{1} << 31 || limit == 0) return;
    const int64_t chunks = torch::stable::get_num_threads() * 4;
    std::vector<std::vector<int32_t>> lists(chunks);
    std::vector<int64_t> ends(count);
    std::vector<char> fits(chunks, 1);
    parallel(watch, chunks, [&](int64_t chunk) {
      const int64_t first = count * chunk / chunks, last = count * (chunk + 1) / chunks;
      const Scratch<int32_t> list(width + kListRoom);
      for (int64_t m = first; m < last; ++m) {
        const int64_t found = products.collect(z + m * width, width, list.data());
        for (int64_t k = 0; k < found; ++k) fits[chunk] &= z[m * width + list[k]] == T(1);
        lists[chunk].insert(lists[chunk].end(), list.data(), list.data() + found);
        ends[m] = lists[chunk].size();
        fits[chunk] &= ends[m] * chunks <= limit * 2;
        if (!fits[chunk]) break;
      }
    });
    int64_t total = 0;
    for (const auto& list : lists) total += list.size();
    if (total > limit || std::count(fits.begin(), fits.end(), 0) > 0) return;

    std::vector<int64_t> next(width + 1);
    for (const auto& list : lists) {
      for (const int32_t h : list) ++next[h + 1];
    }
    for (int64_t h = 0; h < width; ++h) next[h + 1] += next[h];
    begin = next;
    rows.resize(total);
    for (int64_t chunk = 0; chunk < chunks; ++chunk) {
      int64_t k = 0;
      for (int64_t m = count * chunk / chunks; m < count * (chunk + 1) / chunks; ++m) {
        for (; k < ends[m]; ++k) rows[next[lists[chunk][k]]++] = static_cast<int32_t>(m);
      }
    }
  }
};

/// result = a @ b, or, to `add`, += that, shared between the threads.
template <class T>
void multiply(Watch& watch, const Matrix<T>& a, const Matrix<T>& b, Tensor& result, bool add) {
  const Products<T> products = cpu::products<T>();
  constexpr int64_t kRows = 96;  // of a job
  const int64_t jobs = (a.rows + kRows - 1) / kRows;
  T* const out = static_cast<T*>(result.data_ptr());
  parallel_ranges(watch, b.panels() * jobs, [&](int64_t begin, int64_t end) {
    // One panel at a time, because all of them take as much memory as b.
    const Scratch<T> packed(b.panel_size());
    for (int64_t k = begin; k < end; ++k) {
      const int64_t panel = k / jobs, row = k % jobs * kRows;
      if (k == begin || row == 0) pack_panel(products, b, panel, packed.data());
      products.multiply(a.data + row * a.row_stride, a.row_stride, a.column_stride, std::min(a.rows - row, kRows),
                        a.columns, packed.data(), out + row * b.columns + panel * kPanel<T>, b.columns,
                        b.columns_in(panel), add);
    }
  });
}

template <class T>
void add_spike_product(const Tensor& spikes, const Tensor& grads, Tensor& sum) {
  const Matrix<T> z = Matrix<T>::of(spikes), matrix = Matrix<T>::of(grads);
  const int64_t width = z.columns, columns = matrix.columns;
  const Products<T> products = cpu::products<T>();
  Watch watch;
  const Columns lists(watch, products, z.data, z.rows, width);
  if (lists.begin.empty()) return multiply(watch, matrix.transposed(), z, sum, true);
  const int64_t whole = columns / kPanel<T>;
  // The columns that fill no panel, in one.
  const Scratch<T> rest(whole < matrix.panels() ? matrix.panel_size() : 0);
  if (whole < matrix.panels()) pack_panel(products, matrix, whole, rest.data());
  // Sums lie as a panel needs them, and then, a cache line of every column together, as the result does.
  constexpr int64_t kTile = 64 / sizeof(T);
  const int64_t tiles = (width + kTile - 1) / kTile;
  parallel(watch, matrix.panels() * tiles, [&](int64_t k) {
    const int64_t panel = k / tiles, first = panel * kPanel<T>, begin = k % tiles * kTile;
    const int64_t rows = std::min(width - begin, kTile), found = matrix.columns_in(panel);
    T* const out = static_cast<T*>(sum.data_ptr()) + first * width + begin;
    T sums[kTile][kPanel<T>] = {};
    for (int64_t c = 0; c < found; ++c) {
      for (int64_t h = 0; h < rows; ++h) sums[h][c] = out[c * width + h];
    }
    for (int64_t h = 0; h < rows; ++h) {
      const int64_t from = lists.begin[begin + h], count = lists.begin[begin + h + 1] - from;
      const int32_t* events = lists.rows.data() + from;
      panel < whole ? products.sum_rows(matrix.data + first, columns, events, count, nullptr, sums[h])
                    : products.sum_rows(rest.data(), kPanel<T>, events, count, nullptr, sums[h]);
    }
    for (int64_t c = 0; c < found; ++c) {
      for (int64_t h = 0; h < rows; ++h) out[c * width + h] = sums[h][c];
    }
  });
}

template <class T>
void accumulate(const Tensor& part, Tensor& sum) {
  const T* from = static_cast<const T*>(part.data_ptr());
  T* to = static_cast<T*>(sum.data_ptr());
  for (int64_t k = 0, count = part.numel(); k < count; ++k) to[k] += from[k];
}

bool is_double(const Tensor& t) { return t.scalar_type() == ScalarType::Double; }

}  // namespace
}  // namespace cpu

void multiply(const Tensor& a, const Tensor& b, Tensor& out) {
  cpu::Watch watch;
  cpu::is_double(a) ? cpu::multiply(watch, cpu::Matrix<double>::of(a), cpu::Matrix<double>::of(b), out, false)
                    : cpu::multiply(watch, cpu::Matrix<float>::of(a), cpu::Matrix<float>::of(b), out, false);
}

void add_spike_product(const Tensor& spikes, const Tensor& grads, Tensor& sum) {
  cpu::is_double(spikes) ? cpu::add_spike_product<double>(spikes, grads, sum)
                         : cpu::add_spike_product<float>(spikes, grads, sum);
}

void accumulate(const Tensor& part, Tensor& sum) {
  cpu::is_double(part) ? cpu::accumulate<double>(part, sum) : cpu::accumulate<float>(part, sum);
}

}  // namespace norse_fast
