// Cuts text into the words that byte pair encoding works on: the regular expressions of the known tokenizers as hand-written scanners.
//
// White space, letters and numbers are Unicode's White_Space, L and N, as in the regular expressions; a byte that is not UTF-8 counts as none of them.
#pragma once

#include <lsaq/formats/names.hpp>

#include <unicode/uchar.h>

#include <cstddef>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

namespace lsaq::inline v0 {

/// A way to cut text; several are applied in order, each to the pieces of the one before.
enum class SplitRule : unsigned char {
  digits, ///< every numeric character on its own
  gpt2,   ///< 's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
  llama3, ///< (?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+
  qwen2,  ///< as llama3 with single numeric characters
};

} // namespace lsaq::inline v0

namespace lsaq::inline v0::inline LSAQ_BASELINE {

inline constexpr std::string_view gpt2_pattern = R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";
inline constexpr std::string_view llama3_pattern =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
inline constexpr std::string_view qwen2_pattern =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

/// The rule that a regular expression in a tokenizer.json stands for, if it is one of the known ones.
inline std::optional<SplitRule> split_rule_of_pattern(std::string_view pattern) noexcept {
  if (pattern == gpt2_pattern) return SplitRule::gpt2;
  if (pattern == llama3_pattern) return SplitRule::llama3;
  if (pattern == qwen2_pattern) return SplitRule::qwen2;
  return std::nullopt;
}

/// The rules behind a GGUF file's tokenizer.ggml.pre, if the name is known.
inline std::optional<std::vector<SplitRule>> split_rules_named(std::string_view name) {
  if (name == "smollm") return std::vector{SplitRule::digits, SplitRule::gpt2};
  if (name == "gpt-2" || name == "default") return std::vector{SplitRule::gpt2};
  if (name == "llama-bpe" || name == "llama3" || name == "llama-v3") return std::vector{SplitRule::llama3};
  if (name == "qwen2") return std::vector{SplitRule::qwen2};
  return std::nullopt;
}

/// The name by which GGUF files know these rules, if they have one.
inline std::optional<std::string_view> name_of_split_rules(std::span<const SplitRule> rules) {
  for (const std::string_view name : {"smollm", "gpt-2", "llama-bpe", "qwen2"})
    if (const auto known = split_rules_named(name); std::equal(rules.begin(), rules.end(), known->begin(), known->end())) return name;
  return std::nullopt;
}

/// The regular expression that stands for a rule; Digits has none.
constexpr std::string_view pattern_of(SplitRule rule) noexcept {
  switch (rule) {
  case SplitRule::gpt2: return gpt2_pattern;
  case SplitRule::llama3: return llama3_pattern;
  case SplitRule::qwen2: return qwen2_pattern;
  case SplitRule::digits: break;
  }
  return {};
}

/// The names split_rules_named knows, for messages.
inline constexpr std::string_view known_pre_tokenizers = "smollm, gpt-2, default, llama-bpe, llama3, llama-v3, qwen2";

/// What the scanners tell apart.
enum class CharacterClass : unsigned char { other, letter, number, space, line_break };

/// Class of a Unicode code point; line_break is CR and LF, which are white space too.
inline CharacterClass class_of(char32_t code_point) noexcept {
  if (code_point < 0x80) {
    if ((code_point | 0x20) >= 'a' && (code_point | 0x20) <= 'z') return CharacterClass::letter;
    if (code_point >= '0' && code_point <= '9') return CharacterClass::number;
    if (code_point == '\n' || code_point == '\r') return CharacterClass::line_break;
    return code_point == ' ' || (code_point >= '\t' && code_point <= '\r') ? CharacterClass::space : CharacterClass::other;
  }
  const auto category = U_MASK(u_charType(static_cast<UChar32>(code_point)));
  if ((category & U_GC_L_MASK) != 0) return CharacterClass::letter;
  if ((category & U_GC_N_MASK) != 0) return CharacterClass::number;
  return u_isUWhiteSpace(static_cast<UChar32>(code_point)) ? CharacterClass::space : CharacterClass::other;
}

/// Finds the words of one piece of text, first to last; they cover it without gaps.
class WordScanner {
public:
  explicit WordScanner(std::string_view text) noexcept : text_(text) {}

  /// The word that starts at `begin` (< text.size()) under this rule; never empty.
  std::string_view word_at(std::size_t begin, SplitRule rule) const noexcept {
    std::size_t end = begin;
    switch (rule) {
    case SplitRule::digits: end = end_with_digits(begin); break;
    case SplitRule::gpt2: end = end_with_gpt2(begin); break;
    case SplitRule::llama3: end = end_with_llama3(begin, 3); break;
    case SplitRule::qwen2: end = end_with_llama3(begin, 1); break;
    }
    return text_.substr(begin, end - begin);
  }

private:
  struct Character {
    CharacterClass kind;
    std::size_t end;
  };

