// The operators of recurrent layers: schemas, how the CPU's threads share them, and the products that their gradients
// need.

#include "../recurrent_operators.h"

#include <algorithm>
#include <memory>

#include "buffer.h"
#include "device.h"
#include "products.h"
#include "sanitize.h"
#include "tasks.h"

namespace norse_fast::cpu {
namespace {

template <class T>
using Scratch = Buffer<Baseline, T>;

int64_t threads_for(int64_t tasks) { return std::min<int64_t>(tasks, torch::stable::get_num_threads()); }

/// Calls f(begin, end) for ranges that make up [0, count), one for each thread.
template <class F>
void parallel_ranges(int64_t count, const F& f) {
  if (threads_for(count) > 1) return torch::stable::parallel_for(0, count, 1, shared(f));
  if (count > 0) f(0, count);
}

/// Calls f(k) for k < count, shared between the threads.
template <class F>
void parallel(int64_t count, const F& f) {
  parallel_ranges(count, [&](int64_t begin, int64_t end) {
    for (int64_t k = begin; k < end; ++k) f(k);
  });
}

/// A matrix, of any strides.
template <class T>
struct Matrix {
  const T* data;
  int64_t rows, columns, row_stride, column_stride;

  static Matrix of(const Tensor& t) {
    return {static_cast<const T*>(t.data_ptr()), t.size(0), t.size(1), t.size(1), 1};
  }
  Matrix rows_from(int64_t first, int64_t count) const {
    return {data + first * row_stride, count, columns, row_stride, column_stride};
  }
  Matrix transposed() const { return {data, columns, rows, column_stride, row_stride}; }

  int64_t panels() const { return panel_count(columns, kPanel<T>); }
  int64_t panel_size() const { return rows * kPanel<T>; }
  int64_t columns_in(int64_t panel) const { return std::min(columns - panel * kPanel<T>, kPanel<T>); }
};

template <class T>
void pack_panel(const Products<T>& products, const Matrix<T>& m, int64_t panel, T* to) {
  products.pack(m.data + panel * kPanel<T> * m.column_stride, m.row_stride, m.column_stride, m.rows,
                m.columns_in(panel), to);
}

/// All panels, one after the other.
template <class T>
void pack(const Products<T>& products, const Matrix<T>& m, T* to) {
  parallel(m.panels(), [&](int64_t panel) { pack_panel(products, m, panel, to + panel * m.panel_size()); });
}

/// Cuts (batch, neurons) into pieces: by rows of the batch, whose pieces never wait for each other, or, where these are
/// too few and a step has enough to compute, by neurons.
std::vector<Piece> cut(int64_t batch, int64_t neurons, int64_t panel, int64_t worth_waiting) {
  const int64_t threads = torch::stable::get_num_threads();
  if (batch < threads && batch * neurons * neurons >= worth_waiting) {
    std::vector<Piece> pieces;
    const int64_t panels = panel_count(neurons, panel), count = std::min(threads, panels);
    for (int64_t k = 0; k < count; ++k) {
      pieces.push_back({0, batch, panels * k / count * panel, std::min(panels * (k + 1) / count * panel, neurons)});
    }
    return pieces;
  }
  std::vector<Piece> pieces;
  const int64_t count = threads_for(batch);
  for (int64_t k = 0; k < count; ++k) pieces.push_back({batch * k / count, batch * (k + 1) / count, 0, neurons});
  return pieces;
}

/// The tasks of a launch, every one of which is made and run by one thread.
template <class Launch>
class Tasks {
 public:
  Tasks(MakeTask<Launch> make, const Launch& launch, const std::vector<Piece>& pieces)
      : make_(make), launch_(launch), pieces_(pieces), tasks_(pieces.size()) {}

