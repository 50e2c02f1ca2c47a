// The memory a run may take: looked at, waited for, reserved, and watched while the model runs.
#pragma once

#include "deployed_model.hpp"
#include "planning.hpp"

#include <lsaq/deployment/replan_policy.hpp>
#include <lsaq/resources/reservation.hpp>
#include <lsaq/resources/wait.hpp>

#include <functional>
#include <mutex>
#include <thread>

namespace command {

/// The device to use with its free memory, less what other processes of this program have reserved on it, capped by --memory and LSAQ_MEMORY. `held` bytes are
/// ours already and count as free.
lsaq::Device free_memory(const BudgetOptions& options, lsaq::Bytes held = 0);

/// "60s", "500ms", "2m", or seconds without a unit. Throws InvalidArgument naming --wait.
std::chrono::nanoseconds wait_option(const std::string& text);

/// What was planned, and the bytes that are set aside for it until it is deployed.
struct Allotted {
  lsaq::Device device;
  lsaq::PlanFile plan;
  lsaq::Reservation reserved = {};
};

/// Plans for the memory that is there: plan(bytes). Where that throws Infeasible, waits at most `patience` until so much is free; looks again before it
/// returns, and plans anew if another process was faster. Throws what plan does, Interrupted.
Allotted allot(const BudgetOptions& options, std::chrono::nanoseconds patience, const std::function<lsaq::PlanFile(lsaq::Bytes)>& plan);

/// Follows the memory with a deployed model on a thread of its own, until it is destroyed.
class MemoryWatch {
public:
  /// What happened once.
  struct Event {
    double seconds = 0; ///< since the watch began
    lsaq::Bytes memory = 0;
    std::size_t exchanged = 0; ///< layers
    double exchange_seconds = 0;
    double average_bits = 0;  ///< afterwards
    std::string problem = {}; ///< why nothing was changed; empty: it was
  };

  /// plan(bytes) makes plans; `source` and `device` are the watch's own, for they work beside the model's. on_event is called on the watch's thread.
  MemoryWatch(BudgetOptions options, lsaq::Plan planned, DeployedModel& model, LayerSource source, Device device,
              std::function<lsaq::PlanFile(lsaq::Bytes)> plan, std::function<void(const Event&)> on_event);
  ~MemoryWatch();
  MemoryWatch(const MemoryWatch&) = delete;
  MemoryWatch& operator=(const MemoryWatch&) = delete;

  std::vector<Event> events() const;

private:
  void run(const std::stop_token& stop);
  /// The plan for `memory`; where none fits, the smallest, and what it needs in `memory`. Throws Infeasible if that is deployed already.
  lsaq::Plan plan_for(lsaq::Bytes& memory) const;
  void follow(lsaq::Bytes memory, const std::stop_token& stop);
  void add(Event event);

  BudgetOptions options_;
  lsaq::Plan planned_;
  DeployedModel& model_;
  LayerSource source_;
  Device device_;
  std::function<lsaq::PlanFile(lsaq::Bytes)> plan_;
  std::function<void(const Event&)> on_event_;
  lsaq::Marks marks_{{.pause = std::chrono::milliseconds(500)}};
  Stopwatch clock_;
  mutable std::mutex mutex_; ///< of the events
  std::vector<Event> events_;
  std::jthread thread_; ///< last: it ends before what it uses
};

} // namespace command
