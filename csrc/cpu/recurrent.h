#pragma once
// The recurrent CPU driver: one thread's piece of a layer, step after step. The currents from the spikes of the step
// before are sums of the weights' columns of those neurons that spiked; then the rows of kernels.h run, a block of
// lanes at a time.

#include <cstring>
#include <new>

#include "kernels.h"
#include "products.h"
#include "tasks.h"

namespace norse_fast::cpu {

template <class T>
NORSE_FAST_INLINE void add_rows(const T* a, const T* b, int64_t n, T* sum) {
#pragma omp simd
  for (int64_t l = 0; l < n; ++l) sum[l] = a[l] + b[l];
}

/// Uninitialised memory. A type of its own for every instruction set, which those of the standard library are not.
template <class Isa, class Element>
class Buffer {
 public:
  explicit Buffer(int64_t count)
      : data_(static_cast<Element*>(std::aligned_alloc(64, (count * sizeof(Element) / 64 + 1) * 64))) {
    if (!data_) std::abort();
  }
  ~Buffer() { std::free(data_); }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;

  Element& operator[](int64_t k) const { return data_[k]; }
  Element* data() const { return data_; }

 private:
  Element* data_;
};

/// The nonzero elements of a few rows, most often spikes, as lists of their indices, in order.
template <class Isa, class T>
class Events {
 public:
  /// For so many rows at most.
  Events(int64_t rows, int64_t width)
      : width_(width), from_(rows), counts_(rows), done_(rows), lists_(rows * (width + kListRoom)) {}

  void clear() { rows_ = total_ = 0; }

  /// Lists those of further rows, of which z is the first.
  void collect(const Products<T>& products, const T* z, int64_t rows) {
    for (; rows > 0; --rows, z += width_, ++rows_) {
      from_[rows_] = z;
      counts_[rows_] = products.collect(z, width_, list(rows_));
      total_ += counts_[rows_];
    }
  }

  int64_t rows() const { return rows_; }

  /// What part of all elements they are.
  double rate() const { return static_cast<double>(total_) / (rows_ * width_); }

  /// Whether all of them are 1.
  bool binary() const {
    for (int64_t r = 0; r < rows_; ++r) {
      for (int64_t k = 0; k < counts_[r]; ++k) {
        if (from_[r][list(r)[k]] != T(1)) return false;
      }
    }
    return true;
  }

  /// Adds to row r of `sums`, kPanel wide, the rows of the panel that list r names, times the elements themselves if
  /// not all are 1.
  void add_rows(const Products<T>& products, const T* panel, bool binary, T* sums) {
    // Where they are used often, as many rows of the panel as fit the L1 cache serve all lists before the next ones do;
    // else it would take longer to cut the lists than to sum.
    const int64_t reach = rate() > 0.2 ? 128 : width_;
    for (int64_t r = 0; r < rows_; ++r) done_[r] = 0;
    for (int64_t end = reach; end < width_ + reach; end += reach) {
      for (int64_t r = 0; r < rows_; ++r) {
        const int32_t* events = list(r) + done_[r];
        const int64_t left = counts_[r] - done_[r];
        int64_t count = end < width_ ? 0 : left;
        while (count < left && events[count] < end) ++count;
        done_[r] += count;
        products.sum_rows(panel, kPanel<T>, events, count, binary ? nullptr : from_[r], sums + r * kPanel<T>);
      }
    }
  }

 private:
  int32_t* list(int64_t row) const { return lists_.data() + row * (width_ + kListRoom); }

  const int64_t width_;
  int64_t rows_ = 0, total_ = 0;
  Buffer<Isa, const T*> from_;
  Buffer<Isa, int64_t> counts_, done_;
  Buffer<Isa, int32_t> lists_;
};

/// What forward and backward share: where the lanes of a piece are, and how they advance by one step.
template <class Isa, class Model, class T>
class RecurrentPiece {
 protected:
  static constexpr int kStates = kStateCount<Model>;
  static constexpr int kParams = kParamCount<Model>;
  static constexpr int kTape = kTapeCount<Model>;
  static constexpr Recurrence kRecurrence = Model::kRecurrence;
  static constexpr int kChannels = kRecurrence.channels;
  using Driver = cpu::Driver<Isa, Model, T>;
  using BlockParams = typename Driver::BlockParams;
  using Block = typename Driver::Block;

