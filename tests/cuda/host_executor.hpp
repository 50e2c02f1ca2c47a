// Runs CUDA kernels on the CPU: every thread of a block is a fiber, and a seed decides who goes first.
//
// Blocks run one after the other. A thread runs until it reaches a barrier or needs its warp; then the next one of a random order goes on, so that a value that
// is read before its barrier is one that nobody has written. What is reported: a barrier or a warp's operation that not all threads reach, shared memory read
// before it was written (it is full of NaN), and, by the pages around it, every access outside of shared memory.
#pragma once

#include "cuda/guarded_memory.hpp"

#include <lsaq/kernels/cuda/simt.cuh>

#include <setjmp.h>
#include <ucontext.h>

#include <algorithm>
#include <memory>
#include <numeric>
#include <random>
#include <stdexcept>
#include <string>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

namespace test_support {

/// What a kernel did that no device would take.
struct KernelFault : std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// A mistake to make on purpose, the `number`-th time each thread comes to it: tests show with it that they would notice.
struct SeededFault {
  enum class Kind { none, barrier_removed, shuffle_mask_changed };
  Kind kind = Kind::none;
  unsigned number = 0;
};

class HostExecutor;

/// The thread group of the executor.
class HostGroup {
public:
  HostGroup(HostExecutor& executor, unsigned thread) : executor_(&executor), thread_(thread) {}

  unsigned thread() const { return thread_; }
  unsigned block() const;
  std::byte* dynamic() const;
  void sync() const;
  unsigned ballot(bool predicate) const;
  void atomic_min(unsigned* address, unsigned value) const { *address = std::min(*address, value); }

  template <class T> T shuffle_xor(T value, unsigned mask) const {
    static_assert(sizeof(T) <= sizeof(std::uint64_t));
    std::uint64_t bits = 0;
    std::memcpy(&bits, &value, sizeof value);
    bits = exchange(bits, mask);
    std::memcpy(&value, &bits, sizeof value);
    return value;
  }

private:
  std::uint64_t exchange(std::uint64_t bits, unsigned mask) const;

  HostExecutor* executor_;
  unsigned thread_;
};

static_assert(lsaq::gpu::thread_group<HostGroup>);

/// Runs kernels; seed 0 runs blocks and threads in order.
class HostExecutor {
public:
  explicit HostExecutor(unsigned seed = 0, SeededFault fault = {}) : random_(seed), shuffled_(seed != 0), fault_(fault) {}
  HostExecutor(const HostExecutor&) = delete;
  HostExecutor& operator=(const HostExecutor&) = delete;

  /// Runs all blocks of a kernel. Throws KernelFault, and what the kernel throws.
  template <class Kernel> void launch(const Kernel& kernel) {
    static_assert(Kernel::threads % lsaq::gpu::warp_size == 0 && Kernel::threads <= 1024);
    using Shared = typename Kernel::Shared;
    const GuardedBytes shared(sizeof(Shared), alignof(Shared)), dynamic(kernel.dynamic_bytes(), 16);
    if (sizeof(Shared) + kernel.dynamic_bytes() > 48 * 1024) throw KernelFault("more than 48 KiB of shared memory");
    dynamic_ = dynamic.data();
    std::vector<unsigned> order(kernel.blocks());
    std::iota(order.begin(), order.end(), 0u);
    if (shuffled_) std::shuffle(order.begin(), order.end(), random_);
    for (const unsigned block : order) {
      block_ = block;
      std::memset(shared.data(), 0xff, shared.size());
      if (dynamic.size() != 0) std::memset(dynamic.data(), 0xff, dynamic.size());
      run_block(Kernel::threads, [&](unsigned thread) { kernel(HostGroup(*this, thread), *reinterpret_cast<Shared*>(shared.data())); });
    }
  }

  /// Barriers and shuffles the first thread of the last block came to: what there is to break.
  unsigned barriers() const { return fibers_.front()->barriers; }
  unsigned shuffles() const { return fibers_.front()->shuffles; }

private:
  friend HostGroup;

