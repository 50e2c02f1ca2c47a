// Tokenizers in the metadata of GGUF files.
#include <lsaq/models/tokenizer.hpp>

#include "formats/make_files.hpp"
#include "models/small_vocabularies.hpp"

#include <gtest/gtest.h>

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace tokenizer_gguf_test {

using lsaq::TokenId;
using lsaq::Tokenizer;
using lsaq::TokenKind;
using make_files::expect_mentions;
using make_files::Gguf;
using make_files::message_of;
using Tokens = std::vector<TokenId>;

constexpr std::uint32_t int32_type = 5, float_type = 6, bool_type = 7, string_type = 8;

/// What goes into a file; a test changes one thing.
struct Content {
  std::string model = "gpt2";
  std::optional<std::string> pre = "smollm";
  std::vector<std::string> tokens;
  std::vector<std::int32_t> types;
  std::vector<std::string> merges;
  std::optional<std::vector<float>> scores;
  std::optional<bool> add_bos;
  std::uint32_t bos = 1, eos = 0;
  std::optional<std::uint32_t> end_of_turn;

  std::string build() const {
    const auto strings = [](const std::vector<std::string>& list) {
      std::string joined;
      for (const std::string& item : list) joined += make_files::text(item);
      return joined;
    };
    const auto numbers = [](const auto& list) {
      std::string joined;
      for (const auto item : list) joined += make_files::le(item);
      return joined;
    };
    Gguf file;
    file.key("tokenizer.ggml.model", string_type, make_files::text(model));
    if (pre) file.key("tokenizer.ggml.pre", string_type, make_files::text(*pre));
    file.array("tokenizer.ggml.tokens", string_type, tokens.size(), strings(tokens));
    file.array("tokenizer.ggml.token_type", int32_type, types.size(), numbers(types));
    if (!merges.empty()) file.array("tokenizer.ggml.merges", string_type, merges.size(), strings(merges));
    if (scores) file.array("tokenizer.ggml.scores", float_type, scores->size(), numbers(*scores));
    file.key("tokenizer.ggml.bos_token_id", bos).key("tokenizer.ggml.eos_token_id", eos).key("tokenizer.ggml.unknown_token_id", 0);
    if (end_of_turn) file.key("tokenizer.ggml.eot_token_id", *end_of_turn);
    if (add_bos) file.key("tokenizer.ggml.add_bos_token", bool_type, std::string(1, *add_bos ? '\1' : '\0'));
    file.key("tokenizer.chat_template", string_type, make_files::text("<|im_start|>"));
    return file.build();
  }
};

Content byte_level() {
  const auto vocabulary = small_vocabularies::byte_level({"\u0120 t", "t h", "\u0120t h"});
  Content content;
  content.tokens = vocabulary.tokens;
  for (const TokenKind kind : vocabulary.kinds) content.types.push_back(static_cast<std::int32_t>(kind));
  for (const auto& [left, right] : vocabulary.merges) content.merges.push_back(left + " " + right);
  return content;
}

Content sentencepiece() {
  const auto vocabulary = small_vocabularies::sentencepiece();
  Content content;
  content.model = "llama";
  content.pre.reset();
  content.tokens = vocabulary.tokens;
  content.scores = vocabulary.scores;
  for (const TokenKind kind : vocabulary.kinds) content.types.push_back(static_cast<std::int32_t>(kind));
  content.eos = 2;
  return content;
}

Tokenizer read(const Content& content) {
  const std::string file = content.build();
  return Tokenizer::from_gguf(lsaq::GgufFile::parse(make_files::ExactBytes(file), "small.gguf"), "small.gguf");
}

std::string refusal(Content content, const std::function<void(Content&)>& change) {
  change(content);
  return message_of<lsaq::BadInput>([&] { read(content); });
}

TEST(TokenizerGguf, ByteLevel) {
  const Tokenizer tokenizer = read(byte_level());
  EXPECT_EQ(tokenizer.encode("th th12"), (Tokens{259, 260, 2 + '1', 2 + '2'}));
  EXPECT_EQ(tokenizer.encode("<|end|>", {.parse_special = true}), Tokens{0});
  EXPECT_EQ(tokenizer.bos(), 1u);
  EXPECT_EQ(tokenizer.eos(), 0u);
  EXPECT_FALSE(tokenizer.adds_bos());
  EXPECT_EQ(tokenizer.chat_template(), "<|im_start|>");
}

TEST(TokenizerGguf, OpensFromAModelFile) {
  const make_files::TemporaryFolder folder;
  const auto model = lsaq::ModelSource::open(folder.write("small.gguf", byte_level().build()));
  EXPECT_EQ(Tokenizer::open(model).encode(" th"), Tokens{260});
}

TEST(TokenizerGguf, AddsBosAsTheFileOrTheKindSays) {
  Content content = byte_level();
  content.add_bos = true;
  EXPECT_TRUE(read(content).adds_bos());
  content.add_bos.reset();
  content.pre = "llama-bpe";
  EXPECT_TRUE(read(content).adds_bos());
  content.add_bos = false;
  EXPECT_FALSE(read(content).adds_bos());
}

TEST(TokenizerGguf, KindsOfSplits) {
  Content content = byte_level();
  const auto pieces = [&](const char* pre) {
    content.pre = pre;
    return read(content).encode("(th", {.add_bos = false});
  };
  EXPECT_EQ(pieces("gpt-2"), (Tokens{2 + '(', 259}));
  EXPECT_EQ(pieces("default"), (Tokens{2 + '(', 259}));
  content.tokens.push_back("(th");
  content.types.push_back(1);
  EXPECT_EQ(pieces("llama-bpe"), Tokens{261}); // one word, and a token is taken before its merges
  EXPECT_EQ(pieces("qwen2"), (Tokens{2 + '(', 259}));
  EXPECT_EQ(read(content).encode("e\u0301"), read(content).encode("\u00e9")); // normalized
}

TEST(TokenizerGguf, EndOfTurnEndsGeneration) {
  Content content = byte_level();
  EXPECT_FALSE(read(content).ends_generation(5));
  content.end_of_turn = 5;
  EXPECT_TRUE(read(content).ends_generation(5));
}

TEST(TokenizerGguf, SentencePiece) {
  const Tokenizer tokenizer = read(sentencepiece());
  EXPECT_EQ(tokenizer.encode("hello"), (Tokens{1, tokenizer.find("\u2581hello").value()}));
  EXPECT_TRUE(tokenizer.ends_generation(2));
}

TEST(TokenizerGguf, RefusesWhatItCannotRead) {
  expect_mentions(refusal(byte_level(), [](Content& c) { c.model = "bert\n"; }), {"small.gguf", "tokenizer.ggml.model", "bert\\x0a", "gpt2 and llama"});
  expect_mentions(refusal(byte_level(), [](Content& c) { c.pre = "deepseek-llm"; }), {"small.gguf", "tokenizer.ggml.pre", "deepseek-llm", "smollm"});
  expect_mentions(refusal(byte_level(), [](Content& c) { c.pre.reset(); }), {"small.gguf", "tokenizer.ggml.pre", "missing"});
  expect_mentions(refusal(byte_level(), [](Content& c) { c.merges.clear(); }), {"tokenizer.ggml.merges", "missing"});
  expect_mentions(refusal(byte_level(), [](Content& c) { c.types.pop_back(); }), {"tokenizer.ggml.token_type", "260 entries for 261 tokens"});
  expect_mentions(refusal(byte_level(), [](Content& c) { c.types[7] = 9; }), {"tokenizer.ggml.token_type", "token 7", "9", "1 to 6"});
  expect_mentions(refusal(byte_level(), [](Content& c) { c.types[7] = -1; }), {"token 7", "-1"});
  expect_mentions(refusal(byte_level(), [](Content& c) { c.merges[1] = "th"; }), {"small.gguf", "merge 1", "'th'"});
  expect_mentions(refusal(byte_level(), [](Content& c) { c.merges[1] = "t "; }), {"merge 1", "'t '"});
  expect_mentions(refusal(byte_level(), [](Content& c) { c.merges[1] = ""; }), {"merge 1"});
  expect_mentions(refusal(byte_level(), [](Content& c) { c.merges[1] = "t absent"; }), {"small.gguf", "merge 1", "absent"});
  expect_mentions(refusal(byte_level(), [](Content& c) { c.eos = 261; }), {"small.gguf", "261"});
  expect_mentions(refusal(byte_level(), [](Content& c) { c.bos = ~0u; }), {"tokenizer.ggml.bos_token_id", "4294967295"});
  expect_mentions(refusal(sentencepiece(), [](Content& c) { c.scores.reset(); }), {"tokenizer.ggml.scores", "missing"});
  expect_mentions(refusal(sentencepiece(), [](Content& c) { c.scores->pop_back(); }), {"small.gguf", "scores"});
  expect_mentions(refusal(sentencepiece(), [](Content& c) { c.bos = 4000; }), {"small.gguf", "4000"});
}

} // namespace tokenizer_gguf_test
