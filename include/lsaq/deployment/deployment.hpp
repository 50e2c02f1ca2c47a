// Weights that change while they are read: a handle for each layer, exchanged one by one between passes, within a limit of bytes at every moment.
#pragma once

#include <lsaq/planning/memory_model.hpp>

#include <algorithm>
#include <atomic>
#include <concepts>
#include <memory>
#include <mutex>
#include <stop_token>
#include <utility>

namespace lsaq::inline v0 {

/// What a replan did.
struct ReplanReport {
  std::size_t exchanged = 0; ///< layers that were built anew
  Bytes held = 0;            ///< by the layers, afterwards
  Bytes peak = 0;            ///< at most, on the way: the old layers, and the new one while its old one is still there
  bool stopped = false;      ///< by the stop token, before everything was exchanged
};

} // namespace lsaq::inline v0

namespace lsaq::inline v0::inline LSAQ_BASELINE {

/// A layer's weights: whatever knows its bytes.
template <class L>
concept deployable_layer = std::movable<L> && requires(const L& layer) {
  { layer.bytes() } -> std::same_as<Bytes>;
};

namespace detail {

/// Who reads, without locks: a reader counts itself in and out; a writer waits until all who were in have left (sleepable RCU, McKenney 2006).
class Readers {
public:
  /// The side to leave() from. Lock-free.
  unsigned enter() const noexcept {
    const unsigned side = epoch_.load() & 1u;
    sides_[side].fetch_add(1);
    return side;
  }

  void leave(unsigned side) const noexcept {
    if (sides_[side].fetch_sub(1) == 1) sides_[side].notify_all();
  }

