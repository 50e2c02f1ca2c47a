// Vocabularies written as the other kind of file encode the same texts to the same ids.
#include <lsaq/formats/gguf_writer.hpp>
#include <lsaq/models/tokenizer.hpp>
#include <lsaq/models/tokenizer_export.hpp>

#include "formats/make_files.hpp"
#include "models/small_vocabularies.hpp"

namespace tokenizer_export_test {

using lsaq::SplitRule;
using lsaq::TokenId;
using lsaq::Tokenizer;

const std::vector<std::string> texts = {
    "",           "hello the 1234 cats", " two  spaces\n\n\tand lines ",   "<|start|>the end<|end|>", "It's \u00e9t\u00e9, isn't IT'S",
    "\u2581 raw", "<user>hello hell ",   std::string("\xff\xfe broken", 9)};

Tokenizer through_gguf(const lsaq::AnyVocabulary& any, std::size_t rows) {
  const auto entries = std::visit([&](const auto& vocabulary) { return lsaq::gguf_vocabulary(vocabulary, rows); }, any);
  const std::string file = lsaq::gguf_header(entries, {});
  return Tokenizer::from_gguf(lsaq::GgufFile::parse(std::as_bytes(std::span(file)), "made.gguf"), "made.gguf");
}

Tokenizer through_json(const lsaq::AnyVocabulary& any, const make_files::TemporaryFolder& folder) {
  folder.write("tokenizer.json", std::visit([](const auto& vocabulary) { return lsaq::tokenizer_json(vocabulary).dump(); }, any));
  folder.write("tokenizer_config.json", lsaq::tokenizer_config_json(any, 512).dump());
  return Tokenizer::from_folder(folder.path());
}

void expect_same(const Tokenizer& expected, const Tokenizer& found) {
  EXPECT_EQ(found.bos(), expected.bos());
  EXPECT_EQ(found.eos(), expected.eos());
  EXPECT_EQ(found.adds_bos(), expected.adds_bos());
  EXPECT_EQ(found.chat_template(), expected.chat_template());
  for (const std::string& text : texts)
    for (const bool special : {false, true}) {
      const auto ids = expected.encode(text, {.parse_special = special});
      EXPECT_EQ(found.encode(text, {.parse_special = special}), ids) << text;
      EXPECT_EQ(found.decode(ids), expected.decode(ids)) << text;
    }
}

class ByteLevel : public testing::TestWithParam<std::vector<SplitRule>> {};

TEST_P(ByteLevel, IsTheSameInEveryFile) {
  lsaq::BpeVocabulary vocabulary = small_vocabularies::byte_level({"\u0120 t", "h e", "t he", "\u0120t he", "l l", "1 2"}, GetParam());
  vocabulary.options.ignore_merges = GetParam().front() == SplitRule::llama3;
  if (GetParam().front() == SplitRule::qwen2) vocabulary.normalizer.push_back({lsaq::NormalizerStep::Kind::nfc, "", ""});
  vocabulary.special.add_bos = GetParam().front() == SplitRule::llama3;
  vocabulary.special.chat_template = "{{ messages }}";
  const Tokenizer expected(vocabulary);
  const make_files::TemporaryFolder folder;
  expect_same(expected, through_gguf(vocabulary, vocabulary.tokens.size()));
  expect_same(expected, through_json(vocabulary, folder));
  expect_same(expected, through_gguf(lsaq::folder_vocabulary(folder.path()), vocabulary.tokens.size()));
  const Tokenizer padded = through_gguf(vocabulary, vocabulary.tokens.size() + 3);
  expect_same(expected, padded);
  EXPECT_EQ(padded.vocabulary_size(), vocabulary.tokens.size() + 3) << "as many as the embedding has rows";
}

INSTANTIATE_TEST_SUITE_P(TokenizerExport, ByteLevel,
                         testing::Values(std::vector{SplitRule::digits, SplitRule::gpt2}, std::vector{SplitRule::gpt2}, std::vector{SplitRule::llama3},
                                         std::vector{SplitRule::qwen2}));

TEST(TokenizerExport, SentencePieceIsTheSameInEveryFile) {
  for (const bool prefix : {true, false}) {
    lsaq::SentencePieceVocabulary vocabulary = small_vocabularies::sentencepiece();
    vocabulary.add_space_prefix = prefix;
    const Tokenizer expected(vocabulary);
    const std::size_t rows = vocabulary.tokens.size();
    expect_same(expected, through_gguf(vocabulary, rows));
    const make_files::TemporaryFolder json, model;
    const Tokenizer from_json = through_json(vocabulary, json);
    const Tokenizer again = through_gguf(lsaq::folder_vocabulary(json.path()), rows); // scores out of the ranks of merges
    model.write("tokenizer.model", lsaq::serialized_model(vocabulary));
    const Tokenizer from_model = through_gguf(lsaq::folder_vocabulary(model.path()), rows);
    for (const char* text : {"hello the hell", "t hello\nhell", "ohell \u00e9"}) { // added tokens and broken bytes are treated differently by the libraries
      EXPECT_EQ(from_model.encode(text), expected.encode(text)) << text;
      EXPECT_EQ(from_json.encode(text), expected.encode(text)) << text;
      EXPECT_EQ(again.encode(text), expected.encode(text)) << text;
    }
  }
}

TEST(TokenizerExport, TakesWhatOnlyTheConfigurationNames) {
  const make_files::TemporaryFolder folder;
  folder.write("tokenizer.json", lsaq::tokenizer_json(small_vocabularies::byte_level({})).dump());
  folder.write("config.json", R"({"bos_token_id": 1, "eos_token_id": [0, 7]})");
  const Tokenizer found = through_gguf(lsaq::folder_vocabulary(folder.path()), 258);
  EXPECT_EQ(found.bos(), 1u);
  EXPECT_EQ(found.eos(), 0u);
  folder.write("config.json", R"({"bos_token_id": 258, "eos_token_id": null})");
  EXPECT_EQ(through_gguf(lsaq::folder_vocabulary(folder.path()), 258).bos(), std::nullopt);
}

TEST(TokenizerExport, RefusesWhatTheOtherFileCantSay) {
  using make_files::expect_mentions;
  using make_files::message_of;
  const auto refused = [&](const lsaq::BpeVocabulary& vocabulary, const std::vector<std::string>& parts) {
    expect_mentions(message_of<lsaq::BadInput>([&] { (void)lsaq::gguf_vocabulary(vocabulary, 1000); }), parts);
  };
  lsaq::BpeVocabulary vocabulary = small_vocabularies::byte_level({});
  expect_mentions(message_of<lsaq::BadInput>([&] { (void)lsaq::gguf_vocabulary(vocabulary, 10); }), {"small.json", "258", "10"});
  vocabulary.splits = {SplitRule::digits};
  refused(vocabulary, {"small.json", "words"});
  vocabulary.splits = {SplitRule::gpt2};
  vocabulary.options.ignore_merges = true;
  refused(vocabulary, {"ignore_merges"});
  vocabulary.options.ignore_merges = false;
  vocabulary.normalizer = {{lsaq::NormalizerStep::Kind::nfc, "", ""}};
  refused(vocabulary, {"normalizer"});
  vocabulary.options.byte_level = false;
  refused(vocabulary, {"NFC"});
  vocabulary.tokens.push_back(vocabulary.tokens[5]);
  vocabulary.kinds.push_back(lsaq::TokenKind::normal);
  expect_mentions(message_of<lsaq::BadInput>([&] { (void)lsaq::tokenizer_json(vocabulary); }), {"258", "spelled"});
}

} // namespace tokenizer_export_test
