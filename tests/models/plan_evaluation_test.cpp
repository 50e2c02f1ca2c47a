#include <lsaq/models/plan_evaluation.hpp>
#include <lsaq/thread_pool.hpp>

#include "models/opened_llama.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace plan_evaluation_test {

using lsaq::InvalidArgument;
using lsaq::Plan;
using lsaq::TokenId;
using small_llama::Device;
using small_llama::Model;
using small_llama::Opened;
using small_llama::some_tokens;
namespace llama = lsaq::llama;

std::vector<llama::ScoredWindow> some_windows(const Model& model) {
  return {{some_tokens(model, 70, 1), 1}, {some_tokens(model, 150, 2), 76}, {some_tokens(model, 3, 3), 1}, {some_tokens(model, 66, 4), 30}, {{5}, 1}};
}

/// Four layers: plans that share prefixes in many ways, and one with an exception.
std::vector<Plan> some_plans() {
  return {{.bits = {4, 8, 8, 8}},     {.bits = {8, 8, 8, 8}},
          {.bits = {8, 8, 4, 4}},     {.bits = {8, 8, 4, 8}},
          {.bits = {16, 16, 16, 4}},  {.bits = {8, 8, 4, 4}}, // a copy
          {.bits = {16, 16, 16, 16}}, {.bits = {8, 8, 8, 8}, .tensors = {{"2.mlp.down_proj", 3}, {"0.self_attn.q_proj", 16}}}};
}

llama::PlanScores evaluate(const Opened& opened, const std::vector<llama::ScoredWindow>& windows, const std::vector<Plan>& plans,
                           const llama::PlanEvaluationOptions& options = {}, const Device& device = Device()) {
  const llama::WeightLoader loader(*opened.source, opened.config, device.executor());
  return llama::evaluate_plans(opened.config, loader, loader.outer(device), device, windows, plans, options);
}

/// A small model with a vocabulary beyond one chunk of sums.
Model four_layers() { return Model{.layers = 4, .vocabulary = 700}.fill(); }

/// Logits that follow each token of a window, by the ordinary decoder.
std::vector<std::vector<float>> decoder_logits(const Opened& opened, const llama::ModelWeights& weights, const std::vector<TokenId>& tokens) {
  llama::Decoder<Device> decoder(opened.config, weights, Device(), tokens.size());
  std::vector<std::vector<float>> rows;
  decoder.read(tokens, [&](lsaq::MatrixView states) {
    std::vector<float> logits(states.rows * opened.config.vocabulary);
    decoder.project(states, {logits.data(), states.rows, opened.config.vocabulary});
    for (std::size_t t = 0; t < states.rows; ++t)
      rows.emplace_back(logits.begin() + static_cast<std::ptrdiff_t>(t * opened.config.vocabulary),
                        logits.begin() + static_cast<std::ptrdiff_t>((t + 1) * opened.config.vocabulary));
  });
  return rows;
}

TEST(PlanEvaluation, IsThatOfSeparateDecoders) {
  const Model model = four_layers();
  const Opened opened = small_llama::open_gguf(model);
  const auto windows = some_windows(model);
  const auto plans = some_plans();
  const llama::PlanScores found = evaluate(opened, windows, plans);
  ASSERT_EQ(found.plans.size(), plans.size());
  const llama::ModelWeights unquantized = opened.deploy(small_llama::uniform(model, 16));
  for (std::size_t p = 0; p < plans.size(); ++p) {
    ASSERT_EQ(found.plans[p].size(), windows.size());
    const llama::ModelWeights weights = opened.deploy(plans[p]);
    for (std::size_t w = 0; w < windows.size(); ++w) {
      const llama::ScoredWindow& window = windows[w];
      const auto reference = decoder_logits(opened, unquantized, window.tokens), logits = decoder_logits(opened, weights, window.tokens);
      double nll = 0, kl = 0;
      std::size_t agreements = 0;
      for (std::size_t t = window.first_scored; t < window.tokens.size(); ++t) {
        const std::vector<float>&a = reference[t - 1], &b = logits[t - 1];
        double za = 0, zb = 0;
        for (std::size_t i = 0; i < a.size(); ++i) za += std::exp(double{a[i]}), zb += std::exp(double{b[i]});
        nll += std::log(zb) - b[window.tokens[t]];
        for (std::size_t i = 0; i < a.size(); ++i) kl += std::exp(double{a[i]}) / za * (double{a[i]} - double{b[i]} - std::log(za / zb));
        agreements += std::max_element(a.begin(), a.end()) - a.begin() == std::max_element(b.begin(), b.end()) - b.begin();
      }
      const llama::WindowScore& score = found.plans[p][w];
      EXPECT_EQ(score.tokens, window.targets());
      EXPECT_NEAR(score.nll, nll, 1e-5 * nll + 1e-12) << p << " " << w;
      EXPECT_NEAR(score.kl, kl, 1e-4 * kl + 1e-6 * static_cast<double>(score.tokens)) << p << " " << w;
      EXPECT_NEAR(static_cast<double>(score.agreements), static_cast<double>(agreements), 1) << "one may be a near tie";
    }
  }
}

