// How work is spread over threads: the engine's own executor, or none.
//
// The library starts no threads. Whatever can run in parallel takes an ExecutorRef; by default that is Serial. An engine passes a reference to its own pool,
// anything with `concurrency()` and `parallel_for(count, task)`.
#pragma once

#include <lsaq/config.hpp>

#include <concepts>
#include <cstddef>
#include <memory>
#include <type_traits>

namespace lsaq::inline v0 {

/// A reference to a callable `void(std::size_t index) noexcept` that outlives the call it is passed to. Never allocates.
class TaskRef {
public:
  template <class F>
  requires(!std::same_as<std::remove_cvref_t<F>, TaskRef> && std::invocable<F&, std::size_t>) TaskRef(F&& task)
  noexcept // NOLINT: implicit by design, as in std::function_ref
      : object_(const_cast<void*>(static_cast<const void*>(std::addressof(task)))),
        call_([](void* object, std::size_t index) { (*static_cast<std::remove_reference_t<F>*>(object))(index); }) {}

  void operator()(std::size_t index) const { call_(object_, index); }

private:
  void* object_;
  void (*call_)(void*, std::size_t);
};

/// What an executor must offer: run task(0) .. task(count - 1), in any order on any threads, and return when all are done.
template <class E>
concept executor = requires(E& e, std::size_t count, TaskRef task) {
  { e.concurrency() } -> std::convertible_to<std::size_t>;
  e.parallel_for(count, task);
};

/// Runs every task on the calling thread, in order.
struct Serial {
  constexpr std::size_t concurrency() const noexcept { return 1; }
  void parallel_for(std::size_t count, TaskRef task) const {
    for (std::size_t i = 0; i < count; ++i) task(i);
  }
};

static_assert(executor<Serial>);

/// A reference to an executor of any type that the caller owns and keeps alive; default: Serial. Trivially copyable.
class ExecutorRef {
public:
  ExecutorRef() noexcept
      : run_([](void*, std::size_t count, TaskRef task) { Serial{}.parallel_for(count, task); }), concurrency_([](void*) -> std::size_t { return 1; }) {}

  template <executor E>
  requires(!std::same_as<std::remove_cv_t<E>, ExecutorRef>) ExecutorRef(E& e)
  noexcept // NOLINT: implicit by design
      : object_(const_cast<void*>(static_cast<const void*>(std::addressof(e)))),
        run_([](void* object, std::size_t count, TaskRef task) { static_cast<E*>(object)->parallel_for(count, task); }),
        concurrency_([](void* object) -> std::size_t { return static_cast<E*>(object)->concurrency(); }) {}

  std::size_t concurrency() const { return concurrency_(object_); }

  void parallel_for(std::size_t count, TaskRef task) const {
    if (count == 1) return task(0);
    if (count != 0) run_(object_, count, task);
  }

private:
  void* object_ = nullptr;
  void (*run_)(void*, std::size_t, TaskRef);
  std::size_t (*concurrency_)(void*);
};

} // namespace lsaq::inline v0
