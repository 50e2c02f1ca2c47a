// The tokenizer files of Hugging Face folders.
#include <lsaq/models/tokenizer.hpp>

#include "formats/make_files.hpp"
#include "models/small_vocabularies.hpp"

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <functional>
#include <string>
#include <vector>

namespace tokenizer_json_test {

using lsaq::TokenId;
using lsaq::Tokenizer;
using make_files::expect_mentions;
using make_files::message_of;
using make_files::TemporaryFolder;
using nlohmann::json;
using Tokens = std::vector<TokenId>;

json added(TokenId id, const std::string& content, bool special) {
  return {{"id", id}, {"content", content}, {"single_word", false}, {"lstrip", false}, {"rstrip", false}, {"normalized", false}, {"special", special}};
}

json token_template(const char* before, TokenId id) {
  return {{"type", "TemplateProcessing"},
          {"single", json::array({{{"SpecialToken", {{"id", before}, {"type_id", 0}}}}, {{"Sequence", {{"id", "A"}, {"type_id", 0}}}}})},
          {"pair", json::array()},
          {"special_tokens", {{before, {{"id", before}, {"ids", {id}}, {"tokens", {before}}}}}}};
}

/// As the Hugging Face library writes a byte-level tokenizer.
json byte_level() {
  const auto vocabulary = small_vocabularies::byte_level({"\u0120 t", "t h", "\u0120t h"});
  json ids = json::object();
  for (std::size_t id = 0; id < vocabulary.tokens.size(); ++id) ids[vocabulary.tokens[id]] = id;
  return {{"version", "1.0"},
          {"truncation", nullptr},
          {"added_tokens", {added(0, "<|end|>", true), added(1, "<|start|>", true)}},
          {"normalizer", nullptr},
          {"pre_tokenizer",
           {{"type", "Sequence"},
            {"pretokenizers",
             {{{"type", "Digits"}, {"individual_digits", true}},
              {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", true}}}}}},
          {"post_processor", nullptr},
          {"decoder", {{"type", "ByteLevel"}}},
          {"model",
           {{"type", "BPE"},
            {"dropout", nullptr},
            {"unk_token", nullptr},
            {"byte_fallback", false},
            {"vocab", ids},
            {"merges", {"\u0120 t", "t h", "\u0120t h"}}}}};
}

/// As the same library writes Llama 2's.
json byte_fallback() {
  json ids = {{"<unk>", 0}, {"<s>", 1}, {"</s>", 2}, {"\u2581", 259}, {"a", 260}, {"\u2581a", 261}};
  for (unsigned b = 0; b < 256; ++b) ids[lsaq::byte_token(static_cast<unsigned char>(b))] = 3 + b;
  return {{"added_tokens", {added(0, "<unk>", true), added(1, "<s>", true), added(2, "</s>", true)}},
          {"normalizer",
           {{"type", "Sequence"},
            {"normalizers", {{{"type", "Prepend"}, {"prepend", "\u2581"}}, {{"type", "Replace"}, {"pattern", {{"String", " "}}}, {"content", "\u2581"}}}}}},
          {"pre_tokenizer", nullptr},
          {"post_processor", token_template("<s>", 1)},
          {"decoder",
           {{"type", "Sequence"},
            {"decoders",
             {{{"type", "Replace"}, {"pattern", {{"String", "\u2581"}}}, {"content", " "}},
              {{"type", "ByteFallback"}},
              {{"type", "Fuse"}},
              {{"type", "Strip"}, {"content", " "}, {"start", 1}, {"stop", 0}}}}}},
          {"model", {{"type", "BPE"}, {"unk_token", "<unk>"}, {"fuse_unk", true}, {"byte_fallback", true}, {"vocab", ids}, {"merges", {"\u2581 a"}}}}};
}

Tokenizer read(const json& document, const std::vector<std::pair<std::string, json>>& others = {}) {
  const TemporaryFolder folder;
  folder.write("tokenizer.json", document.dump());
  for (const auto& [name, content] : others) folder.write(name, content.dump());
  return Tokenizer::from_folder(folder.path());
}

std::string refusal(json document, const std::function<void(json&)>& change, const std::vector<std::pair<std::string, json>>& others = {}) {
  change(document);
  return message_of<lsaq::BadInput>([&] { read(document, others); });
}

TEST(TokenizerJson, ByteLevel) {
  const Tokenizer tokenizer = read(byte_level());
  EXPECT_EQ(tokenizer.encode("th th12"), (Tokens{259, 260, 2 + '1', 2 + '2'}));
  EXPECT_EQ(tokenizer.encode("a<|end|>", {.parse_special = true}), (Tokens{2 + 'a', 0}));
  EXPECT_EQ(tokenizer.encode("<|end|>").size(), 7u);
  EXPECT_FALSE(tokenizer.adds_bos());
  EXPECT_EQ(tokenizer.vocabulary_size(), 261u);
  EXPECT_EQ(tokenizer.decode(tokenizer.encode("\u00e9 \U0001f600")), "\u00e9 \U0001f600");
}

TEST(TokenizerJson, MergesAsPairs) {
  json document = byte_level();
  document["model"]["merges"] = std::vector<std::vector<std::string>>{{"\u0120", "t"}, {"t", "h"}, {"\u0120t", "h"}};
  EXPECT_EQ(read(document).encode(" th"), Tokens{260});
}

TEST(TokenizerJson, Llama3Splits) {
  json document = byte_level();
  document["model"]["ignore_merges"] = true;
  document["model"]["vocab"]["(th"] = 261;
  document["pre_tokenizer"]["pretokenizers"] = {
      {{"type", "Split"}, {"pattern", {{"Regex", std::string(lsaq::llama3_pattern)}}}, {"behavior", "Isolated"}, {"invert", false}},
      {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", false}}};
  document["post_processor"] = {{"type", "Sequence"}, {"processors", {{{"type", "ByteLevel"}}, token_template("<|start|>", 1)}}};
  const Tokenizer tokenizer = read(document);
  EXPECT_EQ(tokenizer.encode("(th"), (Tokens{1, 261}));
  EXPECT_EQ(tokenizer.bos(), 1u);
}

TEST(TokenizerJson, NfcAndPrefixSpace) {
  json document = byte_level();
  document["normalizer"] = {{"type", "NFC"}};
  document["pre_tokenizer"] = {{"type", "ByteLevel"}, {"add_prefix_space", true}};
  const Tokenizer tokenizer = read(document);
  EXPECT_EQ(tokenizer.encode("th"), Tokens{260});
  EXPECT_EQ(tokenizer.encode(" th"), Tokens{260});
  EXPECT_EQ(tokenizer.encode("e\u0301"), tokenizer.encode("\u00e9"));
}

TEST(TokenizerJson, AddedTokensBeyondTheModel) {
  json document = byte_level();
  document["added_tokens"].push_back(added(264, "<user>", false));
  const Tokenizer tokenizer = read(document);
  EXPECT_EQ(tokenizer.vocabulary_size(), 265u);
  EXPECT_EQ(tokenizer.encode("<user>"), Tokens{264});
  EXPECT_EQ(tokenizer.token_kind(262), lsaq::TokenKind::unused);
}

TEST(TokenizerJson, ByteFallback) {
  const Tokenizer tokenizer = read(byte_fallback());
  EXPECT_EQ(tokenizer.encode("a a"), (Tokens{1, 261, 261}));
  EXPECT_EQ(tokenizer.encode("a</s>a", {.parse_special = true}), (Tokens{1, 261, 2, 261}));
  EXPECT_EQ(tokenizer.decode(tokenizer.encode("a \u00e9\n", {.add_bos = false})), "a \u00e9\n");
  EXPECT_TRUE(tokenizer.adds_bos());
}

TEST(TokenizerJson, Metaspace) {
  json document = byte_fallback();
  document["normalizer"] = nullptr;
  document["pre_tokenizer"] = {{"type", "Metaspace"}, {"replacement", "\u2581"}, {"prepend_scheme", "first"}, {"split", false}};
  const auto tokens = [&](const char* text) { return read(document).encode(text, {.add_bos = false, .parse_special = true}); };
  EXPECT_EQ(tokens("a</s>a"), (Tokens{261, 2, 260}));
  document["pre_tokenizer"]["prepend_scheme"] = "always";
  EXPECT_EQ(tokens("a</s>a"), (Tokens{261, 2, 261}));
  document["pre_tokenizer"]["prepend_scheme"] = "never";
  EXPECT_EQ(tokens("a a"), (Tokens{260, 261}));
}

TEST(TokenizerJson, ConfigurationFilesBesideIt) {
  const json config = {{"bos_token", {{"content", "<|start|>"}}}, {"eos_token", "<|end|>"}, {"add_bos_token", true}, {"chat_template", "a template"}};
  const json generation = {{"eos_token_id", {0, 7}}};
  const Tokenizer tokenizer = read(byte_level(), {{"tokenizer_config.json", config}, {"generation_config.json", generation}});
  EXPECT_EQ(tokenizer.bos(), 1u);
  EXPECT_EQ(tokenizer.eos(), 0u);
  EXPECT_EQ(tokenizer.encode("a"), (Tokens{1, 2 + 'a'}));
  EXPECT_TRUE(tokenizer.ends_generation(0));
  EXPECT_TRUE(tokenizer.ends_generation(7));
  EXPECT_EQ(tokenizer.chat_template(), "a template");

  const Tokenizer from_map = read(byte_level(), {{"special_tokens_map.json", {{"eos_token", "<|end|>"}}}, {"config.json", {{"eos_token_id", 9}}}});
  EXPECT_EQ(from_map.eos(), 0u);
  EXPECT_EQ(from_map.bos(), std::nullopt);
  EXPECT_TRUE(from_map.ends_generation(9));

  const json several = {{"chat_template", {{{"name", "tool_use"}, {"template", "x"}}, {{"name", "default"}, {"template", "y"}}}}};
  EXPECT_EQ(read(byte_level(), {{"tokenizer_config.json", several}}).chat_template(), "y");
}

TEST(TokenizerJson, ChatTemplateInAFileOfItsOwn) {
  const TemporaryFolder folder;
  folder.write("tokenizer.json", byte_level().dump());
  folder.write("chat_template.jinja", "{{ messages }}");
  EXPECT_EQ(Tokenizer::from_folder(folder.path()).chat_template(), "{{ messages }}");
}

TEST(TokenizerJson, RefusesWhatWouldChangeTheTokens) {
  const auto with = [](const char* pointer, json value) { return refusal(byte_level(), [&](json& d) { d[json::json_pointer(pointer)] = std::move(value); }); };
  expect_mentions(with("/model/type", "Unigram"), {"tokenizer.json", "model.type", "Unigram", "BPE"});
  expect_mentions(with("/model/dropout", 0.1), {"model.dropout"});
  expect_mentions(with("/model/end_of_word_suffix", "</w>"), {"model.end_of_word_suffix"});
  expect_mentions(with("/normalizer", {{"type", "Lowercase"}}), {"normalizer.type", "Lowercase", "NFC"});
  expect_mentions(with("/pre_tokenizer", {{"type", "Whitespace"}}), {"pre_tokenizer.type", "Whitespace"});
  expect_mentions(with("/pre_tokenizer/pretokenizers/0/individual_digits", false), {"pre_tokenizer.pretokenizers[0].individual_digits"});
  expect_mentions(with("/pre_tokenizer/pretokenizers/1/add_prefix_space", true), {"add_prefix_space", "behind another"});
  expect_mentions(with("/pre_tokenizer/pretokenizers/0", {{"type", "Split"}, {"pattern", {{"Regex", "\\s+"}}}, {"behavior", "Isolated"}}),
                  {"pattern.Regex", "\\x5cs+"});
  expect_mentions(with("/post_processor", {{"type", "BertProcessing"}}), {"post_processor.type", "BertProcessing"});
  expect_mentions(with("/added_tokens/0/single_word", true), {"added_tokens[0].single_word"});
}

TEST(TokenizerJson, RefusesWhatDoesNotFitTogether) {
  const auto with = [](const char* pointer, json value) { return refusal(byte_level(), [&](json& d) { d[json::json_pointer(pointer)] = std::move(value); }); };
  expect_mentions(with("/model/merges/1", "t absent"), {"tokenizer.json", "merge 1", "absent"});
  expect_mentions(with("/model/merges/1", "th"), {"model.merges[1]"});
  expect_mentions(with("/model/merges/1", "a b c"), {"model.merges[1]"});
  expect_mentions(with("/model/merges/1", {"a", 1}), {"model.merges[1]"});
  expect_mentions(with("/model/merges", "x"), {"model.merges", "array"});
  expect_mentions(with("/model/vocab/a", "1"), {"model.vocab.a", "token id"});
  expect_mentions(with("/model/vocab/a", -1), {"model.vocab.a", "-1"});
  expect_mentions(with("/model/vocab/a", 1ull << 40), {"model.vocab.a", "1099511627776"});
  expect_mentions(with("/model/vocab/a", 5), {"tokenizer.json", "has the id 5"});
  expect_mentions(with("/model/vocab", 3), {"model.vocab"});
  expect_mentions(with("/model/unk_token", "<unk>"), {"model.unk_token", "<unk>"});
  expect_mentions(with("/added_tokens/1/content", "other\x1b"), {"other\\x1b", "<|start|>"});
  expect_mentions(with("/added_tokens/1/id", nullptr), {"added_tokens[1].id", "missing"});
  expect_mentions(with("/pre_tokenizer", {{"type", 7}}), {"pre_tokenizer.type", "7", "string"});
  expect_mentions(refusal(byte_level(), [](json& d) { d.erase("model"); }), {"model.vocab"});
  expect_mentions(refusal(byte_fallback(), [](json& d) { d.erase("decoder"); }), {"decoder", "missing"});
  expect_mentions(refusal(byte_level(), [](json&) {}, {{"tokenizer_config.json", {{"eos_token", "</nothing>"}}}}),
                  {"tokenizer_config.json", "eos_token", "</nothing>"});
  expect_mentions(refusal(byte_level(), [](json&) {}, {{"generation_config.json", {{"eos_token_id", 4000}}}}), {"4000"});
}

TEST(TokenizerFolder, ReadsASentencePieceModel) {
  const auto vocabulary = small_vocabularies::sentencepiece();
  const TemporaryFolder folder;
  folder.write("tokenizer.model", lsaq::serialized_model(vocabulary));
  const auto more = static_cast<TokenId>(vocabulary.tokens.size());
  folder.write(
      "tokenizer_config.json",
      json{{"added_tokens_decoder", {{"1", {{"content", "<s>"}, {"special", true}}}, {std::to_string(more), {{"content", "<pad>"}, {"special", true}}}}},
           {"bos_token", "<s>"},
           {"eos_token", "<pad>"}}
          .dump());
  const Tokenizer tokenizer = Tokenizer::from_folder(folder.path());
  EXPECT_EQ(tokenizer.vocabulary_size(), vocabulary.tokens.size() + 1);
  EXPECT_EQ(tokenizer.encode("hello<pad>", {.parse_special = true}), (Tokens{1, tokenizer.find("\u2581hello").value(), more}));
  EXPECT_EQ(tokenizer.eos(), more);
  EXPECT_TRUE(tokenizer.ends_generation(more));
  EXPECT_TRUE(tokenizer.ends_generation(2)); // </s>
}

TEST(TokenizerFolder, RefusesAFolderWithoutOne) {
  const TemporaryFolder folder;
  expect_mentions(message_of<lsaq::BadInput>([&] { Tokenizer::from_folder(folder.path()); }), {"tokenizer.json or tokenizer.model"});
  folder.write("tokenizer.model", "not a model");
  expect_mentions(message_of<lsaq::BadInput>([&] { Tokenizer::from_folder(folder.path()); }), {"tokenizer.model", "SentencePiece"});
  folder.write("tokenizer.json", "{");
  expect_mentions(message_of<lsaq::BadInput>([&] { Tokenizer::from_folder(folder.path()); }), {"tokenizer.json", "not valid JSON"});
}

} // namespace tokenizer_json_test
