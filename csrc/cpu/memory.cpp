#include "memory.h"

#include <sys/mman.h>

#include <cstdlib>
#include <cstring>
#include <mutex>
#include <new>
#include <stdexcept>
#include <string>
#include <vector>

#include "sanitize.h"

namespace norse_fast::cpu {
namespace {

// From this size on, the C library asks the operating system each time.
constexpr int64_t kLarge = int64_t{1} << 17;

// Where there is enough to fill one, on huge pages: the first touch costs a fault per page, and there are 512 times as
// many of 4 KiB.
constexpr int64_t kHugePage = int64_t{1} << 21;

/// What waits is this much at most: the output and the gradient of a layer with 2^25 neuron-steps in float32.
constexpr int64_t kLimit = int64_t{1} << 28;

/// Sizes are multiples of this, so that nearly equal ones are one.
constexpr int64_t kUnit = kLarge / 2;

int64_t whole_units(int64_t bytes) { return (bytes + kUnit - 1) / kUnit * kUnit; }

enum class Mode {
  kReuse,
  kOff,     // large tensors lie where torch puts them
  kPoison,  // what is handed out is NaN, or -1, until it is written
};

Mode read_mode() {
  const char* wanted = std::getenv("NORSE_FAST_MEMORY");
  const std::string name = wanted ? wanted : "";
  if (name.empty()) return Mode::kReuse;
  if (name == "off") return Mode::kOff;
  if (name == "poison") return Mode::kPoison;
  throw std::runtime_error("NORSE_FAST_MEMORY: got '" + name +
                           "', expected off or poison; unset it to use memory again.");
}

/// For tests; see tests/sanitize.
Mode mode() {
  static const Mode kChosen = read_mode();
  return kChosen;
}

/// Memory that waits for its next use, the oldest first.
class Waiting {
 public:
  void* take(int64_t size) {
    const std::unique_lock lock(mutex_, std::try_to_lock);
    for (size_t k = lock ? blocks_.size() : 0; k-- > 0;) {
      if (blocks_[k].size == size) return remove(k);
    }
    return nullptr;
  }

  /// False where there is no place.
  bool put(void* data, int64_t size) {
    if (size > kLimit) return false;
    const std::unique_lock lock(mutex_, std::try_to_lock);
    if (!lock) return false;
    while (total_ + size > kLimit) std::free(remove(0));
    blocks_.push_back({data, size});
    forbid(data, size);
    total_ += size;
    return true;
  }

 private:
  struct Block {
    void* data;
    int64_t size;
  };

  void* remove(size_t k) {
    const Block block = blocks_[k];
    blocks_.erase(blocks_.begin() + static_cast<std::ptrdiff_t>(k));
    total_ -= block.size;
    permit(block.data, block.size);
    return block.data;
  }

  // Only ever tried: a process that was forked while a thread held it would wait for ever.
  std::mutex mutex_;
  std::vector<Block> blocks_;
  int64_t total_ = 0;
};

/// Never destroyed, because tensors may outlive what is.
Waiting& waiting() {
  static auto& blocks = *new Waiting;
  return blocks;
}

}  // namespace

void* reserve(int64_t bytes) {
  if (bytes < kLarge || mode() == Mode::kOff) return nullptr;
  const int64_t size = whole_units(bytes);
  void* data = waiting().take(size);
  if (!data) {
    if (posix_memalign(&data, bytes < kHugePage ? kUnit : kHugePage, size) != 0) throw std::bad_alloc();
#ifdef MADV_HUGEPAGE
    if (bytes >= kHugePage) madvise(data, size, MADV_HUGEPAGE);  // only advice, so a failure is of no interest
#endif
  }
  if (mode() == Mode::kPoison) std::memset(data, 0xFF, size);
  forbid(static_cast<char*>(data) + bytes, size - bytes);
  return data;
}

void release(void* data, int64_t bytes) {
  const int64_t size = whole_units(bytes);
  if (!waiting().put(data, size)) std::free(data);
}

}  // namespace norse_fast::cpu