  /// Makes steps from `from` to before `to`, or, where that is less, to after `to`. The last run finishes the tasks.
  void run(Pass pass, int64_t from, int64_t to, bool last) {
    const int64_t count = pieces_.size(), by = from <= to ? 1 : -1;
    if (pieces_.front().neuron_end == launch_.neurons) {
      parallel(count, [&](int64_t k) {
        for (int64_t t = from; t != to; t += by) task(k).step(pass, t);
        if (last) task(k).finish();
      });
      return;
    }
    for (int64_t t = from; t != to; t += by) parallel(count, [&](int64_t k) { task(k).step(pass, t); });
    if (last) parallel(count, [&](int64_t k) { task(k).finish(); });
  }

 private:
  Task& task(int64_t k) {
    if (!tasks_[k]) tasks_[k] = make_(launch_, pieces_[k]);
    return *tasks_[k];
  }

  const MakeTask<Launch> make_;
  const Launch& launch_;
  const std::vector<Piece>& pieces_;
  std::vector<std::unique_ptr<Task>> tasks_;
};

/// The weights of a layer in panels, as its tasks take them.
template <class T>
class Weights {
 public:
  Weights(const Coupling<T>& layer, int channels, std::vector<Piece>& pieces)
      : layer_(layer), channels_(channels), pieces_(pieces) {}

  /// Elements of panels with so many rows for each channel.
  int64_t size(int64_t rows) const { return channels_ * panel_count(layer_.neurons, kPanel<T>) * kPanel<T> * rows; }
  int64_t input_size() const { return layer_.input_weights ? size(layer_.inputs) : 0; }
  int64_t recurrent_size() const { return size(layer_.neurons); }

  void pack_input(T* to) const {
    if (layer_.input_weights) pack_channels(layer_.input_weights, layer_.inputs, &Piece::input_weights, to);
  }
  void pack_recurrent(T* to) const { pack_channels(layer_.weights, layer_.neurons, &Piece::recurrent_weights, to); }
  void pack_plain(T* to) const {
    const int64_t neurons = layer_.neurons;
    pack(products_, Matrix<T>{layer_.weights, channels_ * neurons, neurons, neurons, 1}, to);
    for (Piece& piece : pieces_) piece.plain_weights = to;
  }

 private:
  /// A row per input or neuron that spiked, for every channel.
  void pack_channels(const T* weights, int64_t rows, const void* (Piece::*panels)[2], T* to) const {
    const Matrix<T> all{weights, channels_ * layer_.neurons, rows, rows, 1};
    for (int c = 0; c < channels_; ++c) {
      T* const here = to + c * size(rows) / channels_;
      pack(products_, all.rows_from(c * layer_.neurons, layer_.neurons).transposed(), here);
      for (Piece& piece : pieces_) (piece.*panels)[c] = here;
    }
  }

  const Products<T> products_ = products<T>();
  const Coupling<T>& layer_;
  const int channels_;
  std::vector<Piece>& pieces_;
};

struct RecurrentCpu : Cpu {
  using Cpu::Cpu;

  template <class T>
  void run(MakeTask<RecurrentForward<T>> make, int channels, const RecurrentForward<T>& f) const {
    // Waiting for all threads takes as long as some hundred thousand additions, of which spikes need a tenth.
    auto pieces = cut(f.lanes / f.neurons, f.neurons, kPanel<T>, int64_t{1} << 20);
    const Weights<T> weights(f, channels, pieces);
    const Scratch<T> input(weights.input_size()), recurrent(weights.recurrent_size());
    weights.pack_input(input.data());
    weights.pack_recurrent(recurrent.data());
    Tasks<RecurrentForward<T>>(make, f, pieces).run(Pass::kForward, 0, f.steps, true);
  }

