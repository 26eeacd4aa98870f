#pragma once
// What forward and backward of the recurrent CPU driver share.

#include <cstring>

#include "buffer.h"
#include "events.h"
#include "model_rows.h"
#include "products.h"
#include "tasks.h"

namespace norse_fast::cpu {

template <class T>
NORSE_FAST_INLINE void add_rows(const T* a, const T* b, int64_t n, T* sum) {
#pragma omp simd
  for (int64_t l = 0; l < n; ++l) sum[l] = a[l] + b[l];
}

/// What forward and backward share: where the lanes of a piece are, and how they advance by one step.
template <class Isa, class T>
class RecurrentPiece {
 protected:
  /// Steps of which the input is projected at once: the rows of its weights are used more often while they are in the
  /// L2 cache, which they share with the recurrent ones.
  static constexpr int64_t kInputSteps = 8;
  using Block = cpu::Block<T>;
  using StoredRows = cpu::StoredRows<Isa, T>;

  /// Some rows for each run.
  class Blocks {
   public:
    Blocks(int64_t runs, int64_t rows) : rows_(rows), memory_(runs * rows) {}
    Block* operator[](int64_t run) const { return memory_.data() + run * rows_; }

   private:
    const int64_t rows_;
    Buffer<Isa, Block> memory_;
  };

  /// Lanes that are computed together: those of `n` neurons from `neuron` on. Where a piece has all neurons, a run goes
  /// on into the next row of the batch.
  struct Run {
    int64_t index, batch, neuron, n;
  };

  /// The currents of this piece, or their gradients, in memory (step, row of the batch, channel, neuron).
  template <class Element>
  struct Currents {
    Element* data;               // of the piece's first row and neuron
    int64_t step, row, channel;  // from one to the next

    Element* at(int64_t s, int64_t r, int64_t c) const { return data + s * step + r * row + c * channel; }
    operator Currents<const Element>() const { return {data, step, row, channel}; }
  };

