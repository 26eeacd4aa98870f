#pragma once
// The CPU driver: walks a block of lanes through all time steps with the state in L1, one vectorised row per step.
//
// Everything is a template over Isa, a tag type, because the same code is compiled once per instruction set: the tag
// keeps the symbols apart. Row functions are written so that the compiler vectorises them: contiguous lanes in whole
// groups, so that no loop needs a remainder, parameters copied to locals, `omp simd` to rule out aliasing. They are not
// inlined: each is one loop nest that can be looked at in the compiler's vectorisation report.

#include "../core/default_surrogate.h"
#include "../neurons/model.h"
#include "buffer.h"
#include "dispatch.h"
#include "rows.h"
#include "watch.h"

namespace norse_fast::cpu {

/// Lanes that share a block of a model: as many as leave room in L1 for the rows of a step. Linear models have few.
template <class Model>
inline constexpr int64_t kLanes = kTapeCount<Model> > 0 ? kBlock : 2 * kBlock;

/// The parameters of a block: in registers where all lanes share them and it is `share`, else one L1 row each.
template <class Isa, class Model, class T>
struct BlockParams {
  static constexpr int kParams = kParamCount<Model>;
  using Params = typename Model::template Params<T>;

  bool shared;
  Params values;
  alignas(64) T rows[kParams][kLanes<Model>];

  void set(const Problem<T>& problem, int64_t begin, int64_t n, bool share = true) {
    shared = share;
    for (int k = 0; k < kParams; ++k) shared = shared && problem.params[k].is_shared();
    if (shared) {
      values = make_params<Model, T>([&](int k) { return problem.params[k].shared; });
    } else {
      for (int k = 0; k < kParams; ++k) {
        BlockRows<Isa, T>::spread(problem.params[k], k < Model::kRates, problem.dt, begin, n, rows[k]);
      }
    }
  }
};

template <class Isa, class Model, class T>
struct Driver {
  static constexpr int kStates = kStateCount<Model>;
  static constexpr int kParams = kParamCount<Model>;
  static constexpr int kTape = kTapeCount<Model>;
  using State = typename Model::template State<T>;
  using Params = typename Model::template Params<T>;
  using Tape = typename Model::template Tape<T>;
  using BlockParams = cpu::BlockParams<Isa, Model, T>;
  using BlockRows = cpu::BlockRows<Isa, T>;
  using StoredRows = cpu::StoredRows<Isa, T>;
  using OutputRows = cpu::OutputRows<Isa, T>;
  using Block = T[kLanes<Model>];

  /// What backward keeps of a step: its tape, and if gradients of the parameters are wanted, the state before it.
  template <bool kWithParams>
  static constexpr int kKept = kTape + (kWithParams ? kStates : 0);

  NORSE_FAST_INLINE static State load_state(const Block* rows, int64_t l) {
    return make_state<Model, T>([&](int k) { return rows[k][l]; });
  }

  NORSE_FAST_INLINE static void store_state(State& s, Block* rows, int64_t l) {
    for_each_member<kStates>(s, [&](int k, T& member) { rows[k][l] = member; });
  }

  /// Runs f(l, params of lane l) for every lane, and those that fill its last group; f must not carry anything from one
  /// lane to the next, and must be inlined always: a call would keep the loop from being vectorised.
  template <class F>
  NORSE_FAST_INLINE static void for_each_lane(const BlockParams& params, int64_t n, const Ahead& ahead, F f) {
    if (!params.shared) return for_each_lane_and_own_params(params, n, ahead, f);
    const Params p = params.values;
    for_each_group(n, ahead, [&](int64_t l) __attribute__((always_inline)) { f(l, p); });
  }

