// A recurrent layer over time, shared between the CPU's threads.

#include <algorithm>
#include <memory>

#include "matrix.h"
#include "tasks.h"

namespace norse_fast::cpu {
namespace {

/// Cuts (batch, neurons) into pieces: by rows of the batch, whose pieces never wait for each other, or, where these are
/// too few and a step has enough to compute, by neurons.
std::vector<Piece> cut(int64_t batch, int64_t neurons, int64_t panel, int64_t worth_waiting) {
  const int64_t threads = torch::stable::get_num_threads();
  if (batch < threads && batch * neurons * neurons >= worth_waiting) {
    std::vector<Piece> pieces;
    const int64_t panels = panel_count(neurons, panel), count = std::min(threads, panels);
    for (int64_t k = 0; k < count; ++k) {
      pieces.push_back({0, batch, panels * k / count * panel, std::min(panels * (k + 1) / count * panel, neurons)});
    }
    return pieces;
  }
  std::vector<Piece> pieces;
  const int64_t count = threads_for(batch);
  for (int64_t k = 0; k < count; ++k) pieces.push_back({batch * k / count, batch * (k + 1) / count, 0, neurons});
  return pieces;
}

/// The tasks of a launch, every one of which is made and run by one thread.
template <class Launch>
class Tasks {
 public:
  Tasks(Watch& watch, MakeTask<Launch> make, const Launch& launch, const std::vector<Piece>& pieces)
      : watch_(watch), make_(make), launch_(launch), pieces_(pieces), tasks_(pieces.size()) {}

  /// Makes steps from `from` to before `to`, or, where that is less, to after `to`. The last run finishes the tasks.
  void run(Pass pass, int64_t from, int64_t to, bool last) {
    const int64_t count = pieces_.size(), by = from <= to ? 1 : -1;
    if (pieces_.front().neuron_end == launch_.neurons) {
      parallel(watch_, count, [&](int64_t k) {
        for (int64_t t = from; t != to; t += by) {
          if (watch_.stops()) return;
          task(k).step(pass, t);
        }
        if (last) task(k).finish();
      });
      return;
    }
    for (int64_t t = from; t != to; t += by) {
      watch_.stops();
      parallel(watch_, count, [&](int64_t k) { task(k).step(pass, t); });
    }
    if (last) parallel(watch_, count, [&](int64_t k) { task(k).finish(); });
  }

 private:
  Task& task(int64_t k) {
    if (!tasks_[k]) tasks_[k] = make_(launch_, pieces_[k]);
    return *tasks_[k];
  }

  Watch& watch_;
  const MakeTask<Launch> make_;
  const Launch& launch_;
  const std::vector<Piece>& pieces_;
  std::vector<std::unique_ptr<Task>> tasks_;
};

/// The weights of a layer in panels, as its tasks take them.
template <class T>
class Weights {
 public:
  Weights(Watch& watch, const Coupling<T>& layer, int channels, std::vector<Piece>& pieces)
      : watch_(watch), layer_(layer), channels_(channels), pieces_(pieces) {}

  /// Elements of panels with so many rows for each channel.
  int64_t size(int64_t rows) const { return channels_ * panel_count(layer_.neurons, kPanel<T>) * kPanel<T> * rows; }
  int64_t input_size() const { return layer_.projects ? size(layer_.inputs) : 0; }
  int64_t recurrent_size() const { return size(layer_.neurons); }

  void pack_input(T* to) const {
    if (layer_.projects) pack_channels(layer_.input_weights, layer_.inputs, &Piece::input_weights, to);
  }
  void pack_recurrent(T* to) const { pack_channels(layer_.weights, layer_.neurons, &Piece::recurrent_weights, to); }
  void pack_plain(T* to) const {
    const int64_t neurons = layer_.neurons;
    pack(watch_, products_, Matrix<T>{layer_.weights, channels_ * neurons, neurons, neurons, 1}, to);
    for (Piece& piece : pieces_) piece.plain_weights = to;
  }

 private:
  /// A row per input or neuron that spiked, for every channel.
  void pack_channels(const T* weights, int64_t rows, const void* (Piece::*panels)[2], T* to) const {
    const Matrix<T> all{weights, channels_ * layer_.neurons, rows, rows, 1};
    for (int c = 0; c < channels_; ++c) {
      T* const here = to + c * size(rows) / channels_;
      pack(watch_, products_, all.rows_from(c * layer_.neurons, layer_.neurons).transposed(), here);
      for (Piece& piece : pieces_) (piece.*panels)[c] = here;
    }
  }

  Watch& watch_;
  const Products<T> products_ = products<T>();
  const Coupling<T>& layer_;
  const int channels_;
  std::vector<Piece>& pieces_;
};

template <class T>
void run(MakeTask<RecurrentForward<T>> make, int channels, const RecurrentForward<T>& f) {
  Watch watch;
  // Waiting for all threads takes as long as some hundred thousand additions, of which spikes need a tenth.
  auto pieces = cut(f.lanes / f.neurons, f.neurons, kPanel<T>, int64_t{1} << 20);
  const Weights<T> weights(watch, f, channels, pieces);
  const Scratch<T> input(weights.input_size()), recurrent(weights.recurrent_size());
  weights.pack_input(input.data());
  weights.pack_recurrent(recurrent.data());
  Tasks<RecurrentForward<T>>(watch, make, f, pieces).run(Pass::kForward, 0, f.steps, true);
}

template <class T>
void run(MakeTask<RecurrentBackward<T>> make, int channels, const RecurrentBackward<T>& b) {
  Watch watch;
  auto pieces = cut(b.lanes / b.neurons, b.neurons, kPanel<T>, int64_t{1} << 18);
  const Weights<T> weights(watch, b, channels, pieces);
  // To pack them for every pass of every segment takes little time, and only those of one pass are in memory at once.
  const Scratch<T> panels(std::max(weights.input_size(), weights.recurrent_size()));
  Tasks<RecurrentBackward<T>> tasks(watch, make, b, pieces);
  for (int64_t segment = checkpoint_count(b.steps, kRecurrentSegment); segment >= 0; --segment) {
    const int64_t first = segment * kRecurrentSegment, end = std::min(first + kRecurrentSegment, b.steps);
    if (b.projects) {
      weights.pack_input(panels.data());
      tasks.run(Pass::kProject, first, first + 1, false);
    }
    weights.pack_recurrent(panels.data());
    tasks.run(Pass::kRecompute, first, end, false);
    weights.pack_plain(panels.data());
    tasks.run(Pass::kBack, end - 1, first - 1, segment == 0);
  }
}

}  // namespace

template <class Launch>
void run_layer(MakeTask<Launch> make, int channels, const Launch& launch) {
  run(make, channels, launch);
}

template void run_layer(MakeTask<RecurrentForward<float>>, int, const RecurrentForward<float>&);
template void run_layer(MakeTask<RecurrentForward<double>>, int, const RecurrentForward<double>&);
template void run_layer(MakeTask<RecurrentBackward<float>>, int, const RecurrentBackward<float>&);
template void run_layer(MakeTask<RecurrentBackward<double>>, int, const RecurrentBackward<double>&);

}  // namespace norse_fast::cpu