  enum class State { ready, at_barrier, at_shuffle, at_ballot, done };

  struct Fiber {
    static constexpr std::size_t stack_bytes = 128 * 1024;
    State state = State::done;
    std::uint64_t value = 0; // given to the warp, and then what came back
    unsigned mask = 0;
    unsigned barriers = 0, shuffles = 0;
    std::exception_ptr error;
    ucontext_t context{};
    jmp_buf resume{};
    bool entered = false;
    std::unique_ptr<char[]> stack{new char[stack_bytes]};
    void* fake_stack = nullptr;
  };

  bool faulty(SeededFault::Kind kind, unsigned number) const { return fault_.kind == kind && fault_.number == number; }

#if defined(__SANITIZE_ADDRESS__)
  void to_fiber(Fiber& fiber) {
    __sanitizer_start_switch_fiber(&fake_stack_, fiber.stack.get(), Fiber::stack_bytes);
    swapcontext(&scheduler_, &fiber.context);
    __sanitizer_finish_switch_fiber(fake_stack_, nullptr, nullptr);
  }

  void to_scheduler(Fiber& fiber) {
    __sanitizer_start_switch_fiber(fiber.state == State::done ? nullptr : &fiber.fake_stack, scheduler_stack_, scheduler_stack_bytes_);
    swapcontext(&fiber.context, &scheduler_);
    __sanitizer_finish_switch_fiber(fiber.fake_stack, nullptr, nullptr);
  }
#else
  // A context is entered by setcontext, but resumed by a jump: swapcontext asks the system for the signal mask every time.
  void to_fiber(Fiber& fiber) {
    if (_setjmp(resume_) != 0) return;
    if (fiber.entered) _longjmp(fiber.resume, 1);
    fiber.entered = true;
    setcontext(&fiber.context);
  }

  void to_scheduler(Fiber& fiber) {
    if (_setjmp(fiber.resume) == 0) _longjmp(resume_, 1);
  }
#endif

  void wait(unsigned thread, State state) {
    fibers_[thread]->state = state;
    to_scheduler(*fibers_[thread]);
  }

  /// Where a fiber begins; makecontext passes only ints.
  static void enter(unsigned low, unsigned high, unsigned thread) {
    auto& executor = *reinterpret_cast<HostExecutor*>(std::uintptr_t{low} | std::uintptr_t{high} << 32);
    Fiber& fiber = *executor.fibers_[thread];
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(nullptr, &executor.scheduler_stack_, &executor.scheduler_stack_bytes_);
#endif
    try {
      executor.call_(executor.body_, thread);
    } catch (...) {
      fiber.error = std::current_exception();
    }
    fiber.state = State::done;
    executor.to_scheduler(fiber);
  }

  template <class Body> void run_block(unsigned threads, Body&& body) {
    body_ = &body;
    call_ = [](void* object, unsigned thread) { (*static_cast<std::remove_reference_t<Body>*>(object))(thread); };
    while (fibers_.size() < threads) fibers_.push_back(std::make_unique<Fiber>());
    const auto self = reinterpret_cast<std::uintptr_t>(this);
    for (unsigned thread = 0; thread < threads; ++thread) {
      Fiber& fiber = *fibers_[thread];
      getcontext(&fiber.context);
      fiber.context.uc_stack.ss_sp = fiber.stack.get();
      fiber.context.uc_stack.ss_size = Fiber::stack_bytes;
      fiber.context.uc_link = nullptr;
      makecontext(&fiber.context, reinterpret_cast<void (*)()>(&enter), 3, static_cast<unsigned>(self), static_cast<unsigned>(self >> 32), thread);
      fiber.state = State::ready;
      fiber.entered = false;
      fiber.error = nullptr;
      fiber.barriers = fiber.shuffles = 0;
    }
    std::vector<unsigned> order(threads);
    std::iota(order.begin(), order.end(), 0u);
    while (!advance(threads, order)) {
    }
  }

