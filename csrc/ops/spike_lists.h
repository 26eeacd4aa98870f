#pragma once
// The spikes of rows of bits as lists.

#include <algorithm>

#include "spike_bits.h"

namespace norse_fast::cpu {

/// The spikes of every row, block after block.
class RowLists {
 public:
  RowLists(Watch& watch, const Bits& bits, int64_t block)
      : rows_(bits.rows),
        blocks_(std::max<int64_t>((bits.columns + block - 1) / block, 1)),  // also where there are no columns
        begin_(rows_ * blocks_ + 1),
        events_(count(watch, bits, block)) {
    for_each(watch, bits, block, [&](int64_t place, const uint64_t* from, int64_t words) {
      uint16_t* to = events_.data() + begin_[place];
      for (int64_t w = 0; w < words; ++w) {
        for (uint64_t left = from[w]; left; left &= left - 1) {
          *to++ = static_cast<uint16_t>(w * kWordBits + __builtin_ctzll(left));
        }
      }
    });
  }

  int64_t blocks() const { return blocks_; }
  int64_t size() const { return begin_[rows_ * blocks_]; }
  SpikeLists from(int64_t block, int64_t row) const {
    const int64_t* begin = begin_.data() + block * rows_ + row;
    return {begin, begin + 1, events_.data()};
  }

 private:
  /// Calls f(place of the list, its words, how many).
  template <class F>
  void for_each(Watch& watch, const Bits& bits, int64_t block, F f) {
    const int64_t words = block / kWordBits;
    parallel(watch, rows_, [&](int64_t r) {
      for (int64_t b = 0; b < blocks_; ++b) {
        f(b * rows_ + r, bits.row(r) + b * words, std::min(words, bits.stride() - b * words));
      }
    });
  }

  /// Finds where the lists begin; returns how long they are together.
  int64_t count(Watch& watch, const Bits& bits, int64_t block) {
    const auto count = spike_sums<float>().count;
    for_each(watch, bits, block,
             [&](int64_t place, const uint64_t* from, int64_t words) { begin_[place + 1] = count(from, words); });
    begin_[0] = 0;
    for (int64_t k = 0; k < rows_ * blocks_; ++k) begin_[k + 1] += begin_[k];
    return begin_[rows_ * blocks_];
  }

  const int64_t rows_, blocks_;
  const Scratch<int64_t> begin_;
  const Scratch<uint16_t> events_;
};

/// Lists of fixed room, filled one event at a time.
class RoomyLists {
 public:
  RoomyLists(int64_t count, int64_t room) : begin_(count), end_(count), events_(count * room) {
    for (int64_t k = 0; k < count; ++k) begin_[k] = k * room;
  }

  void clear(int64_t count) { std::copy_n(begin_.data(), count, end_.data()); }
  void add(int64_t list, int64_t event) { events_[end_[list]++] = static_cast<uint16_t>(event); }
  SpikeLists all() const { return {begin_.data(), end_.data(), events_.data()}; }

 private:
  const Scratch<int64_t> begin_, end_;
  const Scratch<uint16_t> events_;
};

}  // namespace norse_fast::cpu
