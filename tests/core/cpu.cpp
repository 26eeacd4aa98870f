// The building blocks of the CPU driver for NumPy's eyes, without torch and without a model: lists of events, products,
// sums over spikes, memory. They are those of the instruction set that NORSE_FAST_CPU_CAPABILITY names.

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <cstring>
#include <string>
#include <vector>

#include "cpu/dispatch.h"
#include "cpu/events.h"
#include "cpu/memory.h"
#include "cpu/products.h"
#include "cpu/spike_sums.h"

namespace py = pybind11;
using namespace norse_fast::cpu;

namespace {

template <class T>
using Array = py::array_t<T, py::array::c_style>;
using Lists = std::vector<std::vector<uint16_t>>;

template <class T>
Array<int32_t> collect(const Array<T>& z) {
  std::vector<int32_t> list(z.size() + kListRoom);
  const int64_t count = products<T>().collect(z.data(), z.size(), list.data());
  return Array<int32_t>(count, list.data());
}

template <class T>
Array<T> pack(const Array<T>& matrix, int64_t first, int64_t columns, bool transposed) {
  const int64_t rows = matrix.shape(transposed ? 1 : 0), stride = matrix.shape(1);
  Array<T> panel({rows, kPanel<T>});
  products<T>().pack(matrix.data() + first * (transposed ? stride : 1), transposed ? 1 : stride,
                     transposed ? stride : 1, rows, columns, panel.mutable_data());
  return panel;
}

/// The product as pieces compute it: a panel of weights at a time.
template <class T>
Array<T> multiply(const Array<T>& a, const Array<T>& b, const Array<T>& start, bool add) {
  const int64_t rows = a.shape(0), depth = a.shape(1), columns = b.shape(1);
  Array<T> out({rows, columns});
  std::memcpy(out.mutable_data(), start.data(), out.nbytes());
  for (int64_t first = 0; first < columns; first += kPanel<T>) {
    const int64_t width = std::min(columns - first, kPanel<T>);
    const Array<T> panel = pack(b, first, width, false);
    products<T>().multiply(a.data(), depth, 1, rows, depth, panel.data(), out.mutable_data() + first, columns, width,
                           add);
  }
  return out;
}

/// Rows of the panel summed over the nonzero elements of each row of z, as the recurrent driver does.
template <class T>
Array<T> sum_events(const Array<T>& z, const Array<T>& panel) {
  const int64_t rows = z.shape(0), width = z.shape(1);
  Array<T> sums({rows, kPanel<T>});
  std::fill_n(sums.mutable_data(), sums.size(), T(0));
  dispatch([&](auto isa) {
    const Products<T> table = products<T>();
    Events<decltype(isa), T> events(rows, width);
    events.clear();
    events.collect(table, z.data(), rows);
    events.add_rows(table, panel.data(), events.binary(), sums.mutable_data());
  });
  return sums;
}

template <class Element, class Scan>
py::tuple scan(const Array<Element>& z, Scan scan) {
  Array<uint64_t> bits(words_for(z.size()));
  const bool binary = scan(z.data(), z.size(), bits.mutable_data());
  return py::make_tuple(bits, binary);
}

template <class T>
Array<T> sum_lists(const Array<T>& panel, const Lists& lists, int64_t columns, const Array<T>& out, bool adds) {
  std::vector<uint16_t> events;
  std::vector<int64_t> begin, end;
  for (const auto& list : lists) {
    begin.push_back(events.size());
    events.insert(events.end(), list.begin(), list.end());
    end.push_back(events.size());
  }
  Array<T> sums({out.shape(0), out.shape(1)});
  std::memcpy(sums.mutable_data(), out.data(), out.nbytes());
  spike_sums<T>().sum(panel.data(), {begin.data(), end.data(), events.data()}, lists.size(), columns,
                      adds ? nullptr : out.data(), sums.mutable_data(), out.shape(1));
  return sums;
}

template <class T>
void bind(py::module_& m, const std::string& suffix) {
  m.attr(("panel" + suffix).c_str()) = kPanel<T>;
  m.def(("collect" + suffix).c_str(), &collect<T>);
  m.def(("pack" + suffix).c_str(), &pack<T>);
  m.def(("multiply" + suffix).c_str(), &multiply<T>);
  m.def(("sum_events" + suffix).c_str(), &sum_events<T>);
  m.def(("sum_lists" + suffix).c_str(), &sum_lists<T>);
  m.def(("scan" + suffix).c_str(), [](const Array<T>& z) { return scan(z, spike_sums<T>().scan); });
}

}  // namespace

void bind_cpu(py::module_& m) {
  bind<float>(m, "_float");
  bind<double>(m, "_double");
  m.def("scan_bytes", [](const Array<uint8_t>& z) { return scan(z, spike_sums<float>().scan_bytes); });
  m.def("reserve", [](int64_t bytes) {
    char* const data = static_cast<char*>(reserve(bytes));
    // Both ends are ours.
    if (data) data[0] = data[bytes - 1] = 1;
    return reinterpret_cast<uintptr_t>(data);
  });
  m.def("release", [](uintptr_t data, int64_t bytes) { release(reinterpret_cast<void*>(data), bytes); });
  m.def("allocate_and_free", [](int64_t bytes) { deallocate(allocate(bytes)); });
  m.def("waiting_bytes", &waiting_bytes);
  m.def("release_waiting", &release_waiting);
  m.def("set_waiting_limit", &set_waiting_limit);
  m.def("fail_allocation", &fail_allocation);
}
