#pragma once
// The CPU driver: walks a block of lanes through all time steps with the state in L1, one vectorised row per step.
//
// Everything is a template over Isa, a tag type, because the same code is compiled once per instruction set: the tag keeps
// the symbols apart. Row functions are written so that the compiler vectorises them: contiguous lanes, parameters copied
// to locals, `omp simd` to rule out aliasing. They are not inlined, so that each exists once and not once per element type.

#include <cstdlib>

#include "../launch.h"
#include "../neurons/models.h"

namespace norse_fast::cpu {

template <class T>
struct ModelKernels {
  void (*forward)(const Forward<T>&, int64_t begin, int64_t end) = nullptr;
  void (*backward)(const Backward<T>&, int64_t begin, int64_t end) = nullptr;
};

/// The kernels of one instruction set, indexed as AllModels.
struct KernelTable {
  ModelKernels<float> float_kernels[AllModels::kCount];
  ModelKernels<double> double_kernels[AllModels::kCount];
};

/// Lanes that share a block; a multiple of every vector width.
inline constexpr int64_t kBlock = 1024;

template <class T>
NORSE_FAST_INLINE void copy_row(const T* from, int64_t n, T* to) {
#pragma omp simd
  for (int64_t l = 0; l < n; ++l) to[l] = from[l];
}

template <class T>
NORSE_FAST_INLINE void fill_row(T value, int64_t n, T* to) {
#pragma omp simd
  for (int64_t l = 0; l < n; ++l) to[l] = value;
}

/// Rows of stored elements as rows of the computing type, converted in a pass over the cached block where they differ.
template <class Isa>
struct Convert {
  template <class T, class Stored>
  static const T* load_row(const Rows& rows, int64_t t, int64_t begin, int64_t n, T* buffer) {
    const Stored* row = static_cast<const Stored*>(rows.data) + t * rows.time_stride;
    if (!rows.data || rows.broadcast) {
      fill_row(rows.data ? load_stored(*row) : T(0), n, buffer);
      return buffer;
    }
    row += begin;
    if constexpr (sizeof(Stored) == sizeof(T)) {
      return row;
    } else {
#pragma omp simd
      for (int64_t l = 0; l < n; ++l) buffer[l] = load_stored(row[l]);
      return buffer;
    }
  }

  template <class T, class Stored>
  static void store_row(const T* buffer, int64_t n, Stored* row) {
#pragma omp simd
    for (int64_t l = 0; l < n; ++l) store_rounded(buffer[l], row[l]);
  }
};

/// Spreads a parameter over the lanes of a block.
template <class T>
NORSE_FAST_INLINE void spread(const Parameter<T>& p, bool rate, double dt, int64_t begin, int64_t n, T* to) {
  if (p.is_shared()) return fill_row(p.shared, n, to);
  int64_t phase = begin % p.period;
  for (int64_t l = 0; l < n; ++l) {
    to[l] = parameter_value<T>(p.values, p.type, phase, rate, dt);
    phase = phase + 1 == p.period ? 0 : phase + 1;
  }
}

/// The parameters of a block: in registers where all lanes share them, else one L1 row each.
template <class Isa, class Model, class T>
struct BlockParams {
  static constexpr int kParams = kParamCount<Model>;
  using Params = typename Model::template Params<T>;

  bool shared = true;
  Params values;
  alignas(64) T rows[kParams][kBlock];

  BlockParams(const Problem<T>& problem, int64_t begin, int64_t n) {
    for (int k = 0; k < kParams; ++k) shared = shared && problem.params[k].is_shared();
    if (shared) {
      values = make_params<Model, T>([&](int k) { return problem.params[k].shared; });
    } else {
      for (int k = 0; k < kParams; ++k) {
        spread(problem.params[k], k < Model::kRates, problem.dt, begin, n, rows[k]);
      }
    }
  }
};

template <class Isa, class Model, class T>
struct Driver {
  static constexpr int kStates = kStateCount<Model>;
  static constexpr int kParams = kParamCount<Model>;
  static constexpr int kSurrogates = kSurrogateCount<Model>;
  using State = typename Model::template State<T>;
  using Params = typename Model::template Params<T>;
  using BlockParams = cpu::BlockParams<Isa, Model, T>;
  using Block = T[kBlock];
  using SegmentStates = Block[kStates];  // the states of a block before one step

  NORSE_FAST_INLINE static State load_state(const Block* rows, int64_t l) {
    return make_state<Model, T>([&](int k) { return rows[k][l]; });
  }

  NORSE_FAST_INLINE static void store_state(State& s, Block* rows, int64_t l) {
    for_each_member<kStates>(s, [&](int k, T& member) { rows[k][l] = member; });
  }

