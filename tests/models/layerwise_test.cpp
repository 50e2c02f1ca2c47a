#include <lsaq/models/layerwise.hpp>
#include <lsaq/thread_pool.hpp>

#include "models/opened_llama.hpp"

#include <gtest/gtest.h>

namespace layerwise_test {

using lsaq::ElementType;
using lsaq::InvalidArgument;
using small_llama::Device;
using small_llama::distance;
using small_llama::joined;
using small_llama::Model;
using small_llama::Opened;
using small_llama::some_tokens;
namespace llama = lsaq::llama;

/// States by boundary and window.
using States = std::map<std::pair<std::size_t, std::size_t>, std::vector<float>>;

States run(const Opened& opened, const llama::Windows& windows, const Device& device = Device(), std::vector<std::string>* events = nullptr) {
  States states;
  const llama::WeightLoader loader(*opened.source, opened.config, device.executor());
  llama::run_layerwise(
      opened.config, loader, loader.outer(device), device, windows,
      [&](std::size_t boundary, std::size_t window, lsaq::MatrixView view) {
        EXPECT_EQ(view.rows, windows[window].size());
        EXPECT_EQ(view.columns, opened.config.hidden);
        const auto* values = static_cast<const float*>(view.data);
        EXPECT_TRUE(states.try_emplace({boundary, window}, values, values + view.rows * view.columns).second) << "each is shown once";
        if (events != nullptr) events->push_back("states " + std::to_string(boundary) + " " + std::to_string(window));
      },
      [&](std::size_t layer, const llama::LayerWeights& weights) {
        for (const lsaq::DeployedMatrix& linear : weights.linears) EXPECT_EQ(linear.packed(), nullptr);
        if (events != nullptr) events->push_back("weights " + std::to_string(layer));
      });
  return states;
}

TEST(Layerwise, BoundaryStatesAreThePlainDecoders) {
  const Model model = Model{.layers = 3, .heads = 6, .kv_heads = 2, .head_size = 10, .tied = false}.fill();
  const Opened opened = small_llama::open_folder(model);
  const llama::Windows windows = {some_tokens(model, 5, 1), some_tokens(model, 1, 2), some_tokens(model, 130, 3), some_tokens(model, 70, 4)};
  const States states = run(opened, windows);
  EXPECT_EQ(states.size(), 4u * windows.size());
  for (std::size_t w = 0; w < windows.size(); ++w) {
    const auto boundaries = small_llama::plain_decoder(model, false).run(windows[w]);
    for (std::size_t b = 0; b <= model.layers; ++b) EXPECT_LT(distance(states.at({b, w}), joined(boundaries[b])), 2e-5) << "boundary " << b << ", window " << w;
  }
}

TEST(Layerwise, LastBoundaryIsTheOrdinaryDecoders) {
  const Model model = Model{.layers = 3}.fill();
  const Opened opened = small_llama::open_gguf(model);
  const llama::Windows windows = {some_tokens(model, 150, 1), some_tokens(model, 30, 2)};
  const States states = run(opened, windows);
  const llama::ModelWeights weights = opened.deploy(small_llama::uniform(model, 16));
  llama::Decoder<Device> decoder(opened.config, weights, Device(), 150, ElementType::f32);
  for (std::size_t w = 0; w < windows.size(); ++w) {
    decoder.reset();
    const std::vector<float> wanted = small_llama::read_states(decoder, windows[w]);
    EXPECT_LT(distance(states.at({3, w}), small_llama::Doubles(wanted.begin(), wanted.end())), 1e-5);
  }
}

TEST(Layerwise, FirstBoundaryIsTheEmbedding) {
  const Model model = Model{}.fill();
  const llama::Windows windows = {{5, 5, 96}};
  const std::vector<float> states = run(small_llama::open_gguf(model), windows).at({0, 0});
  const std::vector<float>& rows = model.tensors.at("model.embed_tokens.weight").values;
  for (std::size_t t = 0; t < 3; ++t)
    for (std::size_t i = 0; i < model.hidden; ++i) EXPECT_EQ(states[t * model.hidden + i], rows[windows[0][t] * model.hidden + i]);
}

TEST(Layerwise, ShowsALayersWeightsBeforeItsStates) {
  const Model model = Model{}.fill();
  std::vector<std::string> events;
  (void)run(small_llama::open_gguf(model), {{1, 2}, {3}}, Device(), &events);
  EXPECT_EQ(events, (std::vector<std::string>{"states 0 0", "states 0 1", "weights 0", "states 1 0", "states 1 1", "weights 1", "states 2 0", "states 2 1"}));
}

TEST(Layerwise, WindowsDoNotSeeEachOther) {
  const Model model = Model{}.fill();
  const Opened opened = small_llama::open_gguf(model);
  const auto a = some_tokens(model, 20, 1), b = some_tokens(model, 33, 2);
  EXPECT_EQ(run(opened, {a, b}).at({2, 1}), run(opened, {b}).at({2, 0}));
}

TEST(Layerwise, DoesNotDependOnThreads) {
  const Model model = Model{.hidden = 96, .ffn = 200, .heads = 6, .kv_heads = 3, .head_size = 16}.fill();
  const Opened opened = small_llama::open_gguf(model);
  lsaq::ThreadPool pool(4);
  const llama::Windows windows = {some_tokens(model, 90)};
  EXPECT_EQ(run(opened, windows), run(opened, windows, Device(pool)));
}

/// A pass with all it refers to.
struct Passing {
  Passing(const Opened& opened, llama::Windows texts)
      : windows(std::move(texts)), loader(*opened.source, opened.config, device.executor()), outer(loader.outer(device)),
        pass(opened.config, loader, outer, device, windows) {}