TEST(PlanEvaluation, TheReferenceIsTheUnquantizedPlan) {
  const Model model = four_layers();
  const Opened opened = small_llama::open_gguf(model);
  const auto windows = some_windows(model);
  const llama::PlanScores found = evaluate(opened, windows, some_plans());
  EXPECT_EQ(found.reference, found.plans[6]) << "all layers at 16 bits";
  for (std::size_t w = 0; w < windows.size(); ++w) {
    EXPECT_EQ(found.reference[w].kl, 0);
    EXPECT_EQ(found.reference[w].agreements, windows[w].targets());
    EXPECT_EQ(found.reference[w].tokens, windows[w].targets());
  }
  EXPECT_EQ(evaluate(opened, windows, {}).reference, found.reference) << "it needs no plans";
}

TEST(PlanEvaluation, SharingChangesNoBit) {
  const Model model = four_layers();
  const Opened opened = small_llama::open_folder(model);
  const auto windows = some_windows(model);
  const auto plans = some_plans();
  const llama::PlanScores together = evaluate(opened, windows, plans);
  for (std::size_t p = 0; p < plans.size(); ++p) EXPECT_EQ(evaluate(opened, windows, {plans[p]}).plans[0], together.plans[p]) << p;
  EXPECT_EQ(together.plans[2], together.plans[5]);
}

