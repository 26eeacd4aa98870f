#include "cuda.h"

#include <sched.h>
#include <ucontext.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <random>
#include <thread>
#include <vector>

namespace norse_fast::cuda {

constexpr size_t kMostShared = 256 * 1024;
__thread __attribute__((aligned(16))) unsigned char shared_memory[kMostShared];

}  // namespace norse_fast::cuda

namespace emulation {
namespace {

using norse_fast::cuda::kMostShared;
using norse_fast::cuda::shared_memory;

[[noreturn]] void fail(const char* what) {
  std::fprintf(stderr, "emulated kernel: %s\n", what);
  std::abort();
}

enum class Waiting { kNo, kWarp, kBlock, kReturned };

struct Fiber {
  ucontext_t context;
  std::unique_ptr<char[]> stack;
  Thread thread;
  Waiting waiting = Waiting::kNo;
};

class Block;
thread_local Block* running = nullptr;

/// The threads of one block, which take turns.
class Block {
 public:
  Block(const std::function<void()>& kernel, unsigned index, unsigned threads, size_t shared_bytes)
      : kernel_(kernel), fibers_(threads), values_(threads), shared_bytes_(shared_bytes) {
    constexpr size_t kStack = 128 * 1024;
    for (unsigned k = 0; k < threads; ++k) {
      Fiber& fiber = fibers_[k];
      fiber.thread = {dim3(k), dim3(index), dim3(threads)};
      fiber.stack.reset(new char[kStack]);
      getcontext(&fiber.context);
      fiber.context.uc_stack.ss_sp = fiber.stack.get();
      fiber.context.uc_stack.ss_size = kStack;
      fiber.context.uc_link = &scheduler_;
      makecontext(&fiber.context, &Block::enter, 0);
    }
  }

  void run() {
    running = this;
    // Bytes that make a NaN of what is read before it is written, and show what is written out of bounds.
    std::fill(shared_memory, shared_memory + kMostShared, 0xff);
    std::mt19937 random(fibers_[0].thread.block.x);
    std::vector<unsigned> order(fibers_.size());
    for (unsigned k = 0; k < order.size(); ++k) order[k] = k;
    while (true) {
      std::shuffle(order.begin(), order.end(), random);
      bool ran = false;
      for (const unsigned k : order) {
        if (fibers_[k].waiting != Waiting::kNo) continue;
        ran = true;
        current_ = &fibers_[k];
        swapcontext(&scheduler_, &current_->context);
      }
      if (ran) continue;
      if (!release()) break;
    }
    for (size_t k = shared_bytes_; k < kMostShared; ++k) {
      if (shared_memory[k] != 0xff) fail("wrote beyond its shared memory");
    }
  }

  void wait(Waiting what) {
    current_->waiting = what;
    swapcontext(&current_->context, &scheduler_);
  }

  Fiber& current() { return *current_; }

  uint64_t* values() { return values_.data() + current_->thread.index.x / 32 * 32; }

 private:
  static void enter() {
    running->kernel_();
    running->current_->waiting = Waiting::kReturned;
  }

  /// Lets those go on that have all met; false if all have returned.
  bool release() {
    bool released = false, left = false, all = true;
    for (size_t first = 0; first < fibers_.size(); first += 32) {
      const size_t end = std::min(first + 32, fibers_.size());
      bool met = true;
      for (size_t k = first; k < end; ++k) {
        const Waiting waiting = fibers_[k].waiting;
        left = left || waiting != Waiting::kReturned;
        met = met && waiting == Waiting::kWarp;
        all = all && (waiting == Waiting::kBlock || waiting == Waiting::kReturned);
      }
      for (size_t k = first; met && k < end; ++k) fibers_[k].waiting = Waiting::kNo;
      released = released || met;
    }
    if (!left) return false;
    if (all) {
      for (Fiber& fiber : fibers_) {
        if (fiber.waiting == Waiting::kBlock) fiber.waiting = Waiting::kNo;
      }
    } else if (!released) {
      fail("its threads wait for different things");
    }
    return true;
  }

  const std::function<void()>& kernel_;
  std::vector<Fiber> fibers_;
  std::vector<uint64_t> values_;
  const size_t shared_bytes_;
  ucontext_t scheduler_;
  Fiber* current_ = nullptr;
};

}  // namespace

int limits[2] = {132, 227 * 1024};
int64_t threads = 0;

Thread& current() { return running->current().thread; }

void wait(bool warp) { running->wait(warp ? Waiting::kWarp : Waiting::kBlock); }

const uint64_t* share(uint64_t value) {
  uint64_t* values = running->values();
  values[current().index.x % 32] = value;
  wait(true);
  return values;
}

cudaError_t launch(const std::function<void()>& kernel, dim3 blocks, dim3 threads, size_t shared_bytes,
                   bool cooperative) {
  if (blocks.x == 0 || threads.x == 0 || threads.x > 1024) return cudaErrorInvalidValue;
  if (shared_bytes > static_cast<size_t>(limits[1])) return cudaErrorInvalidValue;
  if (cooperative && blocks.x > static_cast<unsigned>(limits[0])) return cudaErrorInvalidValue;
  emulation::threads = int64_t{blocks.x} * threads.x;
  const auto run = [&](unsigned k) { Block(kernel, k, threads.x, shared_bytes).run(); };
  if (cooperative) {
    std::vector<std::thread> all;
    for (unsigned k = 0; k < blocks.x; ++k) all.emplace_back(run, k);
    for (std::thread& one : all) one.join();
  } else {
    for (unsigned k = 0; k < blocks.x; ++k) run(k);
  }
  return cudaSuccess;
}

}  // namespace emulation

void __nanosleep(unsigned) { sched_yield(); }
