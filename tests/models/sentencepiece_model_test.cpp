// SentencePiece vocabularies of GGUF files, written as model files and read by the library.
#include <lsaq/models/sentencepiece_model.hpp>

#include "formats/make_files.hpp"
#include "models/small_vocabularies.hpp"

#include <gtest/gtest.h>

#include <limits>
#include <string>
#include <string_view>
#include <vector>

namespace sentencepiece_model_test {

using lsaq::SentencePieceModel;
using lsaq::SentencePieceVocabulary;
using lsaq::TokenKind;

std::vector<std::string> pieces_of(const SentencePieceVocabulary& vocabulary, std::string_view text) {
  const auto model = SentencePieceModel::load(lsaq::serialized_model(vocabulary), vocabulary.source);
  std::vector<lsaq::TokenId> tokens;
  model.encode(text, tokens);
  std::vector<std::string> pieces;
  for (const lsaq::TokenId token : tokens) pieces.push_back(model.piece(token));
  return pieces;
}

using Pieces = std::vector<std::string>;

TEST(ProtobufWriter, WireFormat) {
  lsaq::ProtobufWriter writer;
  writer.number(1, std::uint64_t{150}); // the example of the format's own documentation
  writer.bytes(2, "testing");
  writer.number(3, 1.0f);
  writer.number(41, ~std::uint64_t{0});
  EXPECT_EQ(writer.str(), std::string("\x08\x96\x01\x12\x07testing\x1d\x00\x00\x80\x3f\xc8\x02\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", 29));
}

TEST(SentencePieceModel, KnowsItsPieces) {
  const auto vocabulary = small_vocabularies::sentencepiece();
  const auto model = SentencePieceModel::load(lsaq::serialized_model(vocabulary), "small.gguf");
  ASSERT_EQ(model.size(), vocabulary.tokens.size());
  for (lsaq::TokenId id = 0; id < model.size(); ++id) EXPECT_EQ(model.piece(id), vocabulary.tokens[id]);
  EXPECT_EQ(model.kind(0), TokenKind::unknown);
  EXPECT_EQ(model.kind(1), TokenKind::control);
  EXPECT_EQ(model.kind(3), TokenKind::byte);
  EXPECT_EQ(model.kind(259), TokenKind::normal);
  EXPECT_EQ(model.bos(), 1u);
  EXPECT_EQ(model.eos(), 2u);
  EXPECT_EQ(model.unknown(), 0u);
  EXPECT_EQ(model.find("he"), 259u);
  EXPECT_EQ(model.find("<unk>"), 0u);
  EXPECT_EQ(model.find("nothing"), std::nullopt);
  EXPECT_TRUE(model.adds_space_prefix());
}

TEST(SentencePieceModel, MergesByScore) {
  const auto vocabulary = small_vocabularies::sentencepiece();
  EXPECT_EQ(pieces_of(vocabulary, "hello"), Pieces{"\u2581hello"});
  EXPECT_EQ(pieces_of(vocabulary, "hello t"), (Pieces{"\u2581hello", "\u2581t"}));
  EXPECT_EQ(pieces_of(vocabulary, "tell"), (Pieces{"\u2581t", "e", "ll"}));
  EXPECT_EQ(pieces_of(vocabulary, ""), Pieces{});
}

TEST(SentencePieceModel, KeepsSpacesAndFallsBackToBytes) {
  const auto vocabulary = small_vocabularies::sentencepiece();
  EXPECT_EQ(pieces_of(vocabulary, "  t\n"), (Pieces{"\u2581", "\u2581", "\u2581t", "<0x0A>"}));
  EXPECT_EQ(pieces_of(vocabulary, "\u00e9"), (Pieces{"\u2581", "<0xC3>", "<0xA9>"}));
  EXPECT_EQ(pieces_of(vocabulary, "\xff"), (Pieces{"\u2581", "<0xEF>", "<0xBF>", "<0xBD>"})); // U+FFFD
}

TEST(SentencePieceModel, UserDefinedPiecesAreFound) {
  EXPECT_EQ(pieces_of(small_vocabularies::sentencepiece(), "t<user>t</s>"),
            (Pieces{"\u2581t", "<user>", "t", "<0x3C>", "<0x2F>", "<0x73>", "<0x3E>"})); // a control piece is text
}

TEST(SentencePieceModel, SpacePrefixIsOptional) {
  auto vocabulary = small_vocabularies::sentencepiece();
  vocabulary.add_space_prefix = false;
  EXPECT_EQ(pieces_of(vocabulary, "hello"), (Pieces{"hell", "o"}));
  EXPECT_FALSE(SentencePieceModel::load(lsaq::serialized_model(vocabulary), "x").adds_space_prefix());
  vocabulary.remove_extra_spaces = true;
  EXPECT_EQ(pieces_of(vocabulary, "  t   t "), (Pieces{"t", "\u2581t"}));
}

TEST(SentencePieceModel, RefusesWhatDoesNotFitTogether) {
  const auto message = [](auto change) {
    auto vocabulary = small_vocabularies::sentencepiece();
    change(vocabulary);
    return make_files::message_of<lsaq::BadInput>([&] { SentencePieceModel::load(lsaq::serialized_model(vocabulary), vocabulary.source); });
  };
  make_files::expect_mentions(message([](auto& v) { v.scores.pop_back(); }), {"small.gguf", "271 scores for 272 tokens"});
  make_files::expect_mentions(message([](auto& v) { v.kinds.pop_back(); }), {"small.gguf", "271 token types"});
  make_files::expect_mentions(message([](auto& v) { v.scores[5] = std::numeric_limits<float>::quiet_NaN(); }), {"token 5", "not finite"});
  make_files::expect_mentions(message([](auto& v) { v.kinds[0] = TokenKind::control; }), {"unknown"});
  make_files::expect_mentions(message([](auto& v) { v.tokens[260] = ""; }), {"small.gguf", "SentencePiece"});
  make_files::expect_mentions(message([](auto& v) { v.tokens[260] = v.tokens[261]; }), {"small.gguf", "already defined"});
  make_files::expect_mentions(message([](auto& v) { v.tokens[3] = "no byte"; }), {"small.gguf", "SentencePiece"});
}

TEST(SentencePieceModel, RefusesOtherBytes) {
  for (const std::string_view bytes : {std::string_view(""), std::string_view("\xff\xff\xff\xff"), std::string_view("hello")})
    make_files::expect_mentions(make_files::message_of<lsaq::BadInput>([&] { SentencePieceModel::load(bytes, "bad.model"); }), {"bad.model"});
}

} // namespace sentencepiece_model_test
