// Calibration, layers rounded with it, and the file they are kept in.
#include "models/opened_llama.hpp"

#include <lsaq/models/plan_evaluation.hpp>
#include <lsaq/models/quantized_layers.hpp>
#include <lsaq/thread_pool.hpp>

#include <gmock/gmock.h>

namespace llama_rounding_test {

using lsaq::ElementType;
using lsaq::MatrixView;
using lsaq::Rounding;
using lsaq::TokenId;
using small_llama::Device;
using small_llama::Model;
using small_llama::Opened;
namespace llama = lsaq::llama;
using llama::Linear;
using llama::LinearInput;

Model model_of(const std::string& type = "F32") {
  return Model{.layers = 3, .hidden = 64, .ffn = 96, .heads = 4, .kv_heads = 2, .head_size = 16, .vocabulary = 97, .tied = true, .type = type}.fill();
}

llama::Windows windows_of(std::size_t count, std::size_t length) {
  std::mt19937 random(5);
  llama::Windows windows(count, std::vector<TokenId>(length));
  for (auto& window : windows)
    for (TokenId& token : window) token = static_cast<TokenId>(random() % 97);
  return windows;
}

std::vector<llama::LayerStatistics> calibrate(const Opened& opened, const llama::WeightLoader& loader, const llama::Windows& windows,
                                              const Device& device = Device()) {
  const llama::OuterWeights outer = loader.outer(device);
  llama::LayerwisePass<Device> pass(opened.config, loader, outer, device, windows);
  llama::LayerStatisticsCollector<Device> collector(opened.config, device, windows);
  std::vector<llama::LayerStatistics> all;
  while (!pass.complete()) all.push_back(calibrate_layer(pass, collector, [](std::size_t) {}));
  return all;
}

std::vector<float> moments_of(const lsaq::InputStatistics& statistics) {
  const auto* values = static_cast<const float*>(statistics.moments().data);
  return {values, values + statistics.channels() * statistics.channels()};
}

void expect_near(const std::vector<float>& a, const std::vector<float>& b, double share, const std::string& what) {
  ASSERT_EQ(a.size(), b.size()) << what;
  double largest = 0;
  for (const float value : b) largest = std::max(largest, std::fabs(double{value}));
  for (std::size_t i = 0; i < a.size(); ++i) ASSERT_NEAR(a[i], b[i], share * largest) << what << ", " << i;
}

std::string bytes_of(const lsaq::DeployedMatrix& matrix) {
  if (const lsaq::PackedMatrix* packed = matrix.packed()) return {reinterpret_cast<const char*>(packed->view().data), packed->bytes()};
  return {reinterpret_cast<const char*>(matrix.floats()->storage.data()), matrix.floats()->storage.size()};
}

/// What run_layer shows adds up to what it does.
TEST(LlamaCalibration, InputsAreThoseOfTheLinears) {
  const Opened opened = small_llama::open_folder(model_of());
  const llama::Config& config = opened.config;
  llama::WeightLoader loader(*opened.source, config);
  loader.keep_as(ElementType::f32);
  const Device device;
  const llama::LayerWeights weights = loader.layer(device, 1, [](std::string_view) { return 16u; });
  const std::size_t tokens = 5;
  std::vector<float> memory(llama::LayerWorkspace::floats(config, tokens)), x(tokens * config.hidden);
  llama::LayerWorkspace workspace = llama::LayerWorkspace::divide(config, tokens, memory);
  llama::fill_rotation(config, 0, tokens, workspace.rotation);
  std::mt19937 random(2);
  for (float& value : x) value = std::normal_distribution<float>()(random);
  const std::vector<float> before = x;
  workspace.x = x;
  llama::KvCache cache(config, 1, tokens, ElementType::f32);
  std::map<LinearInput, std::vector<float>> seen;
  std::vector<LinearInput> order;
  llama::run_layer(config, weights, device, cache, 0, 0, tokens, workspace, [&](LinearInput input, MatrixView rows) {
    order.push_back(input);
    EXPECT_EQ(rows.rows, tokens);
    EXPECT_EQ(rows.columns, width_of(config, input));
    const auto* values = static_cast<const float*>(rows.data);
    seen[input].assign(values, values + rows.rows * rows.columns);
  });
  EXPECT_EQ(order, (std::vector<LinearInput>{LinearInput::attention, LinearInput::attended, LinearInput::mlp, LinearInput::ffn}));
  EXPECT_EQ(seen[LinearInput::attention], before);
  const auto add_product = [&](std::vector<float> sum, Linear linear, LinearInput input) {
    std::vector<float> product(sum.size());
    EXPECT_EQ(weights[linear].matmul(device, MatrixView(seen[input].data(), tokens, width_of(config, input)), {product.data(), tokens, config.hidden}),
              lsaq::Status::ok);
    for (std::size_t i = 0; i < sum.size(); ++i) sum[i] += product[i];
    return sum;
  };
  expect_near(add_product(before, Linear::o, LinearInput::attended), seen[LinearInput::mlp], 1e-6, "after attention");
  expect_near(add_product(seen[LinearInput::mlp], Linear::down, LinearInput::ffn), x, 1e-6, "after the MLP");
}

TEST(LlamaCalibration, StatisticsAreThoseOfTheInputs) {
  const Opened opened = small_llama::open_folder(model_of());
  llama::WeightLoader loader(*opened.source, opened.config);
  loader.keep_as(ElementType::f32);
  const llama::Windows windows = windows_of(18, 11);
  lsaq::ThreadPool pool(3);
  const std::vector<llama::LayerStatistics> statistics = calibrate(opened, loader, windows), threads = calibrate(opened, loader, windows, Device(pool));
  // Two of eighteen windows are held back. What enters the first layer is the embedding.
  const lsaq::InputStatistics& first = statistics[0][0];
  EXPECT_EQ(first.inputs(), 16u * 11);
  EXPECT_EQ(first.held_back().rows, 2u * 11);
  std::vector<float> sums(64 * 64), row(64);
  const llama::OuterWeights outer = loader.outer(Device());
  for (std::size_t w = 0; w < 18; ++w)
    for (std::size_t t = 0; t < 11; ++t) {
      llama::embed(opened.config, Device().kernels(), outer, std::span(&windows[w][t], 1), row);
      double squares = 0;
      for (const float value : row) squares += double{value} * double{value} / 64;
      for (float& value : row) value = static_cast<float>(value / std::sqrt(squares + opened.config.epsilon));
      if (w < 16) {
        for (std::size_t i = 0; i < 64; ++i)
          for (std::size_t j = 0; j < 64; ++j) sums[i * 64 + j] += row[i] * row[j] / (16 * 11);
      } else {
        const auto* held = reinterpret_cast<const float*>(first.held_back().row((w - 16) * 11 + t));
        expect_near({held, held + 64}, row, 1e-6, "held back");
      }
    }
  expect_near(moments_of(first), sums, 1e-5, "moments");
  for (std::size_t l = 0; l < 3; ++l)
    for (std::size_t i = 0; i < llama::inputs_per_layer; ++i) EXPECT_EQ(moments_of(statistics[l][i]), moments_of(threads[l][i])) << l << ", " << i;
}

/// Statistics of the stored model, transformed, are those of the transformed model.
TEST(LlamaCalibration, StatisticsFollowTransformations) {
  const Opened opened = small_llama::open_folder(model_of());
  llama::WeightLoader stored(*opened.source, opened.config);
  stored.keep_as(ElementType::f32);
  const llama::Windows windows = windows_of(6, 20);
  const std::vector<llama::LayerStatistics> plain = calibrate(opened, stored, windows);
  for (const llama::TransformOptions& options :
       {llama::TransformOptions{}, llama::TransformOptions{.residual = true}, llama::TransformOptions{.residual = true, .heads = true, .ffn = true}}) {
    auto transform = std::make_shared<llama::ModelTransform>(opened.config, options);
    llama::LayerScaling scaling;
    for (std::size_t i = 0; i < 32; ++i) scaling.attended.push_back(0.5f + static_cast<float>(i % 3));
    for (std::size_t i = 0; i < 96; ++i) scaling.ffn.push_back(0.5f + static_cast<float>(i % 4));
    for (std::size_t i = 0; i < 64; ++i) scaling.mlp.push_back(0.5f + static_cast<float>(i % 5));
    transform->scale_layer(1, scaling);
    llama::WeightLoader loader = stored;
    loader.transform(transform);
    const std::vector<llama::LayerStatistics> wanted = calibrate(opened, loader, windows);
    for (std::size_t l = 0; l < 3; ++l)
      for (std::size_t i = 0; i < llama::inputs_per_layer; ++i) {
        const auto input = static_cast<LinearInput>(i);
        lsaq::InputStatistics real = wanted[l][i]; // of normed inputs: before the gain, which is 1 where it was folded
        if (!loader.gain_of(l, input).empty()) {
          std::vector<float> gain = stored.gain_of(l, input);
          transform->apply_to_gain(l, input, gain);
          real.multiply(gain);
        }
        const lsaq::InputStatistics found = llama::transformed(plain[l][i], transform.get(), l, input, stored.gain_of(l, input));
        expect_near(moments_of(found), moments_of(real), 2e-5, std::string(name_of(input)));
        const auto* a = static_cast<const float*>(found.held_back().data);
        const auto* b = static_cast<const float*>(real.held_back().data);
        expect_near({a, a + found.held_back().rows * found.channels()}, {b, b + real.held_back().rows * real.channels()}, 2e-5, "held back");
      }
  }
}

TEST(RoundingLoader, NearestIsTheWeightLoader) {
  const Opened opened = small_llama::open_folder(model_of("F16"));
  const llama::WeightLoader plain(*opened.source, opened.config);
  std::vector<llama::RoundingReport> reports;
  llama::RoundingLoader loader(plain, {}, nullptr);
  loader.on_rounded([&](const llama::RoundingReport& report) { reports.push_back(report); });
  const auto bits_of = [](std::string_view linear) { return linear == "mlp.up_proj" ? 16u : 4u; };
  const llama::LayerWeights a = plain.layer(Device(), 1, bits_of), b = loader.layer(Device(), 1, bits_of);
  for (std::size_t i = 0; i < llama::linears_per_layer; ++i) EXPECT_EQ(bytes_of(a.linears[i]), bytes_of(b.linears[i])) << i;
  ASSERT_EQ(reports.size(), 6u) << "up_proj is not quantized";
  for (const llama::RoundingReport& report : reports) {
    EXPECT_GT(report.snr(), 10);
    EXPECT_LT(report.snr(), 30) << "4 bits";
    EXPECT_TRUE(std::isnan(report.relative_error())) << "there is no calibration";
  }
}

TEST(RoundingLoader, LowersTheErrorOfTheModel) {
  const Opened opened = small_llama::open_folder(model_of());
  llama::WeightLoader stored(*opened.source, opened.config);
  stored.keep_as(ElementType::f32);
  const std::vector<llama::LayerStatistics> statistics = calibrate(opened, stored, windows_of(40, 32));
  std::vector<llama::ScoredWindow> text;
  for (const auto& window : windows_of(50, 32)) text.push_back({window, 1});
  text.erase(text.begin(), text.begin() + 40);
  const lsaq::Plan plan{.bits = {3, 3, 3}};
  double error = 0; // relative, of the linears' outputs, in the mean
  const auto divergence = [&](const llama::ModelRounding& rounding, const llama::TransformOptions& options, std::size_t linears) {
    llama::WeightLoader weights = stored;
    if (options.any()) weights.transform(std::make_shared<llama::ModelTransform>(opened.config, options));
    std::size_t reported = 0;
    error = 0;
    llama::RoundingLoader loader(weights, rounding, [&](std::size_t layer) { return statistics[layer]; });
    loader.on_rounded([&](const llama::RoundingReport& report) {
      ++reported;
      if (rounding.rounding == Rounding::nearest) return;
      EXPECT_LE(report.relative_error(), report.errors[0] / report.output) << "never worse than nearest where it was judged";
      error += report.relative_error() / static_cast<double>(linears);
    });
    const llama::OuterWeights outer = loader.outer(Device());
    const llama::PlanScores scores = llama::evaluate_plans(opened.config, loader, outer, Device(), text, std::span(&plan, 1));
    EXPECT_EQ(reported, linears);
    double kl = 0;
    for (const llama::WindowScore& score : scores.plans[0]) kl += score.kl;
    return kl;
  };
  const double nearest = divergence({}, {}, 21);
  const double clip = divergence({.rounding = Rounding::clip}, {}, 21), clip_error = error;
  const double gptq = divergence({.rounding = Rounding::gptq}, {}, 21), gptq_error = error;
  EXPECT_LT(clip, nearest);
  EXPECT_LT(gptq, clip);
  EXPECT_LT(gptq_error, clip_error);
  divergence({.rounding = Rounding::gptq, .grouping = {.columns = 32}}, {}, 21);
  EXPECT_LT(error, gptq_error);
  // Random weights have no outliers to spread: a rotation makes them no better, but it has to work.
  EXPECT_TRUE(std::isfinite(divergence({.rounding = Rounding::gptq}, {.residual = true, .heads = true, .ffn = true}, 21)));
}

/// Every layer is rounded on the states that the rounded layers before it give.
TEST(SequentialRounding, SeesWhatTheRoundedLayersGive) {
  const Opened opened = small_llama::open_folder(model_of());
  llama::WeightLoader loader(*opened.source, opened.config);
  loader.keep_as(ElementType::f32);
  const llama::Windows windows = windows_of(20, 24);
  const Device device;
  const llama::OuterWeights outer = loader.outer(device);
  const llama::ModelRounding rounding{.rounding = Rounding::gptq};
  const auto three_bits = [](std::string_view) { return 3u; };
  llama::SequentialRounding<Device> sequential(opened.config, loader, rounding, outer, device, windows);
  llama::LayerwisePass<Device> pass(opened.config, loader, outer, device, windows); // of the layers rounded so far
  llama::LayerStatisticsCollector<Device> collector(opened.config, device, windows);
  std::vector<float> middle;
  std::string last;
  for (std::size_t l = 0; l < 3; ++l) {
    llama::LayerwisePass<Device> look(opened.config, loader, outer, device, windows);
    const auto* states = static_cast<const float*>(pass.states().data);
    look.resume_at(l, std::span(states, 20 * 24 * 64));
    const llama::RoundingLoader wanted(loader, rounding, [&](std::size_t) { return calibrate_layer(look, collector, [](std::size_t) {}); });
    const llama::LayerWeights a = wanted.layer(device, l, three_bits);
    std::size_t seen = 0;
    const llama::LayerWeights b = sequential.next(three_bits, [&](std::size_t) { ++seen; });
    EXPECT_EQ(seen, 2u * windows.size()) << "before every window, of both passes";
    for (std::size_t i = 0; i < llama::linears_per_layer; ++i) EXPECT_EQ(bytes_of(a.linears[i]), bytes_of(b.linears[i])) << l << ", " << i;
    pass.run_layer_with(
        a, [](std::size_t) {}, [](LinearInput, MatrixView) {});
    if (l == 1) {
      const auto* values = static_cast<const float*>(sequential.pass().states().data);
      middle.assign(values, values + 20 * 24 * 64);
    }
    last = bytes_of(b.linears[0]);
  }
  EXPECT_TRUE(sequential.pass().complete());

  llama::SequentialRounding<Device> resumed(opened.config, loader, rounding, outer, device, windows);
  resumed.resume_at(2, middle);
  EXPECT_EQ(bytes_of(resumed.next(three_bits, [](std::size_t) {}).linears[0]), last);
  struct Stop {};
  EXPECT_THROW(
      (void)llama::SequentialRounding<Device>(opened.config, loader, rounding, outer, device, windows).next(three_bits, [](std::size_t) { throw Stop(); }),
      Stop);
}

/// In the transformed model's own basis: before anything is rounded, the same errors as with transformed statistics of the stored model.
TEST(SequentialRounding, WorksInTheTransformedBasis) {
  const Opened opened = small_llama::open_folder(model_of());
  llama::WeightLoader stored(*opened.source, opened.config);
  stored.keep_as(ElementType::f32);
  const llama::Windows windows = windows_of(20, 24);
  const std::vector<llama::LayerStatistics> statistics = calibrate(opened, stored, windows);
  const Device device;
  for (const llama::TransformOptions& options :
       {llama::TransformOptions{.heads = true}, llama::TransformOptions{.residual = true, .heads = true, .ffn = true}}) {
    auto transform = std::make_shared<llama::ModelTransform>(opened.config, options);
    llama::LayerScaling scaling;
    for (std::size_t i = 0; i < 64; ++i) scaling.attention.push_back(0.5f + static_cast<float>(i % 5));
    transform->scale_layer(0, scaling);
    llama::WeightLoader loader = stored;
    loader.transform(transform);
    const llama::OuterWeights outer = loader.outer(device);
    const llama::ModelRounding rounding{.rounding = Rounding::clip};
    std::vector<double> wanted, found;
    llama::RoundingLoader all_at_once(loader, rounding, [&](std::size_t l) { return statistics[l]; });
    all_at_once.on_rounded([&](const llama::RoundingReport& report) { wanted.push_back(report.errors[0] / report.output); });
    (void)all_at_once.layer(device, 0, [](std::string_view) { return 4u; });
    llama::SequentialRounding<Device> sequential(opened.config, loader, rounding, outer, device, windows);
    sequential.rounding().on_rounded([&](const llama::RoundingReport& report) { found.push_back(report.errors[0] / report.output); });
    (void)sequential.next([](std::string_view) { return 4u; }, [](std::size_t) {});
    ASSERT_EQ(found.size(), llama::linears_per_layer);
    for (std::size_t i = 0; i < found.size(); ++i) EXPECT_NEAR(found[i] / wanted[i], 1, 1e-3) << i;
  }
}

class QuantizedFile : public testing::Test {
protected:
  const Opened opened = small_llama::open_folder(model_of("F16"));
  const lsaq::Plan plan{.bits = {16, 8, 4}, .tensors = {{"2.mlp.down_proj", 16}, {"1.self_attn.v_proj", 3}}};
  const llama::ModelRounding rounding{.grouping = {.columns = 32}};

