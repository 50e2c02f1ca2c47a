// Transformed models compute what the stored ones do; their weights are the ones the formulas give.
#include "models/opened_llama.hpp"

#include <gmock/gmock.h>

namespace llama_transform_test {

using lsaq::ElementType;
using lsaq::TokenId;
using small_llama::Device;
using small_llama::Doubles;
using small_llama::Model;
using small_llama::Opened;
namespace llama = lsaq::llama;
using llama::Linear;
using llama::LinearInput;

Model model_of(bool tied) {
  return Model{.layers = 3, .hidden = 36, .ffn = 40, .heads = 4, .kv_heads = 2, .head_size = 12, .vocabulary = 97, .tied = tied, .type = "F32"}.fill();
}

std::vector<float> logits_of(const Opened& opened, const std::shared_ptr<llama::ModelTransform>& transform) {
  llama::WeightLoader loader(*opened.source, opened.config);
  loader.keep_as(ElementType::f32).transform(transform);
  const Device device;
  const llama::ModelWeights weights = llama::load_weights(loader, opened.config, lsaq::Plan{.bits = std::vector<unsigned>(opened.config.layers, 16)}, device);
  llama::Decoder<Device> decoder(opened.config, weights, device, 8, ElementType::f32);
  const std::vector<TokenId> tokens = {3, 96, 0, 41, 5, 5, 77};
  std::vector<float> all;
  decoder.read(tokens, [&](lsaq::MatrixView states) {
    const std::size_t first = all.size();
    all.resize(first + states.rows * opened.config.vocabulary);
    decoder.project(states, {all.data() + first, states.rows, opened.config.vocabulary});
  });
  return all;
}

double relative_distance(const std::vector<float>& a, const std::vector<float>& b) {
  double difference = 0, size = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    difference += (double{a[i]} - double{b[i]}) * (double{a[i]} - double{b[i]});
    size += double{b[i]} * double{b[i]};
  }
  return std::sqrt(difference / size);
}

llama::LayerScaling scaling_of(const llama::Config& config, float base) {
  const auto ramp = [&](std::size_t n) {
    std::vector<float> factors(n);
    for (std::size_t i = 0; i < n; ++i) factors[i] = base + static_cast<float>(i % 5) * 0.4f;
    return factors;
  };
  return {ramp(config.hidden), ramp(config.kv_rows()), ramp(config.hidden), ramp(config.ffn)};
}

TEST(LlamaTransform, KeepsTheFunction) {
  for (const bool tied : {true, false}) {
    const Opened opened = tied ? small_llama::open_gguf(model_of(tied)) : small_llama::open_folder(model_of(tied));
    const std::vector<float> wanted = logits_of(opened, nullptr);
    const llama::TransformOptions every[] = {{}, {.residual = true}, {.heads = true}, {.ffn = true}, {.residual = true, .heads = true, .ffn = true, .seed = 9}};
    for (const llama::TransformOptions& options : every)
      for (const bool scaled : {false, true}) {
        const auto transform = std::make_shared<llama::ModelTransform>(opened.config, options);
        if (scaled) {
          transform->scale_layer(0, scaling_of(opened.config, 0.3f));
          transform->scale_layer(2, scaling_of(opened.config, 1.0f));
        }
        const std::vector<float> logits = logits_of(opened, transform);
        EXPECT_LT(relative_distance(logits, wanted), 5e-6) << options.residual << options.heads << options.ffn << scaled;
        EXPECT_EQ(logits != wanted, options.any() || scaled) << "is the model transformed?";
      }
  }
}

TEST(LlamaTransform, FoldsGainsForwardOnly) {
  Model model = model_of(true);
  for (auto& [name, tensor] : model.tensors)
    if (name.ends_with("norm.weight") && name != "model.norm.weight") tensor.values[3] = 0; // never divided by
  const Opened opened = small_llama::open_folder(model);
  const auto transform = std::make_shared<llama::ModelTransform>(opened.config, llama::TransformOptions{.residual = true});
  EXPECT_LT(relative_distance(logits_of(opened, transform), logits_of(opened, nullptr)), 5e-6);
  llama::WeightLoader loader(*opened.source, opened.config);
  loader.transform(transform);
  const llama::LayerWeights layer = loader.layer(Device(), 1, [](std::string_view) { return 16u; });
  for (const lsaq::FloatMatrix* norm : {&layer.attention_norm, &layer.mlp_norm})
    for (std::size_t i = 0; i < 36; ++i) EXPECT_EQ(lsaq::load_element(norm->storage.data(), norm->type, i), 1.0f);
}