  /// Runs every thread that can run, then lets go those that waited for each other; whether all are done.
  bool advance(unsigned threads, std::vector<unsigned>& order) {
    if (shuffled_) std::shuffle(order.begin(), order.end(), random_);
    for (const unsigned thread : order) {
      if (fibers_[thread]->state != State::ready) continue;
      to_fiber(*fibers_[thread]);
      if (fibers_[thread]->error) std::rethrow_exception(fibers_[thread]->error);
    }
    bool exchanged = false;
    for (unsigned first = 0; first < threads; first += lsaq::gpu::warp_size)
      exchanged |= resolve_warp(first, State::at_shuffle) || resolve_warp(first, State::at_ballot);
    if (exchanged) return false;
    const unsigned waiting = count(0, threads, State::at_barrier);
    if (waiting == 0) return true; // nobody is ready, at a barrier or in a warp's operation
    if (waiting != threads) throw KernelFault(std::to_string(waiting) + " of " + std::to_string(threads) + " threads reached a barrier");
    for (unsigned thread = 0; thread < threads; ++thread) fibers_[thread]->state = State::ready;
    return false;
  }

  unsigned count(unsigned first, unsigned threads, State state) const {
    unsigned found = 0;
    for (unsigned thread = first; thread < first + threads; ++thread) found += fibers_[thread]->state == state;
    return found;
  }

  bool resolve_warp(unsigned first, State state) {
    constexpr unsigned lanes = lsaq::gpu::warp_size;
    const unsigned arrived = count(first, lanes, state);
    if (arrived == 0) return false;
    if (arrived != lanes) throw KernelFault(std::to_string(arrived) + " of 32 lanes reached a shuffle or a ballot");
    std::uint64_t values[lanes], ballot = 0;
    for (unsigned lane = 0; lane < lanes; ++lane) {
      values[lane] = fibers_[first + lane]->value;
      ballot |= (values[lane] & 1) << lane;
    }
    for (unsigned lane = 0; lane < lanes; ++lane) {
      Fiber& fiber = *fibers_[first + lane];
      fiber.value = state == State::at_ballot ? ballot : values[(lane ^ fiber.mask) % lanes];
      fiber.state = State::ready;
    }
    return true;
  }

  std::mt19937 random_;
  bool shuffled_;
  SeededFault fault_;
  std::vector<std::unique_ptr<Fiber>> fibers_;
  ucontext_t scheduler_{};
  jmp_buf resume_{};
  void* fake_stack_ = nullptr;
  const void* scheduler_stack_ = nullptr;
  std::size_t scheduler_stack_bytes_ = 0;
  unsigned block_ = 0;
  std::byte* dynamic_ = nullptr;
  void* body_ = nullptr;
  void (*call_)(void*, unsigned) = nullptr;
};

inline unsigned HostGroup::block() const { return executor_->block_; }
inline std::byte* HostGroup::dynamic() const { return executor_->dynamic_; }

inline void HostGroup::sync() const {
  const unsigned number = executor_->fibers_[thread_]->barriers++;
  if (!executor_->faulty(SeededFault::Kind::barrier_removed, number)) executor_->wait(thread_, HostExecutor::State::at_barrier);
}

inline unsigned HostGroup::ballot(bool predicate) const {
  executor_->fibers_[thread_]->value = predicate;
  executor_->wait(thread_, HostExecutor::State::at_ballot);
  return static_cast<unsigned>(executor_->fibers_[thread_]->value);
}

inline std::uint64_t HostGroup::exchange(std::uint64_t bits, unsigned mask) const {
  HostExecutor::Fiber& fiber = *executor_->fibers_[thread_];
  const bool change = executor_->faulty(SeededFault::Kind::shuffle_mask_changed, fiber.shuffles++);
  fiber.value = bits;
  fiber.mask = change ? mask / 2 : mask;
  executor_->wait(thread_, HostExecutor::State::at_shuffle);
  return fiber.value;
}

} // namespace test_support
