// Layers that are exchanged while they are read: what is built, in which order, within which limit, and what is left after a failure.
#include <lsaq/deployment/deployment.hpp>

#include "planning/shapes.hpp"

#include <formats/make_files.hpp>

#include <random>
#include <thread>

namespace deployment_test {

using lsaq::Bytes;
using lsaq::Plan;
using lsaq::ReplanReport;
using make_files::expect_mentions;
using make_files::message_of;
using testing::ElementsAre;
using testing::ElementsAreArray;

/// Stands for a layer's weights: how many there are is counted, and whoever reads one after its end finds another number.
struct FakeLayer {
  static constexpr unsigned alive = 0x600df00d;
  static inline std::atomic<int> count = 0;

  std::size_t layer = 0;
  unsigned bits = 0;
  Bytes size = 0;
  unsigned canary = alive;

  FakeLayer(std::size_t number, unsigned width, Bytes bytes) : layer(number), bits(width), size(bytes) { ++count; }
  FakeLayer(FakeLayer&& other) noexcept : layer(other.layer), bits(other.bits), size(other.size) { ++count; }
  FakeLayer& operator=(FakeLayer&&) = default;
  ~FakeLayer() {
    canary = 0;
    --count;
  }
  Bytes bytes() const { return size; }
};

using Deployment = lsaq::Deployment<FakeLayer>;
static_assert(lsaq::deployable_layer<FakeLayer> && !lsaq::deployable_layer<int>);

FakeLayer build(const lsaq::ModelShape& shape, std::size_t layer, const Plan& plan) { return {layer, plan.bits[layer], lsaq::layer_bytes(shape, plan, layer)}; }

std::vector<FakeLayer> build_all(const lsaq::ModelShape& shape, const Plan& plan) {
  std::vector<FakeLayer> layers;
  for (std::size_t l = 0; l < plan.bits.size(); ++l) layers.push_back(build(shape, l, plan));
  return layers;
}

/// Bytes of the layers alone.
Bytes layers_at(const lsaq::ModelShape& shape, const Plan& plan) { return lsaq::weight_bytes(shape, plan) - shape.fixed_bytes; }

struct Deployed {
  lsaq::ModelShape shape;
  Deployment deployment;

  Deployed(lsaq::ModelShape model, Plan plan) : shape(std::move(model)), deployment(shape, plan, build_all(shape, plan)) {}