  template <class F>
  NORSE_FAST_INLINE static void for_each_lane_and_own_params(const BlockParams& params, int64_t n, const Ahead& ahead,
                                                             F f) {
    // In a function of its own: a temporary of the loop body itself would become an array over the vector's lanes.
    for_each_group(n, ahead, [&](int64_t l) __attribute__((always_inline)) {
      f(l, make_params<Model, T>([&](int k) { return params.rows[k][l]; }));
    });
  }

  template <class F>
  NORSE_FAST_INLINE static void for_each_group(int64_t n, const Ahead& ahead, F f) {
    const Ahead next = ahead;
    for (int64_t first = 0; first < n; first += kGroup) {
      next.fetch<T>(first);
#pragma omp simd
      for (int64_t l = first; l < first + kGroup; ++l) f(l);
    }
  }

  NORSE_FAST_INLINE static Tape load_tape(const Block* rows, int64_t l) {
    return make_tape<Model, T>([&](int k) { return rows[k][l]; });
  }

  /// What is written of a step: its output, its tape, or what its spike functions are of.
  enum class Keep { kOutput, kTape, kDistances };

  /// One step from the states `from` to the states `to`, which may be the same rows.
  template <Keep kKeep>
  [[gnu::noinline]] static void step_row(const BlockParams& params, int64_t n, const T* x, const Block* from, Block* to,
                                         Block* kept_rows, T* out, const Ahead& ahead) {
    // exp takes two passes: in one, the chain of operations that wait for each other is longer than a processor looks
    // ahead.
    alignas(64) T reduced[2][kHasExponent<Model> ? kBlock : 1];
    T* const exps = reduced[1];
    if constexpr (kHasExponent<Model>) {
      const auto [min, max] = BlockRows::exp_limits();
      for_each_lane(params, n, {},
                    [&, min = min, max = max](int64_t l, const Params& p) __attribute__((always_inline)) {
                      const auto x = detail::reduce_exponent(Model::exponent(load_state(from, l), p), min, max);
                      reduced[0][l] = x.shifted;
                      reduced[1][l] = x.r;
                    });
      BlockRows::exp(n, reduced);
    }
    for_each_lane(params, n, ahead, [&](int64_t l, const Params& p) __attribute__((always_inline)) {
      State s = load_state(from, l);
      Tape kept = make_tape<Model, T>([&](int k) { return kHasExponent<Model> && k == 0 ? exps[l] : T(0); });
      const T output = Model::step(s, x[l], p, kept);
      store_state(s, to, l);
      if constexpr (kKeep == Keep::kOutput) {
        out[l] = output;
      } else if constexpr (kKeep == Keep::kTape) {
        for_each_member<kTape>(kept, [&](int k, T& member) { kept_rows[k][l] = member; });
      } else {
        record_distances(p, kept, kept_rows, l);
      }
    });
  }

  /// The vjp of a step, with the derivative of the default surrogate on the fly.
  [[gnu::noinline]] static void vjp_row(const BlockParams& params, int64_t n, const Block* tape, T alpha,
                                        const T* grad_out, Block* grad, T* grad_input, const Ahead& ahead) {
    const auto surrogate = [=](int, T u, T grad_z) __attribute__((always_inline)) {
      return chain(grad_z, DefaultSurrogate::derivative(u, alpha));
    };
    for_each_lane(params, n, ahead, [=](int64_t l, const Params& p) __attribute__((always_inline)) {
      State g = load_state(grad, l);
      Params gp{};
      grad_input[l] = Model::vjp(State{}, T(0), p, load_tape(tape, l), surrogate, grad_out[l], g, gp);
      store_state(g, grad, l);
    });
  }

  // What is rarer takes longer and less code: other surrogates are passes of their own, and parameters are in rows.

  /// What the spike functions of a step are of. It is vjp that knows.
  NORSE_FAST_INLINE static void record_distances(const Params& p, const Tape& tape, Block* spikes, int64_t l) {
    const auto record = [=](int k, T u, T) __attribute__((always_inline)) {
      spikes[k][l] = u;
      return T(0);
    };
    State g{};
    Params gp{};
    Model::vjp(State{}, T(0), p, tape, record, T(0), g, gp);
  }