  llama::RoundingLoader loader() const { return {llama::WeightLoader(*opened.source, opened.config), rounding, nullptr}; }

  std::string content() const {
    const ElementType type = loader().weights().unquantized();
    std::string file = llama::quantized_layers_header(opened.config, plan, rounding.grouping, type, "the plan");
    for (std::size_t l = 0; l < 3; ++l) {
      const std::size_t before = file.size();
      const llama::LayerWeights layer = loader().layer(Device(), l, [&](std::string_view linear) { return plan.bits_of(l, linear); });
      llama::write_quantized_layer(opened.config, layer,
                                   [&](std::span<const std::byte> part) { file.append(reinterpret_cast<const char*>(part.data()), part.size()); });
      EXPECT_EQ(file.size() - before, llama::quantized_layer_bytes(opened.config, l, plan, rounding.grouping, type));
    }
    return file;
  }

  llama::QuantizedLayers open(const std::string& file, const lsaq::Plan& with) const {
    const auto path = opened.folder->write("layers.safetensors", file);
    return llama::QuantizedLayers(path, opened.config, llama::WeightLoader(*opened.source, opened.config), [&](const std::string& metadata) {
      EXPECT_EQ(metadata, "the plan");
      return std::tuple(with, rounding, std::shared_ptr<const llama::ModelTransform>());
    });
  }
};

TEST_F(QuantizedFile, GivesTheLayersBack) {
  const llama::QuantizedLayers file = open(content(), plan);
  for (std::size_t l = 0; l < 3; ++l) {
    const auto bits_of = [&](std::string_view linear) { return plan.bits_of(l, linear); };
    const llama::LayerWeights wanted = loader().layer(Device(), l, bits_of), found = file.layer(Device(), l, bits_of);
    for (std::size_t i = 0; i < llama::linears_per_layer; ++i) {
      EXPECT_EQ(bytes_of(found.linears[i]), bytes_of(wanted.linears[i])) << l << ", " << i;
      EXPECT_EQ(found.linears[i].bits(), wanted.linears[i].bits());
    }
    EXPECT_EQ(std::memcmp(found.mlp_norm.storage.data(), wanted.mlp_norm.storage.data(), found.mlp_norm.storage.size()), 0);
    const auto unquantized = [](std::string_view) { return 16u; }; // the model itself, to compare with
    const llama::LayerWeights model = loader().weights().layer(Device(), l, unquantized), same = file.layer(Device(), l, unquantized);
    for (std::size_t i = 0; i < llama::linears_per_layer; ++i) EXPECT_EQ(bytes_of(same.linears[i]), bytes_of(model.linears[i])) << l << ", " << i;
  }
  EXPECT_THROW((void)file.layer(Device(), 0, [](std::string_view) { return 8u; }), lsaq::InvalidArgument);
}

TEST_F(QuantizedFile, RefusesWhatIsNotItsPlan) {
  const auto refusal = [&](const std::string& file, const lsaq::Plan& with) { return make_files::message_of<lsaq::BadInput>([&] { (void)open(file, with); }); };
  lsaq::Plan other = plan;
  other.bits[1] = 4;
  make_files::expect_mentions(refusal(content(), other), {"layers.safetensors", "model.layers.1.self_attn.q_proj.weight_packed"});
  const std::vector<lsaq::TensorEntry> one = {{"model.layers.0.input_layernorm.weight", lsaq::StoredType::f16, {64}}};
  make_files::expect_mentions(refusal(lsaq::safetensors_header(one, {{"lsaq", "the plan"}}) + std::string(128, '\0'), plan),
                              {"post_attention_layernorm.weight", "missing"});
  make_files::expect_mentions(refusal(lsaq::safetensors_header(one, {}) + std::string(128, '\0'), plan), {"lsaq quantize", "no entry"});

  std::string damaged = content();
  const std::string key = "\"model.layers.2.self_attn.q_proj.weight_scale\":{\"dtype\":\"F16\",\"shape\":[64,2],\"data_offsets\":[";
  const std::size_t at = damaged.find(key);
  ASSERT_NE(at, std::string::npos);
  std::uint64_t length = 0;
  std::memcpy(&length, damaged.data(), 8);
  const std::size_t scales = 8 + length + std::stoul(damaged.substr(at + key.size()));
  damaged[scales + 3] = '\x7c'; // infinity
  damaged[scales + 2] = '\0';
  const llama::QuantizedLayers file = open(damaged, plan);
  make_files::expect_mentions(
      make_files::message_of<lsaq::BadInput>([&] { (void)file.layer(Device(), 2, [&](std::string_view linear) { return plan.bits_of(2, linear); }); }),
      {"layers.2.self_attn.q_proj.weight_scale", "scale 1 is inf"});
}

} // namespace llama_rounding_test
