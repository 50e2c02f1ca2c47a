// A decoder on weights that change between tokens says what one says whose weights were made for the new plan.
#include <lsaq/models/live_weights.hpp>

#include "opened_llama.hpp"

#include <random>
#include <thread>

namespace live_weights_test {

using lsaq::Bytes;
using lsaq::Plan;
using small_llama::Device;
using small_llama::Opened;
namespace llama = lsaq::llama;

constexpr Bytes plenty = Bytes{1} << 40;
const std::vector<lsaq::TokenId> prompt{1, 5, 9, 2, 7, 3};

using LiveDecoder = llama::Decoder<Device, llama::LiveWeights>;

class LiveWeights : public testing::Test {
protected:
  small_llama::Model drawn = small_llama::Model{.layers = 5}.fill();
  Opened model = small_llama::open_gguf(drawn);
  llama::WeightLoader loader{*model.source, model.config};

  Plan plan_of(std::vector<unsigned> bits) const {
    Plan plan{.bits = std::move(bits)};
    plan.average_bits = lsaq::average_bits(llama::model_shape(model.config), plan);
    return plan;
  }
  lsaq::ReplanReport replan(llama::LiveWeights& weights, const Plan& plan, Bytes limit = plenty) const {
    return weights.replan(loader, Device(), plan, limit, {}, [](const lsaq::ReplanReport&) {});
  }
};

/// Continues with the likeliest token.
lsaq::TokenId likeliest(std::span<const float> logits) { return static_cast<lsaq::TokenId>(std::max_element(logits.begin(), logits.end()) - logits.begin()); }

TEST_F(LiveWeights, AreThoseOfAFreshDeploymentFromTheNextTokenOn) {
  const std::vector<Plan> plans{plan_of({8, 8, 8, 8, 8}), plan_of({4, 8, 4, 8, 16}), plan_of({8, 4, 3, 8, 8}), plan_of({16, 16, 16, 16, 16}),
                                plan_of({8, 8, 8, 8, 8})};
  llama::LiveWeights live(model.config, plans[0], model.deploy(plans[0]));
  llama::ModelWeights fresh = model.deploy(plans[0]);
  LiveDecoder decoder(model.config, live, Device(), 64);
  llama::Decoder<Device> reference(model.config, fresh, Device(), 64);
  std::vector<lsaq::TokenId> tokens = prompt;
  for (std::size_t p = 0; p < plans.size(); ++p) {
    if (p != 0) {
      EXPECT_GT(replan(live, plans[p]).exchanged, 0u);
      fresh = model.deploy(plans[p]); // the keys and values of the past stay
      EXPECT_EQ(live.weight_bytes(), fresh.weight_bytes());
    }
    for (int t = 0; t < 8; ++t) {
      const std::span<const float> a = decoder.forward(tokens), b = reference.forward(tokens);
      ASSERT_TRUE(std::equal(a.begin(), a.end(), b.begin())) << "plan " << p << ", token " << t;
      tokens = {likeliest(a)};
    }
  }
}

TEST_F(LiveWeights, HoldWhatTheMemoryModelSays) {
  const lsaq::ModelShape shape = llama::model_shape(model.config);
  const Plan small = plan_of({4, 4, 4, 4, 4}), large = plan_of({8, 8, 8, 8, 8});
  llama::LiveWeights live(model.config, small, model.deploy(small));
  EXPECT_EQ(live.weight_bytes(), lsaq::weight_bytes(shape, small));
  const Bytes limit = lsaq::weight_bytes(shape, large) - shape.fixed_bytes + lsaq::layer_bytes(shape.layers[0], 4);
  const lsaq::ReplanReport up = replan(live, large, limit);
  EXPECT_EQ(up.peak, limit) << "the last small layer beside large ones";
  EXPECT_EQ(live.weight_bytes(), lsaq::weight_bytes(shape, large));
  EXPECT_THROW(replan(live, plan_of({16, 8, 8, 8, 8}), limit), lsaq::Infeasible);
  EXPECT_EQ(live.layers.plan().bits, large.bits);
}

TEST_F(LiveWeights, FollowTwoHundredPlansWhileTokensAreMade) {
  const Plan first = plan_of({8, 8, 8, 8, 8});
  llama::LiveWeights live(model.config, first, model.deploy(first));
  LiveDecoder decoder(model.config, live, Device(), 32);
  std::atomic<bool> stop = false;
  std::atomic<std::size_t> tokens = 0;
  std::thread generation([&] {
    while (!stop) {
      decoder.reset();
      lsaq::TokenId next = likeliest(decoder.forward(prompt));
      for (int t = 0; t < 20; ++t, ++tokens) next = likeliest(decoder.forward(std::span(&next, 1)));
    }
  });
  std::mt19937 random(1);
  Plan last = first;
  for (int cycle = 0; cycle < 200 || tokens < 100; ++cycle) {
    std::vector<unsigned> bits;
    for (int l = 0; l < 5; ++l) bits.push_back(std::vector<unsigned>{4, 8, 16}[random() % 3]);
    last = plan_of(bits);
    replan(live, last);
  }
  stop = true;
  generation.join();
  EXPECT_EQ(live.weight_bytes(), lsaq::weight_bytes(llama::model_shape(model.config), last)) << "nothing is left of other plans";
  decoder.reset();
  const llama::ModelWeights fresh = model.deploy(last);
  llama::Decoder<Device> reference(model.config, fresh, Device(), 32);
  const std::span<const float> a = decoder.forward(prompt), b = reference.forward(prompt);
  EXPECT_TRUE(std::equal(a.begin(), a.end(), b.begin()));
}

TEST_F(LiveWeights, SurviveASourceThatFails) {
  const Plan first = plan_of({8, 8, 8, 8, 8});
  llama::LiveWeights live(model.config, first, model.deploy(first));
  struct Failing {
    const llama::WeightLoader& loader;
    llama::LayerWeights layer(const Device& device, std::size_t number, const std::function<unsigned(std::string_view)>& bits) const {
      if (number == 3) lsaq::fail<lsaq::BadInput>("the file is gone");
      return loader.layer(device, number, bits);
    }
  };
  EXPECT_THROW(live.replan(Failing{loader}, Device(), plan_of({4, 4, 4, 4, 4}), plenty, {}, [](const lsaq::ReplanReport&) {}), lsaq::BadInput);
  EXPECT_EQ(live.layers.plan().bits, (std::vector<unsigned>{4, 4, 4, 8, 8}));
  const llama::ModelWeights fresh = model.deploy(live.layers.plan());
  LiveDecoder decoder(model.config, live, Device(), 32);
  llama::Decoder<Device> reference(model.config, fresh, Device(), 32);
  const std::span<const float> a = decoder.forward(prompt), b = reference.forward(prompt);
  EXPECT_TRUE(std::equal(a.begin(), a.end(), b.begin()));
}

} // namespace live_weights_test