  [[gnu::noinline]] static void distance_rows(const BlockParams& params, int64_t n, const Block* tape, Block* spikes) {
    if constexpr (Model::kThresholds > 0) {
      for_each_lane(params, n, {}, [=](int64_t l, const Params& p) __attribute__((always_inline)) {
        record_distances(p, load_tape(tape, l), spikes, l);
      });
    }
  }

  /// The vjp of a step, with the surrogate derivatives in `spikes`, which become the gradients of the spikes, and,
  /// where these are not differentiable, count for nothing.
  template <bool kWithParams>
  [[gnu::noinline]] static void vjp_row(const BlockParams& params, int64_t n, const T* x, const Block* state,
                                        const Block* tape, Block* spikes, bool differentiable, const T* grad_out,
                                        Block* grad, Block* grad_params, T* grad_input, const Ahead& ahead) {
    for_each_lane(params, n, ahead, [=](int64_t l, const Params& p) __attribute__((always_inline)) {
      const State s = kWithParams ? load_state(state, l) : State{};
      State g = load_state(grad, l);
      Params gp = make_params<Model, T>([&](int k) { return kWithParams ? grad_params[k][l] : T(0); });
      const auto surrogate = [=](int k, T, T grad_z) __attribute__((always_inline)) {
        const T derivative = spikes[k][l];
        spikes[k][l] = grad_z;
        return keep_if(differentiable, chain(grad_z, derivative));
      };
      grad_input[l] = Model::vjp(s, kWithParams ? x[l] : T(0), p, load_tape(tape, l), surrogate, grad_out[l], g, gp);
      store_state(g, grad, l);
      if constexpr (kWithParams) {
        for_each_member<kParams>(gp, [&](int k, T& member) { grad_params[k][l] = member; });
      }
    });
  }

  /// Steps of a segment. Where nothing is kept of them, they may be more, and the state is stored less often.
  static constexpr int64_t segment_steps(bool keeps) { return keeps || kTape > 0 ? kSegment : 2 * kSegment; }

  /// One segment of one block, of the blocks up to lane `end`.
  struct Segment {
    int64_t first, length;  // steps
    int64_t begin, n, end;  // lanes

    Segment(int64_t first_step, int64_t end_step, int64_t begin_lane, int64_t end_lane)
        : first(first_step),
          length(end_step - first),
          begin(begin_lane),
          n(end_lane - begin < kLanes<Model> ? end_lane - begin : kLanes<Model>),
          end(end_lane) {}

    /// What to ask for in the s-th step of a walk through the segment, or back through it: the rows of a later step,
    /// or, after the last, of the next block.
    Ahead ahead(Storage storage, const Rows& read, const Rows& write, int64_t s, bool back = false) const {
      s += Ahead::kSteps;
      int64_t lane = begin;
      if (s >= length) {
        s -= length;
        lane += kLanes<Model>;
        if (s >= length || lane >= end) return {};
      }
      return StoredRows::ahead(storage, read, write, first + (back ? length - 1 - s : s), lane);
    }
  };

  // Rows of a block, too many for a small stack.
  struct ForwardWork {
    BlockParams params;
    alignas(64) Block state[kStates], tape[1], input_buffer, output_buffer;
  };

  template <bool kWithParams>
  struct BackwardWork {
    BlockParams params;
    alignas(64) Block grad[kStates], spikes[Model::kThresholds + 1], grad_params[kWithParams ? kParams : 1];
    alignas(64) Block alpha, running[kStates], input_buffer, grad_output_buffer, grad_input_buffer;
  };