  /// Runs f(l, params of lane l) for every lane; f must not carry anything from one lane to the next.
  template <class F>
  NORSE_FAST_INLINE static void for_each_lane(const BlockParams& params, int64_t n, F f) {
    if (params.shared) {
      const Params p = params.values;
#pragma omp simd
      for (int64_t l = 0; l < n; ++l) f(l, p);
    } else {
#pragma omp simd
      for (int64_t l = 0; l < n; ++l) f(l, make_params<Model, T>([&](int k) { return params.rows[k][l]; }));
    }
  }

  /// One step from the states `from` to the states `to`, which may be the same rows.
  [[gnu::noinline]] static void step_row(const BlockParams& params, int64_t n, const T* x, const Block* from, Block* to, T* out) {
    for_each_lane(params, n, [=](int64_t l, const Params& p) {
      State s = load_state(from, l);
      out[l] = Model::step(s, x[l], p);
      store_state(s, to, l);
    });
  }

  [[gnu::noinline]] static void surrogate_rows(const BlockParams& params, Surrogate surrogate, const T* alpha, int64_t n, const T* x,
                             const Block* state, Block* derivative) {
    if constexpr (Model::kThresholds > 0) {
      if (surrogate == Surrogate::kHeaviside) {
        for (int k = 0; k < kSurrogates; ++k) fill_row(T(0), n, derivative[k]);
        return;
      }
      for_each_lane(params, n, [=](int64_t l, const Params& p) {
        T u[kSurrogates];
        Model::thresholds(load_state(state, l), x[l], p, u);
        for (int k = 0; k < kSurrogates; ++k) derivative[k][l] = u[k];
      });
      dispatch_surrogate(surrogate, [&](auto constant) {
        for (int k = 0; k < kSurrogates; ++k) {
          T* row = derivative[k];
#pragma omp simd
          for (int64_t l = 0; l < n; ++l) row[l] = surrogate_derivative<decltype(constant)::value>(row[l], alpha[l]);
        }
      });
    }
  }

  template <bool kWithParams>
  [[gnu::noinline]] static void vjp_row(const BlockParams& params, int64_t n, const T* x, const Block* state, const Block* derivative,
                      const T* grad_out, Block* grad, Block* grad_params, T* grad_input) {
    for_each_lane(params, n, [=](int64_t l, const Params& p) {
      const State s = load_state(state, l);
      State g = load_state(grad, l);
      T surrogate[kSurrogates] = {};
      if constexpr (Model::kThresholds > 0) {
        for (int k = 0; k < kSurrogates; ++k) surrogate[k] = derivative[k][l];
      }
      Params gp = make_params<Model, T>([&](int k) { return kWithParams ? grad_params[k][l] : T(0); });
      grad_input[l] = vjp<Model, T>(s, x[l], p, surrogate, grad_out[l], g, gp);
      store_state(g, grad, l);
      if constexpr (kWithParams) {
        for_each_member<kParams>(gp, [&](int k, T& member) { grad_params[k][l] = member; });
      }
    });
  }

  template <class Stored>
  static void forward_block(const Forward<T>& f, int64_t begin, int64_t n) {
    const BlockParams params(f, begin, n);
    alignas(64) Block state[kStates];
    alignas(64) Block input_buffer, output_buffer;
    for (int k = 0; k < kStates; ++k) copy_row(f.state[k] + begin, n, state[k]);

    for (int64_t t = 0; t < f.steps; ++t) {
      const T* x = Convert<Isa>::template load_row<T, Stored>(f.input, t, begin, n, input_buffer);
      Stored* row = static_cast<Stored*>(f.output) + t * f.lanes + begin;
      if constexpr (sizeof(Stored) == sizeof(T)) {
        step_row(params, n, x, state, state, row);
      } else {
        step_row(params, n, x, state, state, output_buffer);
        Convert<Isa>::store_row(output_buffer, n, row);
      }
      const int64_t done = t + 1;
      if (f.trace[0]) {
        for (int k = 0; k < kStates; ++k) copy_row(state[k], n, f.trace[k] + t * f.lanes + begin);
      }
      if (f.checkpoints[0] && done % kSegment == 0 && done < f.steps) {
        const int64_t offset = (done / kSegment - 1) * f.lanes + begin;
        for (int k = 0; k < kStates; ++k) copy_row(state[k], n, f.checkpoints[k] + offset);
      }
    }
    for (int k = 0; k < kStates; ++k) copy_row(state[k], n, f.final_state[k] + begin);
  }

