// The neuron structs for NumPy's eyes: one neuron, one step, float64, no torch.

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <string>
#include <vector>

#include "core/storage.h"
#include "core/surrogates.h"
#include "neurons/models.h"

void bind_cpu(pybind11::module_& m);

namespace py = pybind11;
using namespace norse_fast;
using Values = std::vector<double>;

namespace {

template <int kCount, class Struct>
Values values_of(Struct s) {
  Values values(kCount);
  for_each_member<kCount>(s, [&](int k, double& member) { values[k] = member; });
  return values;
}

template <class Model>
struct Bound {
  static constexpr int kStates = kStateCount<Model>, kParams = kParamCount<Model>;

  static auto state(const Values& v) {
    return make_state<Model, double>([&](int k) { return v.at(k); });
  }
  static auto params(const Values& v) {
    return make_params<Model, double>([&](int k) { return v.at(k); });
  }

  static py::tuple step(const Values& s, double x, const Values& p) {
    auto new_state = state(s);
    typename Model::template Tape<double> tape;
    const double output = advance<Model, double>(new_state, x, params(p), tape);
    return py::make_tuple(output, values_of<kStates>(new_state));
  }

  template <class Surrogate>
  static py::tuple vjp_with(const Values& s, double x, const Values& p, Surrogate surrogate, double grad_output,
                            const Values& grad_state) {
    auto new_state = state(s);
    typename Model::template Tape<double> tape;
    advance<Model, double>(new_state, x, params(p), tape);
    auto grad = state(grad_state);
    auto grad_params = make_params<Model, double>([](int) { return 0.0; });
    const double grad_x = Model::vjp(state(s), x, params(p), tape, surrogate, grad_output, grad, grad_params);
    return py::make_tuple(grad_x, values_of<kStates>(grad), values_of<kParams>(grad_params));
  }

  /// What the vjp asks the surrogate derivatives of.
  static Values thresholds(const Values& s, double x, const Values& p) {
    Values u(Model::kThresholds);
    const auto record = [&](int k, double value, double) {
      u.at(k) = value;
      return 0.0;
    };
    vjp_with(s, x, p, record, 0.0, Values(kStates));
    return u;
  }

  static py::tuple vjp(const Values& s, double x, const Values& p, const Values& derivatives, double grad_output,
                       const Values& grad_state) {
    return vjp_with(
        s, x, p, [&](int k, double, double grad_z) { return grad_z * derivatives.at(k); }, grad_output, grad_state);
  }
};

}  // namespace

PYBIND11_MODULE(_core, m) {
  py::dict models;
  AllModels::for_each([&](auto model) {
    using B = Bound<decltype(model)>;
    py::dict functions;
    functions["step"] = py::cpp_function(&B::step);
    functions["thresholds"] = py::cpp_function(&B::thresholds);
    functions["vjp"] = py::cpp_function(&B::vjp);
    functions["states"] = B::kStates;
    functions["params"] = B::kParams;
    models[decltype(model)::kName] = functions;
  });
  bind_cpu(m);
  m.attr("models") = models;
  m.attr("surrogates") = std::vector<std::string>(std::begin(Surrogates::kNames), std::end(Surrogates::kNames));
  m.def("surrogate", [](int surrogate, double x, double alpha) {
    double result = 0;
    Surrogates::visit(static_cast<Surrogate>(surrogate),
                      [&](auto kind) { result = decltype(kind)::derivative(x, alpha); });
    return result;
  });
  m.def("exp", [](double x) { return norse_fast::exp(x); });
  m.def("exp_float", [](float x) { return norse_fast::exp(x); });
  m.def("exp_decay", [](double x) { return norse_fast::exp_decay(x); });
  m.def("exp_decay_float", [](float x) { return norse_fast::exp_decay(x); });
  m.def("tanh_squared", [](double x) { return norse_fast::tanh_squared(x); });
}
