// Models as compressed-tensors folders: read back they are what was quantized; how schemes, shards and tokenizer are written.
#include <lsaq/models/compressed_tensors_export.hpp>
#include <lsaq/models/tokenizer.hpp>

#include "models/exported_llama.hpp"

namespace compressed_tensors_export_test {

using nlohmann::json;
using small_llama::Device;
using small_llama::Model;
using small_llama::Opened;
namespace llama = lsaq::llama;

/// Writes the folder, whose parts' sizes it checks.
Opened write(const Opened& source, const llama::CompressedTensorsExport& made, const lsaq::Plan& plan, const llama::RoundingLoader& loader) {
  const Device device;
  Opened opened;
  for (const llama::CompressedTensorsExport::Shard& shard : made.shards()) {
    std::string file = shard.header;
    const auto append = [&](std::span<const std::byte> bytes) { file.append(reinterpret_cast<const char*>(bytes.data()), bytes.size()); };
    for (std::size_t part = shard.first_part; part < shard.end_part; ++part) {
      const std::size_t before = file.size();
      if (part == llama::embedding_part || part == llama::last_part(source.config)) {
        made.write_outer(part, append);
      } else {
        const std::size_t layer = part - 1;
        const auto bits_of = [&](std::string_view linear) { return plan.bits_of(layer, linear); };
        made.write_layer(
            layer, [&](auto&& take) { loader.each_linear(device, layer, bits_of, take); }, append);
      }
      EXPECT_EQ(file.size() - before, made.part_bytes(part)) << part;
    }
    opened.folder->write(shard.name, file);
  }
  for (const auto& [name, text] : made.texts()) opened.folder->write(name, text);
  for (const auto& path : made.copies()) std::filesystem::copy_file(path, opened.folder->path() / path.filename());
  opened.open(opened.folder->path());
  return opened;
}

struct Exported {
  Opened source;
  llama::ModelWeights weights; ///< as deployed by the same plan
  Opened made;
  json config;
};

Exported exported(const Model& model, bool from_gguf, const lsaq::Plan& plan, llama::ModelRounding rounding = {}, lsaq::Bytes shard_bytes = 5'000'000'000) {
  Exported result{small_llama::open_with_tokenizer(model, from_gguf), {}, {}, {}};
  llama::WeightLoader weights(*result.source.source, result.source.config);
  if (model.type == "F32") weights.keep_as(lsaq::ElementType::f32);
  rounding.scale = llama::CompressedTensorsExport::scale_of(weights.unquantized());
  const lsaq::ElementType unquantized = weights.unquantized();
  const llama::RoundingLoader loader(std::move(weights), rounding, {});
  result.weights = llama::load_weights(loader, result.source.config, plan, Device());
  const llama::CompressedTensorsExport made(*result.source.source, result.source.config, {.plan = plan}, rounding.grouping, unquantized, shard_bytes);
  result.made = write(result.source, made, plan, loader);
  result.config = result.made.source->config();
  return result;
}

TEST(CompressedTensorsExport, HoldsTheModelExactly) {
  for (const std::string type : {"F16", "BF16", "F32", "Q8_0"})
    for (const bool from_gguf : {true, false})
      for (const bool tied : {true, false}) {
        if (type == "Q8_0" && !from_gguf) continue;
        SCOPED_TRACE(type + (from_gguf ? " GGUF" : " folder") + (tied ? " tied" : ""));
        const Exported x = exported(small_llama::exportable(type, tied).fill(), from_gguf, small_llama::mixed_plan(), {}, tied ? 20'000 : 5'000'000'000);
        small_llama::expect_exact_linears(x.source, x.weights, x.made);
        small_llama::expect_close(small_llama::states_of(x.made, small_llama::exact_weights(x.made)), small_llama::states_of(x.source, x.weights), 2e-3);
        EXPECT_EQ(x.config.at("torch_dtype"), type == "BF16" ? "bfloat16" : type == "F32" ? "float32" : "float16");
        EXPECT_EQ(x.made.source->files().size(), tied ? 5u : 1u) << "shards of one part, and one shard";
        EXPECT_EQ(x.made.config.tied, tied);
        const lsaq::Tokenizer expected(small_llama::exported_vocabulary()), found = lsaq::Tokenizer::open(*x.made.source);
        EXPECT_EQ(found.encode("the cat<|end|>", {.parse_special = true}), expected.encode("the cat<|end|>", {.parse_special = true}));
        EXPECT_EQ(found.chat_template(), "{{ messages }}");
      }
}

TEST(CompressedTensorsExport, DescribesItsSchemes) {
  const Exported x = exported(small_llama::exportable().fill(), true, small_llama::mixed_plan());
  const json& quantization = x.config.at("quantization_config");
  EXPECT_EQ(quantization.at("quant_method"), "compressed-tensors");
  EXPECT_EQ(quantization.at("format"), "pack-quantized");
  EXPECT_EQ(quantization.at("quantization_status"), "compressed");
  EXPECT_EQ(quantization.at("ignore"), (json{"lm_head", R"(re:.*layers\.(2)\..*)"}));
  const json& groups = quantization.at("config_groups");
  ASSERT_EQ(groups.size(), 2u);
  EXPECT_EQ(groups.at("group_0").at("targets"), json{R"(re:.*layers\.(0)\.(self_attn|mlp)\.[a-z]+_proj$)"});
  EXPECT_EQ(groups.at("group_0").at("weights"),
            (json{{"num_bits", 8}, {"type", "int"}, {"symmetric", true}, {"strategy", "channel"}, {"group_size", nullptr}, {"dynamic", false}}));
  EXPECT_EQ(groups.at("group_1").at("weights").at("num_bits"), 4);

  const Exported grouped = exported(small_llama::exportable().fill(), false, {.bits = {4, 4, 4}}, {.grouping = lsaq::PerGroup<32>::grouping});
  small_llama::expect_exact_linears(grouped.source, grouped.weights, grouped.made);
  EXPECT_EQ(grouped.config.at("quantization_config").at("config_groups").at("group_0").at("weights").at("group_size"), 32);

  const Exported plain = exported(small_llama::exportable().fill(), false, {.bits = {16, 16, 16}});
  EXPECT_FALSE(plain.config.contains("quantization_config"));
  small_llama::expect_exact_linears(plain.source, plain.weights, plain.made);
}

/// Exceptions of a plan are patterns of their own; what engines fuse stays together.
TEST(CompressedTensorsExport, KeepsFusedLinearsTogether) {
  lsaq::Plan plan{.bits = {8, 8, 4}, .tensors = {{"1.mlp.down_proj", 4}, {"2.self_attn.o_proj", 16}}};
  const Exported x = exported(small_llama::exportable().fill(), false, plan);
  small_llama::expect_exact_linears(x.source, x.weights, x.made);
  const json& quantization = x.config.at("quantization_config");
  EXPECT_EQ(quantization.at("ignore"), (json{"lm_head", R"(re:.*layers\.(2)\.self_attn\.o_proj$)"}));
  const json four = quantization.at("config_groups").at("group_1").at("targets");
  EXPECT_THAT(four.get<std::vector<std::string>>(),
              testing::UnorderedElementsAre(R"(re:.*layers\.(2)\.self_attn\.(q|k|v)_proj$)", R"(re:.*layers\.(2)\.mlp\.(gate|up)_proj$)",
                                            R"(re:.*layers\.(1|2)\.mlp\.down_proj$)"));
  plan.tensors = {{"1.mlp.up_proj", 4}};
  make_files::expect_mentions(make_files::message_of<lsaq::InvalidArgument>([&] { (void)exported(small_llama::exportable().fill(), false, plan); }),
                              {"layer 1", "gate_proj", "up_proj", "fuse"});
}

TEST(CompressedTensorsExport, NamesScaledFrequencies) {
  Model model = small_llama::exportable();
  llama::Config config{.head_size = 16, .rope_theta = 10000};
  model.rope_divisors = llama::llama3_rope_divisors(config, 32, 1, 4, 8192);
  model.fill();
  const Exported llama3 = exported(model, true, small_llama::mixed_plan());
  EXPECT_EQ(llama3.config.at("rope_scaling").at("rope_type"), "llama3");
  EXPECT_EQ(llama3.made.config.rope_divisors, model.rope_divisors);
  model.rope_divisors.assign(8, 4.0f);
  EXPECT_EQ(exported(model, true, small_llama::mixed_plan()).made.config.rope_divisors, model.rope_divisors);
  model.rope_divisors = {1, 2, 1, 2, 1, 2, 1, 2};
  make_files::expect_mentions(make_files::message_of<lsaq::BadInput>([&] { (void)exported(model, true, small_llama::mixed_plan()); }), {"rotary"});
}

TEST(CompressedTensorsExport, RefusesWhatEnginesDoNotLoad) {
  const auto refused = [](const lsaq::Plan& plan, const llama::ModelRounding& rounding, const std::vector<std::string>& parts) {
    make_files::expect_mentions(make_files::message_of<lsaq::InvalidArgument>([&] { (void)exported(small_llama::exportable().fill(), false, plan, rounding); }),
                                parts);
  };
  refused({.bits = {8, 6, 4}}, {}, {"layer 1", "6 bits"});
  refused({.bits = {8, 8, 4}}, {.grouping = lsaq::PerTensor::grouping}, {"whole matrix"});
  refused({.bits = {8, 8, 4}}, {.grouping = lsaq::PerGroup<64>::grouping}, {"down_proj", "96 columns", "64"});
}

TEST(CompressedTensorsExport, NotesWhatMarlinWants) {
  const Opened source = small_llama::open_with_tokenizer(small_llama::exportable().fill(), true);
  const llama::CompressedTensorsExport made(*source.source, source.config, {.plan = small_llama::mixed_plan()}, {}, lsaq::ElementType::f16);
  ASSERT_EQ(made.notes().size(), 1u);
  EXPECT_THAT(made.notes()[0], testing::AllOf(testing::HasSubstr("Marlin"), testing::HasSubstr("mlp.down_proj (64 x 96)")));
}

} // namespace compressed_tensors_export_test
