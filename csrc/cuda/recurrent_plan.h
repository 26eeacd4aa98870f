#pragma once
// How the blocks of a GPU share a recurrent layer: plain arithmetic, so that the CPU's tests see it.

#include <algorithm>
#include <cstdint>

namespace norse_fast::cuda {

/// A block has one neuron per lane of a warp.
inline constexpr int kBlockNeurons = 32;
/// Rows of the batch whose sums a warp computes together in backward.
inline constexpr int kTileRows = 4;

/// Warps of a block at most: with more, a thread would have fewer registers than a step back needs.
constexpr int most_warps(bool backward) { return backward ? 8 : 16; }

struct DeviceLimits {
  int multiprocessors;
  int shared_bytes;  // that a block can have
};

/// The size of a layer.
struct RecurrentSize {
  int64_t neurons, batch;
  int channels, element_size;
};

/// Blocks come in groups. A group computes some rows of the batch; its blocks share the neurons, one warp per row at a
/// time.
///
/// A persistent launch computes all time steps: every block keeps the weights of its neurons in shared memory, all
/// blocks are resident, and those of a group exchange spikes after every step. A stepwise launch computes one.
struct RecurrentPlan {
  bool persistent;
  int block_neurons, blocks;  // of a group
  int groups, warps;
  int weight_bytes, warp_bytes;  // of shared memory: the weights, then the part of every warp

  int shared_bytes() const { return weight_bytes + warps * warp_bytes; }
};

/// What a warp needs in shared memory: the list of the neurons that spiked, 16 bits each, and in backward, when that is
/// of no use any more, the gradients that a tile of rows shares.
inline int warp_memory(const RecurrentSize& size, bool backward) {
  const int list = static_cast<int>((size.neurons * 2 + 15) / 16 * 16);
  return backward ? std::max(list, kBlockNeurons * kTileRows * size.element_size) : list;
}

inline RecurrentPlan stepwise_plan(const RecurrentSize& size) {
  constexpr int64_t kWarps = 8, kMostBlocks = int64_t{1} << 30;
  const int64_t blocks = (size.neurons + kBlockNeurons - 1) / kBlockNeurons;
  const int64_t groups = std::min((size.batch + kWarps - 1) / kWarps, std::max<int64_t>(kMostBlocks / blocks, 1));
  return {false, kBlockNeurons, static_cast<int>(blocks), static_cast<int>(groups), kWarps, 0, 0};
}

/// A persistent plan where the layer fits, else a stepwise one.
inline RecurrentPlan plan_recurrence(const RecurrentSize& size, bool backward, const DeviceLimits& device) {
  // From about here on, dense products of the whole batch are faster: an estimate.
  constexpr int64_t kMostRows = 64;
  const int64_t least = (size.neurons + device.multiprocessors - 1) / device.multiprocessors;
  if (least > kBlockNeurons) return stepwise_plan(size);
  for (const int64_t width : {int64_t{kBlockNeurons}, std::max<int64_t>(least, 1)}) {
    const int64_t blocks = (size.neurons + width - 1) / width;
    const int64_t groups = std::min(device.multiprocessors / std::max<int64_t>(blocks, 1), size.batch);
    if (groups < 1 || (size.batch + groups - 1) / groups > kMostRows) continue;
    const int64_t weights = (size.channels * size.neurons * width * size.element_size + 15) / 16 * 16;
    const int own = warp_memory(size, backward);
    for (int warps = most_warps(backward); warps >= 4; warps /= 2) {
      if (weights + int64_t{warps} * own > device.shared_bytes) continue;
      return {true,
              static_cast<int>(width),
              static_cast<int>(blocks),
              static_cast<int>(groups),
              warps,
              static_cast<int>(weights),
              own};
    }
  }
  return stepwise_plan(size);
}

}  // namespace norse_fast::cuda
