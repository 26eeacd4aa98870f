// Prints a fingerprint of many steps and their gradients for every neuron, in both precisions: it must be the same on
// every processor with a fused multiply-add. CONTRIBUTING.md has the commands.

#include <cstdio>
#include <cstring>
#include <random>

#include "core/surrogates.h"
#include "neurons/models.h"

using namespace norse_fast;

namespace {

struct Fingerprint {
  uint64_t hash = 14695981039346656037u;

  template <class T>
  void add(T value) {
    unsigned char bytes[sizeof(T)];
    if (value != value) value = 0;  // which NaN it is differs between processors
    std::memcpy(bytes, &value, sizeof(T));
    for (unsigned char byte : bytes) hash = (hash ^ byte) * 1099511628211u;
  }
};

template <class Model, class T>
uint64_t run() {
  std::mt19937 generator(0);
  const auto random = [&] { return static_cast<T>(generator()) / static_cast<T>(1u << 31); };
  Fingerprint found;
  for (int neuron = 0; neuron < 1000; ++neuron) {
    const auto p = make_params<Model, T>([&](int k) { return k < Model::kRates ? random() / 8 : random(); });
    auto s = make_state<Model, T>([&](int) { return random(); });
    for (int step = 0; step < 20; ++step) {
      const auto old = s;
      const T x = 4 * random();
      typename Model::template Tape<T> tape;
      found.add(advance<Model, T>(s, x, p, tape));
      auto grad = make_state<Model, T>([&](int) { return random() - T(1); });
      auto grad_params = make_params<Model, T>([](int) { return T(0); });
      const auto surrogate = [&](int, T u) {
        T derivative = 0;
        Surrogates::visit(static_cast<Surrogate>(0),
                          [&](auto kind) { derivative = decltype(kind)::derivative(u, T(100)); });
        return derivative;
      };
      found.add(Model::vjp(old, x, p, tape, surrogate, random(), grad, grad_params));
      const auto add = [&](int, T& member) { found.add(member); };
      auto now = s;
      for_each_member<kStateCount<Model>>(now, add);
      for_each_member<kStateCount<Model>>(grad, add);
      for_each_member<kParamCount<Model>>(grad_params, add);
    }
  }
  return found.hash;
}

}  // namespace

int main() {
  AllModels::for_each([](auto model) {
    using Model = decltype(model);
    std::printf("%s %016llx %016llx\n", Model::kName, static_cast<unsigned long long>(run<Model, float>()),
                static_cast<unsigned long long>(run<Model, double>()));
  });
}
