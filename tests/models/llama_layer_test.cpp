#include "models/opened_llama.hpp"

#include <gtest/gtest.h>

#include <set>

namespace llama_layer_test {

using lsaq::ElementType;
using lsaq::TokenId;
using small_llama::Device;
using small_llama::distance;
using small_llama::Doubles;
using small_llama::Model;
using small_llama::PlainDecoder;
namespace llama = lsaq::llama;

TEST(LlamaLayer, WorkspaceIsDividedWithoutOverlapOrRest) {
  const llama::Config config{.layers = 1, .hidden = 12, .ffn = 20, .heads = 3, .kv_heads = 1, .head_size = 6, .vocabulary = 5};
  const std::size_t tokens = 7;
  std::vector<float> memory(llama::LayerWorkspace::floats(config, tokens));
  const llama::LayerWorkspace w = llama::LayerWorkspace::divide(config, tokens, memory);
  EXPECT_EQ(w.x.size(), tokens * 12);
  EXPECT_EQ(w.normed.size(), tokens * 12);
  EXPECT_EQ(w.q.size(), tokens * 18);
  EXPECT_EQ(w.k.size(), tokens * 6);
  EXPECT_EQ(w.v.size(), tokens * 6);
  EXPECT_EQ(w.attended.size(), tokens * 18);
  EXPECT_EQ(w.gate.size(), tokens * 20);
  EXPECT_EQ(w.up.size(), tokens * 20);
  EXPECT_EQ(w.rotation.size(), tokens * 6);
  EXPECT_EQ(w.frequencies.size(), 3u);
  std::set<const float*> all;
  for (const std::span<float> part : {w.x, w.normed, w.q, w.k, w.v, w.attended, w.gate, w.up, w.rotation, w.frequencies})
    for (const float& value : part) all.insert(&value);
  EXPECT_EQ(all.size(), memory.size());
  EXPECT_EQ(*all.begin(), memory.data());
  EXPECT_EQ(*all.rbegin(), memory.data() + memory.size() - 1);
}

TEST(LlamaLayer, NormsEachRow) {
  const std::size_t hidden = 37, tokens = 3;
  const llama::Config config{.hidden = hidden, .epsilon = 0.01};
  PlainDecoder plain{.epsilon = 0.01};
  const Model drawn = Model{.hidden = hidden}.fill();
  const std::vector<float>& gains = drawn.tensors.at("model.norm.weight").values; // representable in F16
  lsaq::FloatMatrix norm{lsaq::AlignedBytes(2 * hidden), {1, hidden}, ElementType::f16};
  for (std::size_t i = 0; i < hidden; ++i) reinterpret_cast<lsaq::f16*>(norm.storage.data())[i] = lsaq::to_f16(gains[i]);
  const auto first = drawn.tensors.at("model.embed_tokens.weight").values.begin();
  std::vector<float> x(first, first + static_cast<std::ptrdiff_t>(tokens * hidden)), out(tokens * hidden);
  std::fill_n(x.begin(), hidden, 0.0f); // epsilon keeps a zero row zero
  llama::rms_norm(config, Device().kernels(), norm, x.data(), tokens, out.data());
  EXPECT_EQ(std::vector<float>(out.begin(), out.begin() + hidden), std::vector<float>(hidden, 0.0f));
  for (std::size_t t = 1; t < tokens; ++t) {
    const auto row = static_cast<std::ptrdiff_t>(t * hidden);
    const Doubles wanted = plain.normed(Doubles(x.begin() + row, x.begin() + row + hidden), Doubles(gains.begin(), gains.end()));
    EXPECT_LT(distance(std::span(out).subspan(t * hidden, hidden), wanted), 1e-6);
  }
}

TEST(LlamaLayer, RotatesPairs) {
  for (const bool interleaved : {false, true})
    for (const bool scaled : {false, true})
      for (const std::size_t head_size : {2u, 6u, 8u, 64u}) {
        llama::Config config{.heads = 3, .head_size = head_size, .rope_theta = 500, .interleaved_rope = interleaved};
        if (scaled)
          for (std::size_t i = 0; i < head_size / 2; ++i) config.rope_divisors.push_back(1 + static_cast<float>(i));
        const PlainDecoder plain{.heads = 3, .head_size = head_size, .theta = 500, .interleaved = interleaved, .divisors = config.rope_divisors};
        const std::size_t tokens = 4, first = 90, width = 3 * head_size;
        std::vector<float> x(tokens * width), rotation(tokens * head_size);
        for (std::size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(i % 13) - 6.5f;
        const std::vector<float> before = x;
        llama::fill_rotation(config, first, tokens, rotation);
        llama::rotate(config, Device().kernels(), 3, tokens, rotation, x.data());
        for (std::size_t t = 0; t < tokens; ++t) {
          const auto row = before.begin() + static_cast<std::ptrdiff_t>(t * width);
          Doubles wanted(row, row + static_cast<std::ptrdiff_t>(width));
          plain.rotate(wanted, first + t);
          EXPECT_LT(distance(std::span(x).subspan(t * width, width), wanted), 1e-5) << head_size << (interleaved ? " interleaved" : " halves");
        }
      }
}

TEST(LlamaLayer, PositionZeroIsNotRotated) {
  const llama::Config config{.heads = 1, .head_size = 4};
  std::vector<float> x{1, 2, 3, 4}, rotation(4);
  llama::fill_rotation(config, 0, 1, rotation);
  EXPECT_EQ(rotation, (std::vector<float>{1, 1, 0, 0}));
  llama::rotate(config, Device().kernels(), 1, 1, rotation, x.data());
  EXPECT_EQ(x, (std::vector<float>{1, 2, 3, 4}));
}

/// Frequencies that are kept give the same table, bit for bit, as those computed anew for every position.
TEST(LlamaLayer, KeptFrequenciesGiveTheSameRotation) {
  llama::Config config{.heads = 1, .head_size = 80, .rope_theta = 500000};
  for (const bool scaled : {false, true}) {
    if (scaled) config.rope_divisors = llama::llama3_rope_divisors(config, 8, 1, 4, 8192);
    std::vector<float> frequencies(40), kept(3 * 80), wanted;
    llama::fill_frequencies(config, frequencies);
    for (const std::size_t first : {0u, 1000u, 100000u}) {
      llama::fill_rotation(config, frequencies, first, 3, kept);
      wanted.assign(3 * 80, 0);
      for (std::size_t t = 0; t < 3; ++t)
        for (std::size_t i = 0; i < 40; ++i) {
          auto frequency = static_cast<float>(std::pow(config.rope_theta, -2.0 * static_cast<double>(i) / 80.0));
          if (scaled) frequency /= config.rope_divisors[i];
          const double angle = static_cast<float>(first + t) * frequency;
          wanted[t * 80 + i] = static_cast<float>(std::cos(angle));
          wanted[t * 80 + 40 + i] = static_cast<float>(std::sin(angle));
        }
      EXPECT_EQ(kept, wanted) << first;
      llama::fill_rotation(config, first, 3, kept);
      EXPECT_EQ(kept, wanted) << first;
    }
  }
}

TEST(LlamaLayer, StoresRowsByHeadAndPosition) {
  const llama::Config config{.heads = 2, .kv_heads = 2, .head_size = 2};
  for (const ElementType type : {ElementType::f16, ElementType::f32}) {
    llama::KvCache cache(config, 2, 5, type);
    std::vector<float> rows{1, 2, 70000, -1e30f, 5, 6, -65504, 0.333f}; // token 0: heads (1, 2), (70000, -1e30); token 1
    llama::store_rows(config, Device().kernels(), cache, 1, 3, 2, rows.data(), false);
    const auto stored = [&](std::size_t head, std::size_t position, std::size_t i) {
      return lsaq::load_element(cache.values(1, head) + position * cache.row_bytes(), type, i);
    };
    const bool half = type == ElementType::f16;
    EXPECT_EQ(stored(0, 3, 0), 1);
    EXPECT_EQ(stored(0, 3, 1), 2);
    EXPECT_EQ(stored(1, 3, 0), half ? 65504.0f : 70000.0f) << "clamped, not infinite";
    EXPECT_EQ(stored(1, 3, 1), half ? -65504.0f : -1e30f);
    EXPECT_EQ(stored(0, 4, 0), 5);
    EXPECT_EQ(stored(0, 4, 1), 6);
    EXPECT_EQ(stored(1, 4, 0), -65504);
    EXPECT_EQ(stored(1, 4, 1), half ? lsaq::to_float(lsaq::to_f16(0.333f)) : 0.333f);
  }
}

TEST(LlamaLayer, RefusesTokensBeyondTheVocabulary) {
  const llama::Config config{.vocabulary = 97};
  EXPECT_NO_THROW(llama::check_tokens(config, {}));
  EXPECT_NO_THROW(llama::check_tokens(config, std::vector<TokenId>{0, 96}));
  make_files::expect_mentions(make_files::message_of<lsaq::InvalidArgument>([&] {
                                llama::check_tokens(config, std::vector<TokenId>{0, 97, 1});
                              }),
                              {"token id 97", "vocabulary of 97"});
  EXPECT_THROW(llama::check_tokens(config, std::vector<TokenId>{4294967295u}), lsaq::InvalidArgument);
}

TEST(LlamaLayer, EmbedsTokens) {
  const Model model = Model{.type = "BF16"}.fill();
  const small_llama::Opened opened = small_llama::open_folder(model);
  const llama::ModelWeights weights = opened.deploy(small_llama::uniform(model, 16));
  const std::vector<TokenId> tokens{96, 0, 50};
  std::vector<float> x(tokens.size() * model.hidden);
  llama::embed(opened.config, Device().kernels(), weights.outer, tokens, x);
  const std::vector<float>& rows = model.tensors.at("model.embed_tokens.weight").values;
  for (std::size_t t = 0; t < tokens.size(); ++t)
    for (std::size_t i = 0; i < model.hidden; ++i) EXPECT_EQ(x[t * model.hidden + i], rows[tokens[t] * model.hidden + i]);
}

/// One layer alone, all tokens at once, is the plain decoder's.
TEST(LlamaLayer, RunsALayer) {
  const Model model = Model{.layers = 1, .hidden = 40, .ffn = 56, .heads = 6, .kv_heads = 3, .head_size = 14}.fill();
  const small_llama::Opened opened = small_llama::open_folder(model);
  const llama::ModelWeights weights = opened.deploy(small_llama::uniform(model, 16));
  const std::vector<TokenId> tokens = small_llama::some_tokens(model, 21);
  std::vector<float> memory(llama::LayerWorkspace::floats(opened.config, tokens.size()));
  const llama::LayerWorkspace w = llama::LayerWorkspace::divide(opened.config, tokens.size(), memory);
  llama::KvCache cache(opened.config, 3, tokens.size(), ElementType::f32);
  const Device device;
  llama::embed(opened.config, device.kernels(), weights.outer, tokens, w.x);
  llama::fill_rotation(opened.config, 0, tokens.size(), w.rotation);
  llama::run_layer(opened.config, weights.layers[0], device, cache, 2, 0, tokens.size(), w); // any slot of the cache will do
  EXPECT_LT(distance(w.x, small_llama::joined(small_llama::plain_decoder(model, false).run(tokens)[1])), 1e-5);
}

} // namespace llama_layer_test
