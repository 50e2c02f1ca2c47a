#include "memory.hpp"

#include <lsaq/planning/plan_difference.hpp>
#include <lsaq/report.hpp>

#include <unistd.h>

#include <charconv>

namespace command {

lsaq::Device free_memory(const BudgetOptions& options, lsaq::Bytes held) {
  std::vector<lsaq::Device> devices = lsaq::list_devices<Device>();
  for (lsaq::Device& device : devices) {
    device.free_bytes += held;
    const lsaq::Bytes reserved = lsaq::Reservation::others(lsaq::reservation_folder(), device.id);
    if (reserved == 0) continue;
    device.free_bytes -= std::min(device.free_bytes, reserved);
    device.limited_by += fmt::format(", less {} that other processes have reserved", lsaq::format_bytes(reserved));
  }
  lsaq::Device device = lsaq::choose_by_environment(std::move(devices));
  if (options.memory.empty()) return device;
  if (const lsaq::Bytes cap = bytes_option("--memory", options.memory); cap < device.free_bytes) {
    device.free_bytes = cap;
    device.limited_by = "--memory";
  }
  return device;
}

std::chrono::nanoseconds wait_option(const std::string& text) {
  double number = 0;
  const char* const end = text.data() + text.size();
  const auto [rest, error] = std::from_chars(text.data(), end, number);
  const std::string_view unit(rest, static_cast<std::size_t>(end - rest));
  const double seconds = unit == "ms" ? 1e-3 : unit.empty() || unit == "s" ? 1 : unit == "m" ? 60 : unit == "h" ? 3600 : 0;
  if (error != std::errc() || seconds == 0 || !(number >= 0 && number * seconds <= 1e6))
    lsaq::fail<lsaq::InvalidArgument>(fmt::format("--wait: \"{}\" is no time; write for example 60s, 500ms or 2m", lsaq::printable(text, 40)));
  return std::chrono::nanoseconds(static_cast<std::int64_t>(number * seconds * 1e9));
}

namespace {

/// Waits until `needed` bytes are free and stay so. A line on standard error says so once.
void wait_for(const BudgetOptions& options, lsaq::Bytes needed, std::chrono::nanoseconds patience) {
  bool told = false;
  const lsaq::WaitOptions waiting{.timeout = patience, .longest_pause = std::chrono::seconds(1), .seed = static_cast<std::uint64_t>(::getpid())};
  lsaq::wait_for_memory(
      needed, [&] { return free_memory(options).free_bytes; }, waiting, {},
      [&](const lsaq::WaitState& state) {
        check_interrupt();
        if (!std::exchange(told, true))
          note(fmt::format("waiting for memory: {} needed, {} free\n", lsaq::format_bytes(state.needed), lsaq::format_bytes(state.available)));
      });
}

/// Sets the plan's bytes aside if they are still there; nothing where the memory went elsewhere meanwhile. Bytes of nothing: reservations don't work here.
std::optional<lsaq::Reservation> reserve(const BudgetOptions& options, const lsaq::Device& device, lsaq::Bytes total) {
  try {
    bool there = false;
    lsaq::Reservation reserved = lsaq::Reservation::make(lsaq::reservation_folder(), device.id, [&](lsaq::Bytes) {
      there = free_memory(options).free_bytes >= total; // less what others have reserved
      return there ? total : 0;
    });
    if (!there) return std::nullopt;
    return reserved;
  } catch (const lsaq::IoError& error) {
    note(fmt::format("note: other processes can't be told what is planned: {}\n", error.what()));
    return lsaq::Reservation();
  }
}

} // namespace

Allotted allot(const BudgetOptions& options, std::chrono::nanoseconds patience, const std::function<lsaq::PlanFile(lsaq::Bytes)>& plan) {
  const auto deadline = std::chrono::steady_clock::now() + patience;
  while (true) {
    const lsaq::Device device = free_memory(options);
    try {
      Allotted found{.device = device, .plan = plan(device.free_bytes)};
      if (std::optional<lsaq::Reservation> reserved = reserve(options, device, found.plan.plan.bytes.total)) {
        found.reserved = std::move(*reserved);
        return found;
      }
      note("the free memory has changed while it was planned for: planning again\n");
    } catch (const lsaq::Infeasible& error) {
      const auto left = deadline - std::chrono::steady_clock::now();
      if (left <= left.zero()) throw;
      wait_for(options, device.free_bytes + error.missing, left);
    }
  }
}

MemoryWatch::MemoryWatch(BudgetOptions options, lsaq::Plan planned, DeployedModel& model, LayerSource source, Device device,
                         std::function<lsaq::PlanFile(lsaq::Bytes)> plan, std::function<void(const Event&)> on_event)
    : options_(std::move(options)), planned_(std::move(planned)), model_(model), source_(std::move(source)), device_(device), plan_(std::move(plan)),
      on_event_(std::move(on_event)), thread_([this](const std::stop_token& stop) { run(stop); }) {}

MemoryWatch::~MemoryWatch() {
  thread_.request_stop();
  thread_.join();
}

std::vector<MemoryWatch::Event> MemoryWatch::events() const {
  const std::lock_guard lock(mutex_);
  return events_;
}

void MemoryWatch::add(Event event) {
  event.seconds = clock_.seconds();
  on_event_(event);
  const std::lock_guard lock(mutex_);
  events_.push_back(std::move(event));
}

namespace {

/// What of `allocated` bytes is really taken: a KV cache is not before its positions are, and the system counts the rest as free.
lsaq::Bytes taken_of(lsaq::Bytes allocated) {
  const std::optional<std::string> status = lsaq::detail::read_text("/proc/self/status");
  const std::optional<lsaq::Bytes> resident = status ? lsaq::detail::number_after(*status, "RssAnon:") : std::nullopt;
  return resident ? std::min(allocated, *resident * 1024) : allocated;
}

} // namespace

void MemoryWatch::run(const std::stop_token& stop) {
  const lsaq::SteadyClock clock;
  constexpr std::chrono::milliseconds between_looks(50), after_problem(500);
  bool told = false; ///< of a problem, once until something works again
  while (!stop.stop_requested()) {
    lsaq::Bytes memory = 0;
    try {
      memory = free_memory(options_, taken_of(model_.allocated().total)).free_bytes;
      const lsaq::MemoryState state{.available = memory, .planned = planned_.bytes.total, .memory = planned_.bytes.memory};
      if (marks_.should_replan(state, lsaq::Marks::Clock::now())) {
        follow(memory, stop);
        told = false;
      }
    } catch (const std::exception& error) { // the layers are as they were, and so is the text
      if (!std::exchange(told, true)) add({.memory = memory, .average_bits = model_.plan().average_bits, .problem = error.what()});
      clock.sleep(after_problem, stop);
    } catch (const Interrupted&) {
      return;
    }
    clock.sleep(between_looks, stop);
  }
}

lsaq::Plan MemoryWatch::plan_for(lsaq::Bytes& memory) const {
  try {
    return plan_(memory).plan;
  } catch (const lsaq::Infeasible& error) { // the smallest plan is nearest to what is wanted
    const lsaq::Bytes least = memory + error.missing;
    lsaq::Plan smallest = plan_(least).plan;
    if (lsaq::changes(model_.plan(), smallest).empty()) throw;
    memory = least;
    return smallest;
  }
}

void MemoryWatch::follow(lsaq::Bytes memory, const std::stop_token& stop) {
  const Stopwatch watch;
  lsaq::Plan plan = plan_for(memory);
  lsaq::ReplanReport report;
  try {
    report = model_.replan(source_, device_, plan, memory, stop);
  } catch (const lsaq::Infeasible& error) { // no room for the exchanges: a plan that leaves as much
    if (error.missing >= memory) throw;
    plan = plan_(memory - error.missing).plan;
    plan.bytes.memory = memory;
    report = model_.replan(source_, device_, plan, memory, stop);
  }
  marks_.replanned(lsaq::Marks::Clock::now());
  planned_ = plan;
  if (!report.stopped) add({.memory = memory, .exchanged = report.exchanged, .exchange_seconds = watch.seconds(), .average_bits = plan.average_bits});
}

} // namespace command
