#pragma once
// Spikes as lists: what the recurrent driver sums weights by.

#include "buffer.h"
#include "products.h"

namespace norse_fast::cpu {

/// The nonzero elements of a few rows, most often spikes, as lists of their indices, in order.
template <class Isa, class T>
class Events {
 public:
  /// For so many rows at most.
  Events(int64_t rows, int64_t width)
      : width_(width), from_(rows), begins_(rows), counts_(rows), done_(rows), lists_(rows * width + kListRoom) {}

  void clear() { rows_ = total_ = 0; }

  /// Lists those of further rows, of which z is the first.
  void collect(const Products<T>& products, const T* z, int64_t rows) {
    for (; rows > 0; --rows, z += width_, ++rows_) {
      from_[rows_] = z;
      begins_[rows_] = total_;
      counts_[rows_] = products.collect(z, width_, list(rows_));
      total_ += counts_[rows_];
    }
  }

  int64_t rows() const { return rows_; }

  /// What part of all elements they are.
  double rate() const { return total_ == 0 ? 0.0 : static_cast<double>(total_) / (rows_ * width_); }

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
  // One after the other, so that few events touch little memory.
  int32_t* list(int64_t row) const { return lists_.data() + begins_[row]; }

  const int64_t width_;
  int64_t rows_ = 0, total_ = 0;
  Buffer<Isa, const T*> from_;
  Buffer<Isa, int64_t> begins_, counts_, done_;
  Buffer<Isa, int32_t> lists_;
};

}  // namespace norse_fast::cpu
