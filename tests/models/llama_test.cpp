#include <lsaq/thread_pool.hpp>

#include "deployment/count_allocations.hpp"
#include "models/opened_llama.hpp"

#include <gtest/gtest.h>

namespace llama_test {

using lsaq::ElementType;
using lsaq::InvalidArgument;
using lsaq::TokenId;
using make_files::expect_mentions;
using make_files::message_of;
using small_llama::Device;
using small_llama::distance;
using small_llama::Doubles;
using small_llama::joined;
using small_llama::Model;
using small_llama::Opened;
using small_llama::plain_decoder;
using small_llama::PlainDecoder;
using small_llama::read_states;
using small_llama::some_tokens;
using small_llama::uniform;
namespace llama = lsaq::llama;
using Decoder = llama::Decoder<Device>;
using Tokens = std::vector<TokenId>;

/// Errors relative to the largest value. A state goes through a few products of FP32; keys and values of F16 have 11 bits.
constexpr double float_error = 2e-5, half_error = 5e-3;

// ---- against the plain decoder

/// Heads that share keys, head sizes beside the kernels' panels, both orders of rotation, all ways to store a model.
struct Form {
  std::string name;
  Model model;
  bool gguf;
};
void PrintTo(const Form& form, std::ostream* out) { *out << form.name; }

class DecoderForm : public testing::TestWithParam<Form> {};

TEST_P(DecoderForm, ComputesStatesAndLogits) {
  Model model = GetParam().model;
  model.fill();
  const Opened opened = GetParam().gguf ? small_llama::open_gguf(model) : small_llama::open_folder(model);
  const PlainDecoder plain = plain_decoder(model, GetParam().gguf);
  const Tokens tokens = some_tokens(model, 37);
  const auto states = plain.run(tokens).back();
  const Doubles logits = plain.logits(states.back());

  const llama::ModelWeights stored = opened.as_stored();
  Decoder reference(opened.config, stored, Device(), tokens.size(), ElementType::f32);
  EXPECT_LT(distance(read_states(reference, tokens), joined(states)), float_error);
  reference.reset();
  EXPECT_LT(distance(reference.forward(tokens), logits), float_error);

  const llama::ModelWeights halves = opened.deploy(uniform(model, 16));
  Decoder deployed(opened.config, halves, Device(), tokens.size());
  EXPECT_LT(distance(deployed.forward(tokens), logits), half_error);
}

INSTANTIATE_TEST_SUITE_P(Forms, DecoderForm,
                         testing::Values(Form{"Gguf", {}, true}, Form{"Folder", {}, false}, Form{"Bf16Gguf", {.type = "BF16"}, true},
                                         Form{"Bf16Untied", {.tied = false, .type = "BF16"}, false}, Form{"F32", {.type = "F32"}, false},
                                         Form{"Untied", {.tied = false}, true}, Form{"OneHeadOfTwo", {.heads = 1, .kv_heads = 1, .head_size = 2}, true},
                                         Form{"AllShareOne", {.heads = 6, .kv_heads = 1, .head_size = 6}, false},
                                         Form{"NoneShares", {.heads = 3, .kv_heads = 3, .head_size = 10}, true},
                                         Form{"NineOnThree", {.heads = 9, .kv_heads = 3, .head_size = 14}, false},
                                         Form{"HeadOf20", {.heads = 2, .kv_heads = 1, .head_size = 20}, true},
                                         Form{"HeadOf34", {.heads = 2, .kv_heads = 2, .head_size = 34}, false},
                                         Form{"HeadOf64", {.heads = 2, .kv_heads = 1, .head_size = 64}, true},
                                         Form{"HeadOf80", {.heads = 2, .kv_heads = 1, .head_size = 80}, false},
                                         Form{"OddWidths", {.hidden = 27, .ffn = 31, .vocabulary = 53}, true},
                                         Form{"WiderThanAPanel", {.layers = 1, .hidden = 300, .ffn = 270, .heads = 4, .kv_heads = 2, .head_size = 70}, true},
                                         Form{"ManyLayers", {.layers = 7}, false}, Form{"OtherTheta", {.theta = 37}, true},
                                         Form{"LargeEpsilon", {.epsilon = 0.3}, false}, Form{"Divisors", {.rope_divisors = {1, 1.25f, 5, 8}}, true}),
                         [](const auto& test) { return test.param.name; });

/// GGUF stores the rows of q and k in another order, so that rotation pairs are neighbours: the same model in both formats.
TEST(Decoder, TheSameModelInBothFormatsIsTheSame) {
  const Model folder = Model{.heads = 4, .kv_heads = 2, .head_size = 10}.fill();
  Model gguf = folder;
  for (std::size_t l = 0; l < folder.layers; ++l)
    for (const char* name : {"self_attn.q_proj", "self_attn.k_proj"}) {
      const std::vector<float>& from = folder.tensors.at(Model::layer_name(l, name)).values;
      std::vector<float>& to = gguf.tensors.at(Model::layer_name(l, name)).values;
      for (std::size_t row = 0; row < from.size() / folder.hidden; ++row) {
        const std::size_t head = row / 10, i = row % 10;
        const std::size_t target = head * 10 + (i < 5 ? 2 * i : 2 * (i - 5) + 1);
        std::copy_n(from.begin() + static_cast<std::ptrdiff_t>(row * folder.hidden), folder.hidden,
                    to.begin() + static_cast<std::ptrdiff_t>(target * folder.hidden));
      }
    }
  const Opened a = small_llama::open_folder(folder), b = small_llama::open_gguf(gguf);
  const llama::ModelWeights of_a = a.deploy(uniform(folder, 16)), of_b = b.deploy(uniform(folder, 16));
  Decoder first(a.config, of_a, Device(), 64, ElementType::f32), second(b.config, of_b, Device(), 64, ElementType::f32);
  const Tokens tokens = some_tokens(folder, 40);
  const auto one = first.forward(tokens);
  EXPECT_LT(distance(second.forward(tokens), Doubles(one.begin(), one.end())), float_error);
}

/// Packed weights compute what the decoder of the values they stand for computes: every matrix is in its place.
TEST(Decoder, PackedLayersComputeWhatTheirValuesDo) {
  const Model model = Model{.layers = 4, .hidden = 50, .ffn = 67, .heads = 4, .kv_heads = 2, .head_size = 14, .tied = false}.fill();
  for (const bool gguf : {true, false}) {
    const Opened opened = gguf ? small_llama::open_gguf(model) : small_llama::open_folder(model);
    const lsaq::Plan plan{.bits = {8, 4, 16, 6}, .tensors = {{"2.mlp.gate_proj", 4}, {"0.self_attn.v_proj", 3}}};
    const llama::ModelWeights weights = opened.deploy(plan);
    const PlainDecoder unquantized = plain_decoder(model, gguf);
    const PlainDecoder plain = small_llama::with_deployed(unquantized, weights);
    const Tokens tokens = some_tokens(model, 30);
    const Doubles wanted = plain.logits(plain.run(tokens).back().back());
    for (const lsaq::Isa isa : lsaq::all_isas) {
      if (!lsaq::cpu_runs(isa)) continue;
      Decoder decoder(opened.config, weights, Device({}, isa), tokens.size(), ElementType::f32);
      EXPECT_LT(distance(decoder.forward(tokens), wanted), float_error) << name_of(isa);
    }
    EXPECT_GT(distance(wanted, unquantized.logits(unquantized.run(tokens).back().back())), 0.01) << "quantization shows";
  }
}

// ---- blocks and positions

/// Contexts longer than the blocks of attention (64 keys) and of reading (128 tokens).
TEST(Decoder, ReadsLongPromptsInAnyPieces) {
  const Model model = Model{}.fill();
  const Opened opened = small_llama::open_gguf(model);
  const llama::ModelWeights weights = opened.deploy(uniform(model, 16));
  const Tokens tokens = some_tokens(model, 420);
  ASSERT_GT(tokens.size(), 3 * llama::prefill_block);
  const PlainDecoder plain = plain_decoder(model, true);
  const auto states = plain.run(tokens).back();
  const Doubles wanted = plain.logits(states.back());
  for (const auto& [type, error] : {std::pair(ElementType::f32, float_error), std::pair(ElementType::f16, half_error)}) {
    Decoder decoder(opened.config, weights, Device(), 420, type);
    EXPECT_LT(distance(read_states(decoder, tokens), joined(states)), error) << "at once";
    EXPECT_EQ(decoder.position(), 420u);
    for (const std::vector<std::size_t>& pieces :
         {std::vector<std::size_t>{1, 419}, {128, 128, 128, 36}, {127, 2, 291}, {200, 1, 1, 1, 217}, {419, 1}, {3, 140, 260, 17}}) {
      decoder.reset();
      EXPECT_EQ(decoder.position(), 0u);
      std::size_t first = 0;
      std::span<const float> logits;
      for (const std::size_t count : pieces) {
        logits = decoder.forward(std::span(tokens).subspan(first, count));
        first += count;
        EXPECT_EQ(decoder.position(), first);
        EXPECT_LT(distance(logits, plain.logits(states[first - 1])), error) << first;
      }
    }
    decoder.reset(); // token by token
    for (std::size_t t = 0; t < tokens.size(); ++t) ASSERT_LT(distance(decoder.forward(std::span(tokens).subspan(t, 1)), plain.logits(states[t])), error) << t;
  }
}

/// Keys and values of Q8_0 have 7 bits and a sign for each block of 32: what comes out is near what F32 gives, and the same for any pieces of a prompt.
TEST(Decoder, KeepsKeysAndValuesInEightBits) {
  const Model model = Model{.heads = 4, .kv_heads = 2, .head_size = 32}.fill();
  const Opened opened = small_llama::open_gguf(model);
  const llama::ModelWeights weights = opened.deploy(uniform(model, 16));
  const Tokens tokens = some_tokens(model, 140);
  const PlainDecoder plain = plain_decoder(model, true);
  const auto states = plain.run(tokens).back();
  Decoder decoder(opened.config, weights, Device(), tokens.size(), ElementType::q8_0);
  EXPECT_EQ(decoder.kv_cache_bytes(), lsaq::kv_cache_bytes(2, 2, 32, tokens.size(), ElementType::q8_0));
  constexpr double eight_bit_error = 0.05;
  EXPECT_LT(distance(read_states(decoder, tokens), joined(states)), eight_bit_error);
  decoder.reset();
  for (std::size_t t = 0; t < tokens.size(); ++t)
    ASSERT_LT(distance(decoder.forward(std::span(tokens).subspan(t, 1)), plain.logits(states[t])), eight_bit_error) << t;
  const Model odd = Model{}.fill(); // heads of 8
  const Opened opened_odd = small_llama::open_gguf(odd);
  const llama::ModelWeights odd_weights = opened_odd.deploy(uniform(odd, 16));
  expect_mentions(message_of<InvalidArgument>([&] { Decoder(opened_odd.config, odd_weights, Device(), 10, ElementType::q8_0); }), {"heads of 8", "F16"});
}

TEST(Decoder, ReadsWithoutAllocating) {
  if (count_allocations() == 0) GTEST_SKIP() << "operator new: can't be counted in this build";
  const Model model = Model{.heads = 6, .kv_heads = 2, .head_size = 32}.fill();
  const Opened opened = small_llama::open_gguf(model);
  const llama::ModelWeights weights = opened.deploy({.bits = {8, 4}});
  const Tokens tokens = some_tokens(model, 100);
  lsaq::ThreadPool pool(2);
  for (const Device& device : {Device(), Device(pool)})
    for (const ElementType type : {ElementType::f16, ElementType::f32, ElementType::q8_0}) {
      Decoder decoder(opened.config, weights, device, 200, type);
      const std::size_t before = count_allocations();
      (void)decoder.forward(tokens);
      (void)decoder.forward(std::span(tokens).first(1));
      (void)decoder.forward(std::span(tokens).first(5));
      EXPECT_EQ(count_allocations(), before) << name_of(type);
    }
}

TEST(Decoder, ShowsStatesInBlocks) {
  const Model model = Model{}.fill();
  const Opened opened = small_llama::open_gguf(model);
  const llama::ModelWeights weights = opened.deploy(uniform(model, 16));
  Decoder decoder(opened.config, weights, Device(), 400);
  std::vector<std::size_t> rows;
  decoder.read(some_tokens(model, 300), [&](lsaq::MatrixView block) {
    rows.push_back(block.rows);
    EXPECT_EQ(block.columns, model.hidden);
  });
  EXPECT_EQ(rows, (std::vector<std::size_t>{128, 128, 44}));
  decoder.read({}, [&](lsaq::MatrixView) { ADD_FAILURE() << "nothing to show"; });
  EXPECT_EQ(decoder.position(), 300u);
}

TEST(Decoder, AResetForgetsEverything) {
  const Model model = Model{}.fill();
  const Opened opened = small_llama::open_gguf(model);
  const llama::ModelWeights weights = opened.deploy(uniform(model, 8));
  const Tokens tokens = some_tokens(model, 20);
  Decoder decoder(opened.config, weights, Device(), 100);
  const auto fresh = decoder.forward(tokens);
  const std::vector<float> first(fresh.begin(), fresh.end());
  (void)decoder.forward(some_tokens(model, 80, 2));
  decoder.reset();
  const auto again = decoder.forward(tokens);
  EXPECT_EQ(std::vector<float>(again.begin(), again.end()), first);
}

TEST(Decoder, StaysWholeWhenMoved) {
  const Model model = Model{}.fill();
  const Opened opened = small_llama::open_gguf(model);
  const llama::ModelWeights weights = opened.deploy(uniform(model, 8));
  const Tokens tokens = some_tokens(model, 20);
  Decoder original(opened.config, weights, Device(), 100);
  (void)original.forward(std::span(tokens).first(12));
  Decoder moved(std::move(original));
  EXPECT_EQ(moved.position(), 12u);
  const auto logits = moved.forward(std::span(tokens).subspan(12));
  const std::vector<float> found(logits.begin(), logits.end());
  Decoder other(opened.config, weights, Device(), 100);
  (void)other.forward(std::span(tokens).first(12));
  const auto wanted = other.forward(std::span(tokens).subspan(12));
  EXPECT_EQ(found, std::vector<float>(wanted.begin(), wanted.end()));
}

TEST(Decoder, DoesNotDependOnThreads) {
  const Model model = Model{.hidden = 96, .ffn = 260, .heads = 6, .kv_heads = 3, .head_size = 16, .vocabulary = 500}.fill();
  const Opened opened = small_llama::open_gguf(model);
  const llama::ModelWeights weights = opened.deploy({.bits = {8, 4}});
  const Tokens tokens = some_tokens(model, 90);
  Decoder alone(opened.config, weights, Device(), 91);
  lsaq::ThreadPool pool(4);
  Decoder together(opened.config, weights, Device(pool), 91);
  EXPECT_EQ(read_states(alone, tokens), read_states(together, tokens));
  const TokenId next = 3;
  const auto a = alone.forward(std::span(&next, 1)), b = together.forward(std::span(&next, 1));
  EXPECT_TRUE(std::equal(a.begin(), a.end(), b.begin(), b.end()));
}

// ---- limits and memory

TEST(Decoder, RefusesTokensBeyondVocabularyAndContext) {
  const Model model = Model{}.fill();
  const Opened opened = small_llama::open_gguf(model);
  const llama::ModelWeights weights = opened.deploy(uniform(model, 8));
  Decoder decoder(opened.config, weights, Device(), 10);
  EXPECT_EQ(decoder.context(), 10u);
  expect_mentions(message_of<InvalidArgument>([&] { decoder.forward(Tokens{1, 97}); }), {"token id 97", "97"});
  EXPECT_EQ(decoder.position(), 0u) << "nothing was read";
  expect_mentions(message_of<InvalidArgument>([&] { decoder.forward({}); }), {"no tokens"});
  expect_mentions(message_of<InvalidArgument>([&] { decoder.forward(some_tokens(model, 11)); }), {"11 tokens", "context of 10"});
  EXPECT_EQ(decoder.position(), 0u);
  EXPECT_NO_THROW(decoder.forward(some_tokens(model, 10)));
  expect_mentions(message_of<InvalidArgument>([&] { decoder.forward(Tokens{0}); }), {"11 tokens", "context of 10"});
  EXPECT_EQ(decoder.position(), 10u);
  decoder.reset();
  EXPECT_NO_THROW(decoder.forward(Tokens{96}));
}

TEST(Decoder, TakesTheMemoryItPredicts) {
  const Model model = Model{.layers = 3, .hidden = 40, .ffn = 70, .heads = 6, .kv_heads = 2, .head_size = 32}.fill();
  const Opened opened = small_llama::open_gguf(model);
  const llama::ModelWeights weights = opened.deploy(uniform(model, 8));
  for (const std::size_t context : {1u, 2u, 127u, 128u, 129u, 500u}) {
    const Decoder halves(opened.config, weights, Device(), context), floats(opened.config, weights, Device(), context, ElementType::f32);
    EXPECT_EQ(halves.kv_cache_bytes(), lsaq::kv_cache_bytes(3, 2, 32, context));
    EXPECT_EQ(floats.kv_cache_bytes(), lsaq::kv_cache_bytes(3, 2, 32, context, 32));
    EXPECT_EQ(halves.activation_bytes(), llama::workspace_bytes(opened.config, context));
    // Streams, norms, q, k, v, attention's output, gate, up and rotations of a block of tokens; the rotation's frequencies; the widest input of a product
    // transposed, in whole panels of 16 tokens, if there are many (192 columns as codes with their padding take less); the logits of one token.
    const std::size_t block = std::min<std::size_t>(128, context);
    const std::size_t transposed = block < 12 ? 0 : (block + 15) / 16 * 16 * 192;
    EXPECT_EQ(halves.activation_bytes(), 4 * (block * (40 + 40 + 192 + 64 + 64 + 192 + 70 + 70 + 32) + 16 + transposed + model.vocabulary)) << context;
  }
}

} // namespace llama_test
