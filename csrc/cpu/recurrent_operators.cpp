// The operators of recurrent layers: schemas, how the CPU's threads share them, and the products that their gradients
// need.

#include "../recurrent_operators.h"

#include <memory>

#include "device.h"
#include "products.h"
#include "tasks.h"

namespace norse_fast::cpu {
namespace {

int64_t threads_for(int64_t tasks) { return std::min<int64_t>(tasks, torch::stable::get_num_threads()); }

/// Calls f(k) for k < count, shared between the threads.
template <class F>
void parallel(int64_t count, const F& f) {
  if (threads_for(count) <= 1) {
    for (int64_t k = 0; k < count; ++k) f(k);
    return;
  }
  torch::stable::parallel_for(0, count, 1, [&](int64_t begin, int64_t end) {
    for (int64_t k = begin; k < end; ++k) f(k);
  });
}

/// The panels of a matrix.
template <class T>
Tensor pack(const Products<T>& products, const T* matrix, int64_t row_stride, int64_t column_stride, int64_t rows,
            int64_t columns, Device device) {
  const int64_t panels = panel_count(columns, kPanel<T>);
  const int64_t size = rows * kPanel<T>;
  Tensor packed = empty({panels * size}, kScalarType<T>, device);
  parallel(panels, [&](int64_t p) {
    const int64_t first = p * kPanel<T>;
    products.pack(matrix + first * column_stride, row_stride, column_stride, rows, std::min(columns - first, kPanel<T>),
                  static_cast<T*>(packed.data_ptr()) + p * size);
  });
  return packed;
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

template <class Launch>
void run_tasks(MakeTask<Launch> make, const Launch& launch, const std::vector<Piece>& pieces) {
  const int64_t steps = task_steps(launch), count = pieces.size();
  if (pieces.front().neuron_end == launch.neurons) {
    parallel(count, [&](int64_t k) {
      const auto task = make(launch, pieces[k]);
      for (int64_t step = 0; step < steps; ++step) task->step(step);
      task->finish();
    });
    return;
  }
  std::vector<std::unique_ptr<Task>> tasks(count);
  parallel(count, [&](int64_t k) { tasks[k] = make(launch, pieces[k]); });
  for (int64_t step = 0; step < steps; ++step) parallel(count, [&](int64_t k) { tasks[k]->step(step); });
  parallel(count, [&](int64_t k) { tasks[k]->finish(); });
}

struct RecurrentCpu : Cpu {
  using Cpu::Cpu;

  template <class T>
  void run(MakeTask<RecurrentForward<T>> make, int channels, const RecurrentForward<T>& f) const {
    // Waiting for all threads takes as long as some hundred thousand additions, of which spikes need a tenth.
    run(make, channels, f, products<T>(), int64_t{1} << 20, false);
  }

  template <class T>
  void run(MakeTask<RecurrentBackward<T>> make, int channels, const RecurrentBackward<T>& b) const {
    run(make, channels, b, products<T>(), int64_t{1} << 18, true);
  }

 private:
  template <class T, template <class> class Launch>
  void run(MakeTask<Launch<T>> make, int channels, const Launch<T>& launch, const Products<T>& products,
           int64_t worth_waiting, bool back) const {
    const int64_t neurons = launch.neurons, inputs = launch.inputs;
    // A row per input or neuron that spiked, for every channel; and for backward the other way round.
    std::vector<Tensor> projection, recurrence;
    for (int c = 0; c < channels; ++c) {
      recurrence.push_back(pack(products, launch.weights + c * neurons * neurons, 1, neurons, neurons, neurons, id));
      if (!launch.input_weights) continue;
      projection.push_back(pack(products, launch.input_weights + c * neurons * inputs, 1, inputs, inputs, neurons, id));
    }
    const Tensor plain =
        back ? pack(products, launch.weights, neurons, 1, channels * neurons, neurons, id) : recurrence[0];
    auto pieces = cut(launch.lanes / neurons, neurons, kPanel<T>, worth_waiting);
    for (Piece& piece : pieces) {
      for (int c = 0; c < channels; ++c) {
        if (launch.input_weights) piece.input_weights[c] = projection[c].data_ptr();
        piece.recurrent_weights[c] = recurrence[c].data_ptr();
      }
      piece.plain_weights = plain.data_ptr();
    }
    run_tasks(make, launch, pieces);
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

/// The sums of a product of matrices, with a(r, k) as in Products::multiply, shared between the threads.
template <class T>
void multiply(const Products<T>& products, const T* a, int64_t row_stride, int64_t step, int64_t rows, int64_t depth,
              const Tensor& b, Tensor& out) {
  constexpr int64_t kRows = 96;  // of a job
  const int64_t columns = b.size(1), panels = panel_count(columns, kPanel<T>), jobs = (rows + kRows - 1) / kRows;
  const Tensor packed = pack(products, static_cast<const T*>(b.data_ptr()), columns, 1, depth, columns, locate(b));
  parallel(panels * jobs, [&](int64_t k) {
    const int64_t panel = k / jobs, row = k % jobs * kRows, column = panel * kPanel<T>;
    products.multiply(a + row * row_stride, row_stride, step, std::min(rows - row, kRows), depth,
                      static_cast<const T*>(packed.data_ptr()) + panel * depth * kPanel<T>,
                      static_cast<T*>(out.data_ptr()) + row * columns + column, columns,
                      std::min(columns - column, kPanel<T>));
  });
}

template <class T>
Tensor product_as(const Tensor& a, const Tensor& b) {
  Tensor out = empty({a.size(0), b.size(1)}, kScalarType<T>, locate(a));
  const int64_t depth = a.size(1);
  multiply(products<T>(), static_cast<const T*>(a.data_ptr()), depth, 1, a.size(0), depth, b, out);
  return out;
}

template <class T>
Tensor spike_product_as(const Tensor& spikes, const Tensor& grads) {
  const int64_t count = spikes.size(0), width = spikes.size(1), columns = grads.size(1);
  const Device device = locate(spikes);
  const Products<T> products = cpu::products<T>();
  const T* z = static_cast<const T*>(spikes.data_ptr());
  const T* matrix = static_cast<const T*>(grads.data_ptr());
  Tensor result = empty({width, columns}, kScalarType<T>, device);
  const Columns lists(products, z, count, width);
  if (lists.begin.empty()) {
    multiply(products, z, 1, width, width, count, grads, result);
    return result;
  }
  const int64_t whole = columns / kPanel<T> * kPanel<T>;
  Tensor rest = grads;
  if (whole < columns) rest = pack(products, matrix + whole, columns, 1, count, columns - whole, device);
  parallel(panel_count(columns, kPanel<T>) * width, [&](int64_t k) {
    const int64_t first = k / width * kPanel<T>, h = k % width;
    const int32_t* events = lists.rows.get() + lists.begin[h];
    const int64_t found = lists.begin[h + 1] - lists.begin[h];
    T sums[kPanel<T>] = {};
    first < whole ? products.sum_rows(matrix + first, columns, events, found, nullptr, sums)
                  : products.sum_rows(static_cast<const T*>(rest.data_ptr()), kPanel<T>, events, found, nullptr, sums);
    std::copy_n(sums, std::min(columns - first, kPanel<T>), static_cast<T*>(result.data_ptr()) + h * columns + first);
  });
  return result;
}

/// Calls f<T>(a, b) for two matrices of one floating point type that agree in the given dimensions.
template <class F>
Tensor with_matrices(const Tensor& a, int a_dim, const Tensor& b, const char* name, const F& f) {
  STD_TORCH_CHECK(a.dim() == 2 && b.dim() == 2 && a.size(a_dim) == b.size(0) && a.scalar_type() == b.scalar_type() &&
                      a.is_cpu() && b.is_cpu(),
                  "norse_fast: ", name, " needs two matrices that fit, of one dtype, on the CPU");
  const Tensor x = as_contiguous(a), y = as_contiguous(b);
  return x.scalar_type() == ScalarType::Double ? f(0.0, x, y) : f(0.0f, x, y);
}

Tensor product(const Tensor& a, const Tensor& b) {
  return with_matrices(a, 1, b, "product",
                       [](auto zero, const Tensor& x, const Tensor& y) { return product_as<decltype(zero)>(x, y); });
}

Tensor spike_product(const Tensor& spikes, const Tensor& grads) {
  return with_matrices(spikes, 0, grads, "spike_product", [](auto zero, const Tensor& x, const Tensor& y) {
    return spike_product_as<decltype(zero)>(x, y);
  });
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(norse_fast, m) {
  // a @ b, and spikes.T @ grads, which is quick where there are few spikes. Unlike torch's own, they give the same
  // result for any number of threads.
  m.def("product(Tensor a, Tensor b) -> Tensor");
  m.def("spike_product(Tensor spikes, Tensor grads) -> Tensor");
  define_recurrent(m);
}

STABLE_TORCH_LIBRARY_IMPL(norse_fast, CPU, m) {
  m.impl("product", TORCH_BOX(&product));
  m.impl("spike_product", TORCH_BOX(&spike_product));
  implement_recurrent(m);
}

}  // namespace norse_fast::cpu