  template <class Stored, bool kWithParams>
  static void backward_block(const Backward<T>& b, int64_t begin, int64_t n, SegmentStates* segment) {
    const BlockParams params(b, begin, n);
    alignas(64) Block alpha;
    spread(b.alpha, false, b.dt, begin, n, alpha);

    alignas(64) Block grad[kStates], derivative[kSurrogates];
    alignas(64) Block input_buffer, output_buffer;
    alignas(64) Block grad_params[kWithParams ? kParams : 1];
    for (int k = 0; k < kStates; ++k) {
      if (b.grad_final_state[k]) {
        copy_row(b.grad_final_state[k] + begin, n, grad[k]);
      } else {
        fill_row(T(0), n, grad[k]);
      }
    }
    if constexpr (kWithParams) {
      for (int k = 0; k < kParams; ++k) fill_row(T(0), n, grad_params[k]);
    }

    for (int64_t last = b.steps > 0 ? checkpoint_count(b.steps) : -1; last >= 0; --last) {
      const int64_t first_step = last * kSegment;
      const int64_t length = b.steps - first_step < kSegment ? b.steps - first_step : kSegment;
      for (int k = 0; k < kStates; ++k) {
        copy_row(last == 0 ? b.state[k] + begin : b.checkpoints[k] + (last - 1) * b.lanes + begin, n, segment[0][k]);
      }
      for (int64_t s = 0; s + 1 < length; ++s) {
        const T* x = Convert<Isa>::template load_row<T, Stored>(b.input, first_step + s, begin, n, input_buffer);
        step_row(params, n, x, segment[s], segment[s + 1], output_buffer);
      }
      for (int64_t s = length - 1; s >= 0; --s) {
        const int64_t t = first_step + s;
        if (b.grad_trace[0]) {
          for (int k = 0; k < kStates; ++k) {
            const T* from = b.grad_trace[k] + t * b.lanes + begin;
            T* to = grad[k];
#pragma omp simd
            for (int64_t l = 0; l < n; ++l) to[l] += from[l];
          }
        }
        const T* x = Convert<Isa>::template load_row<T, Stored>(b.input, t, begin, n, input_buffer);
        surrogate_rows(params, b.surrogate, alpha, n, x, segment[s], derivative);
        alignas(64) Block grad_out_buffer;
        const T* grad_out =
            Convert<Isa>::template load_row<T, Stored>(b.grad_output, t, begin, n, grad_out_buffer);
        Stored* row = b.grad_input ? static_cast<Stored*>(b.grad_input) + t * b.lanes + begin : nullptr;
        T* grad_input = output_buffer;
        if constexpr (sizeof(Stored) == sizeof(T)) {
          if (row) grad_input = row;
        }
        vjp_row<kWithParams>(params, n, x, segment[s], derivative, grad_out, grad, grad_params, grad_input);
        if constexpr (sizeof(Stored) != sizeof(T)) {
          if (row) Convert<Isa>::store_row(output_buffer, n, row);
        }
      }
    }
    for (int k = 0; k < kStates; ++k) copy_row(grad[k], n, b.grad_state[k] + begin);
    if constexpr (kWithParams) {
      for (int k = 0; k < kParams; ++k) {
        const T scale = k < Model::kRates ? static_cast<T>(b.dt) : T(1);
        T* to = b.grad_params + k * b.lanes + begin;
#pragma omp simd
        for (int64_t l = 0; l < n; ++l) to[l] = grad_params[k][l] * scale;
      }
    }
  }

  template <class F>
  NORSE_FAST_INLINE static void for_each_block(int64_t begin, int64_t end, F f) {
    for (int64_t b = begin; b < end; b += kBlock) f(b, end - b < kBlock ? end - b : kBlock);
  }

  /// Calls f with a value of the type that the problem's rows are stored in.
  template <class F>
  NORSE_FAST_INLINE static void dispatch_storage(Storage storage, F f) {
    if constexpr (sizeof(T) == sizeof(double)) {
      f(double{});
    } else {
      if (storage == Storage::kHalf) return f(Half{});
      if (storage == Storage::kBFloat16) return f(BFloat16{});
      f(float{});
    }
  }

  static void forward(const Forward<T>& f, int64_t begin, int64_t end) {
    dispatch_storage(f.storage, [&](auto stored) {
      for_each_block(begin, end, [&](int64_t b, int64_t n) { forward_block<decltype(stored)>(f, b, n); });
    });
  }

  static void backward(const Backward<T>& g, int64_t begin, int64_t end) {
    // The states of one segment fit the L2 cache, but not a thread's stack.
    const int64_t length = g.steps < kSegment ? g.steps + 1 : kSegment;
    auto* segment = static_cast<SegmentStates*>(std::aligned_alloc(64, length * sizeof(SegmentStates)));
    if (!segment) std::abort();
    dispatch_storage(g.storage, [&](auto stored) {
      for_each_block(begin, end, [&](int64_t b, int64_t n) {
        if (g.grad_params) {
          backward_block<decltype(stored), true>(g, b, n, segment);
        } else {
          backward_block<decltype(stored), false>(g, b, n, segment);
        }
      });
    });
    std::free(segment);
  }
};

template <class Isa>
KernelTable make_table() {
  KernelTable table;
  int index = 0;
  AllModels::for_each([&](auto model) {
    using Model = decltype(model);
    table.float_kernels[index] = {&Driver<Isa, Model, float>::forward, &Driver<Isa, Model, float>::backward};
    table.double_kernels[index] = {&Driver<Isa, Model, double>::forward, &Driver<Isa, Model, double>::backward};
    ++index;
  });
  return table;
}

}  // namespace norse_fast::cpu
