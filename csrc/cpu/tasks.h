#pragma once
// Recurrent layers as work for threads, without a type of model in it.

#include <memory>

#include "dispatch.h"

namespace norse_fast::cpu {

/// The rows of the batch, and the neurons, that one thread computes, and the weights in panels (see products.h), at
/// which neurons begin. Of those only the ones that a pass uses need be there.
struct Piece {
  int64_t batch_begin, batch_end;
  int64_t neuron_begin, neuron_end;
  const void* input_weights[2] = {};      // of every channel; a row per input
  const void* recurrent_weights[2] = {};  // of every channel; a row per neuron that spiked
  const void* plain_weights = nullptr;    // for kBack: the recurrent ones with a row per channel and neuron
};

/// Through the steps that they are made of, forward makes one pass. Backward makes three through one segment after the
/// other, from the last: the first needs the input's weights, the second the recurrent ones, the third the plain ones.
enum class Pass {
  kForward,
  kProject,    // the segment's input, as a whole in its first step; not where the input is the currents
  kRecompute,  // its steps again, for what vjp needs of them
  kBack,       // from its last step to its first
};

/// A piece, with the memory that it needs from step to step. If pieces share a row of the batch, all of them must have
/// made a step before any makes the next.
class Task {
 public:
  virtual ~Task() = default;
  virtual void step(Pass pass, int64_t t) = 0;
  virtual void finish() = 0;
};

template <class Launch>
using MakeTask = std::unique_ptr<Task> (*)(const Launch& launch, const Piece& piece);

/// Runs the tasks of a layer, shared between the threads; defined in recurrent_layer.cpp.
template <class Launch>
void run_layer(MakeTask<Launch> make, int channels, const Launch& launch);

}  // namespace norse_fast::cpu

namespace norse_fast {

/// The tasks of a model; defined in recurrent.h, instantiated in neurons/<model>.cpp.
template <class Isa, class Model>
struct RecurrentKernels {
  using Made = std::unique_ptr<cpu::Task>;

  static Made make(const RecurrentForward<float>& f, const cpu::Piece& piece);
  static Made make(const RecurrentForward<double>& f, const cpu::Piece& piece);
  static Made make(const RecurrentBackward<float>& b, const cpu::Piece& piece);
  static Made make(const RecurrentBackward<double>& b, const cpu::Piece& piece);
};

}  // namespace norse_fast

namespace norse_fast::cpu {

/// The tasks of a model for the chosen instruction set.
template <class Model, class Launch>
MakeTask<Launch> task_maker() {
  return dispatch([](auto isa) -> MakeTask<Launch> { return &RecurrentKernels<decltype(isa), Model>::make; });
}

}  // namespace norse_fast::cpu
