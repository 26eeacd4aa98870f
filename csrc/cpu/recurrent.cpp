// The recurrent CPU driver: one thread's piece of a layer, step after step. The currents from the spikes of the step
// before are sums of the weights' columns of those neurons that spiked; then the rows of the model run, a block of
// lanes at a time. It is compiled for no model: see ModelRows.

#include "recurrent_piece.h"

namespace norse_fast::cpu {
namespace {

template <class Isa, class T>
class RecurrentForwardTask final : public Task, RecurrentPiece<Isa, T> {
  using Base = RecurrentPiece<Isa, T>;
  using Base::kInputSteps;
  using Base::model_;
  using typename Base::Block;
  using typename Base::Run;
  using typename Base::StoredRows;

 public:
  RecurrentForwardTask(const ModelRows<T>& model, const RecurrentForward<T>& f, const Piece& piece)
      : Base(model, f, f, piece, true),
        f_(f),
        events_(Base::rows_ * Base::input_steps_, f.projects ? f.inputs : 0),
        inputs_(f.projects ? Base::step_size_ * Base::input_steps_ : 0),
        states_(Base::run_count_, model.states) {
    this->for_each_run([&](const Run& run) {
      for (int k = 0; k < model.states; ++k)
        BlockRows<Isa, T>::load(f.state[k] + this->lane(run), run.n, states_[run.index][k]);
    });
  }

  void step(Pass, int64_t t) override {
    T* output = static_cast<T*>(f_.output);
    this->sum_currents(t, f_.projects ? projected(t) : this->given_currents(t), output);
    this->for_each_run([&](const Run& run) {
      Block* state = states_[run.index];
      const int64_t lane = this->lane(run), offset = t * f_.lanes + lane;
      const T* x = this->arrive(run, state, joined_);
      T* out = StoredRows::target(f_.storage, output, offset, run.n, output_);
      model_.step(this->params(run), run.n, x, state, out);
      StoredRows::finish(f_.storage, output_, run.n, output, offset);
      this->arrive_late(run, state);
      if (f_.trace[0]) write(run, f_.trace, offset);
      const int64_t done = t + 1;
      if (f_.checkpoints[0] && done % kRecurrentSegment == 0 && done < f_.steps) {
        write(run, f_.checkpoints, (done / kRecurrentSegment - 1) * f_.lanes + lane);
      }
    });
  }

  void finish() override {
    this->for_each_run([&](const Run& run) { write(run, f_.final_state, this->lane(run)); });
  }

 private:
  /// The currents of the input of step t, which are projected with those of the steps that follow.
  auto projected(int64_t t) {
    auto currents = this->currents_of(inputs_);
    const int64_t s = t % kInputSteps, left = f_.steps - t;
    if (s == 0) this->project(t, left < kInputSteps ? left : kInputSteps, events_, currents);
    currents.data = currents.at(s, 0, 0);
    return currents;
  }

  void write(const Run& run, T* const* to, int64_t offset) const {
    for (int k = 0; k < model_.states; ++k) copy_row(states_[run.index][k], run.n, to[k] + offset);
  }

  const RecurrentForward<T>& f_;
  Events<Isa, T> events_;  // of the input
  Buffer<Isa, T> inputs_;
  typename Base::Blocks states_;
  alignas(64) Block joined_, output_;
};

/// Between segments, the gradients of the states are in grad_state, because the states take their place meanwhile.
/// Before the gradients of the currents are there, their memory has the currents of the input, and then, of the first
/// channel, the first row of the tape.
template <class Isa, class T>
class RecurrentBackwardTask final : public Task, RecurrentPiece<Isa, T> {
  using Base = RecurrentPiece<Isa, T>;
  using Base::channels_;
  using Base::kInputSteps;
  using Base::model_;
  using typename Base::Block;
  using typename Base::Blocks;
  using typename Base::Run;
  using typename Base::StoredRows;

 public:
  RecurrentBackwardTask(const ModelRows<T>& model, const RecurrentBackward<T>& b, const Piece& piece)
      : Base(model, b, b, piece, on_the_fly(b)),
        b_(b),
        on_the_fly_(on_the_fly(b)),
        further_(model.tape - 1),
        segment_(Base::run_count_ * (b.steps < kRecurrentSegment ? b.steps : kRecurrentSegment),
                 further_ + (b.grad_params ? model.states + 1 : 0)),
        states_(Base::run_count_, model.states),
        alpha_(on_the_fly_ ? 0 : Base::run_count_, 1),
        grad_params_(b.grad_params ? Base::run_count_ : 0, model.params),
        tape_(model.tape),
        spikes_(model.thresholds) {
    this->for_each_run([&](const Run& run) {
      const int64_t lane = this->lane(run), whole = whole_groups(run.n);
      if (!on_the_fly_) BlockRows<Isa, T>::spread(b.alpha, false, b.dt, lane, run.n, alpha_[run.index][0]);
      for (int k = 0; b.grad_params && k < model.params; ++k)
        BlockRows<Isa, T>::fill(T(0), whole, grad_params_[run.index][k]);
    });
  }

