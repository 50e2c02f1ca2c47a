// Waiting until enough memory is free: with a timeout, pauses that grow, and a way to stop. Not part of the umbrella header.
#pragma once

#include <lsaq/types.hpp>

#include <algorithm>
#include <chrono>
#include <concepts>
#include <condition_variable>
#include <mutex>
#include <random>
#include <stop_token>

namespace lsaq::inline v0 {

/// How to wait.
struct WaitOptions {
  using Duration = std::chrono::nanoseconds;

  Duration timeout = std::chrono::seconds(60);           ///< 0: one look
  Duration first_pause = std::chrono::milliseconds(100); ///< between looks
  Duration longest_pause = std::chrono::seconds(5);
  double growth = 2;      ///< of the pause from look to look, while nothing is freed
  double jitter = 0.25;   ///< share of a pause that is drawn, so that processes that wait for the same memory don't look, and take it, all at once
  unsigned steady = 2;    ///< looks in a row that must find enough: memory that is there for a moment only is not waited for
  std::uint64_t seed = 0; ///< of the drawing; give each process another
};

/// What a wait has come to.
enum class WaitResult : std::uint8_t { enough, timed_out, stopped };

/// How a wait stands or ended.
struct WaitState {
  WaitResult result = WaitResult::timed_out;
  Bytes needed = 0;
  Bytes available = 0; ///< at the last look
  std::size_t looks = 0;
  WaitOptions::Duration waited = {};
};

/// Time as a wait sees it: a policy, so that tests need not wait.
template <class C>
concept wait_clock = requires(C& clock, WaitOptions::Duration pause, std::stop_token stop) {
  { clock.now() } -> std::convertible_to<WaitOptions::Duration>;
  clock.sleep(pause, stop);
};

} // namespace lsaq::inline v0

namespace lsaq::inline v0::inline LSAQ_BASELINE {

/// The machine's clock; a sleep ends early when a stop is requested.
struct SteadyClock {
  WaitOptions::Duration now() const { return std::chrono::steady_clock::now().time_since_epoch(); }
  void sleep(WaitOptions::Duration pause, const std::stop_token& stop) const {
    std::mutex mutex;
    std::condition_variable_any wake;
    std::unique_lock lock(mutex);
    wake.wait_for(lock, stop, pause, [] { return false; });
  }
};

static_assert(wait_clock<SteadyClock>);

/// Looks until available() gives at least `needed` bytes, `steady` times in a row; gives up at the timeout or when a stop is requested. Blocks the calling
/// thread.
///
/// Pauses double up to the longest while nothing is freed, and begin anew when more is there than at the look before: memory that is being given back comes in
/// steps. on_look(state) is called after each look, for whoever shows progress. Throws what the two throw.
template <class Available, class OnLook, wait_clock Clock>
WaitState wait_for_memory(Bytes needed, Available&& available, const WaitOptions& options, std::stop_token stop, OnLook&& on_look, Clock&& clock) {
  std::mt19937_64 random(options.seed);
  const WaitOptions::Duration start = clock.now();
  WaitState state{.needed = needed};
  WaitOptions::Duration pause = options.first_pause;
  for (unsigned found = 0;;) {
    const Bytes before = state.available;
    state.available = available();
    state.waited = clock.now() - start;
    found = state.available >= needed ? found + 1 : 0;
    if (state.looks++ != 0) {
      const auto longer = std::chrono::duration_cast<WaitOptions::Duration>(pause * options.growth);
      pause = state.available > before || found != 0 ? options.first_pause : std::min(longer, options.longest_pause);
    }
    const bool once = options.timeout == WaitOptions::Duration::zero(); // a look that is not repeated need not be confirmed
    if (found >= options.steady || (once && found != 0))
      state.result = WaitResult::enough;
    else
      state.result = stop.stop_requested() ? WaitResult::stopped : WaitResult::timed_out;
    on_look(static_cast<const WaitState&>(state));
    if (state.result != WaitResult::timed_out || state.waited >= options.timeout) return state;
    const double share = 1 + options.jitter * std::uniform_real_distribution<double>(-1, 1)(random);
    clock.sleep(std::min(std::chrono::duration_cast<WaitOptions::Duration>(pause * share), options.timeout - state.waited), stop);
    if (stop.stop_requested()) {
      state.result = WaitResult::stopped;
      state.waited = clock.now() - start;
      return state;
    }
  }
}

/// The same by the machine's clock.
template <class Available, class OnLook>
WaitState wait_for_memory(Bytes needed, Available&& available, const WaitOptions& options, std::stop_token stop, OnLook&& on_look) {
  return wait_for_memory(needed, available, options, std::move(stop), on_look, SteadyClock{});
}

} // namespace lsaq::inline v0::inline LSAQ_BASELINE
