// Vocabularies in the metadata of GGUF files (the keys tokenizer.ggml.* of docs/gguf.md).
#pragma once

#include <lsaq/error.hpp>
#include <lsaq/formats/gguf.hpp>
#include <lsaq/models/vocabulary.hpp>

#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace lsaq::inline v0::inline LSAQ_BASELINE {

/// Reads the vocabulary of one GGUF file; every error is BadInput with `source`, fit to print, in front.
class GgufVocabularyReader {
public:
  GgufVocabularyReader(const GgufFile& file, std::string source) : file_(file), source_(std::move(source)) {}

  /// "gpt2" for byte-level byte pair encodings, "llama" for SentencePiece. Other kinds are refused by name.
  const std::string& model() const {
    const std::string& name = file_.string_at("tokenizer.ggml.model");
    if (name != "gpt2" && name != "llama") refuse("tokenizer.ggml.model is '" + printable(name) + "'; gpt2 and llama can be read");
    return name;
  }

  BpeVocabulary bpe() const {
    BpeVocabulary vocabulary;
    vocabulary.source = source_;
    vocabulary.tokens = file_.array_at<std::string>("tokenizer.ggml.tokens");
    vocabulary.kinds = kinds(vocabulary.tokens.size());
    for (std::size_t id = 0; id < vocabulary.kinds.size(); ++id) {
      const TokenKind kind = vocabulary.kinds[id];
      const bool special = kind == TokenKind::control || kind == TokenKind::unknown;
      if (special || kind == TokenKind::user_defined)
        vocabulary.added.push_back({.text = vocabulary.tokens[id], .id = static_cast<TokenId>(id), .special = special});
    }
    const std::vector<std::string>& merges = file_.array_at<std::string>("tokenizer.ggml.merges");
    vocabulary.merges.reserve(merges.size());
    for (std::size_t i = 0; i < merges.size(); ++i) {
      const std::size_t space = merges[i].find(' ', 1);
      if (space == std::string::npos || space + 1 == merges[i].size())
        refuse("merge " + std::to_string(i) + " is '" + printable(merges[i]) + "'; it must be two tokens with a space between them");
      vocabulary.merges.emplace_back(merges[i].substr(0, space), merges[i].substr(space + 1));
    }

    const std::string& pre = file_.string_at("tokenizer.ggml.pre");
    auto splits = split_rules_named(pre);
    if (!splits) refuse("tokenizer.ggml.pre is '" + printable(pre) + "'; known are " + std::string(known_pre_tokenizers));
    vocabulary.splits = std::move(*splits);
    const bool llama3 = vocabulary.splits.front() == SplitRule::llama3;
    vocabulary.options.ignore_merges = llama3;
    if (vocabulary.splits.front() == SplitRule::qwen2) vocabulary.normalizer.push_back({NormalizerStep::Kind::nfc, "", ""});
    vocabulary.special = special_tokens(llama3);
    vocabulary.special.unknown.reset(); // what has no token is dropped in byte-level encodings, even where the file names an unknown token
    return vocabulary;
  }

  SentencePieceVocabulary sentencepiece() const {
    SentencePieceVocabulary vocabulary;
    vocabulary.source = source_;
    vocabulary.tokens = file_.array_at<std::string>("tokenizer.ggml.tokens");
    vocabulary.scores = file_.array_at<float>("tokenizer.ggml.scores");
    vocabulary.kinds = kinds(vocabulary.tokens.size());
    vocabulary.add_space_prefix = file_.bool_or("tokenizer.ggml.add_space_prefix", true);
    vocabulary.remove_extra_spaces = file_.bool_or("tokenizer.ggml.remove_extra_whitespaces", false);
    vocabulary.special = special_tokens(true);
    return vocabulary;
  }

private:
  [[noreturn]] void refuse(const std::string& reason) const { fail<BadInput>(source_ + ": " + reason); }

  std::vector<TokenKind> kinds(std::size_t tokens) const {
    const auto& types = file_.array_at<std::int32_t>("tokenizer.ggml.token_type");
    if (types.size() != tokens) refuse("tokenizer.ggml.token_type has " + std::to_string(types.size()) + " entries for " + std::to_string(tokens) + " tokens");
    std::vector<TokenKind> result(tokens);
    for (std::size_t id = 0; id < tokens; ++id) {
      if (types[id] < 1 || types[id] > 6)
        refuse("tokenizer.ggml.token_type of token " + std::to_string(id) + " is " + std::to_string(types[id]) + "; it must be 1 to 6");
      result[id] = static_cast<TokenKind>(types[id]);
    }
    return result;
  }

  std::optional<TokenId> id(std::string_view key) const {
    if (file_.find(key) == nullptr) return std::nullopt;
    const std::uint64_t value = file_.unsigned_at(key);
    if (value >= std::numeric_limits<TokenId>::max()) refuse(std::string(key) + " is " + std::to_string(value) + ", which can't be a token");
    return static_cast<TokenId>(value);
  }

  SpecialTokens special_tokens(bool usually_adds_bos) const {
    SpecialTokens special;
    special.bos = id("tokenizer.ggml.bos_token_id");
    special.eos = id("tokenizer.ggml.eos_token_id");
    special.unknown = id("tokenizer.ggml.unknown_token_id");
    for (const std::string_view key : {"tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"})
      if (const auto end = id(key)) special.ends_generation.push_back(*end);
    special.add_bos = file_.bool_or("tokenizer.ggml.add_bos_token", usually_adds_bos);
    special.add_eos = file_.bool_or("tokenizer.ggml.add_eos_token", false);
    special.chat_template = file_.string_or("tokenizer.chat_template", "");
    return special;
  }

  const GgufFile& file_;
  std::string source_;
};

} // namespace lsaq::inline v0::inline LSAQ_BASELINE
