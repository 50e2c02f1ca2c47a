// A thread pool as a value, for programs without an executor of their own. Not part of the umbrella header.
#pragma once

#include <lsaq/executor.hpp>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <thread>
#include <vector>

namespace lsaq::inline v0::inline LSAQ_BASELINE {

/// Runs parallel_for on `threads` threads, the caller's among them; satisfies `executor`.
///
/// Workers wait a few microseconds in a loop before they sleep, so that the many small products of a decode step need no wake-ups. One parallel_for at a time:
/// calls from several threads take turns. Tasks must not throw and must not call parallel_for of the same pool.
class ThreadPool {
public:
  /// threads = 0: one for each logical core.
  explicit ThreadPool(std::size_t threads = 0) {
    if (threads == 0) threads = std::max(1u, std::thread::hardware_concurrency());
    workers_.reserve(threads - 1);
    for (std::size_t i = 1; i < threads; ++i) workers_.emplace_back([this] { work(); });
  }

  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  ~ThreadPool() {
    {
      const std::lock_guard lock(mutex_);
      stopping_ = true;
      generation_.fetch_add(1, std::memory_order_release);
    }
    wake_.notify_all();
    for (std::thread& worker : workers_) worker.join();
  }

  std::size_t concurrency() const noexcept { return workers_.size() + 1; }

  void parallel_for(std::size_t count, TaskRef task) {
    if (count == 0) return;
    const std::lock_guard one_at_a_time(caller_);
    if (workers_.empty() || count == 1) {
      for (std::size_t i = 0; i < count; ++i) task(i);
      return;
    }
    {
      const std::lock_guard lock(mutex_);
      task_ = &task;
      count_ = count;
      next_.store(0, std::memory_order_relaxed);
      generation_.fetch_add(1, std::memory_order_release);
    }
    wake_.notify_all();
    run(task, count);
    { // a worker that has not woken up by now is not waited for
      const std::lock_guard lock(mutex_);
      task_ = nullptr;
    }
    for (int spin = 0; active_.load(std::memory_order_acquire) != 0; ++spin) spin < spins_before_sleep ? pause() : std::this_thread::yield();
  }

private:
  static constexpr int spins_before_sleep = 2000;

  static void pause() noexcept {
#if LSAQ_X86
    __builtin_ia32_pause();
#else
    std::this_thread::yield();
#endif
  }

  void run(TaskRef task, std::size_t count) {
    for (std::size_t i; (i = next_.fetch_add(1, std::memory_order_relaxed)) < count;) task(i);
  }

  void work() {
    std::uint64_t seen = 0;
    while (true) {
      for (int spin = 0; spin < spins_before_sleep && generation_.load(std::memory_order_acquire) == seen; ++spin) pause();
      const TaskRef* task = nullptr;
      std::size_t count = 0;
      {
        std::unique_lock lock(mutex_);
        wake_.wait(lock, [&] { return generation_.load(std::memory_order_relaxed) != seen; });
        seen = generation_.load(std::memory_order_relaxed);
        if (stopping_) return;
        if (task_ == nullptr) continue;
        task = task_;
        count = count_;
        active_.fetch_add(1, std::memory_order_relaxed);
      }
      run(*task, count);
      active_.fetch_sub(1, std::memory_order_release);
    }
  }

  std::vector<std::thread> workers_;
  std::mutex caller_;
  std::mutex mutex_;
  std::condition_variable wake_;
  const TaskRef* task_ = nullptr;
  std::size_t count_ = 0;
  bool stopping_ = false;
  std::atomic<std::size_t> next_{0};
  std::atomic<std::size_t> active_{0};
  std::atomic<std::uint64_t> generation_{0};
};

static_assert(executor<ThreadPool>);

} // namespace lsaq::inline v0::inline LSAQ_BASELINE
