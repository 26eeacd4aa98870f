#pragma once
// What a kernel is told, free of any tensor type. Time is the outer dimension, "lanes" are the neurons of all batch
// elements: lanes = B * N.

#include <cstdint>
#include <type_traits>

#include "storage.h"

namespace norse_fast {

/// The number of a surrogate in the list of surrogates.h; the default is the first, and one passes no gradient on.
enum class Surrogate : int {};
inline constexpr Surrogate kDefaultSurrogate{0}, kNoSurrogate{5};

inline constexpr int kMaxStates = 6;
inline constexpr int kMaxParams = 12;
inline constexpr int kMaxThresholds = 2;

/// Backward keeps no state but those after every kSegment steps and recomputes the rest, a segment at a time.
inline constexpr int64_t kSegment = 32;

/// The same for recurrent layers, which recompute a segment of all neurons together, and so need memory for it.
inline constexpr int64_t kRecurrentSegment = 16;

NORSE_FAST_INLINE int64_t checkpoint_count(int64_t steps, int64_t segment = kSegment) {
  return steps > 0 ? (steps - 1) / segment : 0;
}

/// A (time, lanes) array whose rows are contiguous, or, if broadcast, hold one value for all lanes. Null data are
/// zeros.
struct Rows {
  const void* data = nullptr;
  int64_t time_stride = 0;
  bool broadcast = false;
};

/// A parameter: one value for all lanes, or, where `values` is set, that of lane l at values[l % period].
template <class T>
struct Parameter {
  T shared = T(0);  // in the computing type; a rate is already multiplied by dt
  const void* values = nullptr;
  Storage type = Storage::kFloat;
  int64_t period = 1;

  NORSE_FAST_INLINE bool is_shared() const { return values == nullptr; }
};

/// A rate of a half type times dt, which rounds to that type as in PyTorch.
template <class Stored>
NORSE_FAST_INLINE float half_value(const void* values, int64_t index, bool rate, double dt) {
  const float value = load_stored(static_cast<const Stored*>(values)[index]);
  if (!rate) return value;
  Stored rounded;
  store_rounded(static_cast<float>(dt) * value, rounded);
  return load_stored(rounded);
}

/// One value of a parameter in the computing type. A rate is multiplied by dt in its own dtype first, as the expression
/// `dt * p.tau_mem_inv` is.
template <class T>
NORSE_FAST_INLINE T parameter_value(const void* values, Storage type, int64_t index, bool rate, double dt) {
  float own = 0;
  switch (type) {
    case Storage::kDouble: {
      const double value = static_cast<const double*>(values)[index];
      return static_cast<T>(rate ? dt * value : value);
    }
    case Storage::kLong:
      if (!rate) return static_cast<T>(static_cast<const int64_t*>(values)[index]);
      own = static_cast<float>(static_cast<const int64_t*>(values)[index]);
      break;
    case Storage::kHalf:
      return static_cast<T>(half_value<Half>(values, index, rate, dt));
    case Storage::kBFloat16:
      return static_cast<T>(half_value<BFloat16>(values, index, rate, dt));
    default:
      own = static_cast<const float*>(values)[index];
      break;
  }
  return static_cast<T>(rate ? static_cast<float>(dt) * own : own);
}

/// A device as torch numbers it.
struct DeviceId {
  int32_t type, index;
};

template <class T>
struct Problem {
  using Type = T;

  int64_t steps = 0;
  int64_t lanes = 0;
  double dt = 0;
  Storage storage = Storage::kFloat;
  Rows input;
  const T* state[kMaxStates] = {};  // before the first step; null: `start` in all lanes (not in recurrent layers)
  T start[kMaxStates] = {};
  Parameter<T> params[kMaxParams];

