// Models as GGUF files: what is read back is what was quantized, and computes the same.
#include <lsaq/models/gguf_export.hpp>
#include <lsaq/models/tokenizer.hpp>

#include "models/exported_llama.hpp"

namespace gguf_export_test {

using lsaq::StoredType;
using small_llama::Device;
using small_llama::Model;
using small_llama::Opened;
namespace llama = lsaq::llama;

/// Writes the file through the parts of an export, whose sizes it checks.
Opened write(const Opened& source, const llama::GgufExport& made, const llama::RoundingLoader& loader) {
  const Device device;
  std::string file = made.header();
  const auto append = [&](std::span<const std::byte> bytes) { file.append(reinterpret_cast<const char*>(bytes.data()), bytes.size()); };
  for (std::size_t part = 0; part < llama::export_parts(source.config); ++part) {
    const std::size_t before = file.size();
    if (part == llama::embedding_part || part == llama::last_part(source.config)) {
      made.write_outer(part, append);
    } else {
      const std::size_t layer = part - 1;
      const auto bits_of = [&](std::string_view linear) { return made.plan().bits_of(layer, linear); };
      made.write_layer(
          layer, [&](auto&& take) { loader.each_linear(device, layer, bits_of, take); }, append);
    }
    EXPECT_EQ(file.size() - before, made.part_bytes(part)) << part;
  }
  Opened opened;
  opened.open(opened.folder->write("made.gguf", file));
  return opened;
}

struct Exported {
  Opened source;
  llama::ModelWeights weights; ///< as deployed by the same plan
  Opened made;
};

Exported exported(const Model& model, bool from_gguf, const lsaq::Plan& plan, const llama::ModelRounding& rounding = {}) {
  Exported result{small_llama::open_with_tokenizer(model, from_gguf), {}, {}};
  llama::WeightLoader weights(*result.source.source, result.source.config);
  const lsaq::ElementType unquantized = weights.unquantized();
  const llama::RoundingLoader loader(std::move(weights), rounding, {});
  const lsaq::PlanFile file{.plan = plan, .model = "small", .model_sha256 = "abc"};
  const llama::GgufExport made(*result.source.source, result.source.config, plan, unquantized, llama::GgufExport::provenance(file));
  result.weights = llama::load_weights(loader, result.source.config, made.plan(), Device());
  result.made = write(result.source, made, loader);
  return result;
}

TEST(GgufExport, HoldsTheModelExactly) {
  for (const std::string type : {"F16", "BF16", "F32", "Q8_0"})
    for (const bool from_gguf : {true, false})
      for (const bool tied : {true, false}) {
        if (type == "Q8_0" && !from_gguf) continue;
        SCOPED_TRACE(type + (from_gguf ? " GGUF" : " folder") + (tied ? " tied" : ""));
        const Model model = small_llama::exportable(type, tied).fill();
        const Exported x = exported(model, from_gguf, small_llama::mixed_plan());
        small_llama::expect_exact_linears(x.source, x.weights, x.made);
        small_llama::expect_close(small_llama::states_of(x.made, small_llama::exact_weights(x.made)), small_llama::states_of(x.source, x.weights), 2e-3);
        const llama::Config& config = x.made.config;
        EXPECT_EQ(std::tuple(config.layers, config.hidden, config.ffn, config.heads, config.kv_heads, config.head_size, config.tied),
                  std::tuple(3u, 64u, 96u, 4u, 2u, 16u, tied));
        EXPECT_EQ(std::pair(config.epsilon, config.rope_theta), (std::pair<double, double>(1e-5f, 10000))) << "FP32 in the file";
        const lsaq::ModelSource& file = *x.made.source;
        const StoredType floats = type == "BF16" ? StoredType::bf16 : StoredType::f16;
        EXPECT_EQ(file.at("token_embd.weight").type, floats);
        EXPECT_EQ(file.at("blk.0.ffn_down.weight").type, StoredType::q8_0);
        EXPECT_EQ(file.at("blk.1.attn_k.weight").type, StoredType::q4_0);
        EXPECT_EQ(file.at("blk.2.attn_q.weight").type, floats);
        EXPECT_EQ(file.at("blk.1.ffn_norm.weight").type, StoredType::f32);
        EXPECT_EQ(small_llama::tensor_values(file, "blk.1.ffn_norm.weight"), model.tensors.at("model.layers.1.post_attention_layernorm.weight").values);
      }
}

TEST(GgufExport, CarriesMetadataAndTokenizer) {
  for (const bool from_gguf : {true, false}) {
    const Exported x = exported(small_llama::exportable().fill(), from_gguf, small_llama::mixed_plan());
    const lsaq::GgufFile& file = x.made.source->gguf();
    EXPECT_EQ(file.string_at("general.architecture"), "llama");
    EXPECT_EQ(file.unsigned_at("general.quantization_version"), 2u);
    EXPECT_EQ(file.unsigned_at("general.file_type"), 7u);
    EXPECT_EQ(file.array_at<std::uint32_t>("lsaq.bits"), (std::vector<std::uint32_t>{8, 4, 16}));
    const auto plan = lsaq::plan_from_json(lsaq::parse_json(file.string_at("lsaq.plan"), "plan"), "plan");
    EXPECT_EQ(plan.plan.bits, small_llama::mixed_plan().bits);
    EXPECT_EQ(plan.model_sha256, "abc");
    EXPECT_TRUE(file.string_at("lsaq.version").find('.') != std::string::npos);
    EXPECT_EQ(file.array_at<std::string>("tokenizer.ggml.tokens").size(), 300u);
    const lsaq::Tokenizer expected(small_llama::exported_vocabulary()), found = lsaq::Tokenizer::open(*x.made.source);
    for (const char* text : {"the cat he", "<|start|>t<|end|>"})
      EXPECT_EQ(found.encode(text, {.parse_special = true}), expected.encode(text, {.parse_special = true}));
    EXPECT_EQ(found.chat_template(), "{{ messages }}");
  }
  const Exported plain = exported(small_llama::exportable().fill(), true, {.bits = {16, 16, 16}});
  EXPECT_EQ(plain.made.source->gguf().unsigned_at("general.file_type"), 1u);
  EXPECT_EQ(plain.made.source->gguf().find("general.quantization_version"), nullptr);
}

TEST(GgufExport, HoldsEveryGranularityAndWidth) {
  for (const lsaq::Grouping grouping : {lsaq::PerTensor::grouping, lsaq::PerGroup<32>::grouping, lsaq::PerGroup<64>::grouping}) {
    const Exported x = exported(small_llama::exportable().fill(), false, {.bits = {3, 6, 8}}, {.grouping = grouping, .range = lsaq::CodeRange::full});
    small_llama::expect_exact_linears(x.source, x.weights, x.made);
    EXPECT_EQ(x.made.source->at("blk.0.attn_q.weight").type, StoredType::q4_0);
    EXPECT_EQ(x.made.source->at("blk.1.attn_q.weight").type, StoredType::q8_0);
  }
}

/// Rows that are not whole blocks stay 16-bit, and the planner knows.
TEST(GgufExport, CountsItsBytes) {
  Model model = small_llama::exportable();
  model.ffn = 80;
  model.fill();
  const Exported x = exported(model, false, {.bits = {8, 4, 4}});
  EXPECT_EQ(x.made.source->at("blk.0.ffn_down.weight").type, StoredType::f16);
  EXPECT_EQ(x.made.source->at("blk.1.ffn_up.weight").type, StoredType::q4_0);
  small_llama::expect_exact_linears(x.source, x.weights, x.made);
  const lsaq::ModelShape shape = llama::model_shape(x.source.config, lsaq::Destination::gguf);
  const std::vector<unsigned> bits = {8, 4, 4};
  lsaq::Bytes tensors = 0;
  for (const lsaq::TensorInfo& tensor : x.made.source->tensors()) tensors += lsaq::gguf_padded(tensor.bytes);
  EXPECT_EQ(lsaq::weight_bytes(shape, bits, lsaq::ScaleType::f16, {}, lsaq::Destination::gguf) + shape.embedding_bytes, tensors);
}

TEST(GgufExport, KeepsScaledFrequenciesAndOtherTensors) {
  Model model = small_llama::exportable();
  model.rope_divisors = {1, 1, 1.5f, 2, 3, 4, 8, 8};
  model.fill();
  const Exported file = exported(model, true, small_llama::mixed_plan());
  EXPECT_EQ(small_llama::tensor_values(*file.made.source, "rope_freqs.weight"), model.rope_divisors);
  EXPECT_EQ(file.made.config.rope_divisors, model.rope_divisors);

  model.rope_divisors.clear();
  Opened source = small_llama::open_with_tokenizer(model, false);
  source.config.rope_divisors = {1, 1, 1, 1, 2, 4, 8, 8}; // as config.json's Llama 3 scaling gives them
  const llama::RoundingLoader loader(llama::WeightLoader(*source.source, source.config), {}, {});
  const Opened made = write(source, llama::GgufExport(*source.source, source.config, small_llama::mixed_plan(), lsaq::ElementType::f16), loader);
  EXPECT_EQ(made.config.rope_divisors, source.config.rope_divisors);
}

TEST(GgufExport, RefusesWhatItCantHold) {
  const Opened source = small_llama::open_folder(small_llama::exportable().fill()); // without a tokenizer
  using make_files::expect_mentions;
  using make_files::message_of;
  expect_mentions(message_of<lsaq::BadInput>([&] { llama::GgufExport(*source.source, source.config, small_llama::mixed_plan(), lsaq::ElementType::f16); }),
                  {"tokenizer.json"});
  expect_mentions(message_of<lsaq::InvalidArgument>([&] { llama::GgufExport(*source.source, source.config, {.bits = {8}}, lsaq::ElementType::f16); }),
                  {"1 layers", "3"});
  expect_mentions(message_of<lsaq::InvalidArgument>([] { llama::check_exportable({.residual = true}); }), {"--rotate-heads"});
  EXPECT_NO_THROW(llama::check_exportable({.heads = true}));
}

} // namespace gguf_export_test