  void step(Pass pass, int64_t t) override {
    if (pass == Pass::kProject) project_segment(t);
    if (pass == Pass::kRecompute) recompute(t);
    if (pass == Pass::kBack) back(t);
  }

  void finish() override {
    this->for_each_run([&](const Run& run) {
      const int64_t lane = this->lane(run);
      // Where there was no step; else the last one back left them there.
      for (int k = 0; b_.steps == 0 && k < model_.states; ++k) {
        load_grad(b_.grad_final_state[k], run, states_[run.index][k]);
        copy_row(states_[run.index][k], run.n, b_.grad_state[k] + lane);
      }
      for (int k = 0; b_.grad_params && k < model_.params; ++k) {
        const T scale = k < model_.rates ? static_cast<T>(b_.dt) : T(1);
        const T* from = grad_params_[run.index][k];
        T* to = b_.grad_params + k * b_.lanes + lane;
#pragma omp simd
        for (int64_t l = 0; l < run.n; ++l) to[l] = from[l] * scale;
      }
    });
  }

 private:
  /// Whether derivatives of the default surrogate are computed within the vjp.
  static bool on_the_fly(const RecurrentBackward<T>& b) {
    return !b.grad_params && b.is_default() && b.alpha.is_shared();
  }

  auto grad_currents(int64_t t) const { return this->currents_in(static_cast<T*>(b_.grad_input), t); }

  /// The currents of the input of the segment that begins with this step.
  void project_segment(int64_t first) {
    static_assert(kRecurrentSegment % kInputSteps == 0);
    const int64_t end = b_.steps - first < kRecurrentSegment ? b_.steps : first + kRecurrentSegment;
    Events<Isa, T> events(this->rows_ * this->input_steps_, b_.inputs);
    for (int64_t t = first; t < end; t += kInputSteps) {
      this->project(t, end - t < kInputSteps ? end - t : kInputSteps, events, grad_currents(t));
    }
  }

  /// Step t again: its tape and, for the gradients of parameters, the state before it and its input.
  void recompute(int64_t t) {
    const int64_t s = t % kRecurrentSegment, segment = t / kRecurrentSegment;
    this->sum_currents(t, b_.projects ? grad_currents(t) : this->given_currents(t), b_.output);
    this->for_each_run([&](const Run& run) {
      Block* state = states_[run.index];
      for (int k = 0; s == 0 && k < model_.states; ++k) {
        const T* from = segment == 0 ? b_.state[k] : b_.checkpoints[k] + (segment - 1) * b_.lanes;
        BlockRows<Isa, T>::load(from + this->lane(run), run.n, state[k]);
      }
      Block* kept = this->kept(s, run);
      const T* x = this->arrive(run, state, output_);
      if (b_.grad_params) {
        for (int k = 0; k < model_.states; ++k) copy_row(state[k], whole_groups(run.n), kept[further_ + k]);
        copy_row(x, whole_groups(run.n), kept[further_ + model_.states]);
      }
      model_.record(this->params(run), run.n, x, state, tape_.data());
      this->arrive_late(run, state);
      copy_row(tape_[0], run.n, this->at(grad_currents(t), run, 0));
      for (int k = 0; k < further_; ++k) copy_row(tape_[k + 1], whole_groups(run.n), kept[k]);
    });
  }

