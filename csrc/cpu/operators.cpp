// The schemas of all operators, and their CPU implementations.

#include "../operators.h"

#include <sys/mman.h>

#include <algorithm>

#include "dispatch.h"

namespace norse_fast::cpu {
namespace {

/// Asks for huge pages under a large fresh tensor. Without them the page faults of its first touch take longer than the
/// kernel: a fault per 4 KiB. Only advice, so a failure is of no interest.
void advise_huge_pages(void* data, int64_t bytes) {
#ifdef MADV_HUGEPAGE
  constexpr int64_t kHugePage = int64_t{1} << 21;
  const int64_t begin = (reinterpret_cast<int64_t>(data) + kHugePage - 1) / kHugePage * kHugePage;
  const int64_t end = (reinterpret_cast<int64_t>(data) + bytes) / kHugePage * kHugePage;
  if (end > begin) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#endif
}

/// Allocates on the device of the input.
struct Allocator {
  DeviceId device;

  Tensor operator()(const Sizes& sizes, ScalarType dtype) const {
    Tensor t = empty(sizes, dtype, device);
    advise_huge_pages(t.data_ptr(), t.numel() * t.element_size());
    return t;
  }
};

/// Splits the lanes over the threads, unless waking a thread takes longer than the work.
template <class Launch>
void run(void (*kernel)(const Launch&, int64_t, int64_t), const Launch& launch) {
  constexpr int64_t kSmall = 1 << 15;  // neuron-steps, about 10 us
  constexpr int64_t kGranule = 64;     // lanes; whole cache lines for every dtype
  const int64_t threads = torch::stable::get_num_threads();
  if (launch.lanes == 0) return;
  if (threads == 1 || launch.lanes <= kGranule || launch.steps * launch.lanes < kSmall) {
    return kernel(launch, 0, launch.lanes);
  }
  const int64_t chunk = ((launch.lanes + threads - 1) / threads + kGranule - 1) / kGranule * kGranule;
  torch::stable::parallel_for(0, (launch.lanes + chunk - 1) / chunk, 1, [&](int64_t begin, int64_t end) {
    kernel(launch, begin * chunk, std::min(end * chunk, launch.lanes));
  });
}

template <class Model>
inline constexpr int kIndex = [] {
  int index = 0, found = -1;
  AllModels::for_each([&](auto model) {
    if (std::is_same_v<decltype(model), Model>) found = index;
    ++index;
  });
  return found;
}();

template <class Model, class T>
void forward_as(ForwardArguments& a, StableIValue* stack) {
  const Shape shape(a.input, a.sequence);
  ForwardCall<Model, T> call(a, shape, Allocator{shape.device});
  run(kernels<T>(kIndex<Model>).forward, call.launch);
  call.put(stack);
}

template <class Model>
void forward(StableIValue* stack, uint64_t count, uint64_t) {
  auto a = ForwardArguments::take<Model>(Stack(stack, count));
  a.input.scalar_type() == ScalarType::Double ? forward_as<Model, double>(a, stack)
                                              : forward_as<Model, float>(a, stack);
}

template <class Model, class T>
void backward_as(BackwardArguments& a, StableIValue* stack) {
  const Shape shape(a.input, a.sequence);
  BackwardCall<Model, T> call(a, shape, Allocator{shape.device});
  run(kernels<T>(kIndex<Model>).backward, call.launch);
  call.put(stack);
}

template <class Model>
void backward(StableIValue* stack, uint64_t count, uint64_t) {
  auto a = BackwardArguments::take<Model>(Stack(stack, count));
  a.input.scalar_type() == ScalarType::Double ? backward_as<Model, double>(a, stack)
                                              : backward_as<Model, float>(a, stack);
}

std::string capability_name() { return capability().name; }

}  // namespace

STABLE_TORCH_LIBRARY(norse_fast, m) {
  m.def("cpu_capability() -> str");
  AllModels::for_each([&](auto model) {
    m.def(forward_schema<decltype(model)>().c_str());
    m.def(backward_schema<decltype(model)>().c_str());
  });
}

STABLE_TORCH_LIBRARY_IMPL(norse_fast, CompositeExplicitAutograd, m) {
  m.impl("cpu_capability", TORCH_BOX(&capability_name));
}

STABLE_TORCH_LIBRARY_IMPL(norse_fast, CPU, m) {
  AllModels::for_each([&](auto model) {
    using Model = decltype(model);
    m.impl((std::string(Model::kName) + "_forward").c_str(), &forward<Model>);
    m.impl((std::string(Model::kName) + "_backward").c_str(), &backward<Model>);
  });
}

}  // namespace norse_fast::cpu
