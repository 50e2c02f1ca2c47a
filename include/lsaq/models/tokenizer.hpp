// Text to tokens and back, for every kind of tokenizer the library reads.
#pragma once

#include <lsaq/error.hpp>
#include <lsaq/formats/gguf.hpp>
#include <lsaq/formats/model_source.hpp>
#include <lsaq/models/added_tokens.hpp>
#include <lsaq/models/bpe.hpp>
#include <lsaq/models/normalizer.hpp>
#include <lsaq/models/sentencepiece_model.hpp>
#include <lsaq/models/tokenizer_gguf.hpp>
#include <lsaq/models/tokenizer_json.hpp>
#include <lsaq/models/vocabulary.hpp>

#include <algorithm>
#include <array>
#include <bit>
#include <deque>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace lsaq::inline v0 {

/// How to read a text; what is not set is as the model says.
struct EncodeOptions {
  std::optional<bool> add_bos{}; ///< whether the beginning-of-text token comes first; ignored if the model has none
  std::optional<bool> add_eos{}; ///< whether the end-of-text token comes last
  bool parse_special = false;    ///< whether "<|im_end|>" in the text is that token, as in a chat prompt, or just its characters
};

/// How to print tokens.
struct DecodeOptions {
  bool skip_special = false; ///< leaves out control tokens
};

} // namespace lsaq::inline v0

namespace lsaq::inline v0::inline LSAQ_BASELINE {

/// A tokenizer: byte pair encoding or SentencePiece. A cheap value to copy; all calls are const and safe from several threads.
///
/// The ids are those of the Hugging Face tokenizers for byte pair encodings and of the SentencePiece library for its models.
class Tokenizer {
public:
  /// The tokenizer of an opened model.
  static Tokenizer open(const ModelSource& model) {
    return model.is_gguf() ? from_gguf(model.gguf(), printable_path(model.path())) : from_folder(model.path());
  }

  /// The tokenizer in the metadata of a GGUF file, of the kind "gpt2" or "llama". `source` is how messages call the file, fit to print.
  ///
  /// Throws BadInput that names the key, what was found and what can be read.
  static Tokenizer from_gguf(const GgufFile& file, const std::string& source);

  /// The tokenizer of a Hugging Face folder: tokenizer.json, or else tokenizer.model; with special tokens and chat template of the files beside it.
  ///
  /// Throws BadInput that names the file, the key, what was found and what is supported; IoError if the system fails.
  static Tokenizer from_folder(const std::filesystem::path& folder);

  /// Checks and indexes a byte pair vocabulary. Throws BadInput that names the source and what does not fit together.
  explicit Tokenizer(BpeVocabulary vocabulary);

  /// The same for the SentencePiece vocabulary of a GGUF file.
  explicit Tokenizer(const SentencePieceVocabulary& vocabulary);

  /// A loaded SentencePiece model; added tokens may lie behind its pieces. Throws BadInput.
  Tokenizer(SentencePieceModel model, std::vector<AddedToken> added, SpecialTokens special, std::string source);

  /// The tokens of a text of less than 2^31 bytes; bytes that are not UTF-8 are kept where the vocabulary has tokens for them.
  std::vector<TokenId> encode(std::string_view text, EncodeOptions options = {}) const;

  /// The text of tokens, the inverse of encode() but for what normalizing changed. Throws InvalidArgument for an id that is no token.
  std::string decode(std::span<const TokenId> tokens, DecodeOptions options = {}) const;

  /// The bytes one token prints; they may be part of a UTF-8 character (see Utf8Stream). Control tokens print their name. Throws InvalidArgument for an
  /// id that is no token.
  const std::string& token_text(TokenId token) const { return state_->texts[checked(token)]; }

  /// What the token is for. Throws InvalidArgument for an id that is no token.
  TokenKind token_kind(TokenId token) const { return state_->kinds[checked(token)]; }

  /// The token that is spelled like this in the vocabulary: "<|im_end|>", "Ġthe".
  std::optional<TokenId> find(std::string_view token) const noexcept { return state_->ids.find(token); }

