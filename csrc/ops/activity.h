#pragma once
// Which neuron-steps have a surrogate derivative that counts: <name>_activity(...) -> bytes, a third operator of models
// with spikes, on the CPU.

#include "operators.h"

namespace norse_fast {

struct ActivityArguments : ProblemArguments {
  Tensor alpha;
  int64_t surrogate = 0;
  double threshold = 0;  // the share of its largest value that a derivative must exceed

  template <class Visitor>
  void visit(Visitor&& v, const Signature& model) {
    visit_problem(v, model);
    v("alpha", alpha);
    v("surrogate", surrogate);
    v("threshold", threshold);
    v("dt", dt);
    v("sequence", sequence);
  }
};

struct ActivityResults {
  Tensor active;

  template <class Visitor>
  void visit(Visitor&& v, const Signature&) {
    v("active", active);
  }
};

struct ActivityOperator {
  static constexpr const char* kSuffix = "_activity";
  static constexpr bool kRecurrent = false;
  using Arguments = ActivityArguments;
  using Results = ActivityResults;

  template <class T>
  static Results run(Arguments& a, const ModelKernels& kernels, const Memory& memory) {
    const Signature& model = kernels.signature;
    const Shape shape(a);
    const Checker check(shape, model, kScalarType<T>);
    check.number("surrogate", a.surrogate, Surrogates::kCount);
    check.problem(a);
    check.parameter("alpha", a.alpha);
    require(a.threshold >= 0 && a.threshold <= 1, model.name, ": threshold is ", a.threshold, ", expected 0 to 1");

    Backward<T> launch;
    set_problem(launch, a, model, shape);
    launch.alpha = parameter_of<T>(a.alpha, false, a.dt);
    launch.surrogate = static_cast<Surrogate>(a.surrogate);
    launch.wanted = Spikes::kActive;
    launch.threshold = a.threshold;
    Results results{Allocator{shape.device, memory}(sizes_of(a.input), ScalarType::Byte)};
    launch.active = static_cast<uint8_t*>(results.active.data_ptr());
    norse_fast::run(launch, kernels, shape);
    return results;
  }
};

}  // namespace norse_fast