TEST(LlamaTransform, WeightsFollowTheFormulas) {
  const Opened opened = small_llama::open_folder(model_of(false));
  const llama::Config& config = opened.config;
  llama::WeightLoader stored(*opened.source, config), rotated = stored, scaled = stored;
  const auto rotation = std::make_shared<llama::ModelTransform>(config, llama::TransformOptions{.residual = true, .heads = true, .ffn = true});
  const auto scaling = std::make_shared<llama::ModelTransform>(config, llama::TransformOptions{});
  const llama::LayerScaling factors = scaling_of(config, 0.5f);
  scaling->scale_layer(1, factors);
  rotated.transform(rotation);
  scaled.transform(scaling);

  const auto at = [&](const std::vector<float>& w, Linear linear, std::size_t r, std::size_t c) { return w[r * shape_of(config, linear).columns + c]; };
  const std::vector<float> gain = stored.gain_of(1, LinearInput::attention);
  const std::vector<float> q = stored.weights_of(1, Linear::q), turned = rotated.weights_of(1, Linear::q);
  std::vector<float> row(config.hidden);
  for (std::size_t c = 0; c < config.hidden; ++c) row[c] = at(q, Linear::q, 7, c) * gain[c];
  rotation->residual().apply(row.data());
  for (std::size_t c = 0; c < config.hidden; ++c) EXPECT_EQ(at(turned, Linear::q, 7, c), row[c]);

  const std::vector<float> v = stored.weights_of(1, Linear::v), v_scaled = scaled.weights_of(1, Linear::v);
  const std::vector<float> o = stored.weights_of(1, Linear::o), o_scaled = scaled.weights_of(1, Linear::o);
  EXPECT_EQ(at(v_scaled, Linear::v, 13, 2), at(v, Linear::v, 13, 2) * factors.attention[2] / factors.attended[13]);
  // Query heads 2 and 3 read KV head 1.
  for (const std::size_t head : {2u, 3u}) EXPECT_EQ(at(o_scaled, Linear::o, 5, head * 12 + 1), at(o, Linear::o, 5, head * 12 + 1) * factors.attended[12 + 1]);
  for (const std::size_t head : {0u, 1u}) EXPECT_EQ(at(o_scaled, Linear::o, 5, head * 12 + 1), at(o, Linear::o, 5, head * 12 + 1) * factors.attended[1]);
  EXPECT_EQ(scaled.weights_of(0, Linear::o), stored.weights_of(0, Linear::o)) << "another layer";
  std::vector<float> divided = gain;
  scaling->apply_to_gain(1, LinearInput::attention, divided);
  for (std::size_t c = 0; c < config.hidden; ++c) EXPECT_EQ(divided[c], gain[c] / factors.attention[c]);
}

TEST(LlamaTransform, RefusesScalingThatDoesNotFit) {
  const llama::Config config = small_llama::open_folder(model_of(false)).config;
  llama::ModelTransform transform(config, {});
  const auto refuses = [&](std::size_t layer, llama::LayerScaling scaling, const char* part) {
    EXPECT_THAT(make_files::message_of<lsaq::InvalidArgument>([&] { transform.scale_layer(layer, std::move(scaling)); }), testing::HasSubstr(part));
  };
  refuses(0, {.attention = std::vector<float>(35, 1)}, "attention has 35 factors, not 36");
  refuses(0, {.attended = std::vector<float>(48, 1)}, "attended has 48 factors, not 24");
  refuses(0, {.mlp = std::vector<float>(36, 0)}, "mlp has the factor 0");
  refuses(0, {.ffn = std::vector<float>(40, std::nanf(""))}, "ffn has the factor nan");
  refuses(3, {}, "layer 3");
}

} // namespace llama_transform_test