  template <class T>
  void run(MakeTask<RecurrentBackward<T>> make, int channels, const RecurrentBackward<T>& b) const {
    auto pieces = cut(b.lanes / b.neurons, b.neurons, kPanel<T>, int64_t{1} << 18);
    const Weights<T> weights(b, channels, pieces);
    // To pack them for every pass of every segment takes little time, and only those of one pass are in memory at once.
    const Scratch<T> panels(std::max(weights.input_size(), weights.recurrent_size()));
    Tasks<RecurrentBackward<T>> tasks(make, b, pieces);
    for (int64_t segment = checkpoint_count(b.steps, kRecurrentSegment); segment >= 0; --segment) {
      const int64_t first = segment * kRecurrentSegment, end = std::min(first + kRecurrentSegment, b.steps);
      if (b.input_weights && first < end) {
        weights.pack_input(panels.data());
        tasks.run(Pass::kProject, first, first + 1, false);
      }
      weights.pack_recurrent(panels.data());
      tasks.run(Pass::kRecompute, first, end, false);
      weights.pack_plain(panels.data());
      tasks.run(Pass::kBack, end - 1, first - 1, segment == 0);
    }
  }
};

}  // namespace

template <class Launch>
void run_layer(MakeTask<Launch> make, int channels, const Launch& launch, DeviceId device) {
  RecurrentCpu(device).run(make, channels, launch);
}

template void run_layer(MakeTask<RecurrentForward<float>>, int, const RecurrentForward<float>&, DeviceId);
template void run_layer(MakeTask<RecurrentForward<double>>, int, const RecurrentForward<double>&, DeviceId);
template void run_layer(MakeTask<RecurrentBackward<float>>, int, const RecurrentBackward<float>&, DeviceId);
template void run_layer(MakeTask<RecurrentBackward<double>>, int, const RecurrentBackward<double>&, DeviceId);

namespace {

/// For every column of the spikes the rows that spiked, one list after the other; empty where the spikes are too many,
/// or not all 0 or 1.
struct Columns {
  std::vector<int64_t> begin;
  std::unique_ptr<int32_t[]> rows;

