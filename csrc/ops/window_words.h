#pragma once
// The spikes that the windows of a convolution see, as words.

#include <vector>

#include "../cpu/windows.h"
#include "spike_images.h"

namespace norse_fast::cpu {

/// Whether so few are spikes that a sum costs less than to begin one; told by some of the rows.
inline bool is_sparse(const Bits& bits) {
  constexpr int64_t kRows = 64, kOneIn = 12;
  const int64_t every = std::max<int64_t>(bits.rows / kRows, 1);
  const auto count = spike_sums<float>().count;
  int64_t spikes = 0, seen = 0;
  for (int64_t r = 0; r < bits.rows; r += every, ++seen) spikes += count(bits.row(r), bits.stride());
  return spikes * kOneIn < seen * bits.columns;
}

/// The lines of a few images that a few rows of the output meet, between the bits that pad them.
class PaddedLines {
 public:
  PaddedLines(const Convolution& c, int64_t images, int64_t rows)
      : c_(c),
        words_(words_for(c.columns.outputs() * c.columns.stride + c.columns.kernel * c.columns.dilation +
                         c.columns.size + 2 * c.columns.padding +
                         kWindowsTogether * std::max(c.columns.stride, c.columns.dilation)) +
               1),
        lines_(lines_of(rows)),
        all_(images * of_image()) {}

  int64_t words() const { return words_; }
  int64_t of_channel() const { return lines_ * words_; }
  int64_t of_image() const { return c_.channels * of_channel(); }

  const uint64_t* line(int64_t image, int64_t channel, int64_t line) const {
    return all_.data() + image * of_image() + channel * of_channel() + line * words_;
  }

  /// Those that rows [row, row + rows) of the output meet of an image.
  void take(const uint64_t* bits, int64_t image, int64_t row, int64_t rows) {
    uint64_t* to = all_.data() + image * of_image();
    const int64_t count = lines_of(rows);
    const int64_t top = row * c_.rows.stride - c_.rows.padding, size = c_.columns.size, left = c_.columns.padding;
    for (int64_t channel = 0; channel < c_.channels; ++channel, to += of_channel()) {
      std::fill_n(to, count * words_, uint64_t{0});
      const int64_t end = std::min(top + count, c_.rows.size);
      for (int64_t y = std::max<int64_t>(top, 0); y < end; ++y) {
        uint64_t* const line = to + (y - top) * words_;
        const int64_t first = (channel * c_.rows.size + y) * size;
        for (int64_t x = 0; x < size; x += kWordBits) {
          const int64_t count = std::min(size - x, kWordBits);
          write_bits(line, left + x, count, read_bits(bits, first + x, count));
        }
      }
    }
  }

 private:
  int64_t lines_of(int64_t rows) const {
    return (rows - 1) * c_.rows.stride + (c_.rows.kernel - 1) * c_.rows.dilation + 1;
  }

  const Convolution c_;
  const int64_t words_, lines_;
  const Scratch<uint64_t> all_;
};

/// The spans in which a window sees a line of so many elements, `dilation` bits apart, if windows are `step` bits
/// apart.
class Spans {
 public:
  Spans(int64_t elements, int64_t dilation, int64_t step) : elements_(elements) {
    const int64_t most = dilation == 1 ? most_bits(step) : 1;
    for (int64_t first = 0; first < elements; first += most) {
      all_.push_back({first * dilation, static_cast<int>(std::min(elements - first, most))});
    }
  }

  const std::vector<Span>& all() const { return all_; }
  int64_t elements() const { return elements_; }

 private:
  const int64_t elements_;
  std::vector<Span> all_;
};

/// How the elements of lines lie in words: the spans of as many lines as fit, whole.
class WordPlan {
 public:
  WordPlan(int64_t lines, const Spans& spans) : spans_(spans) {
    int64_t element = 0;
    int bits = kWordBits;
    for (int64_t line = 0; line < lines; ++line) {
      for (const Span& span : spans.all()) {
        if (bits + span.bits > kWordBits) {
          first_.push_back(element);
          lines_before_.push_back(line);
          bits = 0;
        }
        bits += span.bits;
        element += span.bits;
      }
    }
  }

  const std::vector<Span>& spans() const { return spans_.all(); }

  /// Words of the first so many lines.
  int64_t words(int64_t lines) const {
    return std::lower_bound(lines_before_.begin(), lines_before_.end(), lines) - lines_before_.begin();
  }

  /// Calls f(word, its first element, how many it has) for them.
  template <class F>
  void visit(int64_t lines, F f) const {
    const int64_t count = words(lines);
    for (int64_t k = 0; k < count; ++k) {
      f(k, first_[k], (k + 1 < count ? first_[k + 1] : lines * spans_.elements()) - first_[k]);
    }
  }

 private:
  const Spans spans_;
  std::vector<int64_t> first_, lines_before_;  // the element with which a word begins, and the lines before its own
};

/// What windows see, as words.
class WindowWords {
 public:
  /// For `count` windows, `together` of which are looked through at once, over so many lines.
  WindowWords(int64_t count, int64_t together, int64_t lines, const WordPlan& plan)
      : plan_(plan),
        together_(together),
        room_(count + kWindowsTogether),
        see_(see()),
        words_(plan.words(lines) * room_) {}

  void clear() { count_ = 0; }

  /// What the next windows see.
  void add(const Windows& w) {
    see_(w, plan_.spans().data(), static_cast<int64_t>(plan_.spans().size()), together_, room_, words_.data() + count_);
    count_ += together_;
  }

  /// A window for which there is a spike in every place of so many lines.
  void add_full(int64_t lines) {
    plan_.visit(lines, [&](int64_t word, int64_t, int64_t elements) {
      words_[word * room_ + count_] = ~uint64_t{0} >> (kWordBits - elements);
    });
    ++count_;
  }

  /// Those of so many lines.
  WordRows all(int64_t lines) const { return {words_.data(), room_, plan_.words(lines)}; }

 private:
  const WordPlan& plan_;
  const int64_t together_, room_;
  const See see_;
  const Scratch<uint64_t> words_;
  int64_t count_ = 0;
};

}  // namespace norse_fast::cpu
