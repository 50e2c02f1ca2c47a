// The merge loop: lowest rank first, leftmost of equal ranks, for bytes and for characters.
#include <lsaq/models/bpe.hpp>

#include "formats/make_files.hpp"
#include "models/small_vocabularies.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <random>
#include <string>
#include <string_view>
#include <vector>

namespace bpe_test {

using lsaq::BpeModel;
using lsaq::BpeVocabulary;
using lsaq::TokenIndex;
using Pieces = std::vector<std::string>;

/// The tokens of a word, as spelled in the vocabulary.
Pieces pieces_of(const BpeVocabulary& vocabulary, std::string_view word) {
  const TokenIndex ids(vocabulary.tokens);
  std::vector<std::string> texts;
  for (const std::string& token : vocabulary.tokens) texts.push_back(vocabulary.options.byte_level ? lsaq::bytes_of_byte_level(token) : token);
  const TokenIndex words(texts, vocabulary.kinds);
  const BpeModel model(vocabulary, ids, words);
  BpeModel::Workspace workspace;
  std::vector<lsaq::TokenId> tokens;
  model.encode(word, workspace, tokens);
  Pieces pieces;
  for (const lsaq::TokenId token : tokens) pieces.push_back(vocabulary.tokens.at(token));
  return pieces;
}

/// A vocabulary of characters with byte fallback for the bytes of U+00E9.
BpeVocabulary of_characters(bool byte_fallback) {
  BpeVocabulary vocabulary;
  vocabulary.source = "characters.json";
  vocabulary.tokens = {"<unk>", "a", "b", "\u2581", "ab", "\u2581ab", "\u4e2d", "<0xC3>", "<0xA9>"};
  vocabulary.kinds.assign(vocabulary.tokens.size(), lsaq::TokenKind::normal);
  vocabulary.merges = {{"a", "b"}, {"\u2581", "ab"}};
  vocabulary.options = {.byte_level = false, .byte_fallback = byte_fallback, .fuse_unknown = true};
  vocabulary.special.unknown = 0;
  return vocabulary;
}

TEST(ByteLevel, AlphabetIsThatOfGpt2) {
  const auto alphabet = lsaq::byte_level_alphabet();
  EXPECT_EQ(alphabet['!'], U'!');
  EXPECT_EQ(alphabet[' '], U'\u0120');
  EXPECT_EQ(alphabet['\n'], U'\u010a');
  EXPECT_EQ(alphabet[0x7f], U'\u0121');
  EXPECT_EQ(alphabet[0xad], U'\u0143');
  EXPECT_EQ(alphabet[0xff], U'\u00ff');
  EXPECT_EQ(lsaq::bytes_of_byte_level("\u0120a\u00e9"), " a\xe9");
  EXPECT_EQ(lsaq::bytes_of_byte_level("two words"), "two words"); // a space is not in the alphabet
  EXPECT_EQ(lsaq::bytes_of_byte_level("\u4e2d"), "\u4e2d");
}

TEST(Bpe, LowestRankFirst) {
  EXPECT_EQ(pieces_of(small_vocabularies::byte_level({"b c", "a b", "a bc"}), "abc"), Pieces{"abc"});
  EXPECT_EQ(pieces_of(small_vocabularies::byte_level({"b c", "a b"}), "abc"), (Pieces{"a", "bc"}));
  EXPECT_EQ(pieces_of(small_vocabularies::byte_level({"a b", "b c"}), "abc"), (Pieces{"ab", "c"}));
}

TEST(Bpe, LeftmostOfEqualRanks) {
  EXPECT_EQ(pieces_of(small_vocabularies::byte_level({"a a"}), "aaaaa"), (Pieces{"aa", "aa", "a"}));
  EXPECT_EQ(pieces_of(small_vocabularies::byte_level({"a a", "aa a"}), "aaaaa"), (Pieces{"aa", "aaa"}));
}

TEST(Bpe, LastOfEqualMergesCounts) {
  auto vocabulary = small_vocabularies::byte_level({"a b", "b c"});
  vocabulary.merges.emplace_back("a", "b"); // now behind "b c"
  EXPECT_EQ(pieces_of(vocabulary, "abc"), (Pieces{"a", "bc"}));
}

TEST(Bpe, EmptyAndSingle) {
  const auto vocabulary = small_vocabularies::byte_level({"a b"});
  EXPECT_EQ(pieces_of(vocabulary, ""), Pieces{});
  EXPECT_EQ(pieces_of(vocabulary, " "), Pieces{"\u0120"});
  EXPECT_EQ(pieces_of(vocabulary, "\xff"), Pieces{"\u00ff"});
}

TEST(Bpe, IgnoreMergesTakesWholeWords) {
  auto vocabulary = small_vocabularies::byte_level({"a b", "b c"});
  vocabulary.tokens.push_back("\u0120abc");
  vocabulary.kinds.push_back(lsaq::TokenKind::normal);
  EXPECT_EQ(pieces_of(vocabulary, " abc"), (Pieces{"\u0120", "ab", "c"}));
  vocabulary.options.ignore_merges = true;
  EXPECT_EQ(pieces_of(vocabulary, " abc"), Pieces{"\u0120abc"});
  EXPECT_EQ(pieces_of(vocabulary, "abc"), (Pieces{"ab", "c"}));
  EXPECT_GT(pieces_of(vocabulary, "<|end|>").size(), 1u); // control tokens are no words
}

TEST(Bpe, ByteWithoutTokenIsDropped) {
  auto vocabulary = small_vocabularies::byte_level({});
  vocabulary.tokens[2 + 'x'] = "unused";
  EXPECT_EQ(pieces_of(vocabulary, "axb"), (Pieces{"a", "b"}));
}

TEST(Bpe, Characters) {
  EXPECT_EQ(pieces_of(of_characters(true), "\u2581ab\u4e2d"), (Pieces{"\u2581ab", "\u4e2d"}));
  EXPECT_EQ(pieces_of(of_characters(true), "a\u00e9"), (Pieces{"a", "<0xC3>", "<0xA9>"}));
  EXPECT_EQ(pieces_of(of_characters(true), "a\xc3"), (Pieces{"a", "<0xC3>"}));    // half a character
  EXPECT_EQ(pieces_of(of_characters(true), "x\u00e8yb"), (Pieces{"<unk>", "b"})); // without all its byte tokens, and fused
  EXPECT_EQ(pieces_of(of_characters(false), "\u00e9xb"), (Pieces{"<unk>", "b"}));
  auto unfused = of_characters(false);
  unfused.options.fuse_unknown = false;
  EXPECT_EQ(pieces_of(unfused, "xyb"), (Pieces{"<unk>", "<unk>", "b"}));
}

TEST(Bpe, SameAsTheDefinition) {
  // Merging by search for the best pair in every step, without a heap.
  const auto vocabulary = small_vocabularies::byte_level({"a b", "b a", "ab a", "a a", "ab ab", "ba b", "aba b", "aa a", "b b"});
  std::map<std::pair<std::string, std::string>, std::size_t> ranks;
  for (std::size_t i = 0; i < vocabulary.merges.size(); ++i) ranks[vocabulary.merges[i]] = i;
  std::mt19937 random(7);
  for (int round = 0; round < 300; ++round) {
    std::string word;
    for (auto length = random() % 40; length > 0; --length) word += random() % 3 == 0 ? 'b' : 'a';
    Pieces expected;
    for (const char c : word) expected.emplace_back(1, c);
    for (;;) {
      std::size_t best = ranks.size();
      std::size_t at = 0;
      for (std::size_t i = 0; i + 1 < expected.size(); ++i) {
        const auto rank = ranks.find({expected[i], expected[i + 1]});
        if (rank != ranks.end() && rank->second < best) {
          best = rank->second;
          at = i;
        }
      }
      if (best == ranks.size()) break;
      expected[at] += expected[at + 1];
      expected.erase(expected.begin() + static_cast<std::ptrdiff_t>(at) + 1);
    }
    ASSERT_EQ(pieces_of(vocabulary, word), expected) << word;
  }
}

TEST(Bpe, RefusesMergesOfWhatIsNoToken) {
  for (const auto& merge : {std::pair<std::string, std::string>("a", "missing\n"), {"missing\n", "a"}, {"a", "b"}}) {
    auto vocabulary = small_vocabularies::byte_level({"b c"});
    vocabulary.merges.push_back(merge);
    const std::string message = make_files::message_of<lsaq::BadInput>([&] { pieces_of(vocabulary, "a"); });
    make_files::expect_mentions(message, {"small.json", "merge 1", merge.first == "a" && merge.second == "b" ? "\"ab\" is not a token" : "missing\\x0a"});
  }
}

} // namespace bpe_test