  /// Runs the steps of one segment on one block. The state waits in `final_state` between segments.
  static void forward_block(const Forward<T>& f, const Segment& segment, ForwardWork& work) {
    const auto [first, length, begin, n, end] = segment;
    auto& [params, state, tape, input_buffer, output_buffer] = work;
    params.set(f, begin, n);
    const bool streamed = f.kind == Output::kAll && StoredRows::are_streamed(f.storage, f.output, f.steps, f.lanes);
    const Rows outputs{f.kind == Output::kAll && !streamed ? f.output : nullptr, f.lanes};
    for (int k = 0; k < kStates; ++k) {
      first == 0 ? BlockRows::load_initial(f, k, begin, n, state[k])
                 : BlockRows::load(f.final_state[k] + begin, n, state[k]);
    }

    for (int64_t s = 0; s < length; ++s) {
      const int64_t t = first + s;
      const int64_t offset = t * f.lanes + begin;
      const T* x = StoredRows::read(f.storage, f.input, t, begin, n, input_buffer);
      T* out = OutputRows::target(f, t, begin, n, output_buffer, streamed);
      step_row<Keep::kOutput>(params, n, x, state, state, tape, out, segment.ahead(f.storage, f.input, outputs, s));
      OutputRows::finish(f, output_buffer, n, t, begin, streamed);
      if (f.trace[0]) {
        for (int k = 0; k < kStates; ++k) copy_row(state[k], n, f.trace[k] + offset);
      }
    }
    if (f.checkpoints[0] && first + length < f.steps) {
      for (int k = 0; k < kStates; ++k) copy_row(state[k], n, f.checkpoints[k] + first / kSegment * f.lanes + begin);
    }
    for (int k = 0; k < kStates; ++k) copy_row(state[k], n, f.final_state[k] + begin);
  }

  /// Goes back through the steps of one segment on one block. Gradients wait in the output arrays between segments.
  template <bool kWithParams>
  static void backward_block(const Backward<T>& b, const Segment& segment, BackwardWork<kWithParams>& work,
                             Block* kept) {
    const auto [first, length, begin, n, end] = segment;
    auto& [params, grad, spikes, grad_params, alpha, running, input_buffer, grad_output_buffer, grad_input_buffer] =
        work;
    const bool on_the_fly = !kWithParams && b.is_default() && b.alpha.is_shared();
    params.set(b, begin, n);
    const bool last = first + length == b.steps;
    const bool streamed = StoredRows::are_streamed(b.storage, b.grad_input, b.steps, b.lanes);
    const Rows grad_inputs{streamed ? nullptr : b.grad_input, b.lanes};
    if (!on_the_fly) BlockRows::spread(b.alpha, false, b.dt, begin, n, alpha);
    for (int k = 0; k < kStates; ++k) {
      const T* later = last ? b.grad_final_state[k] : b.grad_state[k];
      later ? BlockRows::load(later + begin, n, grad[k]) : BlockRows::fill(T(0), n, grad[k]);
    }
    if constexpr (kWithParams) {
      for (int k = 0; k < kParams; ++k) {
        const T* later = b.grad_params + k * b.lanes + begin;
        last ? BlockRows::fill(T(0), n, grad_params[k]) : BlockRows::load(later, n, grad_params[k]);
      }
    }
    if constexpr (kKept<kWithParams> > 0) recompute(b, segment, work, kept);

    for (int64_t s = length - 1; s >= 0; --s) {
      const int64_t t = first + s;
      const int64_t offset = t * b.lanes + begin;
      const Block* tape = kept + s * kKept<kWithParams>;
      if (b.grad_trace[0]) {
        for (int k = 0; k < kStates; ++k) BlockRows::add(b.grad_trace[k] + offset, n, grad[k]);
      }
      const T* x = kWithParams ? StoredRows::read(b.storage, b.input, t, begin, n, input_buffer) : nullptr;
      const T* grad_output = OutputRows::read_gradient(b, t, begin, n, grad_output_buffer);
      T* grad_input = StoredRows::target(b.storage, b.grad_input, offset, n, grad_input_buffer, streamed);
      const Ahead ahead = segment.ahead(b.storage, b.grad_output, grad_inputs, length - 1 - s, true);
      if (on_the_fly) {
        vjp_row(params, n, tape, b.alpha.shared, grad_output, grad, grad_input, ahead);
      } else {
        constexpr int kThresholds = Model::kThresholds;
        if (!b.derivatives[0]) distance_rows(params, n, tape, spikes);
        if (store_spikes(b, Spikes::kDistances, kThresholds, offset, n, spikes)) continue;
        for (int k = 0; k < kThresholds; ++k) BlockRows::derive(b, k, alpha, offset, n, spikes[k]);
        vjp_row<kWithParams>(params, n, x, tape + kTape, tape, spikes, b.is_differentiable(), grad_output, grad,
                             grad_params, grad_input, ahead);
        store_spikes(b, Spikes::kGradients, kThresholds, offset, n, spikes);
      }
      StoredRows::finish(b.storage, grad_input_buffer, n, b.grad_input, offset, streamed);
    }

    for (int k = 0; k < kStates; ++k) copy_row(grad[k], n, b.grad_state[k] + begin);
    if constexpr (kWithParams) {
      for (int k = 0; k < kParams; ++k) {
        const T scale = first == 0 && k < Model::kRates ? static_cast<T>(b.dt) : T(1);
        T* row = grad_params[k];
#pragma omp simd
        for (int64_t l = 0; l < n; ++l) row[l] *= scale;
        copy_row(row, n, b.grad_params + k * b.lanes + begin);
      }
    }
  }