  /// Rows of one block, for whatever they hold.
  template <int kRows>
  struct alignas(64) Blocks {
    Block rows[kRows];
  };
  template <int kRows>
  using BlocksOfRuns = Buffer<Isa, Blocks<kRows>>;

  /// Lanes that are computed together: those of `n` neurons from `neuron` on. Where a piece has all neurons, a run goes
  /// on into the next row of the batch.
  struct Run {
    int64_t index, batch, neuron, n;
  };

  RecurrentPiece(const Problem<T>& problem, const Coupling<T>& coupling, const Piece& piece, bool share_params)
      : problem_(problem),
        coupling_(coupling),
        piece_(piece),
        rows_(piece.batch_end - piece.batch_begin),
        width_(piece.neuron_end - piece.neuron_begin),
        whole_(kChannels == 1 && width_ == coupling.neurons),
        run_count_(whole_ ? block_count(rows_ * width_) : rows_ * block_count(width_)),
        step_size_(rows_ * kChannels * width_),
        input_steps_(problem.steps < kInputSteps ? problem.steps : kInputSteps),
        products_(products_of<Isa, T>()),
        input_events_(rows_ * input_steps_, coupling.inputs),
        spike_events_(rows_, coupling.neurons),
        inputs_(step_size_ * input_steps_),
        currents_(step_size_),
        sums_(rows_ * input_steps_ * kPanel<T>),
        params_(run_count_) {
    for_each_run(
        [&](const Run& run) { new (&params_[run.index]) BlockParams(problem, lane(run), run.n, share_params); });
    BlockRows<Isa, T>::fill(T(0), kBlock, no_input_);
  }

  static int64_t block_count(int64_t lanes) { return (lanes + kBlock - 1) / kBlock; }

