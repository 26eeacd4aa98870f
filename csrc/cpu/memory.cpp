#include "memory.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <mutex>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "sanitize.h"

namespace norse_fast::cpu {
namespace {

// From this size on, the C library asks the operating system each time.
constexpr int64_t kLarge = int64_t{1} << 17;

// Where there is enough to fill one, on huge pages: the first touch costs a fault per page, and there are 512 times as
// many of 4 KiB.
constexpr int64_t kHugePage = int64_t{1} << 21;

/// What waits is this share of the machine's memory at most, if nobody says otherwise: on a laptop of 16 GiB the output
/// and the gradient of a layer with 2^27 neuron-steps in float32. Nor is it more than kMostUsual, since several
/// processes may share a large machine.
constexpr int64_t kUsualShare = 16, kMostUsual = int64_t{1} << 32;

constexpr int64_t kCacheLine = 64;

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

/// The first number of a file; no limit where there is none, or the word "max".
int64_t read_limit(const std::string& path) {
  int64_t bytes = 0;
  return std::ifstream(path) >> bytes ? bytes : INT64_MAX;
}

/// The memory of the machine, or of the container that the process is in.
int64_t machine_memory() {
  const int64_t pages = sysconf(_SC_PHYS_PAGES), page = sysconf(_SC_PAGE_SIZE);
  const int64_t physical = pages > 0 && page > 0 ? pages * page : 0;
  // Inside a container its own limit is at the root, in version 2 of control groups and in version 1.
  const std::string groups = "/sys/fs/cgroup/";
  return std::min({physical, read_limit(groups + "memory.max"), read_limit(groups + "memory/memory.limit_in_bytes")});
}

int64_t usual_limit() { return std::min(machine_memory() / kUsualShare, kMostUsual); }

// The state of fail_allocation.
std::atomic<int64_t> until_failure{0}, allocations{0};

[[noreturn]] void fail(int64_t bytes) {
  throw std::runtime_error("norse_fast: could not allocate " + std::to_string(bytes) +
                           " bytes of memory; use a smaller batch or fewer time steps at once.");
}

void count_allocation(int64_t bytes) {
  if (bytes == 0) return;
  allocations.fetch_add(1, std::memory_order_relaxed);
  if (until_failure.load(std::memory_order_relaxed) > 0 && until_failure.fetch_sub(1) == 1) fail(bytes);
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
    const std::unique_lock lock(mutex_, std::try_to_lock);
    if (!lock || size > limit_) return false;
    shrink(limit_ - size);
    try {
      blocks_.push_back({data, size});
    } catch (const std::bad_alloc&) {
      return false;
    }
    forbid(data, size);
    total_ += size;
    return true;
  }

  int64_t total() {
    const std::unique_lock lock(mutex_, std::try_to_lock);
    return lock ? total_ : 0;
  }

  int64_t clear() {
    const std::unique_lock lock(mutex_, std::try_to_lock);
    return lock ? shrink(0) : 0;
  }

  int64_t set_limit(int64_t bytes) {
    if (bytes < 0)
      throw std::runtime_error("norse_fast: bytes: got " + std::to_string(bytes) + ", expected 0 or more.");
    const std::unique_lock lock(mutex_, std::try_to_lock);
    if (!lock) throw std::runtime_error("norse_fast: another thread uses the memory at this moment; try again.");
    shrink(bytes);
    return std::exchange(limit_, bytes);
  }

 private:
  struct Block {
    void* data;
    int64_t size;
  };

  /// Frees the oldest until no more than so many bytes wait; returns how many it freed.
  int64_t shrink(int64_t bytes) {
    const int64_t before = total_;
    while (total_ > bytes) std::free(remove(0));
    return before - total_;
  }

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
  int64_t total_ = 0, limit_ = usual_limit();
};

/// Never destroyed, because tensors may outlive what is.
Waiting& waiting() {
  static auto& blocks = *new Waiting;
  return blocks;
}

}  // namespace

void* allocate(int64_t bytes) {
  count_allocation(bytes);
  // Aligned here: what glibc's aligned_alloc is given back, it cannot give for the same size again, because it looks
  // for more than that.
  constexpr int64_t kRoom = kCacheLine + sizeof(void*);
  void* const start = bytes <= INT64_MAX - kRoom ? std::malloc(bytes + kRoom) : nullptr;
  if (!start) fail(bytes);
  const auto address = reinterpret_cast<uintptr_t>(start) + kRoom;
  auto** data = reinterpret_cast<void**>(address - address % kCacheLine);
  data[-1] = start;
  if (mode() == Mode::kPoison) std::memset(data, 0xFF, bytes);
  return data;
}

void deallocate(void* data) { std::free(static_cast<void**>(data)[-1]); }

void* reserve(int64_t bytes) {
  count_allocation(bytes);
  if (bytes < kLarge || mode() == Mode::kOff) return nullptr;
  if (bytes > INT64_MAX - kHugePage) fail(bytes);
  const int64_t size = whole_units(bytes);
  void* data = waiting().take(size);
  if (!data) {
    if (posix_memalign(&data, bytes < kHugePage ? kUnit : kHugePage, size) != 0) fail(bytes);
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

int64_t waiting_bytes() { return waiting().total(); }

int64_t release_waiting() { return waiting().clear(); }

int64_t set_waiting_limit(int64_t bytes) { return waiting().set_limit(bytes); }

int64_t fail_allocation(int64_t k) {
  until_failure = k;
  return allocations.exchange(0);
}

}  // namespace norse_fast::cpu