  /// Repeats the steps of one segment on one block, from its checkpoint, and keeps what backward needs.
  template <bool kWithParams>
  static void recompute(const Backward<T>& b, const Segment& segment, BackwardWork<kWithParams>& work, Block* kept) {
    const auto [first, length, begin, n, end] = segment;
    Block* state = kWithParams ? kept + kTape : work.running;
    for (int k = 0; k < kStates; ++k) {
      first == 0 ? BlockRows::load_initial(b, k, begin, n, state[k])
                 : BlockRows::load(b.checkpoints[k] + (first / kSegment - 1) * b.lanes + begin, n, state[k]);
    }
    for (int64_t s = 0; s < length; ++s) {
      const T* x = StoredRows::read(b.storage, b.input, first + s, begin, n, work.input_buffer);
      const Ahead ahead = segment.ahead(b.storage, b.input, {}, s);
      Block* next = kWithParams && s + 1 < length ? state + kKept<kWithParams> : work.running;
      step_row<Keep::kTape>(work.params, n, x, state, next, kept + s * kKept<kWithParams>, nullptr, ahead);
      state = next;
    }
  }

  // All blocks pass one segment before any enters the next: the rows of a step are then written together, page by page.
  // T = 0 is one segment without steps.
  static void forward(const Forward<T>& f, const Lanes& lanes) {
    const int64_t most = segment_steps(f.checkpoints[0] != nullptr);
    const Buffer<Isa, ForwardWork> work(1);
    int64_t first = 0;
    do {
      const int64_t next = f.steps - first < most ? f.steps : first + most;
      for (int64_t lane = lanes.begin; lane < lanes.end; lane += kLanes<Model>) {
        if (lanes.watch && lanes.watch->stops()) return;
        forward_block(f, {first, next, lane, lanes.end}, work[0]);
      }
      first = next;
    } while (first < f.steps);
    BlockRows::flush();
  }

  struct ActivityWork {
    BlockParams params;
    alignas(64) Block state[kStates], spikes[Model::kThresholds + 1], alpha, level, input_buffer;
  };