  std::size_t vocabulary_size() const noexcept { return state_->tokens.size(); }
  std::optional<TokenId> bos() const noexcept { return state_->special.bos; }
  std::optional<TokenId> eos() const noexcept { return state_->special.eos; }
  bool adds_bos() const noexcept { return state_->special.add_bos; }

  /// Whether generating stops at this token: end of text, of a turn or of a message.
  bool ends_generation(TokenId token) const noexcept {
    const auto& ends = state_->special.ends_generation;
    return std::find(ends.begin(), ends.end(), token) != ends.end();
  }

  /// The model's chat template in Jinja, empty if it has none.
  const std::string& chat_template() const noexcept { return state_->special.chat_template; }

private:
  struct State {
    std::string source;
    std::vector<std::string> tokens; ///< as spelled in the vocabulary
    std::vector<std::string> texts;  ///< as printed
    std::vector<TokenKind> kinds;
    TokenIndex ids;
    TokenIndex words; ///< by what they print; only where a word that is a token is taken as it is
    std::optional<BpeModel> bpe;
    std::optional<SentencePieceModel> sentencepiece;
    AddedTokenFinder added, added_normalized;
    std::vector<NormalizerStep> normalizer, before_split;
    std::vector<SplitRule> splits;
    bool strip_first_space = false;
    SpecialTokens special;
  };

  class Run;

  TokenId checked(TokenId token) const {
    if (token >= vocabulary_size()) {
      fail<InvalidArgument>("token " + std::to_string(token) + " does not exist: the vocabulary of " + state_->source + " has " +
                            std::to_string(vocabulary_size()) + " tokens");
    }
    return token;
  }

  static constexpr std::size_t max_vocabulary_size = 1u << 22;

  static void check_id(const State& state, TokenId id, std::size_t count, const char* what) {
    if (id >= count)
      fail<BadInput>(state.source + ": " + what + " has the id " + std::to_string(id) + ", but there are only " + std::to_string(count) + " tokens");
  }

  /// Checks what all vocabularies have in common and fills in everything that follows from the tokens. They must not move afterwards.
  static void index(State& state, std::vector<AddedToken> added, bool byte_level);

  /// What a token prints.
  static std::string printed(const std::string& token, TokenKind kind, bool byte_level);

  std::shared_ptr<const State> state_; // immutable and shared, so that copies are cheap and the indices into it stay valid
};

/// One call of encode(): the output, and what is remembered of the words met before.
class Tokenizer::Run {
public:
  Run(const State& state, bool parse_special, std::size_t text_size) : state_(state), parse_special_(parse_special) {
    if (state.bpe) slots_.resize(std::bit_ceil(std::clamp<std::size_t>(text_size / 32, 1, 1u << 14)));
  }

  /// Text that may hold added tokens.
  void text(std::string_view text) {
    between_tokens(state_.added, text, [&](std::string_view part) {
      const bool at_start = part.data() == text.data();
      if (state_.normalizer.empty() && state_.added_normalized.empty()) return plain(part, at_start);
      const std::string_view normal = adjusted(part, state_.normalizer, at_start);
      between_tokens(state_.added_normalized, normal, [&](std::string_view piece) { plain(piece, at_start && piece.data() == normal.data()); });
    });
  }

  std::vector<TokenId> tokens;

private:
  struct Slot {
    std::string_view word;
    std::size_t begin = 0, count = 0; ///< its tokens, as they are in the output already
  };

  template <class Plain> void between_tokens(const AddedTokenFinder& finder, std::string_view text, Plain plain_part) {
    std::size_t done = 0;
    const auto plain_until = [&](std::size_t end) {
      if (end > done) plain_part(text.substr(done, end - done));
    };
    if (!finder.empty()) {
      while (const auto match = finder.find(text, done, parse_special_)) {
        plain_until(match->begin);
        tokens.push_back(match->id);
        done = match->end;
      }
    }
    plain_until(text.size());
  }

  std::string_view adjusted(std::string_view text, std::span<const NormalizerStep> steps, bool at_start) {
    return steps.empty() ? text : adjusted_.emplace_back(normalize(text, steps, at_start));
  }

  void plain(std::string_view text, bool at_start) {
    if (state_.sentencepiece) return state_.sentencepiece->encode(text, tokens);
    auto consume = [&](std::string_view word) { this->word(word); };
    for_each_word(adjusted(text, state_.before_split, at_start), state_.splits, consume);
  }

