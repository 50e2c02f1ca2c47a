// Vocabularies as files of the other kind: those of Hugging Face folders as GGUF metadata, those of GGUF files as tokenizer.json and tokenizer_config.json.
//
// Sources: docs/gguf.md of ggml (tokenizer.ggml.*); the tokenizers library's JSON as TokenizerJsonReader reads it.
#pragma once

#include <lsaq/models/sentencepiece_model.hpp>
#include <lsaq/models/tokenizer_gguf.hpp>
#include <lsaq/models/tokenizer_json.hpp>

#include <map>
#include <variant>

namespace lsaq::inline v0 {

/// Either kind of vocabulary.
using AnyVocabulary = std::variant<BpeVocabulary, SentencePieceVocabulary>;

} // namespace lsaq::inline v0

namespace lsaq::inline v0::inline LSAQ_BASELINE {

namespace detail {

[[noreturn]] inline void refuse_vocabulary(const std::string& source, const std::string& reason) { fail<BadInput>(source + ": " + reason); }

/// Types of tokens, special tokens and template; the tokens are filled up with unused ones to `rows`, which readers compare with the embedding.
inline void add_common_keys(std::vector<GgufEntry>& entries, std::vector<std::string> tokens, const std::vector<TokenKind>& kinds, const SpecialTokens& special,
                            std::size_t rows, const std::string& source) {
  if (tokens.size() > rows) refuse_vocabulary(source, "has " + std::to_string(tokens.size()) + " tokens, the embedding has rows for " + std::to_string(rows));
  std::vector<std::int32_t> types;
  for (std::size_t id = 0; id < tokens.size(); ++id) types.push_back(static_cast<std::int32_t>(kinds.empty() ? TokenKind::normal : kinds[id]));
  while (tokens.size() < rows) {
    tokens.push_back("[PAD" + std::to_string(tokens.size()) + "]");
    types.push_back(static_cast<std::int32_t>(TokenKind::unused));
  }
  for (std::size_t id = 0; id < tokens.size(); ++id)
    if (tokens[id].empty()) tokens[id] = "[PAD" + std::to_string(id) + "]"; // a hole between added tokens
  entries.push_back({"tokenizer.ggml.tokens", std::move(tokens)});
  entries.push_back({"tokenizer.ggml.token_type", std::move(types)});
  for (const auto& [key, id] : {std::pair{"bos", special.bos}, std::pair{"eos", special.eos}, std::pair{"unknown", special.unknown}})
    if (id) entries.push_back({"tokenizer.ggml." + std::string(key) + "_token_id", std::uint32_t{*id}});
  entries.push_back({"tokenizer.ggml.add_bos_token", special.add_bos});
  entries.push_back({"tokenizer.ggml.add_eos_token", special.add_eos});
  if (!special.chat_template.empty()) entries.push_back({"tokenizer.chat_template", special.chat_template});
}

} // namespace detail

/// A vocabulary of Llama 2's kind out of its tokenizer.json: the score of a piece is the rank of the first merge that makes it, as SentencePiece has them.
///
/// Throws BadInput for what SentencePiece does not do.
inline SentencePieceVocabulary sentencepiece_of(const BpeVocabulary& bpe) {
  SentencePieceVocabulary vocabulary{.source = bpe.source, .tokens = bpe.tokens, .scores = {}, .kinds = bpe.kinds, .special = bpe.special};
  vocabulary.kinds.resize(bpe.tokens.size(), TokenKind::normal);
  vocabulary.add_space_prefix = false;
  for (const auto* steps : {&bpe.normalizer, &bpe.before_split})
    for (const NormalizerStep& step : *steps) {
      if (step.kind == NormalizerStep::Kind::nfc) detail::refuse_vocabulary(bpe.source, "its normalizer NFC has no place in a GGUF file");
      if (step.kind != NormalizerStep::Kind::replace) vocabulary.add_space_prefix = true;
    }
  if (!bpe.splits.empty()) detail::refuse_vocabulary(bpe.source, "a vocabulary that is not byte-level but cuts text into words has no place in a GGUF file");
  const TokenIndex ids(bpe.tokens);
  vocabulary.scores.assign(bpe.tokens.size(), -static_cast<float>(bpe.merges.size()));
  for (std::size_t rank = bpe.merges.size(); rank-- > 0;)
    if (const auto id = ids.find(bpe.merges[rank].first + bpe.merges[rank].second)) vocabulary.scores[*id] = -static_cast<float>(rank);
  return vocabulary;
}

/// The keys tokenizer.ggml.* for a model whose embedding has `rows` rows. Throws BadInput for what they can't express.
inline std::vector<GgufEntry> gguf_vocabulary(const SentencePieceVocabulary& vocabulary, std::size_t rows) {
  std::vector<float> scores = vocabulary.scores;
  scores.resize(rows, -1000.0f);
  std::vector<GgufEntry> entries = {{"tokenizer.ggml.model", std::string("llama")},
                                    {"tokenizer.ggml.pre", std::string("default")},
                                    {"tokenizer.ggml.scores", std::move(scores)},
                                    {"tokenizer.ggml.add_space_prefix", vocabulary.add_space_prefix}};
  if (vocabulary.remove_extra_spaces) entries.push_back({"tokenizer.ggml.remove_extra_whitespaces", true});
  detail::add_common_keys(entries, vocabulary.tokens, vocabulary.kinds, vocabulary.special, rows, vocabulary.source);
  return entries;
}

inline std::vector<GgufEntry> gguf_vocabulary(const BpeVocabulary& vocabulary, std::size_t rows) {
  if (!vocabulary.options.byte_level) return gguf_vocabulary(sentencepiece_of(vocabulary), rows);
  const auto pre = name_of_split_rules(vocabulary.splits);
  if (!pre) detail::refuse_vocabulary(vocabulary.source, "the way it cuts text into words has no name in GGUF files");
  const bool is_qwen2 = vocabulary.splits.front() == SplitRule::qwen2, is_llama3 = vocabulary.splits.front() == SplitRule::llama3;
  const bool normal =
      is_qwen2 ? vocabulary.normalizer.size() == 1 && vocabulary.normalizer[0].kind == NormalizerStep::Kind::nfc : vocabulary.normalizer.empty();
  if (!normal || !vocabulary.before_split.empty()) detail::refuse_vocabulary(vocabulary.source, "its normalizer has no place in a GGUF file");
  if (vocabulary.options.ignore_merges != is_llama3)
    detail::refuse_vocabulary(vocabulary.source, "\"ignore_merges\" goes with Llama 3's words, and only with them, in GGUF files");
  std::vector<std::string> merges;
  merges.reserve(vocabulary.merges.size());
  for (const auto& [left, right] : vocabulary.merges) merges.push_back(left + " " + right);
  std::vector<GgufEntry> entries = {{"tokenizer.ggml.model", std::string("gpt2")},
                                    {"tokenizer.ggml.pre", std::string(*pre)},
                                    {"tokenizer.ggml.merges", std::move(merges)},
                                    {"tokenizer.ggml.add_space_prefix", false}};
  detail::add_common_keys(entries, vocabulary.tokens, vocabulary.kinds, vocabulary.special, rows, vocabulary.source);
  return entries;
}

namespace detail {

/// bos and eos that a folder's tokenizer does not name, as its config.json has them.
inline void add_configured_tokens(const std::filesystem::path& folder, SpecialTokens& special, std::size_t tokens) {
  std::error_code error;
  if (!std::filesystem::exists(folder / "config.json", error)) return;
  const nlohmann::json config = read_json(folder / "config.json");
  for (const auto& [key, id] : {std::pair{"bos_token_id", &special.bos}, std::pair{"eos_token_id", &special.eos}}) {
    const auto found = config.find(key);
    if (*id || found == config.end()) continue;
    const nlohmann::json& value = found->is_array() && !found->empty() ? found->front() : *found;
    if (value.is_number_unsigned() && value < tokens) *id = value.get<TokenId>();
  }
}

} // namespace detail

/// The vocabulary of a Hugging Face folder, tokenizer.json or tokenizer.model. Throws as Tokenizer::from_folder.
///
/// User-defined pieces of a tokenizer.model count as normal ones: the SentencePiece library does not tell them apart.
inline AnyVocabulary folder_vocabulary(const std::filesystem::path& folder) {
  std::error_code error;
  const SpecialTokenFiles files(folder);
  if (const auto path = folder / "tokenizer.json"; std::filesystem::exists(path, error)) {
    BpeVocabulary vocabulary = read_tokenizer_json(path, files);
    detail::add_configured_tokens(folder, vocabulary.special, vocabulary.tokens.size());
    if (vocabulary.options.byte_level || !std::filesystem::exists(folder / "tokenizer.model", error)) return vocabulary;
  }
  const SentencePieceModel model = SentencePieceModel::from_folder(folder);
  SentencePieceVocabulary vocabulary{.source = model.source(), .tokens = {}, .scores = {}, .kinds = {}, .special = model.special()};
  for (std::size_t i = 0; i < model.size(); ++i) {
    const auto id = static_cast<TokenId>(i);
    vocabulary.tokens.push_back(model.piece(id));
    vocabulary.scores.push_back(model.score(id));
    vocabulary.kinds.push_back(model.kind(id));
  }
  vocabulary.add_space_prefix = model.adds_space_prefix();
  for (const AddedToken& token : files.added_tokens()) {
    if (token.id > vocabulary.tokens.size()) detail::refuse_vocabulary(vocabulary.source, "added token " + std::to_string(token.id) + " leaves a gap");
    if (token.id == vocabulary.tokens.size()) {
      vocabulary.tokens.push_back(token.text);
      vocabulary.scores.push_back(-1000.0f);
      vocabulary.kinds.push_back(token.special ? TokenKind::control : TokenKind::user_defined);
    }
  }
  const TokenIndex ids(vocabulary.tokens);
  files.update(vocabulary.special, [&](std::string_view token) { return ids.find(token); });
  return vocabulary;
}

/// The vocabulary of a GGUF file. Throws as Tokenizer::from_gguf.
inline AnyVocabulary gguf_file_vocabulary(const GgufFile& file, const std::string& source) {
  const GgufVocabularyReader reader(file, source);
  if (reader.model() == "gpt2") return reader.bpe();
  return reader.sentencepiece();
}

namespace detail {

using Json = nlohmann::ordered_json;

inline Json added_token_json(TokenId id, const std::string& text, bool special) {
  return {{"id", id}, {"content", text}, {"single_word", false}, {"lstrip", false}, {"rstrip", false}, {"normalized", false}, {"special", special}};
}

/// What frames a text: bos and eos where they are added.
inline Json template_json(const std::vector<std::string>& tokens, const SpecialTokens& special) {
  Json single = Json::array(), pair = Json::array(), known = Json::object();
  const auto place = [&](std::optional<TokenId> id, bool added, int type, bool in_single) {
    if (!id || !added) return;
    const std::string& text = tokens[*id];
    const Json part = {{"SpecialToken", {{"id", text}, {"type_id", type}}}};
    if (in_single) single.push_back(part);
    pair.push_back(part);
    known[text] = {{"id", text}, {"ids", {*id}}, {"tokens", {text}}};
  };
  place(special.bos, special.add_bos, 0, true);
  single.push_back({{"Sequence", {{"id", "A"}, {"type_id", 0}}}});
  pair.push_back({{"Sequence", {{"id", "A"}, {"type_id", 0}}}});
  place(special.eos, special.add_eos, 0, true);
  place(special.bos, special.add_bos, 1, false);
  pair.push_back({{"Sequence", {{"id", "B"}, {"type_id", 1}}}});
  place(special.eos, special.add_eos, 1, false);
  return {{"type", "TemplateProcessing"}, {"single", single}, {"pair", pair}, {"special_tokens", known}};
}

inline Json bpe_json(const std::vector<std::string>& tokens, Json merges, std::optional<TokenId> unknown, const BpeOptions& options) {
  Json vocab = Json::object();
  auto& entries = vocab.get_ref<Json::object_t&>();
  entries.reserve(tokens.size());
  for (std::size_t id = 0; id < tokens.size(); ++id) entries.emplace_back(tokens[id], id); // in their order; looking each up would take quadratic time
  return {{"type", "BPE"},
          {"dropout", nullptr},
          {"unk_token", unknown ? Json(tokens[*unknown]) : Json()},
          {"continuing_subword_prefix", nullptr},
          {"end_of_word_suffix", nullptr},
          {"fuse_unk", options.fuse_unknown},
          {"byte_fallback", options.byte_fallback},
          {"ignore_merges", options.ignore_merges},
          {"vocab", std::move(vocab)},
          {"merges", std::move(merges)}};
}

inline Json byte_level_json(bool use_regex) { return {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", use_regex}}; }

} // namespace detail

/// A tokenizer.json that gives the ids this library gives. Throws BadInput if two tokens are spelled the same.
inline nlohmann::ordered_json tokenizer_json(const BpeVocabulary& vocabulary) {
  using detail::Json;
  if (const TokenIndex ids(vocabulary.tokens); true)
    for (std::size_t id = 0; id < vocabulary.tokens.size(); ++id)
      if (ids.find(vocabulary.tokens[id]) != id)
        detail::refuse_vocabulary(vocabulary.source, "token " + std::to_string(id) + " '" + printable(vocabulary.tokens[id]) + "' is spelled as another one");
  Json added = Json::array(), words = Json::array(), merges = Json::array();
  for (const AddedToken& token : vocabulary.added) added.push_back(detail::added_token_json(token.id, token.text, token.special));
  bool is_cut = false;
  for (const SplitRule rule : vocabulary.splits) {
    if (rule == SplitRule::digits) {
      words.push_back({{"type", "Digits"}, {"individual_digits", true}});
    } else if (rule == SplitRule::gpt2) {
      words.push_back(detail::byte_level_json(true));
      is_cut = true;
    } else {
      words.push_back({{"type", "Split"}, {"pattern", {{"Regex", std::string(pattern_of(rule))}}}, {"behavior", "Isolated"}, {"invert", false}});
    }
  }
  if (!is_cut) words.push_back(detail::byte_level_json(false));
  for (const auto& [left, right] : vocabulary.merges) merges.push_back(left + " " + right);
  const SpecialTokens& special = vocabulary.special;
  const bool framed = (special.add_bos && special.bos) || (special.add_eos && special.eos);
  return {{"version", "1.0"},
          {"truncation", nullptr},
          {"padding", nullptr},
          {"added_tokens", std::move(added)},
          {"normalizer", vocabulary.normalizer.empty() ? Json() : Json{{"type", "NFC"}}},
          {"pre_tokenizer", {{"type", "Sequence"}, {"pretokenizers", std::move(words)}}},
          {"post_processor", framed ? detail::template_json(vocabulary.tokens, special) : Json()},
          {"decoder", detail::byte_level_json(true)},
          {"model", detail::bpe_json(vocabulary.tokens, std::move(merges), std::nullopt, vocabulary.options)}};
}

/// The same for a SentencePiece vocabulary: merges are all pairs of pieces that make a piece, that with the highest score first.
inline nlohmann::ordered_json tokenizer_json(const SentencePieceVocabulary& vocabulary) {
  using detail::Json;
  struct Merge {
    float score;
    std::size_t left, right; ///< ids
    std::string text;
  };
  const TokenIndex ids(vocabulary.tokens, vocabulary.kinds);
  std::vector<Merge> found;
  Json added = Json::array();
  bool byte_fallback = false;
  for (std::size_t id = 0; id < vocabulary.tokens.size(); ++id) {
    const std::string& piece = vocabulary.tokens[id];
    const TokenKind kind = vocabulary.kinds[id];
    byte_fallback |= kind == TokenKind::byte;
    if (kind == TokenKind::control || kind == TokenKind::unknown || kind == TokenKind::user_defined)
      added.push_back(detail::added_token_json(static_cast<TokenId>(id), piece, kind != TokenKind::user_defined));
    if (kind != TokenKind::normal) continue;
    for (std::size_t cut = first_code_point(piece).length; cut != 0 && cut < piece.size();) {
      const auto left = ids.find(std::string_view(piece).substr(0, cut)), right = ids.find(std::string_view(piece).substr(cut));
      if (left && right) found.push_back({vocabulary.scores[id], *left, *right, piece.substr(0, cut) + " " + piece.substr(cut)});
      const std::size_t length = first_code_point(std::string_view(piece).substr(cut)).length;
      cut = length == 0 ? piece.size() : cut + length;
    }
  }
  std::sort(found.begin(), found.end(),
            [](const Merge& a, const Merge& b) { return a.score != b.score ? a.score > b.score : std::pair(a.left, a.right) < std::pair(b.left, b.right); });
  Json merges = Json::array();
  for (Merge& merge : found) merges.push_back(std::move(merge.text));

  const std::string space = "\u2581";
  Json normal = Json::array(), decoders = Json::array();
  if (vocabulary.add_space_prefix) normal.push_back({{"type", "Prepend"}, {"prepend", space}});
  normal.push_back({{"type", "Replace"}, {"pattern", {{"String", " "}}}, {"content", space}});
  decoders.push_back({{"type", "Replace"}, {"pattern", {{"String", space}}}, {"content", " "}});
  decoders.push_back({{"type", "ByteFallback"}});
  decoders.push_back({{"type", "Fuse"}});
  if (vocabulary.add_space_prefix) decoders.push_back({{"type", "Strip"}, {"content", " "}, {"start", 1}, {"stop", 0}});
  return {
      {"version", "1.0"},
      {"truncation", nullptr},
      {"padding", nullptr},
      {"added_tokens", std::move(added)},
      {"normalizer", {{"type", "Sequence"}, {"normalizers", std::move(normal)}}},
      {"pre_tokenizer", nullptr},
      {"post_processor", detail::template_json(vocabulary.tokens, vocabulary.special)},
      {"decoder", {{"type", "Sequence"}, {"decoders", std::move(decoders)}}},
      {"model", detail::bpe_json(vocabulary.tokens, std::move(merges), vocabulary.special.unknown, {.byte_fallback = byte_fallback, .fuse_unknown = true})}};
}

/// The tokenizer_config.json beside it.
inline nlohmann::ordered_json tokenizer_config_json(const AnyVocabulary& any, std::size_t longest_context) {
  return std::visit(
      [&](const auto& vocabulary) {
        const SpecialTokens& special = vocabulary.special;
        detail::Json json{{"tokenizer_class", "PreTrainedTokenizerFast"}, {"clean_up_tokenization_spaces", false}, {"model_max_length", longest_context}};
        for (const auto& [key, id] : {std::pair{"bos_token", special.bos}, std::pair{"eos_token", special.eos}, std::pair{"unk_token", special.unknown}})
          if (id && *id < vocabulary.tokens.size()) json[key] = vocabulary.tokens[*id];
        json["add_bos_token"] = special.add_bos;
        json["add_eos_token"] = special.add_eos;
        if (!special.chat_template.empty()) json["chat_template"] = special.chat_template;
        return json;
      },
      any);
}

} // namespace lsaq::inline v0::inline LSAQ_BASELINE
