// Encoding and decoding with whole tokenizers: special tokens, round trips, invalid text, several threads.
#include <lsaq/models/tokenizer.hpp>

#include "formats/make_files.hpp"
#include "models/small_vocabularies.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

namespace tokenizer_test {

using lsaq::SplitRule;
using lsaq::TokenId;
using lsaq::Tokenizer;
using lsaq::TokenKind;
using make_files::expect_mentions;
using make_files::message_of;
using small_vocabularies::byte_level;
using Tokens = std::vector<TokenId>;

constexpr TokenId end = 0, start = 1, first_byte = 2, first_merge = 258;

TokenId byte(char c) { return first_byte + static_cast<unsigned char>(c); }

TEST(Tokenizer, SplitsThenMerges) {
  const Tokenizer tokenizer(byte_level({"\u0120 t", "t t", "\u0120t t"}));
  EXPECT_EQ(tokenizer.encode("tt t"), (Tokens{first_merge + 1, first_merge}));
  EXPECT_EQ(tokenizer.encode(" tt"), Tokens{first_merge + 2});
  EXPECT_EQ(tokenizer.encode(" ttt"), (Tokens{first_merge, first_merge + 1}));
  EXPECT_EQ(tokenizer.encode(""), Tokens{});
  EXPECT_EQ(tokenizer.vocabulary_size(), 261u);
  EXPECT_EQ(tokenizer.find("\u0120tt"), first_merge + 2);
  EXPECT_EQ(tokenizer.find("nothing"), std::nullopt);
}

TEST(Tokenizer, WordsMetAgainGetTheSameTokens) {
  const Tokenizer tokenizer(byte_level({"\u0120 a", "\u0120a b"}));
  Tokens expected;
  std::string text;
  for (int i = 0; i < 1000; ++i) {
    text += " ab";
    text += std::string(" ") + static_cast<char>('c' + i % 20) + std::string(static_cast<std::size_t>(i % 60), 'z');
    expected.push_back(first_merge + 1);
    expected.insert(expected.end(), {byte(' '), byte(static_cast<char>('c' + i % 20))});
    expected.insert(expected.end(), static_cast<std::size_t>(i % 60), byte('z'));
  }
  EXPECT_EQ(tokenizer.encode(text), expected);
}

TEST(Tokenizer, SpecialTokensOnlyIfParsed) {
  const Tokenizer tokenizer(byte_level({}));
  EXPECT_EQ(tokenizer.encode("a<|end|>b", {.parse_special = true}), (Tokens{byte('a'), end, byte('b')}));
  EXPECT_EQ(tokenizer.encode("<|start|><|end|>", {.parse_special = true}), (Tokens{start, end}));
  EXPECT_EQ(tokenizer.encode("<|end|>").size(), 7u);
  EXPECT_EQ(tokenizer.encode("<|end|", {.parse_special = true}).size(), 6u);
}

TEST(Tokenizer, UserDefinedTokensAlways) {
  auto vocabulary = byte_level({});
  vocabulary.tokens.push_back("two words");
  vocabulary.kinds.push_back(TokenKind::user_defined);
  vocabulary.added.push_back({.text = "two words", .id = first_merge});
  const Tokenizer tokenizer(std::move(vocabulary));
  EXPECT_EQ(tokenizer.encode("x two words"), (Tokens{byte('x'), byte(' '), first_merge}));
  EXPECT_EQ(tokenizer.token_text(first_merge), "two words");
}

TEST(Tokenizer, BosAndEosAsTheModelOrTheCallerSays) {
  auto vocabulary = byte_level({});
  EXPECT_EQ(Tokenizer(vocabulary).encode("a"), Tokens{byte('a')});
  EXPECT_EQ(Tokenizer(vocabulary).encode("", {.add_bos = true, .add_eos = true}), (Tokens{start, end}));
  vocabulary.special.add_bos = vocabulary.special.add_eos = true;
  const Tokenizer tokenizer(vocabulary);
  EXPECT_TRUE(tokenizer.adds_bos());
  EXPECT_EQ(tokenizer.bos(), start);
  EXPECT_EQ(tokenizer.eos(), end);
  EXPECT_EQ(tokenizer.encode("a"), (Tokens{start, byte('a'), end}));
  EXPECT_EQ(tokenizer.encode("a", {.add_bos = false}), (Tokens{byte('a'), end}));
  vocabulary.special.bos.reset();
  EXPECT_EQ(Tokenizer(vocabulary).encode("a", {.add_bos = true}), (Tokens{byte('a'), end}));
}

TEST(Tokenizer, EndsGeneration) {
  auto vocabulary = byte_level({});
  for (const char* name : {"<|im_end|>", "<|eot_id|>", "<|other|>"}) {
    vocabulary.tokens.emplace_back(name);
    vocabulary.kinds.push_back(TokenKind::control);
  }
  vocabulary.tokens.emplace_back("</s>");
  vocabulary.kinds.push_back(TokenKind::normal);
  vocabulary.special.ends_generation = {byte('!')};
  const Tokenizer tokenizer(std::move(vocabulary));
  EXPECT_TRUE(tokenizer.ends_generation(end));
  EXPECT_TRUE(tokenizer.ends_generation(byte('!')));
  EXPECT_TRUE(tokenizer.ends_generation(first_merge));
  EXPECT_TRUE(tokenizer.ends_generation(first_merge + 1));
  EXPECT_FALSE(tokenizer.ends_generation(first_merge + 2));
  EXPECT_FALSE(tokenizer.ends_generation(first_merge + 3)); // a normal token of that name
  EXPECT_FALSE(tokenizer.ends_generation(start));
  EXPECT_FALSE(tokenizer.ends_generation(1u << 30));
}

TEST(Tokenizer, EveryByteSurvivesTheRoundTrip) {
  std::mt19937 random(3);
  for (const SplitRule rule : {SplitRule::gpt2, SplitRule::llama3, SplitRule::qwen2}) {
    const Tokenizer tokenizer(byte_level({"\u0120 a", "e r", "\u00c3 \u00a9"}, {SplitRule::digits, rule}));
    for (const std::string_view text : {"", " ", "\n\n", "  a  b ", "it's 12345\r\n", "\u00e9\u4e2d\U0001f600", "\xff\xfe\xc3(", "<|end|>"})
      EXPECT_EQ(tokenizer.decode(tokenizer.encode(text)), text);
    for (int round = 0; round < 200; ++round) {
      std::string text;
      for (auto length = random() % 30; length > 0; --length) text.push_back(static_cast<char>(random() & 0xff));
      ASSERT_EQ(tokenizer.decode(tokenizer.encode(text, {.parse_special = true})), text);
    }
  }
}

TEST(Tokenizer, DecodesWithoutSpecialTokens) {
  const Tokenizer tokenizer(byte_level({}));
  const Tokens tokens = {start, byte('a'), end};
  EXPECT_EQ(tokenizer.decode(tokens), "<|start|>a<|end|>");
  EXPECT_EQ(tokenizer.decode(tokens, {.skip_special = true}), "a");
  EXPECT_EQ(tokenizer.token_text(start), "<|start|>");
  EXPECT_EQ(tokenizer.token_text(byte('\xe4')), "\xe4");
  EXPECT_EQ(tokenizer.token_kind(start), TokenKind::control);
}

TEST(Tokenizer, RefusesTokensThatDoNotExist) {
  const Tokenizer tokenizer(byte_level({}));
  expect_mentions(message_of<lsaq::InvalidArgument>([&] { tokenizer.decode(Tokens{258}); }), {"258", "small.json"});
  expect_mentions(message_of<lsaq::InvalidArgument>([&] { tokenizer.token_text(~0u); }), {"4294967295"});
}

TEST(Tokenizer, RefusesVocabulariesThatDoNotFitTogether) {
  const auto message = [](auto change) {
    auto vocabulary = byte_level({});
    change(vocabulary);
    return message_of<lsaq::BadInput>([&] { Tokenizer tokenizer(vocabulary); });
  };
  expect_mentions(message([](auto& v) { v.tokens.clear(), v.kinds.clear(); }), {"small.json", "0 tokens"});
  expect_mentions(message([](auto& v) { v.kinds.pop_back(); }), {"small.json", "257 token types for 258 tokens"});
  expect_mentions(message([](auto& v) { v.special.eos = 258; }), {"end-of-text", "258"});
  expect_mentions(message([](auto& v) { v.special.bos = ~0u; }), {"beginning-of-text", "4294967295"});
  expect_mentions(message([](auto& v) { v.special.unknown = 300; }), {"unknown", "300"});
  expect_mentions(message([](auto& v) { v.special.ends_generation = {999}; }), {"end-of-generation", "999"});
  expect_mentions(message([](auto& v) { v.added.push_back({.text = "x", .id = 258}); }), {"added", "258"});
  expect_mentions(message([](auto& v) { v.merges.emplace_back("a", "b"); }), {"small.json", "merge 0"});
}

TEST(Tokenizer, ByteFallbackVocabularyRoundTrips) {
  lsaq::BpeVocabulary vocabulary;
  vocabulary.source = "characters.json";
  vocabulary.tokens = {"<unk>", "<s>", "\u2581", "a", "\u2581a"};
  vocabulary.kinds = {TokenKind::unknown, TokenKind::control, TokenKind::normal, TokenKind::normal, TokenKind::normal};
  for (unsigned b = 0; b < 256; ++b) {
    vocabulary.tokens.push_back(lsaq::byte_token(static_cast<unsigned char>(b)));
    vocabulary.kinds.push_back(TokenKind::byte);
  }
  vocabulary.merges = {{"\u2581", "a"}};
  vocabulary.normalizer = {{lsaq::NormalizerStep::Kind::prepend, "", "\u2581"}, {lsaq::NormalizerStep::Kind::replace, " ", "\u2581"}};
  vocabulary.options = {.byte_level = false, .byte_fallback = true, .strip_first_space = true};
  vocabulary.special.unknown = 0;
  const Tokenizer tokenizer(std::move(vocabulary));
  EXPECT_EQ(tokenizer.encode("a a"), (Tokens{4, 4}));
  EXPECT_EQ(tokenizer.encode("\n"), (Tokens{2, 5 + '\n'}));
  EXPECT_EQ(tokenizer.token_text(4), " a");
  EXPECT_EQ(tokenizer.token_text(5 + 0xff), "\xff");
  for (const std::string_view text : {"a a", " a", "", "\u00e9\U0001f600\n", "\xff a"}) EXPECT_EQ(tokenizer.decode(tokenizer.encode(text)), text);
}

TEST(Tokenizer, SentencePiece) {
  const Tokenizer tokenizer(small_vocabularies::sentencepiece());
  const auto id = [&](std::string_view piece) { return tokenizer.find(piece).value(); };
  EXPECT_EQ(tokenizer.encode("hello t"), (Tokens{1, id("\u2581hello"), id("\u2581t")}));
  EXPECT_EQ(tokenizer.encode("t</s>t", {.add_bos = false, .parse_special = true}), (Tokens{id("\u2581t"), 2, id("\u2581t")}));
  EXPECT_EQ(tokenizer.encode("<s>", {.add_bos = false}).size(), 4u);
  EXPECT_EQ(tokenizer.decode(tokenizer.encode("hello t\n \u00e9", {.add_bos = false})), "hello t\n \u00e9");
  EXPECT_EQ(tokenizer.decode(tokenizer.encode("hello"), {.skip_special = true}), "hello");
  EXPECT_EQ(tokenizer.token_text(id("\u2581t")), " t");
  EXPECT_EQ(tokenizer.token_text(3 + 0x0a), "\n");
  EXPECT_TRUE(tokenizer.ends_generation(2));
}

TEST(Tokenizer, SeveralThreadsShareOne) {
  const Tokenizer tokenizer(byte_level({"\u0120 a", "e r"}));
  const Tokenizer copy = tokenizer;
  const std::string text = "a never ending tale, her tale of 12 seers\n";
  const Tokens expected = tokenizer.encode(text);
  std::vector<std::thread> threads;
  std::vector<int> right(4, 0);
  for (std::size_t t = 0; t < right.size(); ++t)
    threads.emplace_back([&, t] {
      for (int i = 0; i < 50; ++i) right[t] += copy.encode(text) == expected && copy.decode(expected) == text;
    });
  for (std::thread& thread : threads) thread.join();
  EXPECT_THAT(right, testing::Each(50));
}

} // namespace tokenizer_test