  void word(std::string_view word) {
    constexpr std::size_t longest_remembered = 48;
    if (word.size() > longest_remembered) return state_.bpe->encode(word, workspace_, tokens);
    Slot& slot = slots_[std::hash<std::string_view>{}(word) & (slots_.size() - 1)];
    if (slot.word == word) {
      for (std::size_t i = 0; i < slot.count; ++i) tokens.push_back(tokens[slot.begin + i]);
      return;
    }
    const std::size_t begin = tokens.size();
    state_.bpe->encode(word, workspace_, tokens);
    slot = {word, begin, tokens.size() - begin};
  }

  const State& state_;
  bool parse_special_;
  std::vector<Slot> slots_;          ///< words by hash; a newcomer replaces what is there
  std::deque<std::string> adjusted_; ///< normalized text, which the slots point into
  BpeModel::Workspace workspace_;
};

inline Tokenizer::Tokenizer(BpeVocabulary vocabulary) {
  auto state = std::make_shared<State>();
  state->source = vocabulary.source;
  state->tokens = std::move(vocabulary.tokens);
  state->kinds = std::move(vocabulary.kinds);
  state->special = std::move(vocabulary.special);
  state->normalizer = std::move(vocabulary.normalizer);
  state->before_split = std::move(vocabulary.before_split);
  state->splits = std::move(vocabulary.splits);
  state->strip_first_space = vocabulary.options.strip_first_space;
  if (state->kinds.empty()) state->kinds.assign(state->tokens.size(), TokenKind::normal);
  index(*state, std::move(vocabulary.added), vocabulary.options.byte_level);
  if (vocabulary.options.ignore_merges) state->words = TokenIndex(state->texts, state->kinds);
  state->bpe.emplace(vocabulary, state->ids, state->words);
  state_ = std::move(state);
}

inline Tokenizer::Tokenizer(const SentencePieceVocabulary& vocabulary)
    : Tokenizer(SentencePieceModel::load(serialized_model(vocabulary), vocabulary.source), {}, vocabulary.special, vocabulary.source) {}

inline Tokenizer::Tokenizer(SentencePieceModel model, std::vector<AddedToken> added, SpecialTokens special, std::string source) {
  auto state = std::make_shared<State>();
  state->source = std::move(source);
  state->special = std::move(special);
  state->strip_first_space = model.adds_space_prefix();
  for (std::size_t i = 0; i < model.size(); ++i) {
    const auto id = static_cast<TokenId>(i);
    state->tokens.push_back(model.piece(id));
    state->kinds.push_back(model.kind(id));
    const bool special_piece = state->kinds.back() == TokenKind::control || state->kinds.back() == TokenKind::unknown;
    if (special_piece) added.push_back({.text = model.piece(id), .id = id, .special = true});
  }
  for (const AddedToken& token : added) {
    check_id(*state, token.id, max_vocabulary_size, "an added token");
    if (token.id >= state->tokens.size()) {
      state->tokens.resize(token.id + 1);
      state->kinds.resize(token.id + 1, TokenKind::unused);
    }
    if (state->tokens[token.id] == token.text) continue;
    state->tokens[token.id] = token.text;
    state->kinds[token.id] = token.special ? TokenKind::control : TokenKind::user_defined;
  }
  state->sentencepiece = std::move(model);
  index(*state, std::move(added), false);
  state_ = std::move(state);
}

inline std::string Tokenizer::printed(const std::string& token, TokenKind kind, bool byte_level) {
  if (kind == TokenKind::byte) {
    const auto byte = byte_of_token(token);
    return byte ? std::string(1, static_cast<char>(*byte)) : token;
  }
  if (kind != TokenKind::normal && kind != TokenKind::user_defined) return token;
  if (byte_level) return kind == TokenKind::normal ? bytes_of_byte_level(token) : token;
  return normalize(token, std::array{NormalizerStep{NormalizerStep::Kind::replace, "\u2581", " "}}, false);
}

inline void Tokenizer::index(State& state, std::vector<AddedToken> added, bool byte_level) {
  const std::size_t count = state.tokens.size();
  if (count == 0 || count > max_vocabulary_size)
    fail<BadInput>(state.source + ": the vocabulary has " + std::to_string(count) + " tokens; 1 to " + std::to_string(max_vocabulary_size) + " are allowed");
  if (state.kinds.size() != count)
    fail<BadInput>(state.source + ": " + std::to_string(state.kinds.size()) + " token types for " + std::to_string(count) + " tokens");
  const auto check = [&](std::optional<TokenId> id, const char* what) {
    if (id) check_id(state, *id, count, what);
  };
  SpecialTokens& special = state.special;
  check(special.bos, "the beginning-of-text token");
  check(special.eos, "the end-of-text token");
  check(special.unknown, "the unknown token");
  for (const TokenId id : special.ends_generation) check(id, "an end-of-generation token");
  for (const AddedToken& token : added) check(token.id, "an added token");

  state.texts.reserve(count);
  for (std::size_t id = 0; id < count; ++id) state.texts.push_back(printed(state.tokens[id], state.kinds[id], byte_level));
  state.ids = TokenIndex(state.tokens);

  if (special.eos) special.ends_generation.push_back(*special.eos);
  for (const std::string_view name :
       {"<|endoftext|>", "<|im_end|>", "<|end|>", "<|end_of_text|>", "<|eot_id|>", "<|eom_id|>", "<end_of_turn>", "</s>", "<EOT>"})
    if (const auto id = state.ids.find(name); id && state.kinds[*id] == TokenKind::control) special.ends_generation.push_back(*id);

  std::vector<AddedToken> in_text, in_normalized;
  for (AddedToken& token : added) {
    if (token.normalized) token.text = normalize(token.text, state.normalizer, true);
    (token.normalized ? in_normalized : in_text).push_back(std::move(token));
  }
  state.added = AddedTokenFinder(std::move(in_text));
  state.added_normalized = AddedTokenFinder(std::move(in_normalized));
}

inline Tokenizer Tokenizer::from_gguf(const GgufFile& file, const std::string& source) {
  const GgufVocabularyReader reader(file, source);
  return reader.model() == "gpt2" ? Tokenizer(reader.bpe()) : Tokenizer(reader.sentencepiece());
}

inline Tokenizer Tokenizer::from_folder(const std::filesystem::path& folder) {
  std::error_code error;
  const SpecialTokenFiles files(folder);
  if (const auto path = folder / "tokenizer.json"; std::filesystem::exists(path, error)) return Tokenizer(read_tokenizer_json(path, files));
  SentencePieceModel model = SentencePieceModel::from_folder(folder);
  std::vector<AddedToken> added = files.added_tokens();
  SpecialTokens special = model.special();
  files.update(special, [&](std::string_view token) -> std::optional<TokenId> {
    for (const AddedToken& candidate : added)
      if (candidate.text == token) return candidate.id;
    return model.find(token);
  });
  const std::string source = model.source();
  return Tokenizer(std::move(model), std::move(added), std::move(special), source);
}

inline std::vector<TokenId> Tokenizer::encode(std::string_view text, EncodeOptions options) const {
  constexpr std::size_t longest = (std::size_t{1} << 31) - 1;
  if (text.size() > longest)
    fail<InvalidArgument>("text of " + std::to_string(text.size()) + " bytes is too long to be encoded at once; at most " + std::to_string(longest) +
                          " are allowed");
  const SpecialTokens& special = state_->special;
  Run run(*state_, options.parse_special, text.size());
  if (special.bos && options.add_bos.value_or(special.add_bos)) run.tokens.push_back(*special.bos);
  run.text(text);
  if (special.eos && options.add_eos.value_or(special.add_eos)) run.tokens.push_back(*special.eos);
  return std::move(run.tokens);
}

inline std::string Tokenizer::decode(std::span<const TokenId> tokens, DecodeOptions options) const {
  std::string text;
  for (const TokenId token : tokens) {
    const bool special = token_kind(token) == TokenKind::control || token_kind(token) == TokenKind::unknown;
    if (!(options.skip_special && special)) text += token_text(token);
  }
  if (state_->strip_first_space && text.starts_with(' ')) text.erase(0, 1);
  return text;
}

} // namespace lsaq::inline v0::inline LSAQ_BASELINE