  RecurrentPiece(const ModelRows<T>& model, const Problem<T>& problem, const Coupling<T>& coupling, const Piece& piece,
                 bool share_params)
      : model_(model),
        problem_(problem),
        coupling_(coupling),
        piece_(piece),
        rows_(piece.batch_end - piece.batch_begin),
        width_(piece.neuron_end - piece.neuron_begin),
        channels_(model.recurrence.channels),
        whole_(channels_ == 1 && width_ == coupling.neurons),
        run_count_(whole_ ? block_count(rows_ * width_) : rows_ * block_count(width_)),
        step_size_(rows_ * channels_ * width_),
        input_steps_(problem.steps < kInputSteps ? problem.steps : kInputSteps),
        products_(products_of<Isa, T>()),
        spike_events_(rows_, coupling.neurons),
        recurrent_(step_size_),
        sums_(rows_ * input_steps_ * kPanel<T>),
        share_params_(share_params && are_shared(model, problem)),
        params_((share_params_ ? 1 : run_count_) * model.params_size) {
    for_each_run([&](const Run& run) {
      if (share_params_ && run.index > 0) return;
      model.make_params(problem, lane(run), run.n, share_params_, params(run));
    });
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

  void* params(const Run& run) const { return &params_[share_params_ ? 0 : run.index * model_.params_size]; }

  int64_t lane(const Run& run) const { return run.batch * coupling_.neurons + run.neuron; }

  /// Those of the steps from t on in a tensor of the whole layer.
  template <class Element>
  Currents<Element> currents_in(Element* data, int64_t t) const {
    const int64_t neurons = coupling_.neurons;
    return {data + (t * problem_.lanes + piece_.batch_begin * neurons) * channels_ + piece_.neuron_begin,
            problem_.lanes * channels_, neurons * channels_, neurons};
  }

  /// Those of step t, where the input is the currents.
  Currents<const T> given_currents(int64_t t) const {
    return currents_in(static_cast<const T*>(problem_.input.data), t);
  }

  /// Currents of one or a few steps in memory of this piece.
  Currents<T> currents_of(const Buffer<Isa, T>& own) const {
    return {own.data(), step_size_, channels_ * width_, width_};
  }

  template <class Element>
  Element* at(const Currents<Element>& currents, const Run& run, int channel) const {
    return currents.at(0, run.batch - piece_.batch_begin, channel) + run.neuron - piece_.neuron_begin;
  }

  /// All currents of step t: those of the input, and those of the spikes of the step before.
  void sum_currents(int64_t t, Currents<const T> input, const T* output) {
    input_ = input;
    const T* z = t == 0 ? coupling_.spikes : output + (t - 1) * problem_.lanes;
    spike_events_.clear();
    spike_events_.collect(products_, z + piece_.batch_begin * coupling_.neurons, rows_);
    const bool binary = t > 0 || spike_events_.binary();
    for (int c = 0; c < channels_; ++c) {
      sum_events(spike_events_, coupling_.neurons, piece_.recurrent_weights[c], binary, c, currents_of(recurrent_));
    }
  }

  /// The currents of the input of a few steps, kInputSteps at most.
  void project(int64_t first, int64_t steps, Events<Isa, T>& events, Currents<T> to) {
    const int64_t inputs = coupling_.inputs;
    const auto input_of = [&](int64_t s) {
      const int64_t row = (first + s) * (problem_.lanes / coupling_.neurons) + piece_.batch_begin;
      return static_cast<const T*>(problem_.input.data) + row * inputs;
    };
    events.clear();
    for (int64_t s = 0; s < steps; ++s) events.collect(products_, input_of(s), rows_);
    for (int c = 0; c < channels_; ++c) {
      if (events.rate() < 0.3) {
        sum_events(events, inputs, piece_.input_weights[c], false, c, to);
        continue;
      }
      for (int64_t s = 0; s < steps; ++s) {
        multiply(input_of(s), inputs, piece_.input_weights[c], to.at(s, 0, c), to.row);
      }
    }
  }

  /// The product of rows of `depth` elements each and panels.
  void multiply(const T* a, int64_t depth, const void* panels, T* out, int64_t out_stride) const {
    for_each_panel([&](int64_t panel, int64_t first, int64_t columns) {
      products_.multiply(a, depth, 1, rows_, depth, static_cast<const T*>(panels) + panel * depth * kPanel<T>,
                         out + first, out_stride, columns, false);
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
    if (model_.recurrence.arrival == Arrival::kBefore) join(run, state);
    if (model_.recurrence.arrival == Arrival::kWith) {
      add_rows(at(input_, run, 0), at(currents_of(recurrent_), run, 0), run.n, joined);
      return joined;
    }
    return no_input_;
  }

  void arrive_late(const Run& run, Block* state) const {
    if (model_.recurrence.arrival == Arrival::kAfter) join(run, state);
  }

  const ModelRows<T>& model_;
  const Problem<T>& problem_;
  const Coupling<T>& coupling_;
  const Piece& piece_;
  const int64_t rows_, width_;
  const int channels_;
  const bool whole_;
  const int64_t run_count_, step_size_, input_steps_;
  const Products<T> products_;
  Events<Isa, T> spike_events_;
  Buffer<Isa, T> recurrent_, sums_;
  Currents<const T> input_;  // those of the current step
  alignas(64) Block no_input_;

 private:
  static bool are_shared(const ModelRows<T>& model, const Problem<T>& problem) {
    for (int k = 0; k < model.params; ++k) {
      if (!problem.params[k].is_shared()) return false;
    }
    return true;
  }

  void sum_events(Events<Isa, T>& events, int64_t depth, const void* panels, bool binary, int channel, Currents<T> to) {
    for_each_panel([&](int64_t panel, int64_t first, int64_t columns) {
      std::memset(sums_.data(), 0, events.rows() * kPanel<T> * sizeof(T));
      events.add_rows(products_, static_cast<const T*>(panels) + panel * depth * kPanel<T>, binary, sums_.data());
      const T* sums = sums_.data();
      for (int64_t s = 0; s * rows_ < events.rows(); ++s) {
        for (int64_t r = 0; r < rows_; ++r, sums += kPanel<T>) copy_row(sums, columns, to.at(s, r, channel) + first);
      }
    });
  }

  void join(const Run& run, Block* state) const {
    for (int c = 0; c < channels_; ++c) {
      join_row(at(input_, run, c), at(currents_of(recurrent_), run, c), run.n, state[model_.recurrence.receiver[c]]);
    }
  }

  [[gnu::noinline]] static void join_row(const T* x, const T* r, int64_t n, T* row) {
#pragma omp simd
    for (int64_t l = 0; l < n; ++l) row[l] = (row[l] + x[l]) + r[l];
  }

  const bool share_params_;  // of all lanes: in one block
  Buffer<Isa, char> params_;
};

}  // namespace norse_fast::cpu
