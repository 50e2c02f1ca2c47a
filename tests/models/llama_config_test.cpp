#include <lsaq/models/llama_config.hpp>

#include "models/small_llama.hpp"

#include <cmath>
#include <limits>
#include <numbers>

namespace llama_config_test {

using lsaq::BadInput;
using lsaq::Bytes;
using lsaq::ModelSource;
using lsaq::llama::Config;
using lsaq::llama::Linear;
using lsaq::llama::read_config;
using make_files::expect_mentions;
using make_files::message_of;
using make_files::TemporaryFolder;
using small_llama::FolderParts;
using small_llama::GgufParts;
using small_llama::Model;

Config config_of(const GgufParts& parts) {
  const TemporaryFolder folder;
  return read_config(ModelSource::open(folder.write("m.gguf", parts.build())));
}

Config config_of(const FolderParts& parts) {
  const TemporaryFolder folder;
  parts.write(folder);
  return read_config(ModelSource::open(folder.path()));
}

void expect_dimensions(const Config& config, const Model& model) {
  EXPECT_EQ(config.layers, model.layers);
  EXPECT_EQ(config.hidden, model.hidden);
  EXPECT_EQ(config.ffn, model.ffn);
  EXPECT_EQ(config.heads, model.heads);
  EXPECT_EQ(config.kv_heads, model.kv_heads);
  EXPECT_EQ(config.head_size, model.head_size);
  EXPECT_EQ(config.vocabulary, model.vocabulary);
  EXPECT_EQ(config.longest_context, model.longest_context);
  EXPECT_FLOAT_EQ(static_cast<float>(config.rope_theta), static_cast<float>(model.theta));
  EXPECT_FLOAT_EQ(static_cast<float>(config.epsilon), static_cast<float>(model.epsilon));
  EXPECT_EQ(config.tied, model.tied);
  EXPECT_TRUE(config.rope_divisors.empty());
}

TEST(LlamaConfig, ReadsGguf) {
  const Model model = Model{.layers = 3, .head_size = 10, .theta = 5e5, .epsilon = 3e-6}.fill();
  const Config config = config_of(model.gguf());
  expect_dimensions(config, model);
  EXPECT_TRUE(config.interleaved_rope);
  EXPECT_EQ(config.name, "Small Llama");
  EXPECT_EQ(config.q_rows(), 40u);
  EXPECT_EQ(config.kv_rows(), 20u);
}

TEST(LlamaConfig, ReadsHuggingFace) {
  const Model model = Model{.layers = 3, .head_size = 10, .theta = 5e5, .epsilon = 3e-6, .tied = false, .type = "BF16"}.fill();
  const Config config = config_of(model.folder());
  expect_dimensions(config, model);
  EXPECT_FALSE(config.interleaved_rope);
  EXPECT_EQ(config.name, "small/llama");
}

TEST(LlamaConfig, FillsInWhatGgufMayLeaveOut) {
  GgufParts parts = Model{.kv_heads = 4, .tied = false}.fill().gguf();
  for (const char* key : {"general.name", "llama.attention.head_count_kv", "llama.attention.key_length", "llama.attention.value_length",
                          "llama.rope.dimension_count", "llama.rope.freq_base"})
    ASSERT_EQ(parts.keys.erase(key), 1u) << key;
  const Config config = config_of(parts);
  EXPECT_EQ(config.name, "m.gguf");
  EXPECT_EQ(config.kv_heads, 4u);
  EXPECT_EQ(config.head_size, 8u);
  EXPECT_EQ(config.rope_theta, 10000.0);
  EXPECT_FALSE(config.tied);
}

TEST(LlamaConfig, FillsInWhatHuggingFaceMayLeaveOut) {
  FolderParts parts = Model{.kv_heads = 4, .tied = false}.fill().folder();
  for (const char* key :
       {"_name_or_path", "hidden_act", "num_key_value_heads", "head_dim", "max_position_embeddings", "rms_norm_eps", "rope_theta", "tie_word_embeddings"})
    ASSERT_EQ(parts.config.erase(key), 1u) << key;
  const TemporaryFolder folder;
  parts.write(folder);
  const Config config = read_config(ModelSource::open(folder.path()));
  EXPECT_EQ(config.name, folder.path().filename());
  EXPECT_EQ(config.kv_heads, 4u);
  EXPECT_EQ(config.head_size, 8u);
  EXPECT_EQ(config.longest_context, 2048u);
  EXPECT_EQ(config.epsilon, 1e-6);
  EXPECT_EQ(config.rope_theta, 10000.0);
  EXPECT_FALSE(config.tied);
}

TEST(LlamaConfig, NullMeansLeftOut) {
  FolderParts parts = Model{.kv_heads = 4}.fill().folder();
  for (const char* key : {"num_key_value_heads", "head_dim", "rope_scaling", "attention_bias", "mlp_bias", "rope_parameters"}) parts.config[key] = nullptr;
  EXPECT_EQ(config_of(parts).kv_heads, 4u);
}

// ---- rotary scaling

/// Inverse frequencies for rope_type "llama3", as published with Llama 3.1: by wavelength.
std::vector<double> published_llama3_frequencies(std::size_t head_size, double theta, double factor, double low, double high, double original_context) {
  std::vector<double> result;
  for (std::size_t i = 0; i < head_size; i += 2) {
    const double frequency = 1 / std::pow(theta, static_cast<double>(i) / static_cast<double>(head_size));
    const double wavelength = 2 * std::numbers::pi / frequency;
    if (wavelength < original_context / high) {
      result.push_back(frequency);
    } else if (wavelength > original_context / low) {
      result.push_back(frequency / factor);
    } else {
      const double smooth = (original_context / wavelength - low) / (high - low);
      result.push_back((1 - smooth) * frequency / factor + smooth * frequency);
    }
  }
  return result;
}

void expect_llama3(const Config& config, double factor) {
  ASSERT_EQ(config.rope_divisors.size(), config.head_size / 2);
  const std::vector<double> published = published_llama3_frequencies(config.head_size, config.rope_theta, factor, 1, 4, 8192);
  std::size_t kept = 0, slowed = 0;
  for (std::size_t i = 0; i < published.size(); ++i) {
    const double frequency = std::pow(config.rope_theta, -2.0 * static_cast<double>(i) / static_cast<double>(config.head_size));
    EXPECT_NEAR(frequency / double{config.rope_divisors[i]} / published[i], 1, 1e-6) << i;
    kept += config.rope_divisors[i] == 1.0f;
    slowed += config.rope_divisors[i] == static_cast<float>(factor);
  }
  EXPECT_GT(kept, 0u);
  EXPECT_GT(slowed, 0u);
  EXPECT_LT(kept + slowed, published.size()) << "some lie between";
}

TEST(LlamaConfig, ScalesRotationsAsLlama3) {
  const nlohmann::json scaling = {
      {"factor", 8.0}, {"low_freq_factor", 1.0}, {"high_freq_factor", 4.0}, {"original_max_position_embeddings", 8192}, {"rope_type", "llama3"}};
  const Model model = Model{.head_size = 64, .theta = 5e5}.fill();
  FolderParts parts = model.folder();
  parts.config["rope_scaling"] = scaling;
  expect_llama3(config_of(parts), 8);

  parts = model.folder(); // the spelling of newer checkpoints
  parts.config.erase("rope_theta");
  parts.config["rope_parameters"] = scaling;
  parts.config["rope_parameters"]["factor"] = 32;
  parts.config["rope_parameters"]["rope_theta"] = 2e5;
  const Config together = config_of(parts);
  EXPECT_EQ(together.rope_theta, 2e5);
  expect_llama3(together, 32);
}

TEST(LlamaConfig, DividesFrequenciesByALinearFactor) {
  const std::vector<float> fours(4, 4.0f);
  for (const char* spelling : {"type", "rope_type"}) {
    FolderParts parts = Model{}.fill().folder();
    parts.config["rope_scaling"] = {{spelling, "linear"}, {"factor", 4.0}};
    EXPECT_EQ(config_of(parts).rope_divisors, fours) << spelling;
  }
  FolderParts folder = Model{}.fill().folder();
  folder.config["rope_parameters"] = {{"rope_type", "linear"}, {"factor", 4}, {"rope_theta", 10000.0}};
  EXPECT_EQ(config_of(folder).rope_divisors, fours);

  GgufParts parts = Model{}.fill().gguf();
  parts.set_text("llama.rope.scaling.type", "linear");
  parts.set_float("llama.rope.scaling.factor", 4);
  EXPECT_EQ(config_of(parts).rope_divisors, fours);
}

TEST(LlamaConfig, LeavesFrequenciesAloneByDefault) {
  FolderParts folder = Model{}.fill().folder();
  folder.config["rope_scaling"] = {{"rope_type", "default"}};
  EXPECT_TRUE(config_of(folder).rope_divisors.empty());
  folder.config["rope_parameters"] = {{"rope_type", "default"}, {"rope_theta", 777.0}};
  const Config config = config_of(folder);
  EXPECT_TRUE(config.rope_divisors.empty());
  EXPECT_EQ(config.rope_theta, 777.0);

  GgufParts parts = Model{}.fill().gguf();
  parts.set_text("llama.rope.scaling.type", "none");
  EXPECT_TRUE(config_of(parts).rope_divisors.empty());
}

TEST(LlamaConfig, TakesThetaFromBesideRopeParametersThatHaveNone) {
  FolderParts parts = Model{.theta = 5e5}.fill().folder();
  parts.config["rope_parameters"] = {{"rope_type", "default"}};
  EXPECT_EQ(config_of(parts).rope_theta, 5e5);
}

TEST(LlamaConfig, ReadsDivisorsFromATensor) {
  const Model model = Model{.rope_divisors = {1, 1.5f, 4, 8}}.fill();
  EXPECT_EQ(config_of(model.gguf()).rope_divisors, model.rope_divisors);
  GgufParts parts = model.gguf(); // both kinds of scaling at once
  parts.set_text("llama.rope.scaling.type", "linear");
  parts.set_float("llama.rope.scaling.factor", 2);
  EXPECT_EQ(config_of(parts).rope_divisors, (std::vector<float>{2, 3, 8, 16}));
}

// ---- refusals

/// A change that makes a GGUF file one that can't be run, and what the message must name.
struct BadGguf {
  std::string name;
  std::function<void(GgufParts&)> spoil;
  std::vector<std::string> mentions;
};
void PrintTo(const BadGguf& bad, std::ostream* out) { *out << bad.name; }

class RefusedGguf : public testing::TestWithParam<BadGguf> {};

TEST_P(RefusedGguf, NamesFileAndKey) {
  GgufParts parts = Model{.tied = false}.fill().gguf();
  GetParam().spoil(parts);
  const TemporaryFolder folder;
  const auto path = folder.write("m.gguf", parts.build());
  const std::string message = message_of<BadInput>([&] { read_config(ModelSource::open(path)); });
  expect_mentions(message, {path.string()});
  expect_mentions(message, GetParam().mentions);
}

constexpr float nan = std::numeric_limits<float>::quiet_NaN();
constexpr float infinity = std::numeric_limits<float>::infinity();

BadGguf number(const std::string& name, const std::string& key, std::uint32_t value, std::vector<std::string> mentions) {
  return {name, [=](GgufParts& p) { p.set_unsigned("llama." + key, value); }, std::move(mentions)};
}
BadGguf real(const std::string& name, const std::string& key, float value, std::vector<std::string> mentions) {
  return {name, [=](GgufParts& p) { p.set_float("llama." + key, value); }, std::move(mentions)};
}
BadGguf missing(const std::string& name, const std::string& key) {
  return {name, [=](GgufParts& p) { p.keys.erase(key); }, {key, "missing"}};
}
BadGguf without_tensor(const std::string& name, const std::string& tensor) {
  return {name, [=](GgufParts& p) { p.erase_tensor(tensor); }, {tensor, "missing"}};
}
/// A tensor of another shape, its bytes to match.
BadGguf reshaped(const std::string& name, const std::string& tensor, std::vector<std::uint64_t> shape, std::vector<std::string> mentions) {
  mentions.push_back(tensor);
  return {name,
          [=](GgufParts& p) {
            small_llama::Tensor& changed = p.tensor(tensor);
            std::size_t bytes = changed.type == "F32" ? 4 : 2;
            for (std::uint64_t extent : shape) bytes *= extent;
            changed.shape = shape;
            changed.bytes.assign(bytes, '\0');
          },
          std::move(mentions)};
}

INSTANTIATE_TEST_SUITE_P(
    LlamaConfig, RefusedGguf,
    testing::Values(
        BadGguf{"Architecture", [](GgufParts& p) { p.set_text("general.architecture", "mamba\x1b[2J"); }, {"architecture", "mamba\\x1b", "llama"}},
        missing("NoArchitecture", "general.architecture"), number("Experts", "expert_count", 8, {"mixture of experts", "llama.expert_count"}),
        missing("NoLayers", "llama.block_count"), missing("NoHidden", "llama.embedding_length"), missing("NoFeedForward", "llama.feed_forward_length"),
        missing("NoHeads", "llama.attention.head_count"), missing("NoContext", "llama.context_length"),
        missing("NoEpsilon", "llama.attention.layer_norm_rms_epsilon"), number("ZeroLayers", "block_count", 0, {"number of layers is 0", "4096"}),
        number("FourBillionLayers", "block_count", 4294967295u, {"number of layers is 4294967295"}),
        number("HugeHidden", "embedding_length", 4294967295u, {"hidden size is 4294967295"}), number("ZeroHidden", "embedding_length", 0, {"hidden size is 0"}),
        number("ZeroFeedForward", "feed_forward_length", 0, {"feed-forward size is 0"}),
        number("ZeroHeads", "attention.head_count", 0, {"number of heads is 0"}), number("ZeroKvHeads", "attention.head_count_kv", 0, {"key-value heads is 0"}),
        number("MoreKvHeadsThanHeads", "attention.head_count_kv", 8, {"key-value heads is 8", "1 to 4"}),
        number("KvHeadsThatDoNotDivide", "attention.head_count_kv", 3, {"4 heads", "3 key-value heads"}),
        number("ZeroContext", "context_length", 0, {"longest context is 0"}),
        BadGguf{"OddHeadSize",
                [](GgufParts& p) {
                  for (const char* key : {"attention.key_length", "attention.value_length", "rope.dimension_count"})
                    p.set_unsigned(std::string("llama.") + key, 7);
                },
                {"head size 7", "odd"}},
        BadGguf{"HugeHeadSize",
                [](GgufParts& p) {
                  for (const char* key : {"attention.key_length", "attention.value_length", "rope.dimension_count"})
                    p.set_unsigned(std::string("llama.") + key, 258);
                },
                {"head size is 258", "256"}},
        BadGguf{"HugeHeadSizeWithLinearScaling",
                [](GgufParts& p) {
                  for (const char* key : {"attention.key_length", "attention.value_length", "rope.dimension_count"})
                    p.keys[std::string("llama.") + key] = {10, make_files::u64(std::uint64_t{1} << 62)};
                  p.set_text("llama.rope.scaling.type", "linear");
                  p.set_float("llama.rope.scaling.factor", 2);
                },
                {"head size is 4611686018427387904"}},
        number("ValueLengthOfItsOwn", "attention.value_length", 16, {"llama.attention.value_length"}),
        number("PartialRotation", "rope.dimension_count", 4, {"llama.rope.dimension_count is 4", "8"}),
        real("ZeroTheta", "rope.freq_base", 0, {"rotary base is 0"}), real("NegativeTheta", "rope.freq_base", -1, {"rotary base is -1"}),
        real("NanTheta", "rope.freq_base", nan, {"rotary base is nan"}), real("InfiniteTheta", "rope.freq_base", infinity, {"rotary base is inf"}),
        real("ZeroEpsilon", "attention.layer_norm_rms_epsilon", 0, {"epsilon is 0"}),
        real("NanEpsilon", "attention.layer_norm_rms_epsilon", nan, {"epsilon is nan"}),
        real("LargeEpsilon", "attention.layer_norm_rms_epsilon", 1, {"epsilon is 1"}),
        BadGguf{"LayersOfTypeText", [](GgufParts& p) { p.set_text("llama.block_count", "2"); }, {"llama.block_count", "string", "unsigned integer"}},
        BadGguf{"NegativeLayers",
                [](GgufParts& p) {
                  p.keys["llama.block_count"] = {5, make_files::le<std::int32_t>(-2)};
                },
                {"llama.block_count", "-2"}},
        BadGguf{"HeadsByLayer",
                [](GgufParts& p) {
                  p.keys["llama.attention.head_count"] = {9, make_files::u32(4) + make_files::u64(1) + make_files::u32(4)};
                },
                {"llama.attention.head_count", "array of uint32"}},
        BadGguf{"EpsilonOfTypeInteger",
                [](GgufParts& p) { p.set_unsigned("llama.attention.layer_norm_rms_epsilon", 1); },
                {"llama.attention.layer_norm_rms_epsilon", "uint32", "float32"}},
        BadGguf{"NameOfTypeNumber", [](GgufParts& p) { p.set_unsigned("general.name", 1); }, {"general.name", "string"}},
        BadGguf{"Yarn", [](GgufParts& p) { p.set_text("llama.rope.scaling.type", "yarn"); }, {"rotary scaling \"yarn\"", "linear"}},
        BadGguf{"YarnBesideDivisors",
                [](GgufParts& p) {
                  p.set_text("llama.rope.scaling.type", "yarn");
                  p.tensors.push_back({"rope_freqs.weight", {4}, "F32", small_llama::stored({1, 1, 1, 1}, "F32")});
                },
                {"rotary scaling \"yarn\""}},
        BadGguf{"LinearWithoutFactor", [](GgufParts& p) { p.set_text("llama.rope.scaling.type", "linear"); }, {"llama.rope.scaling.factor", "missing"}},
        BadGguf{"LinearByZero",
                [](GgufParts& p) {
                  p.set_text("llama.rope.scaling.type", "linear");
                  p.set_float("llama.rope.scaling.factor", 0);
                },
                {"divisor is 0"}},
        BadGguf{"TooManyDivisors",
                [](GgufParts& p) {
                  p.tensors.push_back({"rope_freqs.weight", {5}, "F32", std::string(20, '\x3f')});
                },
                {"rope_freqs.weight has 5 values", "4"}},
        BadGguf{"NegativeDivisor",
                [](GgufParts& p) {
                  p.tensors.push_back({"rope_freqs.weight", {4}, "F32", small_llama::stored({1, -2, 1, 1}, "F32")});
                },
                {"divisor is -2"}},
        BadGguf{"NanDivisor",
                [](GgufParts& p) {
                  p.tensors.push_back({"rope_freqs.weight", {4}, "F32", small_llama::stored({1, nan, 1, 1}, "F32")});
                },
                {"divisor is nan"}},
        BadGguf{"IntegerDivisors",
                [](GgufParts& p) {
                  p.tensors.push_back({"rope_freqs.weight", {4}, "I32", std::string(16, '\1')});
                },
                {"rope_freqs.weight", "I32"}},
        without_tensor("NoEmbedding", "token_embd.weight"), without_tensor("NoFinalNorm", "output_norm.weight"),
        without_tensor("NoAttentionNorm", "blk.0.attn_norm.weight"), without_tensor("NoFfnNorm", "blk.1.ffn_norm.weight"),
        without_tensor("NoQuery", "blk.1.attn_q.weight"), without_tensor("NoDown", "blk.0.ffn_down.weight"),
        reshaped("EmbeddingTooNarrow", "token_embd.weight", {97, 31}, {"97 x 31", "97 x 32"}),
        reshaped("HeadTooLong", "output.weight", {98, 32}, {"98 x 32", "97 x 32"}),
        reshaped("KeysAsQueries", "blk.0.attn_k.weight", {32, 32}, {"32 x 32", "16 x 32"}),
        reshaped("DownTransposed", "blk.1.ffn_down.weight", {48, 32}, {"48 x 32", "32 x 48"}),
        reshaped("NormTooShort", "blk.1.ffn_norm.weight", {16}, {"1 x 16", "1 x 32"}), reshaped("NormAsMatrix", "output_norm.weight", {1, 32}, {"1 x 32"}),
        reshaped("MatrixOfThreeDimensions", "blk.0.attn_q.weight", {4, 8, 32}, {"32 x 32"}),
        BadGguf{"ExtraLayer", [](GgufParts& p) { p.set_unsigned("llama.block_count", 1); }, {"tensors of layer 1", "names 1 layers"}},
        BadGguf{"Bias",
                [](GgufParts& p) {
                  p.tensors.push_back({"blk.1.attn_q.bias", {32}, "F32", std::string(128, '\0')});
                },
                {"blk.1.attn_q.bias", "biases are not supported"}}),
    [](const auto& test) { return test.param.name; });

/// The same for a Hugging Face folder.
struct BadFolder {
  std::string name;
  std::function<void(FolderParts&)> spoil;
  std::vector<std::string> mentions;
};
void PrintTo(const BadFolder& bad, std::ostream* out) { *out << bad.name; }

class RefusedFolder : public testing::TestWithParam<BadFolder> {};

TEST_P(RefusedFolder, NamesFolderAndKey) {
  FolderParts parts = Model{.tied = false}.fill().folder();
  GetParam().spoil(parts);
  const TemporaryFolder folder;
  parts.write(folder);
  const std::string message = message_of<BadInput>([&] { read_config(ModelSource::open(folder.path())); });
  expect_mentions(message, {folder.path().string()});
  expect_mentions(message, GetParam().mentions);
}

BadFolder value(const std::string& name, const std::string& key, const nlohmann::json& wrong, std::vector<std::string> mentions) {
  return {name, [=](FolderParts& p) { p.config[key] = wrong; }, std::move(mentions)};
}
BadFolder no_key(const std::string& name, const std::string& key) {
  return {name, [=](FolderParts& p) { p.config.erase(key); }, {"\"" + key + "\""}};
}
BadFolder scaling(const std::string& name, const nlohmann::json& wrong, std::vector<std::string> mentions) {
  return value(name, "rope_scaling", wrong, std::move(mentions));
}

INSTANTIATE_TEST_SUITE_P(
    LlamaConfig, RefusedFolder,
    testing::Values(value("Architecture", "model_type", "mixtral", {"model_type \"mixtral\"", "llama"}),
                    value("TypeOfNumber", "model_type", 3, {"\"model_type\"", "string"}),
                    BadFolder{"NoType", [](FolderParts& p) { p.config.erase("model_type"); }, {"model_type"}},
                    value("Activation", "hidden_act", "gelu", {"hidden_act \"gelu\"", "silu"}),
                    value("AttentionBias", "attention_bias", true, {"\"attention_bias\": true"}), value("MlpBias", "mlp_bias", true, {"\"mlp_bias\": true"}),
                    value("AttentionBiasOfText", "attention_bias", "no", {"\"attention_bias\": \"no\""}), no_key("NoLayers", "num_hidden_layers"),
                    no_key("NoHidden", "hidden_size"), no_key("NoFeedForward", "intermediate_size"), no_key("NoHeads", "num_attention_heads"),
                    no_key("NoVocabulary", "vocab_size"), value("LayersOfText", "num_hidden_layers", "2", {"\"num_hidden_layers\"", "whole number", "\"2\""}),
                    value("FractionalLayers", "num_hidden_layers", 2.5, {"\"num_hidden_layers\"", "whole number", "2.5"}),
                    value("NegativeHeads", "num_attention_heads", -4, {"\"num_attention_heads\"", "-4"}),
                    value("ZeroHeads", "num_attention_heads", 0, {"number of heads is 0"}),
                    value("KvHeadsThatDoNotDivide", "num_key_value_heads", 3, {"4 heads", "3 key-value heads"}),
                    value("OddHeadSize", "head_dim", 7, {"head size 7", "odd"}),
                    value("HugeVocabulary", "vocab_size", std::uint64_t{1} << 40, {"vocabulary size is 1099511627776"}),
                    value("OtherVocabulary", "vocab_size", 96, {"model.embed_tokens.weight", "97 x 32", "96 x 32"}),
                    value("ThetaOfText", "rope_theta", "10000", {"\"rope_theta\"", "number"}), value("ZeroTheta", "rope_theta", 0, {"rotary base is 0"}),
                    value("NegativeEpsilon", "rms_norm_eps", -1e-5, {"epsilon"}),
                    value("EpsilonOfList", "rms_norm_eps", nlohmann::json::array({1e-5}), {"\"rms_norm_eps\""}),
                    value("TiedByWord", "tie_word_embeddings", "yes", {"\"tie_word_embeddings\"", "\"yes\""}),
                    scaling("Yarn", {{"rope_type", "yarn"}, {"factor", 2.0}}, {"rope_type \"yarn\"", "llama3"}),
                    scaling("Dynamic", {{"type", "dynamic"}, {"factor", 2.0}}, {"rope_type \"dynamic\""}),
                    scaling("ScalingOfText", "linear", {"\"rope_scaling\"", "object"}),
                    scaling("KindOfNumber", {{"rope_type", 3}}, {"\"rope_type\"", "string"}),
                    scaling("LinearWithoutFactor", {{"rope_type", "linear"}}, {"\"factor\""}),
                    scaling("LinearByZero", {{"rope_type", "linear"}, {"factor", 0}}, {"divisor is 0"}),
                    scaling("LinearByText", {{"rope_type", "linear"}, {"factor", "2"}}, {"\"factor\"", "number"}),
                    scaling("Llama3WithoutLow", {{"rope_type", "llama3"}, {"factor", 8}, {"high_freq_factor", 4}, {"original_max_position_embeddings", 8192}},
                            {"\"low_freq_factor\""}),
                    BadFolder{"HugeHeadSizeWithLinearScaling",
                              [](FolderParts& p) {
                                p.config["head_dim"] = std::uint64_t{1} << 62;
                                p.config["rope_scaling"] = {{"rope_type", "linear"}, {"factor", 2.0}};
                              },
                              {"head size is 4611686018427387904"}},
                    BadFolder{"NoHead", [](FolderParts& p) { p.erase_tensor("lm_head.weight"); }, {"lm_head.weight", "missing"}},
                    BadFolder{"NoNorm",
                              [](FolderParts& p) { p.erase_tensor("model.layers.1.post_attention_layernorm.weight"); },
                              {"model.layers.1.post_attention_layernorm.weight", "missing"}},
                    BadFolder{"ExtraLayer", [](FolderParts& p) { p.config["num_hidden_layers"] = 1; }, {"tensors of layer 1", "names 1 layers"}},
                    BadFolder{"Bias",
                              [](FolderParts& p) {
                                p.tensors.push_back({"model.layers.0.self_attn.q_proj.bias", {32}, "F16", std::string(64, '\0')});
                              },
                              {"model.layers.0.self_attn.q_proj.bias", "biases are not supported"}}),
    [](const auto& test) { return test.param.name; });

// ---- shapes

TEST(LlamaConfig, DescribesTheModelToThePlanner) {
  const Model model = Model{.layers = 3, .hidden = 32, .ffn = 48, .heads = 4, .kv_heads = 2, .head_size = 10, .vocabulary = 97, .tied = false};
  Config config = config_of(Model(model).fill().gguf());
  lsaq::ModelShape shape = lsaq::llama::model_shape(config);
  ASSERT_EQ(shape.layers.size(), 3u);
  EXPECT_EQ(shape.embedding_bytes, 2u * 2 * 97 * 32);
  EXPECT_EQ(shape.fixed_bytes, 2u * 32);
  EXPECT_EQ(shape.layers[2].fixed_bytes, 2u * 2 * 32);
  const auto& linears = shape.layers[0].linears;
  ASSERT_EQ(linears.size(), 7u);
  const std::size_t rows[] = {40, 20, 20, 32, 48, 48, 32}, columns[] = {32, 32, 32, 40, 32, 32, 48};
  const char* names[] = {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"};
  for (std::size_t i = 0; i < 7; ++i) {
    EXPECT_EQ(linears[i].name, names[i]);
    EXPECT_EQ(linears[i].rows, rows[i]) << names[i];
    EXPECT_EQ(linears[i].columns, columns[i]) << names[i];
  }
  EXPECT_EQ(linears[0].group, linears[1].group);
  EXPECT_EQ(linears[0].group, linears[2].group);
  EXPECT_EQ(linears[4].group, linears[5].group);
  EXPECT_NE(linears[0].group, linears[4].group);
  EXPECT_EQ(linears[3].group + linears[6].group, "") << "o and down stand alone";
  config.tied = true;
  EXPECT_EQ(lsaq::llama::model_shape(config).embedding_bytes, 2u * 97 * 32);
}

TEST(LlamaConfig, KnowsShapesByName) {
  // GiB at FP16 by the paper's memory model.
  const std::pair<const char*, double> known[] = {{"llama-2-7b", 12.55}, {"llama-2-13b", 24.24}, {"llama-3-8b", 14.96}};
  for (const auto& [name, gibibytes] : known) {
    const auto config = lsaq::llama::known_config(name);
    ASSERT_TRUE(config) << name;
    EXPECT_EQ(config->name, name);
    EXPECT_NEAR(static_cast<double>(lsaq::model_bytes(lsaq::llama::model_shape(*config), 16)) / 0x1p30, gibibytes, 0.005) << name;
  }
  // Llama-2-7B has 6 738 415 616 parameters, Llama-2-13B 13 015 864 320, Llama-3-8B 8 030 261 248.
  const auto fp16 = [](const char* name) { return lsaq::model_bytes(lsaq::llama::model_shape(*lsaq::llama::known_config(name)), 16); };
  EXPECT_EQ(fp16("llama-2-7b"), Bytes{2} * 6738415616);
  EXPECT_EQ(fp16("llama-2-13b"), Bytes{2} * 13015864320);
  EXPECT_EQ(fp16("llama-3-8b"), Bytes{2} * 8030261248);
  EXPECT_FALSE(lsaq::llama::known_config("llama-4"));
  EXPECT_FALSE(lsaq::llama::known_config(""));
}

} // namespace llama_config_test