  void back(int64_t t) {
    const int64_t s = t % kRecurrentSegment;
    if (b_.wanted != Spikes::kDistances) gather_grad_spikes(t);
    this->for_each_run([&](const Run& run) {
      const Block* kept = this->kept(s, run);
      BlockRows<Isa, T>::load(this->at(grad_currents(t), run, 0), run.n, tape_[0]);
      for (int k = 0; k < further_; ++k) copy_row(kept[k], whole_groups(run.n), tape_[k + 1]);
      const void* params = this->params(run);
      const int64_t lane = this->lane(run), offset = t * b_.lanes + lane;
      if (!on_the_fly_ && !b_.derivatives[0]) model_.distances(params, run.n, tape_.data(), spikes_.data());
      if (store_spikes(Spikes::kDistances, run, offset)) return;
      Block* grad = states_[run.index];
      const bool last = t + 1 == b_.steps;
      for (int k = 0; (last || s + 1 == kRecurrentSegment) && k < model_.states; ++k) {
        load_grad(last ? b_.grad_final_state[k] : b_.grad_state[k], run, grad[k]);
      }
      const T* later = this->recurrent_.data() + (run.batch - this->piece_.batch_begin) * this->width_ + run.neuron -
                       this->piece_.neuron_begin;
      add_rows(later, StoredRows::read(b_.storage, b_.grad_output, t, lane, run.n, output_), run.n, grad_output_);
      for (int k = 0; b_.grad_trace[0] && k < model_.states; ++k) {
        BlockRows<Isa, T>::add(b_.grad_trace[k] + offset, run.n, grad[k]);
      }
      if (on_the_fly_) {
        model_.vjp(params, run.n, tape_.data(), b_.alpha.shared, grad_output_, grad, output_);
      } else {
        for (int k = 0; k < model_.thresholds; ++k) {
          BlockRows<Isa, T>::derive(b_, k, alpha_[run.index][0], offset, run.n, spikes_.data()[k]);
        }
        const auto vjp = b_.grad_params ? model_.vjp_with_params : model_.vjp_with_surrogate;
        vjp(params, run.n, kept[further_ + model_.states], kept + further_, tape_.data(), spikes_.data(),
            b_.is_differentiable(), grad_output_, grad, b_.grad_params ? grad_params_[run.index] : nullptr, output_);
        store_spikes(Spikes::kGradients, run, offset);
      }
      for (int c = 0; c < channels_; ++c) {
        const bool before = model_.recurrence.arrival == Arrival::kBefore;
        copy_row(before ? grad[model_.recurrence.receiver[c]] : output_, run.n, this->at(grad_currents(t), run, c));
      }
      for (int k = 0; s == 0 && k < model_.states; ++k) copy_row(grad[k], run.n, b_.grad_state[k] + lane);
    });
  }

  bool store_spikes(Spikes what, const Run& run, int64_t offset) const {
    return cpu::store_spikes(b_, what, model_.thresholds, offset, run.n, spikes_.data());
  }

  void load_grad(const T* from, const Run& run, T* to) const {
    from ? BlockRows<Isa, T>::load(from + this->lane(run), run.n, to)
         : BlockRows<Isa, T>::fill(T(0), whole_groups(run.n), to);
  }

  /// To the memory of the recurrent currents: the gradient of the spikes of step t through the currents of step t + 1.
  void gather_grad_spikes(int64_t t) {
    const int64_t neurons = b_.neurons, stride = channels_ * neurons;
    if (t + 1 < b_.steps) {
      const T* grad_currents =
          static_cast<const T*>(b_.grad_input) + (t + 1) * channels_ * b_.lanes + this->piece_.batch_begin * stride;
      this->multiply(grad_currents, stride, this->piece_.plain_weights, this->recurrent_.data(), this->width_);
      return;
    }
    for (int64_t r = 0; r < this->rows_; ++r) {
      T* row = this->recurrent_.data() + r * this->width_;
      const int64_t lane = (this->piece_.batch_begin + r) * neurons + this->piece_.neuron_begin;
      if (b_.grad_spikes) {
        copy_row(b_.grad_spikes + lane, this->width_, row);
      } else {
        std::memset(row, 0, this->width_ * sizeof(T));
      }
    }
  }

  Block* kept(int64_t s, const Run& run) const { return segment_[s * Base::run_count_ + run.index]; }

  const RecurrentBackward<T>& b_;
  const bool on_the_fly_;
  const int further_;  // rows of the tape
  Blocks segment_, states_, alpha_, grad_params_;
  Buffer<Isa, Block> tape_, spikes_;
  alignas(64) Block grad_output_, output_;
};

}  // namespace

template <class Isa, class T>
std::unique_ptr<Task> make_task(const ModelRows<T>& model, const RecurrentForward<T>& f, const Piece& piece) {
  return std::make_unique<RecurrentForwardTask<Isa, T>>(model, f, piece);
}

template <class Isa, class T>
std::unique_ptr<Task> make_task(const ModelRows<T>& model, const RecurrentBackward<T>& b, const Piece& piece) {
  return std::make_unique<RecurrentBackwardTask<Isa, T>>(model, b, piece);
}

template std::unique_ptr<Task> make_task<NORSE_FAST_ISA>(const ModelRows<float>&, const RecurrentForward<float>&,
                                                         const Piece&);
template std::unique_ptr<Task> make_task<NORSE_FAST_ISA>(const ModelRows<double>&, const RecurrentForward<double>&,
                                                         const Piece&);
template std::unique_ptr<Task> make_task<NORSE_FAST_ISA>(const ModelRows<float>&, const RecurrentBackward<float>&,
                                                         const Piece&);
template std::unique_ptr<Task> make_task<NORSE_FAST_ISA>(const ModelRows<double>&, const RecurrentBackward<double>&,
                                                         const Piece&);

}  // namespace norse_fast::cpu
