#include <lsaq/models/layer_output_error.hpp>
#include <lsaq/thread_pool.hpp>

#include "models/opened_llama.hpp"

#include <gtest/gtest.h>

namespace layer_output_error_test {

using small_llama::Device;
using small_llama::Doubles;
using small_llama::Model;
using small_llama::Opened;
using small_llama::some_tokens;
namespace llama = lsaq::llama;

std::vector<std::vector<llama::LayerOutputError>> measure(const Opened& opened, const llama::Windows& windows, unsigned bits, const Device& device = Device()) {
  const llama::WeightLoader loader(*opened.source, opened.config, device.executor());
  std::size_t steps = 0;
  auto errors = llama::layer_output_errors(opened.config, loader, loader.outer(device), device, windows, bits, [&](std::size_t done, std::size_t of) {
    EXPECT_EQ(done, ++steps);
    EXPECT_EQ(of, opened.config.layers * windows.size());
  });
  EXPECT_EQ(steps, opened.config.layers * windows.size());
  return errors;
}

TEST(LayerOutputError, IsThatOfPlainDecodersThatDifferInOneLayer) {
  const Model model = Model{.layers = 3}.fill();
  const Opened opened = small_llama::open_gguf(model);
  const llama::Windows windows{some_tokens(model, 40, 1), some_tokens(model, 5, 2)};
  const auto errors = measure(opened, windows, 4);
  ASSERT_EQ(errors.size(), 3u);
  const llama::ModelWeights quantized = opened.deploy(small_llama::uniform(model, 4));
  const small_llama::PlainDecoder plain = small_llama::plain_decoder(model, true);
  for (std::size_t layer = 0; layer < 3; ++layer) {
    ASSERT_EQ(errors[layer].size(), windows.size());
    small_llama::PlainDecoder one = plain;
    one.layers[layer] = small_llama::with_deployed(plain, quantized).layers[layer];
    for (std::size_t w = 0; w < windows.size(); ++w) {
      const auto exact = plain.run(windows[w]), other = one.run(windows[w]);
      llama::LayerOutputError wanted;
      for (std::size_t t = 0; t < windows[w].size(); ++t) {
        double error = 0, output = 0, update = 0;
        for (std::size_t i = 0; i < model.hidden; ++i) {
          const double y = exact[layer + 1][t][i];
          error += std::pow(other[layer + 1][t][i] - y, 2);
          output += y * y;
          update += std::pow(y - exact[layer][t][i], 2);
        }
        wanted += {error / output, error / update, error, output, update, 1};
      }
      const llama::LayerOutputError& found = errors[layer][w];
      EXPECT_EQ(found.positions, windows[w].size());
      EXPECT_NEAR(found.relative / wanted.relative, 1, 1e-2) << "keys and values are F16";
      EXPECT_NEAR(found.relative_to_update / wanted.relative_to_update, 1, 1e-2);
      EXPECT_NEAR(found.error_energy / wanted.error_energy, 1, 1e-2);
      EXPECT_NEAR(found.output_energy / wanted.output_energy, 1, 1e-3);
      EXPECT_NEAR(found.update_energy / wanted.update_energy, 1, 1e-3);
      EXPECT_DOUBLE_EQ(found.mean(), found.relative / static_cast<double>(windows[w].size()));
      EXPECT_DOUBLE_EQ(found.total_ratio(), found.error_energy / found.output_energy);
    }
  }
}

TEST(LayerOutputError, IsNoneWithoutQuantizationAndLessWithMoreBits) {
  const Model model = Model{}.fill();
  const Opened opened = small_llama::open_gguf(model);
  const llama::Windows windows{some_tokens(model, 60)};
  const auto at16 = measure(opened, windows, 16), at8 = measure(opened, windows, 8), at4 = measure(opened, windows, 4);
  for (std::size_t layer = 0; layer < model.layers; ++layer) {
    EXPECT_EQ(at16[layer][0].error_energy, 0);
    EXPECT_EQ(at16[layer][0].relative, 0);
    EXPECT_GT(at8[layer][0].relative, 0);
    EXPECT_GT(at4[layer][0].relative, 50 * at8[layer][0].relative);
  }
}

TEST(LayerOutputError, DoesNotDependOnThreadsOrOtherWindows) {
  const Model model = Model{.hidden = 96, .ffn = 200}.fill();
  const Opened opened = small_llama::open_gguf(model);
  const llama::Windows windows{some_tokens(model, 90, 1), some_tokens(model, 50, 2)};
  lsaq::ThreadPool pool(4);
  const auto both = measure(opened, windows, 4), threaded = measure(opened, windows, 4, Device(pool)), second = measure(opened, {windows[1]}, 4);
  for (std::size_t layer = 0; layer < model.layers; ++layer) {
    for (std::size_t w = 0; w < 2; ++w) EXPECT_EQ(both[layer][w].relative, threaded[layer][w].relative);
    EXPECT_EQ(both[layer][1].relative, second[layer][0].relative);
  }
}

TEST(LayerOutputError, RefusesWhatItCannotMeasure) {
  const Model model = Model{}.fill();
  const Opened opened = small_llama::open_gguf(model);
  const llama::WeightLoader loader(*opened.source, opened.config);
  const llama::OuterWeights outer = loader.outer(Device());
  const auto call = [&](const llama::Windows& windows, unsigned bits) {
    return llama::layer_output_errors(opened.config, loader, outer, Device(), windows, bits, [](std::size_t, std::size_t) {});
  };
  EXPECT_THROW(call({{1, 97}}, 4), lsaq::InvalidArgument);
  EXPECT_THROW(call({{}}, 4), lsaq::InvalidArgument);
  EXPECT_THROW(call({{1, 2}}, 9), lsaq::InvalidArgument);
}

} // namespace layer_output_error_test