  std::vector<std::size_t> built = {};
  ReplanReport replan(std::vector<unsigned> bits, Bytes limit, std::stop_token stop = {}) {
    built.clear();
    return deployment.replan(
        {.bits = std::move(bits)}, limit,
        [&](std::size_t layer, const Plan& plan) {
          built.push_back(layer);
          return build(shape, layer, plan);
        },
        std::move(stop));
  }
  void expect_whole() const {
    const auto pass = deployment.read();
    const Plan plan = deployment.plan();
    Bytes held = 0;
    for (std::size_t l = 0; l < plan.bits.size(); ++l) {
      EXPECT_EQ(pass[l].canary, FakeLayer::alive);
      EXPECT_EQ(pass[l].layer, l);
      EXPECT_EQ(pass[l].bits, plan.bits[l]);
      held += pass[l].bytes();
    }
    EXPECT_EQ(deployment.held(), held);
    EXPECT_EQ(held, layers_at(shape, plan));
  }
};

constexpr Bytes plenty = Bytes{1} << 40;

class LiveLayers : public testing::Test {
protected:
  void TearDown() override { EXPECT_EQ(FakeLayer::count, 0) << "layers that were not freed"; }
};

TEST_F(LiveLayers, OnlyThoseThatChangeAreBuilt) {
  Deployed model(shapes::small(4), {.bits = {8, 8, 4, 16}});
  const ReplanReport report = model.replan({8, 4, 4, 8}, plenty);
  EXPECT_THAT(model.built, ElementsAre(1, 3));
  EXPECT_EQ(report.exchanged, 2u);
  EXPECT_EQ(report.held, model.deployment.held());
  EXPECT_FALSE(report.stopped);
  EXPECT_THAT(model.deployment.plan().bits, ElementsAre(8, 4, 4, 8));
  model.expect_whole();
  EXPECT_EQ(FakeLayer::count, 4) << "old ones are freed";
  EXPECT_EQ(model.replan({8, 4, 4, 8}, plenty).exchanged, 0u);
}

TEST_F(LiveLayers, ExceptionsForLinearsCount) {
  Deployed model(shapes::llama("tiny", 2, 48, 80, 16, 10), {.bits = {8, 8}});
  const Plan target{.bits = {8, 8}, .tensors = {{"1.mlp.down_proj", 4}}};
  std::vector<std::size_t> built;
  const auto make = [&](std::size_t layer, const Plan& plan) {
    built.push_back(layer);
    return build(model.shape, layer, plan);
  };
  model.deployment.replan(target, plenty, make);
  EXPECT_THAT(built, ElementsAre(1));
  EXPECT_EQ(model.deployment.plan().bits_of(1, "mlp.down_proj"), 4u);
  EXPECT_EQ(model.deployment.held(), layers_at(model.shape, target));
  model.deployment.replan({.bits = {8, 8}}, plenty, make);
  EXPECT_THAT(built, ElementsAre(1, 1));
  EXPECT_TRUE(model.deployment.plan().tensors.empty());
}

TEST_F(LiveLayers, PinnedLinearsChangeNothing) {
  lsaq::ModelShape shape = shapes::small(1);
  shape.layers[0].linears[0].pinned = 16;
  Deployed model(shape, {.bits = {8}});
  EXPECT_EQ(model.replan({4}, plenty).exchanged, 0u);
}

TEST_F(LiveLayers, ShrinkFirstAndThenGrow) {
  lsaq::ModelShape shape = shapes::small(5);
  shape.layers[1].linears[0].rows = 200;
  shape.layers[3].linears[0].rows = 50;
  Deployed model(shape, {.bits = {4, 8, 8, 4, 8}});
  model.replan({8, 4, 4, 8, 8}, plenty);
  EXPECT_THAT(model.built, ElementsAre(2, 1, 0, 3)) << "small before large, then what frees most";
}

TEST_F(LiveLayers, NeverHoldMoreThanTheLimit) {
  Deployed model(shapes::small(4), {.bits = {8, 8, 4, 4}});
  const Bytes held = model.deployment.held(), one = shapes::small_4;
  // The same bytes afterwards: one new small layer beside the old ones is the most that is needed.
  EXPECT_EQ(model.replan({4, 4, 8, 8}, held + one).peak, held + one);
  model.expect_whole();
  const std::string refusal = message_of<lsaq::Infeasible>([&] { model.replan({8, 8, 4, 4}, held + one - 1); });
  expect_mentions(refusal, {"no room to exchange layer", "1 bytes are missing"});
  EXPECT_TRUE(model.built.empty()) << "known before anything is built";
  EXPECT_THAT(model.deployment.plan().bits, ElementsAre(4, 4, 8, 8));
  expect_mentions(message_of<lsaq::Infeasible>([&] { model.replan({8, 8, 8, 8}, held); }), {"would hold", std::to_string(held)});
}

TEST_F(LiveLayers, GoBelowALowerLimitUnderTheOldOne) {
  Deployed model(shapes::small(4), {.bits = {8, 8, 8, 8}});
  const Bytes at_8 = model.deployment.held(), room = shapes::small_4;
  EXPECT_THROW(model.replan({4, 8, 8, 8}, at_8 - 1), lsaq::Infeasible) << "nothing was granted beyond what is held";
  model.replan({8, 8, 8, 8}, at_8 + room); // the old limit
  const Bytes lower = 4 * shapes::small_4 + shapes::small_8;
  const ReplanReport report = model.replan({4, 4, 4, 4}, lower);
  EXPECT_EQ(report.peak, at_8 + room);
  EXPECT_EQ(report.held, 4 * shapes::small_4);
  EXPECT_EQ(model.replan({8, 4, 4, 4}, lower).peak, lower);
  EXPECT_THROW(model.replan({8, 8, 4, 4}, lower), lsaq::Infeasible) << "the old limit is gone";
}

TEST_F(LiveLayers, FailuresLeaveEverythingWhole) {
  const std::vector<unsigned> before{16, 8, 4, 8}, after{8, 4, 8, 4};
  for (std::size_t failing = 0; failing < 4; ++failing) {
    Deployed model(shapes::small(4), {.bits = before});
    std::size_t step = 0;
    const auto make = [&](std::size_t layer, const Plan& plan) {
      if (step++ == failing) throw std::bad_alloc();
      return build(model.shape, layer, plan);
    };
    EXPECT_THROW(model.deployment.replan({.bits = after}, plenty, make), std::bad_alloc);
    const Plan now = model.deployment.plan();
    std::size_t exchanged = 0;
    for (std::size_t l = 0; l < 4; ++l) {
      EXPECT_TRUE(now.bits[l] == before[l] || now.bits[l] == after[l]);
      exchanged += now.bits[l] == after[l];
    }
    EXPECT_EQ(exchanged, failing);
    EXPECT_DOUBLE_EQ(now.average_bits, failing == 0 ? 0 : lsaq::average_bits(model.shape, now)) << "of the plan as given, until a layer is exchanged";
    EXPECT_EQ(now.bytes.weights, failing == 0 ? 0 : lsaq::weight_bytes(model.shape, now));
    EXPECT_EQ(now.bytes.total, now.bytes.weights);
    model.expect_whole();
    model.replan(after, plenty);
    EXPECT_EQ(model.built.size(), 4 - failing) << "only what is left";
    model.expect_whole();
    model.replan(before, plenty);
    EXPECT_EQ(model.deployment.plan().bits, before);
  }
}

TEST_F(LiveLayers, WrongBytesAreNotDeployed) {
  Deployed model(shapes::small(2), {.bits = {8, 8}});
  const auto wrong = [](std::size_t layer, const Plan& plan) { return FakeLayer(layer, plan.bits[layer], 7); };
  expect_mentions(message_of<lsaq::InvalidArgument>([&] { model.deployment.replan({.bits = {4, 8}}, plenty, wrong); }), {"layer 0", "7 bytes", "3410"});
  model.expect_whole();
  expect_mentions(message_of<lsaq::InvalidArgument>([&] { model.replan({4, 8, 8}, plenty); }), {"3 layers", "model of 2"});
}

TEST_F(LiveLayers, CanBeStoppedBetweenLayers) {
  Deployed model(shapes::small(4), {.bits = {8, 8, 8, 8}});
  std::stop_source stop;
  const ReplanReport report = model.deployment.replan(
      {.bits = {4, 4, 4, 4}}, plenty, [&](std::size_t l, const Plan& plan) { return build(model.shape, l, plan); }, stop.get_token(),
      [&](const ReplanReport& so_far) {
        if (so_far.exchanged == 2) stop.request_stop();
      });
  EXPECT_TRUE(report.stopped);
  EXPECT_EQ(report.exchanged, 2u);
  EXPECT_THAT(model.deployment.plan().bits, ElementsAre(4, 4, 8, 8));
  model.expect_whole();
}

/// What the limit must be at least in the best of all orders.
Bytes least_room(const lsaq::ModelShape& shape, const std::vector<unsigned>& from, const std::vector<unsigned>& to) {
  std::vector<std::size_t> changed;
  for (std::size_t l = 0; l < from.size(); ++l)
    if (from[l] != to[l]) changed.push_back(l);
  Bytes least = plenty;
  do {
    std::vector<unsigned> bits = from;
    Bytes peak = layers_at(shape, {.bits = from});
    for (const std::size_t l : changed) {
      peak = std::max(peak, layers_at(shape, {.bits = bits}) + lsaq::layer_bytes(shape.layers[l], to[l]));
      bits[l] = to[l];
    }
    least = std::min(least, peak);
  } while (std::next_permutation(changed.begin(), changed.end()));
  return least;
}

TEST_F(LiveLayers, NoOtherOrderNeedsLessRoom) {
  std::mt19937 random(3);
  const auto any_width = [&] { return std::vector<unsigned>{2, 3, 4, 6, 8, 16}[random() % 6]; };
  for (int round = 0; round < 300; ++round) {
    lsaq::ModelShape shape = shapes::small(1 + random() % 5);
    std::vector<unsigned> from, to;
    for (lsaq::LayerShape& layer : shape.layers) {
      layer.linears[0].rows = 10 + random() % 200;
      from.push_back(any_width());
      to.push_back(any_width());
    }
    const Bytes least = least_room(shape, from, to);
    Deployed model(shape, {.bits = from});
    model.replan(from, least);
    EXPECT_LE(model.replan(to, least).peak, least);
    if (model.built.empty()) continue;
    Deployed other(shape, {.bits = from});
    EXPECT_THROW(other.replan(to, least - 1), lsaq::Infeasible);
  }
}

TEST_F(LiveLayers, APassKeepsWhatItReads) {
  Deployed model(shapes::small(2), {.bits = {8, 8}});
  std::thread writer;
  std::atomic<bool> done = false;
  {
    const auto pass = model.deployment.read();
    const FakeLayer& old = pass[0];
    writer = std::thread([&] {
      model.replan({4, 8}, plenty);
      done = true;
    });
    while (pass[0].bits == 8) std::this_thread::yield(); // exchanged, but not freed
    EXPECT_EQ(old.canary, FakeLayer::alive);
    EXPECT_EQ(FakeLayer::count, 3);
    EXPECT_FALSE(done);
  }
  writer.join();
  EXPECT_EQ(FakeLayer::count, 2);
}

TEST_F(LiveLayers, AreReadWhileTheyChange) {
  Deployed model(shapes::small(6), {.bits = std::vector<unsigned>(6, 8)});
  std::atomic<bool> stop = false;
  std::atomic<std::size_t> passes = 0;
  std::vector<std::thread> readers;
  for (int r = 0; r < 3; ++r)
    readers.emplace_back([&] {
      while (!stop) {
        const auto pass = model.deployment.read();
        for (std::size_t l = 0; l < 6; ++l) {
          const FakeLayer& layer = pass[l];
          if (layer.canary != FakeLayer::alive || layer.layer != l) std::abort();
        }
        ++passes;
      }
    });
  std::mt19937 random(5);
  for (int cycle = 0; cycle < 200 || passes < 200; ++cycle) {
    std::vector<unsigned> bits;
    for (int l = 0; l < 6; ++l) bits.push_back(std::vector<unsigned>{4, 8, 16}[random() % 3]);
    model.replan(bits, plenty);
    ASSERT_EQ(model.deployment.plan().bits, bits);
  }
  stop = true;
  for (std::thread& reader : readers) reader.join();
  model.expect_whole();
  EXPECT_EQ(FakeLayer::count, 6);
}

TEST_F(LiveLayers, ReplansFromSeveralThreadsTakeTurns) {
  Deployed model(shapes::small(3), {.bits = {8, 8, 8}});
  std::vector<std::thread> writers;
  for (const unsigned width : {4u, 16u})
    writers.emplace_back([&, width] {
      for (int i = 0; i < 50; ++i)
        model.deployment.replan({.bits = {width, width, width}}, plenty, [&](std::size_t l, const Plan& plan) { return build(model.shape, l, plan); });
    });
  for (std::thread& writer : writers) writer.join();
  const std::vector<unsigned> bits = model.deployment.plan().bits;
  EXPECT_THAT(bits, testing::AnyOf(ElementsAre(4, 4, 4), ElementsAre(16, 16, 16)));
  model.expect_whole();
}

} // namespace deployment_test