  /// Returns when every reader that entered before has left; readers may enter meanwhile. One writer at a time.
  void wait() noexcept {
    for (int turn = 0; turn < 2; ++turn) { // twice: a reader may have chosen its side long before it counted itself in
      const unsigned side = epoch_.fetch_add(1) & 1u;
      for (std::uint32_t inside; (inside = sides_[side].load()) != 0;) sides_[side].wait(inside);
    }
  }

private:
  mutable std::atomic<std::uint32_t> sides_[2] = {};
  std::atomic<std::uint32_t> epoch_ = 0;
};

} // namespace detail

/// The layers of a model, deployed by a plan that may change. Readers take no lock and never wait; replan() builds only the layers whose bits change and
/// exchanges them one at a time. Stays where it is: passes refer to it.
template <class Layer> class Deployment {
  static_assert(deployable_layer<Layer>, "lsaq: Deployment<L>: L is movable and has `Bytes bytes() const`");

public:
  /// Layers as `plan` says, for a model of `shape`. Throws InvalidArgument if their numbers differ, std::bad_alloc.
  Deployment(const ModelShape& shape, Plan plan, std::vector<Layer> layers, ScaleType scale = ScaleType::f16, Grouping grouping = {})
      : shape_(shape), scale_(scale), grouping_(grouping), plan_(std::move(plan)), layers_(layers.size()) {
    detail::check_layers(shape_, plan_.bits.size());
    detail::check_layers(shape_, layers.size());
    std::vector<std::unique_ptr<const Layer>> owned;
    for (Layer& layer : layers) owned.push_back(std::make_unique<const Layer>(std::move(layer)));
    for (std::size_t l = 0; l < owned.size(); ++l) {
      held_ += owned[l]->bytes();
      layers_[l].store(owned[l].release());
    }
    limit_ = held_;
  }

  Deployment(const Deployment&) = delete;
  Deployment& operator=(const Deployment&) = delete;

  /// Precondition: nobody reads any more.
  ~Deployment() {
    for (std::atomic<const Layer*>& layer : layers_) delete layer.load();
  }

  /// The layers as they are for one pass through the model, in memory until it is destroyed. A pass that asks for each layer once sees the layers of one
  /// moment: two exchanges never fall into the same pass. Keep none longer: an exchange waits for the passes that began before it.
  class Pass {
  public:
    Pass(const Pass&) = delete;
    Pass& operator=(const Pass&) = delete;
    ~Pass() { from_.readers_.leave(side_); }

    const Layer& operator[](std::size_t layer) const noexcept { return *from_.layers_[layer].load(); }

  private:
    friend Deployment;
    explicit Pass(const Deployment& from) noexcept : from_(from), side_(from.readers_.enter()) {}

    const Deployment& from_;
    unsigned side_;
  };

  /// What the layers may hold until the first replan says otherwise: room to shrink in. Without, it is what they hold.
  void allow(Bytes limit) {
    const std::lock_guard one_at_a_time(writer_);
    limit_ = limit;
  }

  /// Begins a pass. Lock-free; may be called from any number of threads.
  Pass read() const noexcept { return Pass(*this); }

  std::size_t layers() const noexcept { return layers_.size(); }

  /// The plan that is deployed now; in the middle of a replan, or after one that failed, that of the layers as they are.
  Plan plan() const {
    const std::lock_guard lock(state_);
    return plan_;
  }

  /// Bytes the layers hold.
  Bytes held() const {
    const std::lock_guard lock(state_);
    return held_;
  }

  /// Deploys `target` instead, holding at most `limit` bytes at every moment; where more is held at the beginning, layers shrink below the limit of the replan
  /// before.
  ///
  /// Runs on the calling thread, one replan at a time, while others read. build(layer, target) makes a layer, typically quantized from the source; it is asked
  /// only for layers of which bits change. Layers that shrink come first, the smallest first, then those that grow, those that free most first: no other order
  /// needs less room. on_exchange(report) is called after each. Stopped or failed, all layers are whole, and plan() tells which: those that were exchanged are
  /// the target's.
  ///
  /// Throws Infeasible, before anything is built, if the target, or the room that its exchanges need, exceeds the limit; InvalidArgument for a plan of another
  /// number of layers or a layer of other bytes than planned; what build and on_exchange throw.
  template <class Build, class OnExchange> ReplanReport replan(const Plan& target, Bytes limit, Build&& build, std::stop_token stop, OnExchange&& on_exchange) {
    const std::lock_guard one_at_a_time(writer_);
    detail::check_layers(shape_, target.bits.size());
    const std::vector<Exchange> exchanges = ordered(target);
    check_room(exchanges, limit);
    ReplanReport report{.held = held_, .peak = held_};
    for (const Exchange& next : exchanges) {
      if (stop.stop_requested()) {
        report.stopped = true;
        return report;
      }
      auto built = std::make_unique<const Layer>(build(next.layer, target));
      if (built->bytes() != next.to)
        fail<InvalidArgument>("layer " + std::to_string(next.layer) + " was built with " + std::to_string(built->bytes()) + " bytes; its plan says " +
                              std::to_string(next.to));
      Plan plan = with_layer(plan_, target, next.layer);
      report.peak = std::max(report.peak, held_ + next.to);
      {
        const std::unique_ptr<const Layer> old(layers_[next.layer].exchange(built.release()));
        readers_.wait();
      }
      report.held = held_ - next.from + next.to;
      ++report.exchanged;
      {
        const std::lock_guard lock(state_);
        plan_ = std::move(plan);
        held_ = report.held;
      }
      on_exchange(static_cast<const ReplanReport&>(report));
    }
    const std::lock_guard lock(state_);
    plan_ = target;
    limit_ = limit;
    return report;
  }

  template <class Build> ReplanReport replan(const Plan& target, Bytes limit, Build&& build, std::stop_token stop = {}) {
    return replan(target, limit, build, std::move(stop), [](const ReplanReport&) {});
  }

private:
  struct Exchange {
    std::size_t layer = 0;
    Bytes from = 0, to = 0;
  };

  std::vector<Exchange> ordered(const Plan& target) const {
    std::vector<Exchange> exchanges;
    for (std::size_t l = 0; l < layers_.size(); ++l) {
      const auto differs = [&](const LinearShape& linear) {
        return effective_bits(linear, plan_.bits_of(l, linear.name)) != effective_bits(linear, target.bits_of(l, linear.name));
      };
      const std::vector<LinearShape>& linears = shape_.layers[l].linears;
      if (std::any_of(linears.begin(), linears.end(), differs))
        exchanges.push_back({l, layers_[l].load()->bytes(), layer_bytes(shape_, target, l, scale_, grouping_)});
    }
    std::stable_sort(exchanges.begin(), exchanges.end(), [](const Exchange& a, const Exchange& b) {
      const bool a_grows = a.to > a.from, b_grows = b.to > b.from;
      if (a_grows != b_grows) return b_grows;
      return a_grows ? a.from > b.from : a.to < b.to;
    });
    return exchanges;
  }

  void check_room(const std::vector<Exchange>& exchanges, Bytes limit) const {
    Bytes held = held_, needed = 0; // beyond the limit
    std::size_t layer = 0;
    for (const Exchange& next : exchanges) {
      const Bytes room = held_ > limit && next.to <= next.from ? std::max(limit, limit_) : limit;
      if (held + next.to > room && held + next.to - room > needed) {
        needed = held + next.to - room;
        layer = next.layer;
      }
      held = held - next.from + next.to;
    }
    if (held > limit) fail<Infeasible>("the layers would hold " + std::to_string(held) + " bytes, the limit is " + std::to_string(limit), held - limit);
    if (needed != 0)
      fail<Infeasible>("there is no room to exchange layer " + std::to_string(layer) + " while its old weights are read: " + std::to_string(needed) +
                           " bytes are missing",
                       needed);
  }

  /// `plan` with one layer as in `target`, its bytes adapted.
  Plan with_layer(Plan plan, const Plan& target, std::size_t layer) const {
    plan.bits[layer] = target.bits[layer];
    for (const LinearShape& linear : shape_.layers[layer].linears) {
      const std::string key = Plan::tensor_key(layer, linear.name);
      if (const auto found = target.tensors.find(key); found != target.tensors.end())
        plan.tensors[key] = found->second;
      else
        plan.tensors.erase(key);
    }
    plan.average_bits = average_bits(shape_, plan);
    const Bytes before = plan.bytes.weights; // 0 where whoever made the plan gave only bits
    plan.bytes.weights = weight_bytes(shape_, plan, scale_, grouping_);
    plan.bytes.total = plan.bytes.total - before + plan.bytes.weights;
    return plan;
  }

  ModelShape shape_;
  ScaleType scale_;
  Grouping grouping_;
  std::mutex writer_;        ///< one replan at a time
  mutable std::mutex state_; ///< of what people ask; never taken by readers of layers
  Plan plan_;
  Bytes held_ = 0;
  Bytes limit_ = 0; ///< of the last replan
  std::vector<std::atomic<const Layer*>> layers_;
  detail::Readers readers_;
};

} // namespace lsaq::inline v0::inline LSAQ_BASELINE
