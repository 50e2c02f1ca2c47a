#include <lsaq/thread_pool.hpp>

#include "models/opened_llama.hpp"

#include <gtest/gtest.h>

namespace llama_weights_test {

using lsaq::BadInput;
using lsaq::Bytes;
using lsaq::DeployedMatrix;
using lsaq::ElementType;
using lsaq::InvalidArgument;
using lsaq::Plan;
using make_files::expect_mentions;
using make_files::message_of;
using small_llama::Device;
using small_llama::Model;
using small_llama::Opened;
using small_llama::uniform;
namespace llama = lsaq::llama;

std::string bytes_of(const DeployedMatrix& matrix) {
  if (const lsaq::PackedMatrix* packed = matrix.packed()) return {reinterpret_cast<const char*>(packed->view().data), packed->bytes()};
  const lsaq::AlignedBytes& storage = matrix.floats()->storage;
  return {reinterpret_cast<const char*>(storage.data()), storage.size()};
}

/// Columns that are no multiple of anything, so that padding counts.
Model odd_model(bool tied, const std::string& type) {
  return Model{.layers = 3, .hidden = 34, .ffn = 51, .heads = 4, .kv_heads = 2, .head_size = 10, .vocabulary = 97, .tied = tied, .type = type}.fill();
}

TEST(LlamaWeights, TakeTheBytesThePlannerCounts) {
  for (const bool tied : {true, false})
    for (const char* type : {"F16", "BF16", "F32"}) {
      const Model model = odd_model(tied, type);
      const Opened opened = tied ? small_llama::open_gguf(model) : small_llama::open_folder(model);
      const lsaq::ModelShape shape = lsaq::llama::model_shape(opened.config);
      Plan plan{.bits = {16, 8, 4}};
      for (const bool exceptions : {false, true}) {
        if (exceptions) plan.tensors = {{"0.mlp.down_proj", 4}, {"1.self_attn.q_proj", 16}, {"2.self_attn.o_proj", 3}};
        const llama::ModelWeights weights = opened.deploy(plan);
        EXPECT_EQ(weights.weight_bytes(), lsaq::weight_bytes(shape, plan)) << type;
        EXPECT_EQ(weights.outer.embedding_bytes(), shape.embedding_bytes) << type;
        for (std::size_t l = 0; l < 3; ++l)
          for (std::size_t i = 0; i < llama::linears_per_layer; ++i) {
            const auto linear = static_cast<llama::Linear>(i);
            EXPECT_EQ(weights.layers[l][linear].bits(), plan.bits_of(l, name_of(linear)));
            EXPECT_EQ(weights.layers[l][linear].bytes(), lsaq::linear_bytes(shape.layers[l].linears[i], plan.bits_of(l, name_of(linear))));
          }
      }
    }
}

/// Counted by hand: the smallest model at 8 bits.
TEST(LlamaWeights, TakeTheBytesTheFormatSays) {
  const Model model = Model{.layers = 1, .hidden = 6, .ffn = 5, .heads = 1, .kv_heads = 1, .head_size = 4, .vocabulary = 3}.fill();
  const Opened opened = small_llama::open_gguf(model);
  const llama::ModelWeights weights = opened.deploy(uniform(model, 8));
  const Bytes linears = 3 * 4 * (8 + 2)                   // q, k, v: 4 rows of 6 codes padded to 8, a 2-byte scale each
                        + 6 * (4 + 2)                     // o
                        + 2 * 5 * (8 + 2)                 // gate, up
                        + 6 * (8 + 2);                    // down
  EXPECT_EQ(weights.weight_bytes(), linears + 3 * 6 * 2); // three norms
  EXPECT_EQ(weights.outer.embedding_bytes(), 3u * 6 * 2);
}

TEST(LlamaWeights, KeepTheStoredValuesAt16Bits) {
  for (const char* type : {"F16", "BF16"})
    for (const bool gguf : {true, false}) {
      const Model model = odd_model(false, type);
      const Opened opened = gguf ? small_llama::open_gguf(model) : small_llama::open_folder(model);
      const llama::ModelWeights weights = opened.deploy(uniform(model, 16));
      const auto kind = std::string(type) == "F16" ? ElementType::f16 : ElementType::bf16;
      EXPECT_EQ(weights.outer.embedding.type, kind);
      EXPECT_EQ(weights.outer.head().rows, model.vocabulary);
      EXPECT_NE(weights.outer.head().data, weights.outer.embedding.view().data);
      const char* names[] = {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"};
      for (std::size_t l = 0; l < model.layers; ++l)
        for (std::size_t i = 0; i < 7; ++i) {
          const auto& stored = model.tensors.at(Model::layer_name(l, names[i])).values;
          EXPECT_EQ(small_llama::values_of(weights.layers[l].linears[i]), small_llama::Doubles(stored.begin(), stored.end())) << names[i];
          EXPECT_EQ(weights.layers[l].linears[i].floats()->type, kind);
        }
      const auto& norm = model.tensors.at(Model::layer_name(2, "post_attention_layernorm")).values;
      for (std::size_t i = 0; i < norm.size(); ++i) EXPECT_EQ(lsaq::load_element(weights.layers[2].mlp_norm.storage.data(), kind, i), norm[i]);
    }
}

TEST(LlamaWeights, TiedHeadIsTheEmbedding) {
  const Model model = odd_model(true, "F16");
  const Opened opened = small_llama::open_gguf(model);
  const llama::ModelWeights weights = opened.deploy(uniform(model, 4));
  EXPECT_EQ(weights.outer.head().data, weights.outer.embedding.view().data);
  EXPECT_EQ(weights.outer.separate_head.storage.size(), 0u);
}

TEST(LlamaWeights, KeepTheTypesOfTheFileForMeasuring) {
  const std::pair<const char*, ElementType> types[] = {{"F32", ElementType::f32}, {"BF16", ElementType::bf16}, {"F16", ElementType::f16}};
  for (const auto& [type, kept] : types) {
    const Model model = odd_model(true, type);
    const llama::ModelWeights weights = small_llama::open_gguf(model).as_stored();
    const auto& stored = model.tensors.at("model.layers.1.mlp.up_proj.weight").values;
    EXPECT_EQ(small_llama::values_of(weights.layers[1][llama::Linear::up]), small_llama::Doubles(stored.begin(), stored.end()));
    EXPECT_EQ(weights.layers[1][llama::Linear::up].floats()->type, kept);
    EXPECT_EQ(weights.outer.embedding.type, kept);
    EXPECT_EQ(weights.outer.final_norm.type, ElementType::f32) << "as GGUF files have norms";
  }
  const Model blocks = Model{.ffn = 64, .type = "Q8_0"}.fill();
  EXPECT_EQ(small_llama::open_gguf(blocks).as_stored().layers[1][llama::Linear::up].floats()->type, ElementType::f16);
}

TEST(LlamaWeights, ArePackedAsTheQuantizerDoes) {
  const Model model = odd_model(true, "BF16");
  const Opened opened = small_llama::open_gguf(model);
  const llama::ModelWeights weights = opened.deploy({.bits = {8, 4, 5}});
  const unsigned bits[] = {8, 4, 5};
  for (std::size_t l = 0; l < 3; ++l) {
    const auto& tensor = model.tensors.at(Model::layer_name(l, "mlp.down_proj"));
    const lsaq::PackedMatrix packed = lsaq::quantize<lsaq::PerChannel>({tensor.values.data(), tensor.shape[0], tensor.shape[1]}, bits[l]);
    const DeployedMatrix& deployed = weights.layers[l][llama::Linear::down];
    EXPECT_EQ(bytes_of(deployed), std::string(reinterpret_cast<const char*>(packed.view().data), packed.bytes())) << l;
  }
}

/// What a quantized file stores is widened, rounded to F16, then quantized again.
TEST(LlamaWeights, QuantizedSourcesAreRoundedToHalvesFirst) {
  const Model model = Model{.ffn = 64, .heads = 4, .kv_heads = 4, .head_size = 8, .type = "Q8_0"}.fill();
  const Opened opened = small_llama::open_gguf(model);
  const lsaq::TensorInfo& tensor = opened.source->at("blk.1.ffn_up.weight");
  ASSERT_EQ(tensor.type, lsaq::StoredType::q8_0);
  std::vector<float> values(tensor.rows * tensor.columns);
  opened.source->read_rows(tensor, 0, tensor.rows, values.data());
  std::vector<lsaq::f16> halves;
  std::size_t inexact = 0;
  for (const float value : values) {
    halves.push_back(lsaq::to_f16(value));
    inexact += lsaq::to_float(halves.back()) != value;
  }
  ASSERT_GT(inexact, 0u) << "the rounding must matter";
  const lsaq::PackedMatrix packed = lsaq::quantize<lsaq::PerChannel>({halves.data(), tensor.rows, tensor.columns}, 8);
  const llama::ModelWeights weights = opened.deploy(uniform(model, 8));
  EXPECT_EQ(bytes_of(weights.layers[1][llama::Linear::up]), std::string(reinterpret_cast<const char*>(packed.view().data), packed.bytes()));
  const llama::ModelWeights floats = opened.deploy(uniform(model, 16));
  EXPECT_EQ(bytes_of(floats.layers[1][llama::Linear::up]), std::string(reinterpret_cast<const char*>(halves.data()), 2 * halves.size()));
}

TEST(LlamaWeights, DoNotDependOnThreads) {
  const Model model = odd_model(false, "F16");
  const Opened opened = small_llama::open_folder(model);
  lsaq::ThreadPool pool(4);
  const Plan plan{.bits = {16, 8, 4}};
  const llama::ModelWeights alone = opened.deploy(plan), together = opened.deploy(plan, Device(pool));
  for (std::size_t l = 0; l < 3; ++l)
    for (std::size_t i = 0; i < 7; ++i) EXPECT_EQ(bytes_of(alone.layers[l].linears[i]), bytes_of(together.layers[l].linears[i]));
}

TEST(LlamaWeights, ReportProgress) {
  const Model model = odd_model(true, "F16");
  const Opened opened = small_llama::open_gguf(model);
  std::vector<std::size_t> seen;
  llama::load_weights(llama::WeightLoader(*opened.source, opened.config), opened.config, uniform(model, 4), Device(),
                      [&](std::size_t layers) { seen.push_back(layers); });
  EXPECT_EQ(seen, (std::vector<std::size_t>{1, 2, 3}));
}

TEST(LlamaWeights, RefuseAPlanOfAnotherModel) {
  const Model model = odd_model(true, "F16");
  const Opened opened = small_llama::open_gguf(model);
  expect_mentions(message_of<BadInput>([&] { (void)opened.deploy({.bits = {8, 8}}); }), {"2 layers", "has 3"});
}

TEST(LlamaWeights, RefuseBitsThatNothingHas) {
  const Model model = odd_model(true, "F16");
  const Opened opened = small_llama::open_gguf(model);
  for (const unsigned bits : {0u, 1u, 9u, 15u, 17u, 32u})
    expect_mentions(message_of<InvalidArgument>([&] {
                      (void)opened.deploy({.bits = {8, bits, 8}});
                    }),
                    {"blk.1.attn_q.weight", " " + std::to_string(bits) + " bits"});
}

TEST(LlamaWeights, RefuseWeightsThatAreNotFiniteByName) {
  for (const unsigned bits : {16u, 8u}) {
    const Model model = odd_model(true, "F32");
    small_llama::GgufParts parts = model.gguf();
    const float infinite = INFINITY;
    std::memcpy(parts.tensor("blk.2.ffn_down.weight").bytes.data() + 4 * (7 * model.ffn + 5), &infinite, 4);
    Opened opened;
    opened.open(opened.folder->write("m.gguf", parts.build()));
    expect_mentions(message_of<BadInput>([&] { (void)opened.deploy(uniform(model, bits)); }), {"blk.2.ffn_down.weight", "row 7", "column 5", "inf"});
  }
}

TEST(LlamaWeights, RefuseWeightsBeyondTheRangeOfF16) {
  const Model model = odd_model(true, "F32");
  small_llama::GgufParts parts = model.gguf();
  const float large = 70000;
  std::memcpy(parts.tensor("token_embd.weight").bytes.data() + 4 * model.hidden, &large, 4);
  Opened opened;
  opened.open(opened.folder->write("m.gguf", parts.build()));
  expect_mentions(message_of<BadInput>([&] { (void)opened.deploy(uniform(model, 8)); }), {"token_embd.weight", "row 1", "column 0", "70000", "F16"});
  EXPECT_NO_THROW((void)opened.as_stored());
}

TEST(LlamaWeights, RefuseTensorsThatAreNotNumbers) {
  const Model model = odd_model(true, "F32");
  small_llama::FolderParts parts = model.folder();
  parts.tensor("model.layers.0.self_attn.v_proj.weight").type = "I32";
  Opened opened;
  parts.write(*opened.folder);
  opened.open(opened.folder->path());
  expect_mentions(message_of<BadInput>([&] { (void)opened.deploy(uniform(model, 8)); }),
                  {"model.safetensors", "model.layers.0.self_attn.v_proj.weight", "I32"});
}

} // namespace llama_weights_test