  template <class T>
  Columns(const Products<T>& products, const T* z, int64_t count, int64_t width) {
    // From this rate on, the dense product is faster.
    const int64_t limit = count * width / 3;
    if (count >= int64_t{1} << 31 || limit == 0) return;
    const int64_t chunks = torch::stable::get_num_threads() * 4;
    std::vector<std::vector<int32_t>> lists(chunks);
    std::vector<int64_t> ends(count);
    std::vector<char> fits(chunks, 1);
    parallel(chunks, [&](int64_t chunk) {
      const int64_t first = count * chunk / chunks, last = count * (chunk + 1) / chunks;
      std::unique_ptr<int32_t[]> list(new int32_t[width + kListRoom]);
      for (int64_t m = first; m < last; ++m) {
        const int64_t found = products.collect(z + m * width, width, list.get());
        for (int64_t k = 0; k < found; ++k) fits[chunk] &= z[m * width + list[k]] == T(1);
        lists[chunk].insert(lists[chunk].end(), list.get(), list.get() + found);
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
    rows.reset(new int32_t[total]);
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
void multiply(const Products<T>& products, const Matrix<T>& a, const Matrix<T>& b, Tensor& result, bool add) {
  constexpr int64_t kRows = 96;  // of a job
  const int64_t jobs = (a.rows + kRows - 1) / kRows;
  T* const out = static_cast<T*>(result.data_ptr());
  parallel_ranges(b.panels() * jobs, [&](int64_t begin, int64_t end) {
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
void add_spike_product_as(Tensor& sum, const Tensor& spikes, const Tensor& grads) {
  const Matrix<T> z = Matrix<T>::of(spikes), matrix = Matrix<T>::of(grads);
  const int64_t width = z.columns, columns = matrix.columns;
  const Products<T> products = cpu::products<T>();
  const Columns lists(products, z.data, z.rows, width);
  if (lists.begin.empty()) return multiply(products, matrix.transposed(), z, sum, true);
  const int64_t whole = columns / kPanel<T>;
  // The columns that fill no panel, in one.
  const Scratch<T> rest(whole < matrix.panels() ? matrix.panel_size() : 0);
  if (whole < matrix.panels()) pack_panel(products, matrix, whole, rest.data());
  // Sums lie as a panel needs them, and then, a cache line of every column together, as the result does.
  constexpr int64_t kTile = 64 / sizeof(T);
  const int64_t tiles = (width + kTile - 1) / kTile;
  parallel(matrix.panels() * tiles, [&](int64_t k) {
    const int64_t panel = k / tiles, first = panel * kPanel<T>, begin = k % tiles * kTile;
    const int64_t rows = std::min(width - begin, kTile), found = matrix.columns_in(panel);
    T* const out = static_cast<T*>(sum.data_ptr()) + first * width + begin;
    T sums[kTile][kPanel<T>] = {};
    for (int64_t c = 0; c < found; ++c) {
      for (int64_t h = 0; h < rows; ++h) sums[h][c] = out[c * width + h];
    }
    for (int64_t h = 0; h < rows; ++h) {
      const int64_t from = lists.begin[begin + h], count = lists.begin[begin + h + 1] - from;
      const int32_t* events = lists.rows.get() + from;
      panel < whole ? products.sum_rows(matrix.data + first, columns, events, count, nullptr, sums[h])
                    : products.sum_rows(rest.data(), kPanel<T>, events, count, nullptr, sums[h]);
    }
    for (int64_t c = 0; c < found; ++c) {
      for (int64_t h = 0; h < rows; ++h) out[c * width + h] = sums[h][c];
    }
  });
}

/// Calls f<T>(a, b) for two matrices of one floating point type that agree in the given dimensions, and whose product
/// has the sizes of the result.
template <class F>
void with_matrices(const Tensor& result, const Sizes& sizes, const Tensor& a, int a_dim, const Tensor& b,
                   const char* name, const F& f) {
  STD_TORCH_CHECK(a.dim() == 2 && b.dim() == 2 && a.size(a_dim) == b.size(0) && a.scalar_type() == b.scalar_type() &&
                      a.is_cpu() && b.is_cpu(),
                  "norse_fast: ", name, " needs two matrices that fit, of one dtype, on the CPU");
  STD_TORCH_CHECK(
      sizes_of(result) == sizes && result.is_contiguous() && result.scalar_type() == a.scalar_type() && result.is_cpu(),
      "norse_fast: ", name, " needs a contiguous result of the product's shape and dtype, on the CPU");
  const Tensor x = as_contiguous(a), y = as_contiguous(b);
  x.scalar_type() == ScalarType::Double ? f(0.0, x, y) : f(0.0f, x, y);
}

void product(Tensor out, const Tensor& a, const Tensor& b) {
  with_matrices(out, {a.size(0), b.size(1)}, a, 1, b, "product", [&](auto zero, const Tensor& x, const Tensor& y) {
    using T = decltype(zero);
    multiply(products<T>(), Matrix<T>::of(x), Matrix<T>::of(y), out, false);
  });
}

void add_spike_product(Tensor sum, const Tensor& spikes, const Tensor& grads) {
  with_matrices(sum, {grads.size(1), spikes.size(1)}, spikes, 0, grads, "add_spike_product",
                [&](auto zero, const Tensor& x, const Tensor& y) { add_spike_product_as<decltype(zero)>(sum, x, y); });
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(norse_fast, m) {
  // out = a @ b, and sum += grads.T @ spikes, which is quick where there are few spikes. Unlike torch's own, they give
  // the same result for any number of threads.
  m.def("product(Tensor(a!) out, Tensor a, Tensor b) -> ()");
  m.def("add_spike_product(Tensor(a!) sum, Tensor spikes, Tensor grads) -> ()");
  define_recurrent(m);
}

STABLE_TORCH_LIBRARY_IMPL(norse_fast, CPU, m) {
  m.impl("product", TORCH_BOX(&product));
  m.impl("add_spike_product", TORCH_BOX(&add_spike_product));
  implement_recurrent(m);
}

}  // namespace norse_fast::cpu
