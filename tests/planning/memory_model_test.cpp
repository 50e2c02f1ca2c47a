// Bytes of models at given bits, against arithmetic written out here.
#include <lsaq/planning/memory_model.hpp>

#include "shapes.hpp"

#include <formats/make_files.hpp>

namespace memory_model_test {

using lsaq::Bytes;
using lsaq::effective_bits;
using lsaq::layer_bytes;
using lsaq::linear_bytes;
using lsaq::LinearShape;
using lsaq::ModelShape;
using lsaq::Plan;
using lsaq::ScaleType;
using lsaq::weight_bytes;
using namespace lsaq::literals;

TEST(LinearBytes, OfEveryWidthBit) {
  // Written as the layout says: each row's codes end on a 32-bit word, then one scale a row.
  for (const std::size_t rows : {1u, 3u, 64u})
    for (std::size_t columns = 1; columns <= 130; ++columns) {
      for (unsigned bits = 2; bits <= 8; ++bits) {
        Bytes words = 0;
        for (std::size_t bit = 0; bit < columns * bits; bit += 32) ++words;
        ASSERT_EQ(linear_bytes({.rows = rows, .columns = columns}, bits), rows * (4 * words + 2)) << columns << " columns, " << bits << " bits";
        ASSERT_EQ(linear_bytes({.rows = rows, .columns = columns}, bits, ScaleType::f32), rows * (4 * words + 4));
      }
      ASSERT_EQ(linear_bytes({.rows = rows, .columns = columns}, 16), 2 * rows * columns);
      ASSERT_EQ(linear_bytes({.rows = rows, .columns = columns}, 16, ScaleType::f32), 2 * rows * columns) << "no scales";
    }
}

TEST(LinearBytes, ByHand) {
  const LinearShape linear{.rows = 576, .columns = 1536};
  EXPECT_EQ(linear_bytes(linear, 16), 576u * 1536 * 2);
  EXPECT_EQ(linear_bytes(linear, 8), 576u * 1536 + 576 * 2);
  EXPECT_EQ(linear_bytes(linear, 4), 576u * 1536 / 2 + 576 * 2);
  EXPECT_EQ(linear_bytes({.rows = 10, .columns = 9}, 4), 10u * (8 + 2)) << "9 codes take 36 bits: two words";
  EXPECT_EQ(linear_bytes({.rows = 10, .columns = 9}, 8), 10u * (12 + 2));
  EXPECT_EQ(linear_bytes({.rows = 10, .columns = 9}, 8, ScaleType::bf16), 10u * (12 + 2));
}

TEST(LinearBytes, IsWhatAPackedMatrixAllocates) {
  for (const unsigned bits : {2u, 3u, 4u, 5u, 8u})
    EXPECT_EQ(linear_bytes({.rows = 7, .columns = 45}, bits), lsaq::PackedMatrix({7, 45}, bits, ScaleType::f16).storage().size());
}

TEST(LinearBytes, CountsExperts) {
  const LinearShape experts{.rows = 10, .columns = 9, .count = 8};
  EXPECT_EQ(linear_bytes(experts, 4), 8u * 10 * (8 + 2));
  EXPECT_EQ(linear_bytes(experts, 16), 8u * 10 * 9 * 2);
  EXPECT_EQ(experts.weights(), 720u);
}

TEST(LinearBytes, BeyondFourGigabytes) {
  const LinearShape linear{.rows = 1u << 20, .columns = 1u << 20, .count = 4};
  EXPECT_EQ(linear_bytes(linear, 16), Bytes{8} << 40);
  EXPECT_EQ(linear_bytes(linear, 4), (Bytes{2} << 40) + (Bytes{8} << 20));
}

TEST(LayerBytes, SumOfLinearsAndNorms) {
  const lsaq::LayerShape layer{.linears = {{.rows = 8, .columns = 16}, {.rows = 4, .columns = 32, .count = 2}}, .fixed_bytes = 77};
  EXPECT_EQ(layer_bytes(layer, 16), 77u + 2 * 128 + 2 * 256);
  EXPECT_EQ(layer_bytes(layer, 8), 77u + (128 + 16) + 2 * (128 + 8));
  EXPECT_EQ(layer_bytes(layer, 4), 77u + (64 + 16) + 2 * (64 + 8));
  EXPECT_EQ(layer_bytes(layer, 4, ScaleType::f32), 77u + (64 + 32) + 2 * (64 + 16));
  EXPECT_EQ(layer_bytes({}, 8), 0u);
}

TEST(LayerBytes, PinnedLinearsKeepTheirBits) {
  const lsaq::LayerShape layer{.linears = {{.rows = 8, .columns = 16, .pinned = 16}, {.rows = 4, .columns = 32, .pinned = 8}, {.rows = 4, .columns = 32}}};
  EXPECT_EQ(effective_bits(layer.linears[0], 4), 16u);
  EXPECT_EQ(effective_bits(layer.linears[1], 16), 8u);
  EXPECT_EQ(effective_bits(layer.linears[2], 4), 4u);
  EXPECT_EQ(layer_bytes(layer, 4), 2u * 128 + (128 + 8) + (64 + 8));
  EXPECT_EQ(layer_bytes(layer, 16), 2u * 128 + (128 + 8) + 256);
}

TEST(WeightBytes, LayersAndFinalNorm) {
  const std::vector<unsigned> bits{16, 8, 4};
  EXPECT_EQ(weight_bytes(shapes::small(3), bits), shapes::small_16 + shapes::small_8 + shapes::small_4 + 6);
  EXPECT_EQ(weight_bytes(shapes::small(3), bits, ScaleType::f32), shapes::small_16 + shapes::small_8 + shapes::small_4 + 6 + 2 * 200);
  EXPECT_EQ(weight_bytes(shapes::small(0), std::vector<unsigned>{}), 6u);
}

TEST(WeightBytes, PlanForAnotherModelIsRefused) {
  const std::vector<unsigned> bits{16, 8};
  make_files::expect_mentions(make_files::message_of<lsaq::InvalidArgument>([&] { weight_bytes(shapes::small(3), bits); }), {"2 layers", "a model of 3"});
}

TEST(WeightBytes, OfAPlanWithoutExceptionsEqualThoseOfItsBits) {
  const ModelShape shape = shapes::llama("tiny", 3, 48, 80, 16, 10);
  const Plan plan{.bits = {4, 16, 8}};
  EXPECT_EQ(weight_bytes(shape, plan), weight_bytes(shape, plan.bits));
}

TEST(WeightBytes, OfAPlanWithExceptionsForSingleLinears) {
  const ModelShape shape = shapes::llama("tiny", 2, 48, 80, 16, 10);
  Plan plan{.bits = {4, 8}};
  plan.tensors = {{"0.mlp.down_proj", 16}, {"1.self_attn.q_proj", 4}};
  const Bytes down_4 = 48 * (80 / 2 + 2), down_16 = 48 * 80 * 2, q_8 = 48 * (48 + 2), q_4 = 48 * (48 / 2 + 2);
  EXPECT_EQ(weight_bytes(shape, plan), weight_bytes(shape, plan.bits) - down_4 + down_16 - q_8 + q_4);
}

TEST(WeightBytes, PinnedLinearsStayPinnedInAPlanWithExceptions) {
  ModelShape shape = shapes::llama("tiny", 2, 48, 80, 16, 10);
  shape.layers[0].linears[3].pinned = 16; // o_proj
  const Bytes q_8 = 48 * (48 + 2), q_4 = 48 * (48 / 2 + 2);
  Plan plan{.bits = {4, 8}};
  plan.tensors = {{"1.self_attn.q_proj", 4}}; // says nothing of the pinned one
  EXPECT_EQ(weight_bytes(shape, plan), weight_bytes(shape, plan.bits) - q_8 + q_4);
  plan.tensors = {{"0.self_attn.o_proj", 4}}; // contradicts it: a pin is what a linear must have
  EXPECT_EQ(weight_bytes(shape, plan), weight_bytes(shape, plan.bits));
}

TEST(ModelBytes, AddsTheEmbeddingOnce) {
  EXPECT_EQ(lsaq::model_bytes(shapes::small(2), 8), 2 * shapes::small_8 + shapes::small_beside);
  // A model whose head is its embedding differs from the untied one by exactly one matrix.
  ModelShape untied = shapes::llama("a", 2, 48, 80, 16, 100), tied = untied;
  tied.embedding_bytes = Bytes{2} * 100 * 48;
  EXPECT_EQ(lsaq::model_bytes(untied, 4) - lsaq::model_bytes(tied, 4), Bytes{2} * 100 * 48);
}

TEST(DefaultReserve, IsThreePercentOfTheFp16Weights) {
  const ModelShape shape = shapes::small(3);
  const double fp16 = 3.0 * shapes::small_16 + shapes::small_beside;
  EXPECT_NEAR(static_cast<double>(lsaq::default_reserve(shape)), 0.03 * fp16, 1);
  EXPECT_NEAR(static_cast<double>(lsaq::default_reserve(shape, 10)), 0.1 * fp16, 1);
  EXPECT_EQ(lsaq::default_reserve(shape, 0), 0u);
}

TEST(KvCacheBytes, ByHand) {
  EXPECT_EQ(lsaq::kv_cache_bytes(32, 32, 128, 4096), 2_GiB); // Llama-2-7B: half a MiB a position
  EXPECT_EQ(lsaq::kv_cache_bytes(32, 8, 128, 8192), 1_GiB);  // Llama-3-8B
  EXPECT_EQ(lsaq::kv_cache_bytes(30, 3, 64, 256), Bytes{30} * 2 * 3 * 64 * 256 * 2);
  EXPECT_EQ(lsaq::kv_cache_bytes(30, 3, 64, 256, 32), Bytes{30} * 2 * 3 * 64 * 256 * 4);
  EXPECT_EQ(lsaq::kv_cache_bytes(30, 3, 64, 256, 8), Bytes{30} * 2 * 3 * 64 * 256);
  EXPECT_EQ(lsaq::kv_cache_bytes(30, 3, 64, 0), 0u);
  EXPECT_EQ(lsaq::kv_cache_bytes(126, 8, 128, 1u << 20), Bytes{126} * 2 * 8 * 128 * (1u << 20) * 2) << "half a terabyte";
  for (const std::size_t head_size : {2u, 64u, 250u}) {
    EXPECT_EQ(lsaq::kv_cache_bytes(30, 3, head_size, 77, lsaq::ElementType::f16), lsaq::kv_cache_bytes(30, 3, head_size, 77));
    EXPECT_EQ(lsaq::kv_cache_bytes(30, 3, head_size, 77, lsaq::ElementType::f32), lsaq::kv_cache_bytes(30, 3, head_size, 77, 32));
  }
  EXPECT_EQ(lsaq::kv_cache_bytes(30, 3, 64, 256, lsaq::ElementType::q8_0), Bytes{30} * 2 * 3 * 256 * 2 * 34) << "34 bytes for 32 values";
}

TEST(AverageBits, WeighsLinearsByTheirWeights) {
  const ModelShape shape{.layers = {{.linears = {{.name = "a", .rows = 10, .columns = 30}, {.name = "b", .rows = 10, .columns = 10}}},
                                    {.linears = {{.name = "a", .rows = 10, .columns = 10}}}}};
  EXPECT_DOUBLE_EQ(lsaq::average_bits(shape, {.bits = {8, 4}}), (400 * 8 + 100 * 4) / 500.0);
  EXPECT_DOUBLE_EQ(lsaq::average_bits(shape, {.bits = {8, 4}, .tensors = {{"0.b", 16}}}), (300 * 8 + 100 * 16 + 100 * 4) / 500.0);
  EXPECT_EQ(lsaq::average_bits({}, {}), 0);
}

TEST(AverageBits, CountsPinnedLinearsAsTheyAre) {
  const ModelShape shape{.layers = {{.linears = {{.name = "a", .rows = 3, .columns = 10}, {.name = "b", .rows = 1, .columns = 10, .pinned = 16}}}}};
  EXPECT_DOUBLE_EQ(lsaq::average_bits(shape, {.bits = {4}}), (30 * 4 + 10 * 16) / 40.0);
}

} // namespace memory_model_test
