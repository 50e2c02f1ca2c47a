// The tokenizer files of Hugging Face folders: tokenizer.json for byte pair encodings, tokenizer_config.json for special tokens and the chat template.
//
// What would make the ids differ from those of the Hugging Face tokenizers and is not supported is refused by name, never skipped.
#pragma once

#include <lsaq/error.hpp>
#include <lsaq/formats/strict_json.hpp>
#include <lsaq/models/vocabulary.hpp>

#include <nlohmann/json.hpp>

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace lsaq::inline v0::inline LSAQ_BASELINE {

/// A value in a JSON file together with where it stands, so that messages can say so. Reading what is not there gives a null value; reading it as something
/// it is not throws BadInput. Refers to the document.
class JsonValue {
public:
  JsonValue(const nlohmann::json& value, std::string place) : value_(&value), place_(std::move(place)) {}

  JsonValue operator[](const std::string& key) const {
    static const nlohmann::json null;
    std::string place = place_ + (place_.ends_with(": ") ? "" : ".") + printable(key);
    if (is_null()) return {null, std::move(place)};
    if (!value_->is_object()) wrong("an object");
    const auto found = value_->find(key);
    return {found == value_->end() ? null : *found, std::move(place)};
  }

  bool is_null() const noexcept { return value_->is_null(); }
  bool is_string() const noexcept { return value_->is_string(); }
  bool is_array() const noexcept { return value_->is_array(); }
  bool is_object() const noexcept { return value_->is_object(); }

  const std::string& string() const {
    if (!value_->is_string()) wrong("a string");
    return value_->get_ref<const std::string&>();
  }
  bool boolean_or(bool fallback) const {
    if (is_null()) return fallback;
    if (!value_->is_boolean()) wrong("true or false");
    return value_->get<bool>();
  }
  TokenId token_id() const {
    if (!value_->is_number_unsigned() || value_->get<std::uint64_t>() >= highest_id) wrong("a token id, 0 to " + std::to_string(highest_id - 1));
    return value_->get<TokenId>();
  }

  /// Calls f with each element of an array; a null value has none.
  template <class F> void for_each(F f) const {
    if (is_null()) return;
    if (!value_->is_array()) wrong("an array");
    for (std::size_t i = 0; i < value_->size(); ++i) f(JsonValue((*value_)[i], place_ + "[" + std::to_string(i) + "]"));
  }

  /// The document itself, where wrapping each element would cost too much.
  const nlohmann::json& raw() const noexcept { return *value_; }

  [[noreturn]] void refuse(const std::string& reason) const { fail<BadInput>(place_ + ": " + reason); }

private:
  static constexpr std::uint64_t highest_id = 1u << 22;

  [[noreturn]] void wrong(const std::string& wanted) const {
    const std::string found = is_null()                ? "missing"
                              : value_->is_primitive() ? printable(value_->dump(-1, ' ', false, nlohmann::json::error_handler_t::replace))
                                                       : std::string(value_->type_name());
    refuse("is " + found + "; it must be " + wanted);
  }

  const nlohmann::json* value_;
  std::string place_;
};

/// Reads a tokenizer.json. Throws BadInput that names the file, the key, what was found and what is supported.
class TokenizerJsonReader {
public:
  TokenizerJsonReader(const nlohmann::json& document, std::string source) : root_(document, source + ": ") { vocabulary_.source = std::move(source); }

  BpeVocabulary run() && {
    vocabulary_.options.byte_level = false;
    read_normalizer(root_["normalizer"]);
    read_pre_tokenizer(root_["pre_tokenizer"]);
    read_model(root_["model"]);
    read_added_tokens();
    read_post_processor(root_["post_processor"]);
    if (!vocabulary_.options.byte_level) read_decoder(root_["decoder"]);
    return std::move(vocabulary_);
  }

private:
  [[noreturn]] static void unsupported(const JsonValue& where, const std::string& name, std::string_view known) {
    where.refuse("'" + printable(name) + "' is not supported; supported are " + std::string(known));
  }

  /// Puts `text` at the token's place.
  void place(TokenId id, const std::string& text, TokenKind kind, const JsonValue& where) {
    if (id >= vocabulary_.tokens.size()) {
      vocabulary_.tokens.resize(id + 1);
      vocabulary_.kinds.resize(id + 1, TokenKind::unused);
    }
    std::string& token = vocabulary_.tokens[id];
    if (vocabulary_.kinds[id] != TokenKind::unused && token != text)
      where.refuse("'" + printable(text) + "' has the id " + std::to_string(id) + " of '" + printable(token) + "'");
    token = text;
    vocabulary_.kinds[id] = kind;
  }

  void read_model(const JsonValue& model) {
    if (const JsonValue type = model["type"]; !type.is_null() && type.string() != "BPE") unsupported(type, type.string(), "BPE");
    for (const char* key : {"dropout", "continuing_subword_prefix", "end_of_word_suffix"}) {
      const JsonValue value = model[key];
      if (!value.is_null() && value.raw() != "" && value.raw() != 0) value.refuse("is not supported; it must be null");
    }
    BpeOptions& options = vocabulary_.options;
    options.byte_fallback = model["byte_fallback"].boolean_or(false);
    options.fuse_unknown = model["fuse_unk"].boolean_or(false);
    options.ignore_merges = model["ignore_merges"].boolean_or(false);

    const JsonValue tokens = model["vocab"];
    if (!tokens.is_object()) tokens.refuse("must be an object of tokens and their ids");
    vocabulary_.tokens.reserve(tokens.raw().size());
    for (const auto& [text, id] : tokens.raw().items()) {
      const TokenId value = JsonValue(id, vocabulary_.source + ": model.vocab." + printable(text)).token_id();
      place(value, text, options.byte_fallback && byte_of_token(text) ? TokenKind::byte : TokenKind::normal, tokens);
    }
    if (const JsonValue unknown = model["unk_token"]; !unknown.is_null()) {
      const JsonValue id = tokens[unknown.string()];
      if (id.is_null()) unknown.refuse("'" + printable(unknown.string()) + "' is not in the vocabulary");
      vocabulary_.special.unknown = id.token_id();
      vocabulary_.kinds[id.token_id()] = TokenKind::unknown;
    }
    model["merges"].for_each([&](const JsonValue& merge) { read_merge(merge); });
  }

  /// A merge is ["a", "b"], or "a b" in older files.
  void read_merge(const JsonValue& merge) {
    const nlohmann::json& value = merge.raw();
    if (value.is_array() && value.size() == 2 && value[0].is_string() && value[1].is_string()) {
      vocabulary_.merges.emplace_back(value[0].get_ref<const std::string&>(), value[1].get_ref<const std::string&>());
      return;
    }
    const std::string& text = value.is_string() ? value.get_ref<const std::string&>() : std::string();
    const std::size_t space = text.find(' ');
    if (space == 0 || space >= text.size() - 1 || text.find(' ', space + 1) != std::string::npos)
      merge.refuse("must be two tokens, as [\"a\", \"b\"] or \"a b\"");
    vocabulary_.merges.emplace_back(text.substr(0, space), text.substr(space + 1));
  }

  void read_added_tokens() {
    root_["added_tokens"].for_each([&](const JsonValue& value) {
      AddedToken token{.text = value["content"].string(),
                       .id = value["id"].token_id(),
                       .special = value["special"].boolean_or(false),
                       .normalized = value["normalized"].boolean_or(false),
                       .takes_space_before = value["lstrip"].boolean_or(false),
                       .takes_space_behind = value["rstrip"].boolean_or(false)};
      if (value["single_word"].boolean_or(false)) value["single_word"].refuse("true is not supported");
      const bool unknown = vocabulary_.special.unknown == token.id;
      place(token.id, token.text, unknown ? TokenKind::unknown : token.special ? TokenKind::control : TokenKind::user_defined, value);
      vocabulary_.added.push_back(std::move(token));
    });
  }

  void read_normalizer(const JsonValue& normalizer) {
    if (normalizer.is_null()) return;
    const JsonValue type = normalizer["type"];
    auto& steps = vocabulary_.normalizer;
    if (type.string() == "Sequence") {
      normalizer["normalizers"].for_each([&](const JsonValue& part) { read_normalizer(part); });
    } else if (type.string() == "NFC") {
      steps.push_back({NormalizerStep::Kind::nfc, "", ""});
    } else if (type.string() == "Prepend") {
      steps.push_back({NormalizerStep::Kind::prepend, "", normalizer["prepend"].string()});
    } else if (type.string() == "Replace") {
      const std::string& from = normalizer["pattern"]["String"].string();
      if (from.empty()) normalizer["pattern"]["String"].refuse("must not be empty");
      steps.push_back({NormalizerStep::Kind::replace, from, normalizer["content"].string()});
    } else {
      unsupported(type, type.string(), "NFC, Prepend, Replace, Sequence");
    }
  }

  void read_pre_tokenizer(const JsonValue& pre_tokenizer) {
    if (pre_tokenizer.is_null()) return;
    const JsonValue type = pre_tokenizer["type"];
    if (type.string() == "Sequence") {
      pre_tokenizer["pretokenizers"].for_each([&](const JsonValue& part) { read_pre_tokenizer(part); });
    } else if (type.string() == "Digits") {
      if (!pre_tokenizer["individual_digits"].boolean_or(false)) pre_tokenizer["individual_digits"].refuse("must be true");
      vocabulary_.splits.push_back(SplitRule::digits);
    } else if (type.string() == "Split") {
      read_split(pre_tokenizer);
    } else if (type.string() == "ByteLevel") {
      vocabulary_.options.byte_level = true;
      if (pre_tokenizer["add_prefix_space"].boolean_or(true))
        read_prefix(pre_tokenizer["add_prefix_space"], {NormalizerStep::Kind::prepend_if_absent, "", " "});
      if (pre_tokenizer["use_regex"].boolean_or(true)) vocabulary_.splits.push_back(SplitRule::gpt2);
    } else if (type.string() == "Metaspace") {
      read_metaspace(pre_tokenizer);
    } else {
      unsupported(type, type.string(), "ByteLevel, Digits, Metaspace, Split, Sequence");
    }
  }

  void read_split(const JsonValue& split) {
    const JsonValue pattern = split["pattern"]["Regex"];
    const auto rule = split_rule_of_pattern(pattern.string());
    if (!rule) unsupported(pattern, pattern.string(), "the regular expressions of GPT-2, Llama 3 and Qwen2");
    // The patterns match all of a text, so keeping the matches and dropping what lies between them are the same.
    const std::string& behavior = split["behavior"].string();
    const bool inverted = split["invert"].boolean_or(false);
    if (!(behavior == "Isolated" || (behavior == "Removed" && inverted))) unsupported(split["behavior"], behavior, "Isolated, or Removed with invert");
    vocabulary_.splits.push_back(*rule);
  }

  /// What is put in front of a text; in front of each of its pieces is not supported.
  void read_prefix(const JsonValue& where, NormalizerStep step) {
    if (!vocabulary_.splits.empty()) where.refuse("is not supported behind another pre-tokenizer");
    vocabulary_.before_split.push_back(std::move(step));
  }

  void read_metaspace(const JsonValue& metaspace) {
    const std::string& replacement = metaspace["replacement"].string();
    if (metaspace["split"].boolean_or(true)) metaspace["split"].refuse("must be false");
    read_prefix(metaspace, {NormalizerStep::Kind::replace, " ", replacement});
    const JsonValue scheme = metaspace["prepend_scheme"];
    if (scheme.is_null()) {
      if (metaspace["add_prefix_space"].boolean_or(true)) read_prefix(metaspace, {NormalizerStep::Kind::prepend_if_absent, "", replacement});
    } else if (scheme.string() == "always") {
      read_prefix(metaspace, {NormalizerStep::Kind::prepend_if_absent, "", replacement});
    } else if (scheme.string() == "first") {
      read_prefix(metaspace, {NormalizerStep::Kind::prepend_at_start, "", replacement});
    } else if (scheme.string() != "never") {
      unsupported(scheme, scheme.string(), "always, first, never");
    }
  }

  /// Only what frames a single text is read: [bos] text [eos].
  void read_post_processor(const JsonValue& processor) {
    if (processor.is_null()) return;
    const JsonValue type = processor["type"];
    if (type.string() == "Sequence") return processor["processors"].for_each([&](const JsonValue& part) { read_post_processor(part); });
    if (type.string() == "ByteLevel") return;
    if (type.string() != "TemplateProcessing") unsupported(type, type.string(), "ByteLevel, TemplateProcessing, Sequence");
    bool text_seen = false;
    SpecialTokens& special = vocabulary_.special;
    processor["single"].for_each([&](const JsonValue& part) {
      if (!part["Sequence"].is_null()) {
        text_seen = true;
        return;
      }
      bool& added = text_seen ? special.add_eos : special.add_bos;
      if (added) part.refuse("at most one token before and one behind the text are supported");
      added = true;
      (text_seen ? special.eos : special.bos) = template_token(processor["special_tokens"][part["SpecialToken"]["id"].string()]);
    });
    if (!text_seen) processor["single"].refuse("has no place for the text");
  }

  static TokenId template_token(const JsonValue& token) {
    const JsonValue ids = token["ids"];
    if (!ids.is_array() || ids.raw().size() != 1) ids.refuse("must be one token id");
    TokenId id = 0;
    ids.for_each([&](const JsonValue& value) { id = value.token_id(); });
    return id;
  }

  /// Without a byte-level alphabet, the decoder must be one that turns U+2581 into spaces and bytes into text; it may drop the space in front.
  void read_decoder(const JsonValue& decoder) {
    if (decoder.is_null()) decoder.refuse("is missing; it must be Metaspace, or a Sequence with Replace, for a vocabulary that is not byte-level");
    const JsonValue type = decoder["type"];
    if (type.string() == "Sequence") {
      decoder["decoders"].for_each([&](const JsonValue& part) { read_decoder(part); });
    } else if (type.string() == "Strip") {
      vocabulary_.options.strip_first_space = decoder["content"].string() == " " && decoder["start"].raw() == 1;
    } else if (type.string() == "Metaspace") {
      vocabulary_.options.strip_first_space = true;
    } else if (type.string() != "Replace" && type.string() != "ByteFallback" && type.string() != "Fuse") {
      unsupported(type, type.string(), "ByteFallback, Fuse, Metaspace, Replace, Strip, Sequence");
    }
  }

  JsonValue root_;
  BpeVocabulary vocabulary_;
};

/// What tokenizer_config.json, special_tokens_map.json, generation_config.json, config.json and chat_template.jinja of a folder say of the special tokens.
/// Each is optional; bos, eos and whether they are added replace what the tokenizer's own file says.
class SpecialTokenFiles {
public:
  explicit SpecialTokenFiles(const std::filesystem::path& folder) : folder_(folder) {
    config_ = read("tokenizer_config.json");
    map_ = read("special_tokens_map.json");
  }

  /// Tokens that tokenizer_config.json adds to those of the model (added_tokens_decoder).
  std::vector<AddedToken> added_tokens() const {
    std::vector<AddedToken> added;
    const JsonValue tokens = value(config_, "tokenizer_config.json")["added_tokens_decoder"];
    if (tokens.is_null()) return added;
    if (!tokens.is_object()) tokens.refuse("must be an object");
    for (const auto& [key, description] : tokens.raw().items()) {
      const JsonValue token = tokens[key];
      const auto id = nlohmann::json::parse(key, nullptr, false);
      added.push_back(
          {.text = token["content"].string(), .id = JsonValue(id, "the id of " + printable(key)).token_id(), .special = token["special"].boolean_or(false)});
    }
    return added;
  }

  /// Updates `special`; `find` gives the id of a token's text.
  template <class Find> void update(SpecialTokens& special, Find find) const {
    const JsonValue config = value(config_, "tokenizer_config.json");
    read_token("bos_token", special.bos, find);
    read_token("eos_token", special.eos, find);
    special.add_bos = config["add_bos_token"].boolean_or(special.add_bos);
    special.add_eos = config["add_eos_token"].boolean_or(special.add_eos);
    read_ends(special);
    read_chat_template(config["chat_template"], special);
  }

private:
  std::optional<nlohmann::json> read(const char* name) const {
    std::error_code error;
    if (!std::filesystem::exists(folder_ / name, error)) return std::nullopt;
    return read_json(folder_ / name);
  }

  JsonValue value(const std::optional<nlohmann::json>& document, const char* name) const {
    static const nlohmann::json null;
    return {document ? *document : null, printable_path(folder_ / name) + ": "};
  }

  template <class Find> void read_token(const char* key, std::optional<TokenId>& id, Find find) const {
    for (const JsonValue& file : {value(config_, "tokenizer_config.json"), value(map_, "special_tokens_map.json")}) {
      const JsonValue token = file[key];
      if (token.is_null()) continue;
      const std::string& text = token.is_string() ? token.string() : token["content"].string();
      id = find(text);
      if (!id) token.refuse("'" + printable(text) + "' is not in the vocabulary");
      return;
    }
  }

  void read_ends(SpecialTokens& special) const {
    for (const char* name : {"generation_config.json", "config.json"}) {
      const auto document = read(name);
      const JsonValue ends = value(document, name)["eos_token_id"];
      if (ends.is_null()) continue;
      if (!ends.is_array()) {
        special.ends_generation.push_back(ends.token_id());
      } else {
        ends.for_each([&](const JsonValue& end) { special.ends_generation.push_back(end.token_id()); });
      }
      return;
    }
  }

  /// A template, or several with names, of which the one called "default" counts; newer folders have it in a file of its own.
  void read_chat_template(const JsonValue& chat_template, SpecialTokens& special) const {
    std::error_code error;
    if (const auto path = folder_ / "chat_template.jinja"; std::filesystem::exists(path, error)) {
      const MappedFile file = MappedFile::open(path);
      special.chat_template.assign(reinterpret_cast<const char*>(file.bytes().data()), file.size());
    } else if (chat_template.is_string()) {
      special.chat_template = chat_template.string();
    } else {
      chat_template.for_each([&](const JsonValue& named) {
        if (named["name"].string() == "default") special.chat_template = named["template"].string();
      });
    }
  }

  std::filesystem::path folder_;
  std::optional<nlohmann::json> config_, map_;
};

/// The vocabulary of a tokenizer.json, with what the other files of its folder say of special tokens. Throws BadInput.
inline BpeVocabulary read_tokenizer_json(const std::filesystem::path& path, const SpecialTokenFiles& files) {
  BpeVocabulary vocabulary = TokenizerJsonReader(read_json(path), printable_path(path)).run();
  const TokenIndex ids(vocabulary.tokens);
  files.update(vocabulary.special, [&](std::string_view token) { return ids.find(token); });
  return vocabulary;
}

} // namespace lsaq::inline v0::inline LSAQ_BASELINE