  template <class F>
  void for_each_run(F f) const {
    const int64_t rows = whole_ ? 1 : rows_;
    const int64_t length = whole_ ? rows_ * width_ : width_;
    int64_t index = 0;
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t c = 0; c < length; c += kBlock) {
        f(Run{index++, piece_.batch_begin + r, piece_.neuron_begin + c, length - c < kBlock ? length - c : kBlock});
      }
    }
  }

  int64_t lane(const Run& run) const { return run.batch * coupling_.neurons + run.neuron; }

  /// Where a run is in currents (time, batch, channel, neuron).
  int64_t currents_offset(int64_t t, const Run& run, int channel) const {
    return (t * problem_.lanes + run.batch * coupling_.neurons) * kChannels + channel * coupling_.neurons + run.neuron;
  }

  /// Where a run is in the currents of one step of this piece.
  int64_t local_offset(const Run& run, int channel) const {
    return ((run.batch - piece_.batch_begin) * kChannels + channel) * width_ + run.neuron - piece_.neuron_begin;
  }

  /// All currents of step t: those of the input, and those of the spikes of the step before.
  void sum_currents(int64_t t, const T* output) {
    if (t / kInputSteps != input_group_) project_inputs(t / kInputSteps);
    input_ = inputs_.data() + t % kInputSteps * step_size_;
    const T* z = t == 0 ? coupling_.spikes : output + (t - 1) * problem_.lanes;
    spike_events_.clear();
    spike_events_.collect(products_, z + piece_.batch_begin * coupling_.neurons, rows_);
    const bool binary = t > 0 || spike_events_.binary();
    for (int c = 0; c < kChannels; ++c) {
      sum_events(spike_events_, coupling_.neurons, piece_.recurrent_weights[c], binary, c, currents_.data());
    }
  }

  /// The product of rows of `depth` elements each and panels.
  void multiply(const T* a, int64_t depth, const void* panels, T* out, int64_t out_stride) const {
    for_each_panel([&](int64_t panel, int64_t first, int64_t columns) {
      products_.multiply(a, depth, 1, rows_, depth, static_cast<const T*>(panels) + panel * depth * kPanel<T>,
                         out + first, out_stride, columns);
    });
  }

  /// Calls f(panel, first column in this piece, columns) for the panels of the piece's neurons.
  template <class F>
  void for_each_panel(F f) const {
    for (int64_t first = 0; first < width_; first += kPanel<T>) {
      const int64_t columns = width_ - first < kPanel<T> ? width_ - first : kPanel<T>;
      f((piece_.neuron_begin + first) / kPanel<T>, first, columns);
    }
  }

  /// What joins the state before the step joins it. Returns the step's input.
  const T* arrive(const Run& run, Block* state, T* joined) const {
    if constexpr (kRecurrence.arrival == Arrival::kBefore) join(run, state);
    if constexpr (kRecurrence.arrival == Arrival::kWith) {
      add_rows(input_ + local_offset(run, 0), currents_.data() + local_offset(run, 0), run.n, joined);
      return joined;
    }
    return no_input_;
  }

  void arrive_late(const Run& run, Block* state) const {
    if constexpr (kRecurrence.arrival == Arrival::kAfter) join(run, state);
  }

  const Problem<T>& problem_;
  const Coupling<T>& coupling_;
  const Piece piece_;
  const int64_t rows_, width_;
  const bool whole_;
  const int64_t run_count_, step_size_, input_steps_;
  const Products<T> products_;
  Events<Isa, T> input_events_, spike_events_;
  Buffer<Isa, T> inputs_, currents_, sums_;
  int64_t input_group_ = -1;  // of the steps in inputs_
  const T* input_ = nullptr;  // those of the current step
  Buffer<Isa, BlockParams> params_;
  alignas(64) Block no_input_;

 private:
  /// Steps of which the input is projected at once: the rows of its weights are used more often while they are in the
  /// L2 cache, which they share with the recurrent ones.
  static constexpr int64_t kInputSteps = 8;
  static_assert(kRecurrentSegment % kInputSteps == 0);

  void project_inputs(int64_t group) {
    input_group_ = group;
    const int64_t first = group * kInputSteps, neurons = coupling_.neurons, inputs = coupling_.inputs;
    const int64_t steps = problem_.steps - first < input_steps_ ? problem_.steps - first : input_steps_;
    const auto input_of = [&](int64_t s) {
      const int64_t row = (first + s) * (problem_.lanes / neurons) + piece_.batch_begin;
      return static_cast<const T*>(problem_.input.data) + row * inputs;
    };
    input_events_.clear();
    for (int64_t s = 0; piece_.input_weights[0] && s < steps; ++s) input_events_.collect(products_, input_of(s), rows_);
    for (int c = 0; c < kChannels; ++c) {
      if (piece_.input_weights[0] && input_events_.rate() < 0.3) {
        sum_events(input_events_, inputs, piece_.input_weights[c], false, c, inputs_.data());
        continue;
      }
      for (int64_t s = 0; s < steps; ++s) {
        T* to = inputs_.data() + s * step_size_ + c * width_;
        if (piece_.input_weights[0]) {
          multiply(input_of(s), inputs, piece_.input_weights[c], to, kChannels * width_);
          continue;
        }
        for (int64_t r = 0; r < rows_; ++r) {
          copy_row(input_of(s) + r * inputs + c * neurons + piece_.neuron_begin, width_, to + r * kChannels * width_);
        }
      }
    }
  }

  void sum_events(Events<Isa, T>& events, int64_t depth, const void* panels, bool binary, int channel, T* to) {
    for_each_panel([&](int64_t panel, int64_t first, int64_t columns) {
      std::memset(sums_.data(), 0, events.rows() * kPanel<T> * sizeof(T));
      events.add_rows(products_, static_cast<const T*>(panels) + panel * depth * kPanel<T>, binary, sums_.data());
      for (int64_t r = 0; r < events.rows(); ++r) {
        copy_row(&sums_[r * kPanel<T>], columns, to + (r * kChannels + channel) * width_ + first);
      }
    });
  }

  void join(const Run& run, Block* state) const {
    for (int c = 0; c < kChannels; ++c) {
      const int64_t offset = local_offset(run, c);
      join_row(input_ + offset, currents_.data() + offset, run.n, state[kRecurrence.receiver[c]]);
    }
  }

  [[gnu::noinline]] static void join_row(const T* x, const T* r, int64_t n, T* row) {
#pragma omp simd
    for (int64_t l = 0; l < n; ++l) row[l] = (row[l] + x[l]) + r[l];
  }
};