  Character at(std::size_t position) const noexcept {
    const CodePoint c = first_code_point(text_.substr(position));
    return c.length != 0 ? Character{class_of(c.value), position + c.length} : Character{CharacterClass::other, position + 1};
  }

  bool is_at(std::size_t position, CharacterClass kind) const noexcept { return position < text_.size() && at(position).kind == kind; }

  static bool is_space(CharacterClass kind) noexcept { return kind == CharacterClass::space || kind == CharacterClass::line_break; }

  /// End of the run of one class from `position` on.
  std::size_t run(std::size_t position, CharacterClass kind, std::size_t limit = static_cast<std::size_t>(-1)) const noexcept {
    while (position < text_.size() && limit-- != 0) {
      const Character character = at(position);
      if (character.kind != kind) break;
      position = character.end;
    }
    return position;
  }

  std::size_t end_with_digits(std::size_t begin) const noexcept {
    Character character = at(begin);
    if (character.kind == CharacterClass::number) return character.end;
    std::size_t end = character.end;
    while (end < text_.size() && (character = at(end)).kind != CharacterClass::number) end = character.end;
    return end;
  }

  /// End of the contraction at an apostrophe, or `begin` where there is none.
  std::size_t end_of_contraction(std::size_t begin, bool any_case) const noexcept {
    if (text_[begin] != '\'') return begin;
    const std::string_view rest = text_.substr(begin + 1, 2);
    const auto letter = [&](std::size_t i) {
      if (i >= rest.size()) return '\0';
      return any_case && rest[i] >= 'A' && rest[i] <= 'Z' ? static_cast<char>(rest[i] + ('a' - 'A')) : rest[i];
    };
    const char first = letter(0);
    const char second = letter(1);
    if (first == 's' || first == 't' || first == 'm' || first == 'd') return begin + 2;
    if ((first == 'r' && second == 'e') || (first == 'v' && second == 'e') || (first == 'l' && second == 'l')) return begin + 3;
    if (any_case && rest == "\u017f") return begin + 3; // the long s folds to s
    return begin;
  }

  /// End of the white space at `begin`: the last space of a run is left for the word behind it, unless it is all there is.
  std::size_t end_of_space(std::size_t begin) const noexcept {
    std::size_t last = begin;
    std::size_t end = begin;
    while (end < text_.size()) {
      const Character character = at(end);
      if (!is_space(character.kind)) return last == begin ? end : last;
      last = end;
      end = character.end;
    }
    return end;
  }

  std::size_t end_with_gpt2(std::size_t begin) const noexcept {
    if (const std::size_t end = end_of_contraction(begin, false); end != begin) return end;
    const std::size_t start = text_[begin] == ' ' && begin + 1 < text_.size() ? begin + 1 : begin;
    const Character first = at(start);
    if (is_space(first.kind)) return end_of_space(begin);
    return run(first.end, first.kind);
  }

  std::size_t end_with_llama3(std::size_t begin, std::size_t digits) const noexcept {
    if (const std::size_t end = end_of_contraction(begin, true); end != begin) return end;
    const Character first = at(begin);
    if (first.kind == CharacterClass::letter) return run(first.end, CharacterClass::letter);
    if (first.kind == CharacterClass::number) return run(begin, CharacterClass::number, digits);
    if (first.kind != CharacterClass::line_break && is_at(first.end, CharacterClass::letter)) return run(first.end, CharacterClass::letter);
    const std::size_t start = text_[begin] == ' ' ? begin + 1 : begin;
    if (is_at(start, CharacterClass::other)) return run(run(start, CharacterClass::other), CharacterClass::line_break);
    std::size_t after_line_break = begin;
    for (std::size_t end = begin; end < text_.size();) {
      const Character character = at(end);
      if (!is_space(character.kind)) break;
      end = character.end;
      if (character.kind == CharacterClass::line_break) after_line_break = end;
    }
    return after_line_break != begin ? after_line_break : end_of_space(begin);
  }

  std::string_view text_;
};

/// Calls consume(word) for each word of the text under the rules, in order. O(length), no allocation.
template <class Consume> void for_each_word(std::string_view text, std::span<const SplitRule> rules, Consume& consume) {
  if (rules.empty()) {
    consume(text);
    return;
  }
  const WordScanner scanner(text);
  for (std::size_t begin = 0; begin < text.size();) {
    const std::string_view word = scanner.word_at(begin, rules.front());
    for_each_word(word, rules.subspan(1), consume);
    begin += word.size();
  }
}

} // namespace lsaq::inline v0::inline LSAQ_BASELINE
