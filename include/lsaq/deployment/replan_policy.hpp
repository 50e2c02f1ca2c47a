// When to plan again: memory that only flickers is not worth quantizing for.
#pragma once

#include <lsaq/types.hpp>

#include <chrono>
#include <concepts>
#include <optional>

namespace lsaq::inline v0 {

/// The memory of a deployment, now and as it was planned for.
struct MemoryState {
  Bytes available = 0; ///< what the whole deployment may take now: free memory and what it holds itself
  Bytes planned = 0;   ///< what it may take by its plan: PlanBytes::total
  Bytes memory = 0;    ///< what was available when the plan was made: PlanBytes::memory
};

/// Says when a deployment should be planned anew: a policy of whoever watches memory.
template <class P>
concept replan_policy = requires(P policy, const MemoryState& state, std::chrono::steady_clock::time_point now) {
  { policy.should_replan(state, now) } -> std::same_as<bool>;
  policy.replanned(now);
};

/// Two marks and a pause. Below the low mark a smaller plan is made at once: the memory is somebody else's already. Above the high mark a larger one is made,
/// but only when nothing has changed for a while, so that memory that comes and goes does not make the deployment follow it up and down.
class Marks {
public:
  using Clock = std::chrono::steady_clock;

  struct Options {
    double low = 1.0;                                 ///< times what is planned: less is too little
    double high = 1.1;                                ///< times what was available at the last plan: more is worth planning for
    Clock::duration pause = std::chrono::seconds(10); ///< since the last change, before a plan may grow
  };

  Marks() = default;
  explicit Marks(Options options) : options_(options) {}

  bool should_replan(const MemoryState& state, Clock::time_point now) const noexcept {
    const auto available = static_cast<double>(state.available);
    if (available < options_.low * static_cast<double>(state.planned)) return true;
    return available > options_.high * static_cast<double>(state.memory) && (!last_ || now - *last_ >= options_.pause);
  }

  /// A plan was made and deployed, or could not be: the pause begins.
  void replanned(Clock::time_point now) noexcept { last_ = now; }

private:
  Options options_ = {};
  std::optional<Clock::time_point> last_;
};

static_assert(replan_policy<Marks>);

} // namespace lsaq::inline v0
