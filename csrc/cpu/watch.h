#pragma once
// What threads that share a call tell each other: that one of them failed, or that the user wants it to end.

#include <atomic>
#include <cstdint>
#include <exception>
#include <mutex>
#include <thread>

namespace norse_fast::cpu {

/// Sets the function that throws where the user wants the present call to end (Ctrl-C); it is called by the thread that
/// made the call, ten times a second.
void set_interrupt_check(void (*check)());

/// Of one call, made by the thread that was called.
class Watch {
 public:
  /// Whether there is no use in going on; asked by all threads, often.
  bool stops() {
    if (stopped_.load(std::memory_order_relaxed)) return true;
    if (std::this_thread::get_id() != caller_) return false;
    if (is_due()) run(check_interrupt);
    return stopped_.load(std::memory_order_relaxed);
  }

  /// Calls f, and keeps the first exception of all threads.
  template <class F>
  void run(const F& f) {
    try {
      f();
    } catch (...) {
      const std::lock_guard lock(mutex_);
      if (!error_) error_ = std::current_exception();
      stopped_.store(true, std::memory_order_relaxed);
    }
  }

  /// Throws that exception, when all threads are done.
  void finish() const {
    if (error_) std::rethrow_exception(error_);
  }

 private:
  /// Whether the last check, in this call or one before, was long ago: a call may be made of many short ones.
  static bool is_due();
  static void check_interrupt();

  const std::thread::id caller_ = std::this_thread::get_id();
  std::atomic<bool> stopped_{false};
  std::mutex mutex_;
  std::exception_ptr error_;
};

}  // namespace norse_fast::cpu