  NORSE_FAST_INLINE T initial(int k, int64_t lane) const { return state[k] ? state[k][lane] : start[k]; }
};

/// What forward returns of the outputs over time: those of all steps in the input's type, or, where they are spikes, as
/// bytes; or one row in the computing type. Operators are told by number.
enum class Output : int { kAll, kByte, kBool, kSum, kLast, kCount };

NORSE_FAST_INLINE bool is_reduced(Output kind) { return kind == Output::kSum || kind == Output::kLast; }

template <class T>
struct Forward : Problem<T> {
  Output kind = Output::kAll;
  void* output = nullptr;
  T* final_state[kMaxStates] = {};
  T* checkpoints[kMaxStates] = {};  // (checkpoint, lane); null: not wanted
  T* trace[kMaxStates] = {};        // the state after every step; null: not wanted
};

/// What backward returns of the spike functions z = H(u), so that others than the kernels can compute surrogates: u,
/// and nothing else; or the gradients of z. Operators are told by number.
/// Or, on the CPU, where their derivatives count, which is an operator of its own.
enum class Spikes : int { kNothing, kDistances, kGradients, kCount, kActive = kCount };

template <class T>
struct Backward : Problem<T> {
  Surrogate surrogate = kDefaultSurrogate;
  Parameter<T> alpha;
  const T* derivatives[kMaxThresholds] = {};  // (time, lane): instead, the surrogate derivatives; null: not so
  Spikes wanted = Spikes::kNothing;
  T* of_spikes[kMaxThresholds] = {};  // (time, lane): what is wanted
  const T* checkpoints[kMaxStates] = {};
  Rows grad_output;
  const T* grad_reduced = nullptr;  // (lane): instead, that of all outputs from step `reduced_from` on; null: not so
  int64_t reduced_from = 0;
  const T* grad_trace[kMaxStates] = {};        // null: no gradient
  const T* grad_final_state[kMaxStates] = {};  // null: no gradient
  void* grad_input = nullptr;                  // null: not wanted
  T* grad_state[kMaxStates] = {};
  T* grad_params = nullptr;  // (parameter, lane); null: not wanted

  /// Whether the surrogate is the default, and nobody else computes with it.
  NORSE_FAST_INLINE bool is_default() const {
    return surrogate == kDefaultSurrogate && !derivatives[0] && wanted == Spikes::kNothing;
  }

  /// Whether spikes pass gradients on. Where they do not, that of a spike does not count, not even as NaN.
  NORSE_FAST_INLINE bool is_differentiable() const { return surrogate != kNoSurrogate || derivatives[0]; }

  // Of kActive: (step, lane), whether a surrogate derivative is more than this share of its largest value.
  uint8_t* active = nullptr;
  double threshold = 0;
};

/// What a recurrent layer has besides its neurons; lanes are (batch, neuron) there. Currents are (time, batch, channel,
/// neuron), and the input is (time, batch, input).
template <class T>
struct Coupling {
  int64_t neurons = 0;
  int64_t inputs = 0;
  bool projects = false;             // whether there are input weights; else the input is the currents
  const T* input_weights = nullptr;  // (channel, neuron, input)
  const T* spikes = nullptr;         // (batch, neuron): the output of the step before the first
  const T* weights = nullptr;        // (channel, neuron, neuron that spiked)
};

template <class T>
struct RecurrentForward : Forward<T>, Coupling<T> {};

template <class T>
struct RecurrentBackward : Backward<T>, Coupling<T> {  // grad_input is that of the currents
  const T* output = nullptr;                           // of forward
  const T* grad_spikes = nullptr;  // of the last output as part of the final state; null: no gradient
};

template <class Launch>
inline constexpr bool kIsCoupled = std::is_base_of_v<Coupling<typename Launch::Type>, Launch>;

/// After how many steps a launch has checkpoints.
template <class Launch>
constexpr int64_t segment_of() {
  return kIsCoupled<Launch> ? kRecurrentSegment : kSegment;
}

/// The kernels of a model on a backend, which is an instruction set of the CPU, or CUDA. Operators see this
/// declaration. The definitions are in cpu/kernels.h and cuda/kernels.cuh, and only neurons/<model>.cpp instantiates
/// them: a change to a model recompiles the kernels of that model.
template <class Backend, class Model>
struct Kernels {
  using Where = typename Backend::Where;  // a range of lanes, or a stream

  static void run(const Forward<float>& launch, Where where);
  static void run(const Forward<double>& launch, Where where);
  static void run(const Backward<float>& launch, Where where);
  static void run(const Backward<double>& launch, Where where);
};

}  // namespace norse_fast