  /// Repeats all steps of one block and marks where a surrogate derivative counts.
  static void mark_block(const Backward<T>& b, const Segment& segment, ActivityWork& work) {
    const auto [first, length, begin, n, end] = segment;
    auto& [params, state, spikes, alpha, level, input_buffer] = work;
    params.set(b, begin, n);
    BlockRows::spread(b.alpha, false, b.dt, begin, n, alpha);
    BlockRows::fill(T(0), n, level);
    if (b.threshold > 0) BlockRows::derive(b, 0, alpha, begin, n, level);  // which is largest at 0
    for (int64_t l = 0; l < n; ++l) level[l] = std::fabs(level[l]) * static_cast<T>(b.threshold);
    for (int k = 0; k < kStates; ++k) BlockRows::load_initial(b, k, begin, n, state[k]);
    for (int64_t t = 0; t < length; ++t) {
      const T* x = StoredRows::read(b.storage, b.input, t, begin, n, input_buffer);
      step_row<Keep::kDistances>(params, n, x, state, state, spikes, nullptr, segment.ahead(b.storage, b.input, {}, t));
      for (int k = 0; k < Model::kThresholds; ++k) {
        BlockRows::derive(b, k, alpha, t * b.lanes + begin, n, spikes[k]);
        BlockRows::mark(spikes[k], level, k > 0, n, b.active + t * b.lanes + begin);
      }
    }
  }

  static void mark_active(const Backward<T>& b, const Lanes& lanes) {
    const Buffer<Isa, ActivityWork> work(1);
    for (int64_t lane = lanes.begin; lane < lanes.end; lane += kLanes<Model>) {
      if (lanes.watch && lanes.watch->stops()) return;
      mark_block(b, {0, b.steps, lane, lanes.end}, work[0]);
    }
  }

  template <bool kWithParams>
  static void backward(const Backward<T>& b, const Lanes& lanes) {
    // What is kept of one segment fits the L2 cache. T = 0 keeps the state that it starts from.
    constexpr int64_t kMost = segment_steps(kWithParams);
    const int64_t length = b.steps < 1 ? 1 : b.steps < kMost ? b.steps : kMost;
    const Buffer<Isa, Block> kept(length * kKept<kWithParams> + 1);
    const Buffer<Isa, BackwardWork<kWithParams>> work(1);
    for (int64_t first = checkpoint_count(b.steps, kMost) * kMost, next = b.steps; first >= 0; first -= kMost) {
      for (int64_t lane = lanes.begin; lane < lanes.end; lane += kLanes<Model>) {
        if (lanes.watch && lanes.watch->stops()) return;
        backward_block<kWithParams>(b, {first, next, lane, lanes.end}, work[0], kept.data());
      }
      next = first;
    }
    BlockRows::flush();
  }
};

}  // namespace norse_fast::cpu

namespace norse_fast {

using Backend = cpu::NORSE_FAST_ISA;

template <class Isa, class Model>
void Kernels<Isa, Model>::run(const Forward<float>& f, Where lanes) {
  cpu::Driver<Isa, Model, float>::forward(f, lanes);
}

template <class Isa, class Model>
void Kernels<Isa, Model>::run(const Forward<double>& f, Where lanes) {
  cpu::Driver<Isa, Model, double>::forward(f, lanes);
}

template <class Isa, class Model>
void Kernels<Isa, Model>::run(const Backward<float>& b, Where lanes) {
  using Driver = cpu::Driver<Isa, Model, float>;
  if (b.wanted == Spikes::kActive) return Driver::mark_active(b, lanes);
  b.grad_params ? Driver::template backward<true>(b, lanes) : Driver::template backward<false>(b, lanes);
}

template <class Isa, class Model>
void Kernels<Isa, Model>::run(const Backward<double>& b, Where lanes) {
  using Driver = cpu::Driver<Isa, Model, double>;
  if (b.wanted == Spikes::kActive) return Driver::mark_active(b, lanes);
  b.grad_params ? Driver::template backward<true>(b, lanes) : Driver::template backward<false>(b, lanes);
}

}  // namespace norse_fast
