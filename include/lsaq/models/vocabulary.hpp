// Vocabularies as plain data, as the readers of tokenizer files fill them, and the index from a token's text to its id.
#pragma once

#include <lsaq/formats/names.hpp>
#include <lsaq/models/pre_tokenizer.hpp>
#include <lsaq/types.hpp>

#include <algorithm>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace lsaq::inline v0 {

/// What a token is for; the values are those of SentencePiece and of tokenizer.ggml.token_type.
enum class TokenKind : std::uint8_t { normal = 1, unknown = 2, control = 3, user_defined = 4, unused = 5, byte = 6 };

/// A token that is found in the text itself, before it is cut into words.
struct AddedToken {
  std::string text;
  TokenId id = 0;
  bool special = false;            ///< only found when special tokens are parsed
  bool normalized = false;         ///< looked for in the normalized text, not in the original
  bool takes_space_before = false; ///< swallows the white space in front of it
  bool takes_space_behind = false;
};

/// A step that changes the text between added tokens before it is cut into words.
struct NormalizerStep {
  enum class Kind : std::uint8_t {
    nfc,               ///< Unicode normalization form C
    prepend,           ///< puts `to` in front
    prepend_if_absent, ///< puts `to` in front unless the text begins with it
    prepend_at_start,  ///< the same, but only where the whole text begins
    replace,           ///< every `from` becomes `to`
  };
  Kind kind = Kind::nfc;
  std::string from, to;
};

/// What both kinds of vocabulary know of their special tokens.
struct SpecialTokens {
  std::optional<TokenId> bos, eos, unknown;
  bool add_bos = false;                 ///< whether texts begin with bos unless the caller says otherwise
  bool add_eos = false;                 ///< whether they end with eos
  std::vector<TokenId> ends_generation; ///< beside eos
  std::string chat_template;            ///< Jinja source, empty: none
};

/// How a byte pair vocabulary treats words.
struct BpeOptions {
  bool byte_level = true;         ///< tokens are written in the byte-level alphabet of GPT-2; otherwise in plain UTF-8
  bool byte_fallback = false;     ///< unknown characters become tokens <0x00> .. <0xFF>
  bool fuse_unknown = false;      ///< a run of unknown characters is one unknown token
  bool ignore_merges = false;     ///< a word that is a token is that token, whatever the merges say
  bool strip_first_space = false; ///< decoding drops the space that normalizing put in front
};

/// A byte pair encoding: GPT-2, Llama 3, SmolLM, Qwen; without a byte-level alphabet Llama 2 as in its tokenizer.json.
struct BpeVocabulary {
  std::string source;                                      ///< the file, fit to print in messages
  std::vector<std::string> tokens;                         ///< by id
  std::vector<TokenKind> kinds;                            ///< by id; empty: all normal
  std::vector<std::pair<std::string, std::string>> merges; ///< first to last rank
  std::vector<AddedToken> added;
  std::vector<NormalizerStep> normalizer;   ///< before added tokens with `normalized` are looked for
  std::vector<NormalizerStep> before_split; ///< behind them, before the text is cut into words
  std::vector<SplitRule> splits;            ///< empty: the text is one word
  BpeOptions options;
  SpecialTokens special;
};

/// A SentencePiece model of type BPE as GGUF files store it; a piece's score decides which merge comes first.
struct SentencePieceVocabulary {
  std::string source;              ///< the file, fit to print in messages
  std::vector<std::string> tokens; ///< by id; U+2581 for a space
  std::vector<float> scores;       ///< by id
  std::vector<TokenKind> kinds;    ///< by id
  bool add_space_prefix = true;
  bool remove_extra_spaces = false;
  SpecialTokens special;
};

} // namespace lsaq::inline v0

namespace lsaq::inline v0::inline LSAQ_BASELINE {

/// Finds tokens by their text in O(log n), whatever the texts are. The tokens belong to the caller and must stay where they are.
class TokenIndex {
public:
  TokenIndex() = default;

  /// Indexes all tokens, or those of kind normal where kinds are given.
  explicit TokenIndex(std::span<const std::string> tokens, std::span<const TokenKind> kinds = {}) : tokens_(tokens) {
    for (std::size_t id = 0; id < tokens.size(); ++id)
      if (kinds.empty() || kinds[id] == TokenKind::normal) sorted_.push_back(static_cast<TokenId>(id));
    std::sort(sorted_.begin(), sorted_.end(), [&](TokenId a, TokenId b) {
      const int order = tokens_[a].compare(tokens_[b]);
      return order != 0 ? order < 0 : a < b;
    });
  }

  /// The token of this text, of several the lowest.
  std::optional<TokenId> find(std::string_view text) const noexcept {
    const auto at = std::lower_bound(sorted_.begin(), sorted_.end(), text, [&](TokenId id, std::string_view wanted) { return tokens_[id] < wanted; });
    if (at == sorted_.end() || tokens_[*at] != text) return std::nullopt;
    return *at;
  }

  std::size_t size() const noexcept { return tokens_.size(); }

private:
  std::span<const std::string> tokens_;
  std::vector<TokenId> sorted_;
};

/// The name of a byte's token in vocabularies with byte fallback: <0x0A>.
inline std::string byte_token(unsigned char byte) {
  static constexpr char digits[] = "0123456789ABCDEF";
  return {'<', '0', 'x', digits[byte >> 4], digits[byte & 15u], '>'};
}

/// The byte behind such a name.
inline std::optional<unsigned char> byte_of_token(std::string_view token) {
  for (unsigned byte = 0; byte < 256; ++byte)
    if (byte_token(static_cast<unsigned char>(byte)) == token) return static_cast<unsigned char>(byte);
  return std::nullopt;
}

} // namespace lsaq::inline v0::inline LSAQ_BASELINE