TEST(PlanEvaluation, ChunksChangeNoBit) {
  const Model model = four_layers();
  const Opened opened = small_llama::open_gguf(model);
  const auto windows = some_windows(model);
  const auto plans = some_plans();
  const llama::PlanScores whole = evaluate(opened, windows, plans);
  for (const llama::PlanEvaluationOptions& options : {llama::PlanEvaluationOptions{.memory = 0}, {.memory = 200'000}, {.largest_chunk = 2}}) {
    const llama::PlanScores parts = evaluate(opened, windows, plans, options);
    EXPECT_EQ(parts.reference, whole.reference);
    EXPECT_EQ(parts.plans, whole.plans);
  }
}

TEST(PlanEvaluation, DoesNotDependOnThreads) {
  const Model model = Model{.layers = 2, .hidden = 96, .ffn = 200, .vocabulary = 600}.fill();
  const Opened opened = small_llama::open_gguf(model);
  const std::vector<llama::ScoredWindow> windows{{some_tokens(model, 100), 1}};
  const std::vector<Plan> plans{{.bits = {8, 4}}, {.bits = {4, 8}}};
  lsaq::ThreadPool pool(4);
  EXPECT_EQ(evaluate(opened, windows, plans).plans, evaluate(opened, windows, plans, {}, Device(pool)).plans);
}

TEST(PlanEvaluation, TellsOfChunksAndSteps) {
  const Model model = four_layers();
  const Opened opened = small_llama::open_gguf(model);
  const auto windows = some_windows(model);
  const auto plans = some_plans();
  const llama::WeightLoader loader(*opened.source, opened.config);
  const llama::OuterWeights outer = loader.outer(Device());
  llama::PlanScores collected;
  collected.plans.resize(plans.size());
  std::vector<std::size_t> firsts;
  std::size_t last = 0, total = 0;
  const auto run = [&](auto&& on_step) {
    return llama::evaluate_plans(
        opened.config, loader, outer, Device(), windows, plans, {.largest_chunk = 2},
        [&](std::size_t first, const llama::PlanScores& chunk) {
          firsts.push_back(first);
          collected.reference.insert(collected.reference.end(), chunk.reference.begin(), chunk.reference.end());
          for (std::size_t p = 0; p < plans.size(); ++p) collected.plans[p].insert(collected.plans[p].end(), chunk.plans[p].begin(), chunk.plans[p].end());
        },
        on_step);
  };
  const llama::PlanScores all = run([&](std::size_t done, std::size_t of) {
    EXPECT_GT(done, last);
    last = done;
    total = of;
  });
  EXPECT_THAT(firsts, testing::ElementsAre(0u, 2u, 4u));
  EXPECT_EQ(last, total);
  EXPECT_EQ(collected.reference, all.reference);
  EXPECT_EQ(collected.plans, all.plans);

  // What a callback throws ends the evaluation; finished chunks have been told.
  firsts.clear();
  struct Stop {};
  EXPECT_THROW(run([&](std::size_t done, std::size_t of) {
                 if (done > of / 2) throw Stop{};
               }),
               Stop);
  EXPECT_THAT(firsts, testing::ElementsAre(0u));
}

TEST(PlanEvaluation, RefusesWhatItCannotEvaluate) {
  const Model model = four_layers();
  const Opened opened = small_llama::open_gguf(model);
  const std::vector<llama::ScoredWindow> windows{{{1, 2, 3}, 1}};
  const auto message = [&](const std::vector<llama::ScoredWindow>& of, const std::vector<Plan>& plans) {
    return make_files::message_of<InvalidArgument>([&] { evaluate(opened, of, plans); });
  };
  make_files::expect_mentions(message(windows, {{.bits = {8, 8, 8}}}), {"3 layers", "has 4"});
  make_files::expect_mentions(message(windows, {{.bits = {8, 8, 8, 9}}}), {"9 bits", "layer 3", "2 to 8"});
  make_files::expect_mentions(message({{{1, 700}, 1}}, {}), {"token id 700"});
  make_files::expect_mentions(message({{{1, 2}, 0}}, {}), {"first token"});
  make_files::expect_mentions(message({}, {}), {"no windows"});
  make_files::expect_mentions(message({{{}, 1}}, {}), {"without tokens"});
}

/// The runs of each layer, checked by following the streams.
TEST(SharedPrefixes, RunEveryDistinctPrefixOnce) {
  std::mt19937 random(5);
  for (int round = 0; round < 50; ++round) {
    const std::size_t layers = 1 + random() % 6;
    std::vector<Plan> plans(random() % 12);
    for (Plan& plan : plans)
      for (std::size_t l = 0; l < layers; ++l) plan.bits.push_back(std::array{4u, 8u, 16u}[random() % 3]);
    const llama::SharedPrefixes shared = llama::shared_prefixes(layers, plans);
    const std::vector<unsigned> unquantized(layers, 16);

    std::set<std::vector<unsigned>> prefixes;
    for (std::size_t length = 1; length <= layers; ++length) {
      prefixes.emplace(unquantized.begin(), unquantized.begin() + static_cast<std::ptrdiff_t>(length));
      for (const Plan& plan : plans) prefixes.emplace(plan.bits.begin(), plan.bits.begin() + static_cast<std::ptrdiff_t>(length));
    }
    EXPECT_EQ(shared.layer_runs(), prefixes.size());

    std::vector<std::vector<unsigned>> streams(shared.streams); // what each slot holds
    ASSERT_EQ(shared.layers.size(), layers);
    for (std::size_t l = 0; l < layers; ++l) {
      std::set<llama::LayerBits> widths;
      for (const auto& variant : shared.layers[l]) {
        EXPECT_TRUE(widths.insert(variant.bits).second) << "a layer is loaded once at each width";
        for (const auto& run : variant.runs) {
          ASSERT_EQ(streams[run.from].size(), l) << "not overwritten by a run before it";
          std::vector<unsigned> next = streams[run.from];
          next.push_back(variant.bits[0]);
          streams[run.to] = next;
        }
      }
    }
    EXPECT_EQ(streams[0], unquantized);
    for (std::size_t p = 0; p < plans.size(); ++p) EXPECT_EQ(streams[shared.streams_of[p]], plans[p].bits);
    EXPECT_EQ(std::set<std::vector<unsigned>>(streams.begin(), streams.end()).size(), shared.streams) << "no stream twice";
  }
}

TEST(SharedPrefixes, SingleLayersShareHalf) {
  constexpr std::size_t layers = 30;
  std::vector<Plan> plans(layers, {.bits = std::vector<unsigned>(layers, 16)});
  for (std::size_t l = 0; l < layers; ++l) plans[l].bits[l] = 4;
  const llama::SharedPrefixes shared = llama::shared_prefixes(layers, plans);
  EXPECT_EQ(shared.layer_runs(), layers + layers * (layers + 1) / 2);
  EXPECT_EQ(shared.streams, layers + 1);
}

} // namespace plan_evaluation_test