/// Step k is time step k.
template <class Isa, class Model, class T>
class RecurrentForwardTask final : public Task, RecurrentPiece<Isa, Model, T> {
  using Base = RecurrentPiece<Isa, Model, T>;
  using Base::kStates;
  using typename Base::Run;
  using StoredRows = typename Base::Driver::StoredRows;

 public:
  RecurrentForwardTask(const RecurrentForward<T>& f, const Piece& piece)
      : Base(f, f, piece, true), f_(f), states_(Base::run_count_) {
    this->for_each_run([&](const Run& run) {
      for (int k = 0; k < kStates; ++k)
        BlockRows<Isa, T>::load(f.state[k] + this->lane(run), run.n, states_[run.index].rows[k]);
    });
  }

  void step(int64_t t) override {
    T* output = static_cast<T*>(f_.output);
    this->sum_currents(t, output);
    this->for_each_run([&](const Run& run) {
      auto* state = states_[run.index].rows;
      const int64_t lane = this->lane(run), offset = t * f_.lanes + lane;
      const T* x = this->arrive(run, state, joined_);
      T* out = StoredRows::target(f_.storage, output, offset, run.n, output_);
      Base::Driver::template step_row<true>(this->params_[run.index], run.n, x, state, state, nullptr, out, {});
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
  void write(const Run& run, T* const* to, int64_t offset) const {
    for (int k = 0; k < kStates; ++k) copy_row(states_[run.index].rows[k], run.n, to[k] + offset);
  }

  const RecurrentForward<T>& f_;
  typename Base::template BlocksOfRuns<kStates> states_;
  alignas(64) typename Base::Block joined_, output_;
};

/// For every segment, from the last: first its steps again, for what vjp needs of them, then back through them. Steps k
/// count both.
template <class Isa, class Model, class T>
class RecurrentBackwardTask final : public Task, RecurrentPiece<Isa, Model, T> {
  using Base = RecurrentPiece<Isa, Model, T>;
  using Base::kChannels;
  using Base::kParams;
  using Base::kRecurrence;
  using Base::kStates;
  using Base::kTape;
  using typename Base::Block;
  using typename Base::Run;
  using Driver = typename Base::Driver;

 public:
  RecurrentBackwardTask(const RecurrentBackward<T>& b, const Piece& piece)
      : Base(b, b, piece, on_the_fly(b)),
        b_(b),
        on_the_fly_(on_the_fly(b)),
        kept_(kTape + (b.grad_params ? kStates + 1 : 0)),
        segment_(Base::run_count_ * kept_ * (b.steps < kRecurrentSegment ? b.steps : kRecurrentSegment)),
        states_(Base::run_count_),
        grads_(Base::run_count_),
        alpha_(on_the_fly_ ? 0 : Base::run_count_),
        grad_params_(b.grad_params ? Base::run_count_ : 0),
        grad_spikes_(Base::rows_ * Base::width_) {
    this->for_each_run([&](const Run& run) {
      const int64_t lane = this->lane(run), whole = whole_groups(run.n);
      if (!on_the_fly_) BlockRows<Isa, T>::spread(b.alpha, false, b.dt, lane, run.n, alpha_[run.index].rows[0]);
      for (int k = 0; k < kStates; ++k) {
        auto& row = grads_[run.index].rows[k];
        b.grad_final_state[k] ? BlockRows<Isa, T>::load(b.grad_final_state[k] + lane, run.n, row)
                              : BlockRows<Isa, T>::fill(T(0), whole, row);
      }
      for (int k = 0; b.grad_params && k < kParams; ++k)
        BlockRows<Isa, T>::fill(T(0), whole, grad_params_[run.index].rows[k]);
    });
  }

  void step(int64_t k) override {
    const int64_t last = checkpoint_count(b_.steps, kRecurrentSegment);
    const int64_t in_last = 2 * (b_.steps - last * kRecurrentSegment);
    const int64_t segment = k < in_last ? last : last - 1 - (k - in_last) / (2 * kRecurrentSegment);
    const int64_t first = segment * kRecurrentSegment;
    const int64_t length = segment == last ? b_.steps - first : kRecurrentSegment;
    const int64_t here = k < in_last ? k : (k - in_last) % (2 * kRecurrentSegment);
    here < length ? recompute(first, here) : back(first, 2 * length - 1 - here);
  }

  void finish() override {
    this->for_each_run([&](const Run& run) {
      const int64_t lane = this->lane(run);
      for (int k = 0; k < kStates; ++k) copy_row(grads_[run.index].rows[k], run.n, b_.grad_state[k] + lane);
      for (int k = 0; b_.grad_params && k < kParams; ++k) {
        const T scale = k < Model::kRates ? static_cast<T>(b_.dt) : T(1);
        const T* from = grad_params_[run.index].rows[k];
        T* to = b_.grad_params + k * b_.lanes + lane;
#pragma omp simd
        for (int64_t l = 0; l < run.n; ++l) to[l] = from[l] * scale;
      }
    });
  }

 private:
  /// Whether derivatives of the default surrogate are computed within the vjp.
  static bool on_the_fly(const RecurrentBackward<T>& b) {
    return !b.grad_params && b.surrogate == Surrogate::kSuper && b.alpha.is_shared();
  }

  /// Step s of the segment again: its tape and, for the gradients of parameters, the state before it and its input.
  void recompute(int64_t first, int64_t s) {
    this->sum_currents(first + s, b_.output);
    this->for_each_run([&](const Run& run) {
      auto* state = states_[run.index].rows;
      for (int k = 0; s == 0 && k < kStates; ++k) {
        const T* from = first == 0 ? b_.state[k] : b_.checkpoints[k] + (first / kRecurrentSegment - 1) * b_.lanes;
        BlockRows<Isa, T>::load(from + this->lane(run), run.n, state[k]);
      }
      Block* kept = this->kept(s, run);
      const T* x = this->arrive(run, state, output_);
      if (b_.grad_params) {
        for (int k = 0; k < kStates; ++k) copy_row(state[k], whole_groups(run.n), kept[kTape + k]);
        copy_row(x, whole_groups(run.n), kept[kTape + kStates]);
      }
      Driver::template step_row<false>(this->params_[run.index], run.n, x, state, state, kept, nullptr, {});
      this->arrive_late(run, state);
    });
  }

  void back(int64_t first, int64_t s) {
    const int64_t t = first + s;
    gather_grad_spikes(t);
    T* grad_input = static_cast<T*>(b_.grad_input);
    this->for_each_run([&](const Run& run) {
      const Block* kept = this->kept(s, run);
      auto* grad = grads_[run.index].rows;
      const int64_t lane = this->lane(run);
      const T* later = grad_spikes_.data() + (run.batch - this->piece_.batch_begin) * this->width_ + run.neuron -
                       this->piece_.neuron_begin;
      add_rows(later, Driver::StoredRows::read(b_.storage, b_.grad_output, t, lane, run.n, output_), run.n,
               grad_output_);
      for (int k = 0; b_.grad_trace[0] && k < kStates; ++k) {
        BlockRows<Isa, T>::add(b_.grad_trace[k] + t * b_.lanes + lane, run.n, grad[k]);
      }
      const auto& params = this->params_[run.index];
      if (on_the_fly_) {
        Driver::vjp_row(params, run.n, kept, b_.alpha.shared, grad_output_, grad, output_, {});
      } else {
        Driver::surrogate_rows(params, b_.surrogate, alpha_[run.index].rows[0], run.n, kept, derivative_.rows);
        const auto vjp = b_.grad_params ? Driver::template vjp_row<true> : Driver::template vjp_row<false>;
        vjp(params, run.n, kept[kTape + kStates], kept + kTape, kept, derivative_.rows, grad_output_, grad,
            b_.grad_params ? grad_params_[run.index].rows : nullptr, output_, {});
      }
      for (int c = 0; c < kChannels; ++c) {
        const bool before = kRecurrence.arrival == Arrival::kBefore;
        copy_row(before ? grad[kRecurrence.receiver[c]] : output_, run.n,
                 grad_input + this->currents_offset(t, run, c));
      }
    });
  }

  /// The gradient of the spikes of step t through the currents of step t + 1.
  void gather_grad_spikes(int64_t t) {
    const int64_t neurons = b_.neurons, stride = kChannels * neurons;
    if (t + 1 < b_.steps) {
      const T* grad_currents =
          static_cast<const T*>(b_.grad_input) + (t + 1) * kChannels * b_.lanes + this->piece_.batch_begin * stride;
      this->multiply(grad_currents, stride, this->piece_.plain_weights, grad_spikes_.data(), this->width_);
      return;
    }
    for (int64_t r = 0; r < this->rows_; ++r) {
      T* row = grad_spikes_.data() + r * this->width_;
      const int64_t lane = (this->piece_.batch_begin + r) * neurons + this->piece_.neuron_begin;
      if (b_.grad_spikes) {
        copy_row(b_.grad_spikes + lane, this->width_, row);
      } else {
        std::memset(row, 0, this->width_ * sizeof(T));
      }
    }
  }

  Block* kept(int64_t s, const Run& run) const { return &segment_[(s * Base::run_count_ + run.index) * kept_]; }

  const RecurrentBackward<T>& b_;
  const bool on_the_fly_;
  const int64_t kept_;  // rows of a step of a run
  Buffer<Isa, Block> segment_;
  typename Base::template BlocksOfRuns<kStates> states_, grads_;
  typename Base::template BlocksOfRuns<1> alpha_;
  typename Base::template BlocksOfRuns<kParams> grad_params_;
  Buffer<Isa, T> grad_spikes_;
  typename Base::template Blocks<Model::kThresholds> derivative_;
  alignas(64) Block grad_output_, output_;
};

}  // namespace norse_fast::cpu

namespace norse_fast {

template <class Isa, class Model>
auto RecurrentKernels<Isa, Model>::make(const RecurrentForward<float>& f, const cpu::Piece& piece) -> Made {
  return std::make_unique<cpu::RecurrentForwardTask<Isa, StepOf<Model>, float>>(f, piece);
}

template <class Isa, class Model>
auto RecurrentKernels<Isa, Model>::make(const RecurrentForward<double>& f, const cpu::Piece& piece) -> Made {
  return std::make_unique<cpu::RecurrentForwardTask<Isa, StepOf<Model>, double>>(f, piece);
}

template <class Isa, class Model>
auto RecurrentKernels<Isa, Model>::make(const RecurrentBackward<float>& b, const cpu::Piece& piece) -> Made {
  return std::make_unique<cpu::RecurrentBackwardTask<Isa, Model, float>>(b, piece);
}

template <class Isa, class Model>
auto RecurrentKernels<Isa, Model>::make(const RecurrentBackward<double>& b, const cpu::Piece& piece) -> Made {
  return std::make_unique<cpu::RecurrentBackwardTask<Isa, Model, double>>(b, piece);
}

}  // namespace norse_fast
