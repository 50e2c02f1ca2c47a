// Finds added tokens, special ones among them, in text: the leftmost, of those the longest.
#pragma once

#include <lsaq/models/vocabulary.hpp>

#include <algorithm>
#include <array>
#include <cstdint>
#include <optional>
#include <string_view>
#include <utility>
#include <vector>

namespace lsaq::inline v0::inline LSAQ_BASELINE {

/// A set of token texts to look for.
class AddedTokenFinder {
public:
  struct Match {
    std::size_t begin, end; ///< in the text, with the white space the token swallows
    TokenId id;
  };

  AddedTokenFinder() = default;
  explicit AddedTokenFinder(std::vector<AddedToken> tokens) : tokens_(std::move(tokens)) {
    std::erase_if(tokens_, [](const AddedToken& token) { return token.text.empty(); });
    std::sort(tokens_.begin(), tokens_.end(), [](const AddedToken& a, const AddedToken& b) {
      if (a.text[0] != b.text[0]) return first_byte(a.text) < first_byte(b.text);
      return a.text.size() != b.text.size() ? a.text.size() > b.text.size() : a.text < b.text;
    });
    for (const AddedToken& token : tokens_) ++first_[first_byte(token.text) + 1];
    for (std::size_t i = 1; i < first_.size(); ++i) first_[i] += first_[i - 1];
  }

  bool empty() const noexcept { return tokens_.empty(); }

  /// The first match at or behind `from`; special tokens only if asked for. O(length * tokens with the same first byte).
  std::optional<Match> find(std::string_view text, std::size_t from, bool parse_special) const noexcept {
    for (std::size_t position = from; position < text.size(); ++position) {
      const unsigned char byte = first_byte(text.substr(position));
      for (std::uint32_t i = first_[byte]; i < first_[byte + 1u]; ++i) {
        const AddedToken& token = tokens_[i];
        if ((token.special && !parse_special) || !text.substr(position).starts_with(token.text)) continue;
        return Match{begin_of(token, text, from, position), end_of(token, text, position + token.text.size()), token.id};
      }
    }
    return std::nullopt;
  }

private:
  static unsigned char first_byte(std::string_view text) noexcept { return static_cast<unsigned char>(text.front()); }

  static bool is_space(CodePoint c) noexcept {
    const CharacterClass kind = class_of(c.value);
    return c.length != 0 && (kind == CharacterClass::space || kind == CharacterClass::line_break);
  }

  static std::size_t begin_of(const AddedToken& token, std::string_view text, std::size_t from, std::size_t position) noexcept {
    while (token.takes_space_before && position > from) {
      std::size_t start = position - 1;
      while (start > from && (static_cast<unsigned char>(text[start]) & 0xc0u) == 0x80u) --start;
      const CodePoint c = first_code_point(text.substr(start, position - start));
      if (c.length != position - start || !is_space(c)) break;
      position = start;
    }
    return position;
  }

  static std::size_t end_of(const AddedToken& token, std::string_view text, std::size_t position) noexcept {
    while (token.takes_space_behind && position < text.size()) {
      const CodePoint c = first_code_point(text.substr(position));
      if (!is_space(c)) break;
      position += c.length;
    }
    return position;
  }

  std::vector<AddedToken> tokens_;         ///< by first byte, then longest first
  std::array<std::uint32_t, 257> first_{}; ///< by first byte: its first entry in tokens_
};

} // namespace lsaq::inline v0::inline LSAQ_BASELINE