  void run_layer() {
    pass.run_layer([](std::size_t, const llama::LayerWeights&) {}, [](std::size_t) {});
  }
  std::vector<float> states() const {
    const lsaq::MatrixView view = pass.states();
    EXPECT_EQ(view.stride, view.columns);
    const auto* values = static_cast<const float*>(view.data);
    return {values, values + view.rows * view.columns};
  }

  llama::Windows windows;
  Device device;
  llama::WeightLoader loader;
  llama::OuterWeights outer;
  llama::LayerwisePass<Device> pass;
};

/// The states of all windows at each boundary, one window after another.
std::vector<std::vector<float>> boundaries_of(const Opened& opened, const llama::Windows& windows) {
  std::vector<std::vector<float>> boundaries(opened.config.layers + 1);
  for (const auto& [place, states] : run(opened, windows)) boundaries[place.first].insert(boundaries[place.first].end(), states.begin(), states.end());
  return boundaries;
}

TEST(LayerwisePass, ShowsWhatRunLayerwiseShows) {
  const Model model = Model{.layers = 3}.fill();
  const Opened opened = small_llama::open_gguf(model);
  const llama::Windows windows = {some_tokens(model, 40, 1), some_tokens(model, 1, 2), some_tokens(model, 70, 3)};
  const std::vector<std::vector<float>> expected = boundaries_of(opened, windows);
  Passing run(opened, windows);
  for (std::size_t b = 0; b <= 3; ++b) {
    EXPECT_EQ(run.pass.boundary(), b);
    EXPECT_EQ(run.pass.complete(), b == 3);
    EXPECT_EQ(run.pass.states().rows, 111u);
    EXPECT_EQ(run.states(), expected[b]) << "boundary " << b;
    if (b < 3) run.run_layer();
  }
}

TEST(LayerwisePass, ResumedAtAnyBoundaryGivesTheSameBits) {
  const Model model = Model{.layers = 3}.fill();
  const Opened opened = small_llama::open_gguf(model);
  const llama::Windows windows = {some_tokens(model, 33, 1), some_tokens(model, 5, 2)};
  const std::vector<std::vector<float>> expected = boundaries_of(opened, windows);
  for (std::size_t stop = 0; stop <= 3; ++stop) {
    Passing resumed(opened, windows);
    resumed.pass.resume_at(stop, expected[stop]);
    EXPECT_EQ(resumed.pass.boundary(), stop);
    EXPECT_EQ(resumed.states(), expected[stop]);
    while (!resumed.pass.complete()) {
      resumed.run_layer();
      EXPECT_EQ(resumed.states(), expected[resumed.pass.boundary()]) << "resumed at " << stop << ", boundary " << resumed.pass.boundary();
    }
  }
}

TEST(LayerwisePass, ShowsWeightsOnceAndThenEveryWindow) {
  const Model model = Model{}.fill();
  const Opened opened = small_llama::open_gguf(model);
  Passing run(opened, {{1, 2}, {3}});
  std::vector<std::string> events;
  while (!run.pass.complete())
    run.pass.run_layer([&](std::size_t layer, const llama::LayerWeights&) { events.push_back("weights " + std::to_string(layer)); },
                       [&](std::size_t window) { events.push_back("window " + std::to_string(window)); });
  EXPECT_EQ(events, (std::vector<std::string>{"weights 0", "window 0", "window 1", "weights 1", "window 0", "window 1"}));
}

TEST(LayerwisePass, RefusesStatesOfAnotherPass) {
  const Model model = Model{}.fill();
  const Opened opened = small_llama::open_gguf(model);
  Passing run(opened, {{1, 2}, {3}});
  const std::vector<float> good(3 * model.hidden, 1), fewer(2 * model.hidden), more(3 * model.hidden + 1);
  const std::vector<float> before = run.states();
  const auto refusal = [&](std::size_t boundary, const std::vector<float>& states) {
    const std::string message = make_files::message_of<InvalidArgument>([&] { run.pass.resume_at(boundary, states); });
    EXPECT_EQ(run.pass.boundary(), 0u);
    EXPECT_EQ(run.states(), before);
    return message;
  };
  make_files::expect_mentions(refusal(1, fewer), {"not the hidden states of this pass"});
  make_files::expect_mentions(refusal(1, more), {"not the hidden states of this pass"});
  make_files::expect_mentions(refusal(1, {}), {"not the hidden states of this pass"});
  make_files::expect_mentions(refusal(3, good), {"not the hidden states of this pass"});
  run.pass.resume_at(1, good);
  EXPECT_EQ(run.states(), good);
}

TEST(LayerwisePass, RefusesWindowsItCannotUse) {
  const Model model = Model{}.fill();
  const Opened opened = small_llama::open_gguf(model);
  const auto refusal = [&](const llama::Windows& windows) { return make_files::message_of<InvalidArgument>([&] { Passing run(opened, windows); }); };
  make_files::expect_mentions(refusal({{1}, {2, 97}}), {"token id 97"});
  make_files::expect_mentions(refusal({{1}, {}}), {"a calibration window has no tokens"});
  make_files::expect_mentions(refusal({}), {"no calibration tokens"});
}

TEST(Layerwise, RefusesTokensItCannotUse) {
  const Model model = Model{}.fill();
  const Opened opened = small_llama::open_gguf(model);
  make_files::expect_mentions(make_files::message_of<InvalidArgument>([&] { run(opened, {{1}, {2, 97}}); }), {"token id 97"});
  EXPECT_THROW(run(opened, {}), InvalidArgument);
  EXPECT_THROW(run(opened, {{}}), InvalidArgument);
}

} // namespace layerwise_test
