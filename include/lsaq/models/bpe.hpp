// Byte pair encoding: the merge loop for byte-level (GPT-2) and byte-fallback (Llama 2) vocabularies.
#pragma once

#include <lsaq/error.hpp>
#include <lsaq/models/utf8.hpp>
#include <lsaq/models/vocabulary.hpp>

#include <algorithm>
#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace lsaq::inline v0::inline LSAQ_BASELINE {

/// The byte-level alphabet of GPT-2: printable Latin-1 characters stand for themselves, the other bytes for U+0100 and up, in order.
constexpr std::array<char32_t, 256> byte_level_alphabet() noexcept {
  std::array<char32_t, 256> alphabet{};
  char32_t next = 0x100;
  for (unsigned b = 0; b < 256; ++b) alphabet[b] = (b >= 0x21 && b <= 0x7e) || (b >= 0xa1 && b <= 0xac) || b >= 0xae ? b : next++;
  return alphabet;
}

/// The bytes a byte-level token stands for; a token with characters outside the alphabet stands for itself.
inline std::string bytes_of_byte_level(std::string_view token) {
  static constexpr auto byte_of = [] {
    std::array<std::int16_t, 0x144> table{};
    for (auto& entry : table) entry = -1;
    const auto alphabet = byte_level_alphabet();
    for (unsigned b = 0; b < 256; ++b) table[alphabet[b]] = static_cast<std::int16_t>(b);
    return table;
  }();
  std::string bytes;
  for (std::string_view rest = token; !rest.empty();) {
    const CodePoint c = first_code_point(rest);
    if (c.length == 0 || c.value >= byte_of.size() || byte_of[c.value] < 0) return std::string(token);
    bytes.push_back(static_cast<char>(static_cast<unsigned char>(byte_of[c.value])));
    rest.remove_prefix(c.length);
  }
  return bytes;
}

/// Applies the merges of a vocabulary to words. Immutable; refers to the token texts it was made with.
class BpeModel {
public:
  /// Buffers of one encoding run; owned by the caller, so that encode() is const and safe from several threads.
  struct Workspace {
    struct Symbol {
      TokenId id;
      std::uint32_t previous, next;
    };
    struct Candidate {
      std::uint32_t rank, position;
      TokenId left, right, merged;
    };
    std::vector<Symbol> symbols;
    std::vector<Candidate> heap;
  };

  /// Checks and indexes the merges. `ids` finds the tokens as written in the vocabulary, `words` by the bytes they print (used with
  /// ignore_merges); both must live as long as the model.
  /// Throws BadInput that names the file and the merge whose parts or result are no tokens.
  BpeModel(const BpeVocabulary& vocabulary, const TokenIndex& ids, const TokenIndex& words)
      : ids_(&ids), words_(&words), unknown_(vocabulary.special.unknown), options_(vocabulary.options) {
    index_merges(vocabulary);
    constexpr auto alphabet = byte_level_alphabet();
    for (unsigned b = 0; b < 256; ++b) {
      std::string token;
      if (options_.byte_level) {
        append_utf8(token, alphabet[b]);
      } else {
        token = byte_token(static_cast<unsigned char>(b));
      }
      byte_tokens_[b] = ids.find(token).value_or(none);
    }
  }

  /// Appends the tokens of one word of at most 2^31 bytes. O(n log n) in its length.
  void encode(std::string_view word, Workspace& workspace, std::vector<TokenId>& out) const {
    if (options_.ignore_merges) {
      if (const auto whole = words_->find(word)) {
        out.push_back(*whole);
        return;
      }
    }
    workspace.symbols.clear();
    if (options_.byte_level) {
      for (const char c : word) add(workspace, byte_tokens_[static_cast<unsigned char>(c)]);
    } else {
      split_into_characters(word, workspace);
    }
    merge(workspace);
    for (const auto& symbol : workspace.symbols)
      if (symbol.id != none) out.push_back(symbol.id);
  }

private:
  struct Merge {
    TokenId left, right, merged;
    std::uint32_t rank;
  };

  static constexpr TokenId none = static_cast<TokenId>(-1);
  static constexpr std::uint32_t nowhere = static_cast<std::uint32_t>(-1);

  void index_merges(const BpeVocabulary& vocabulary) {
    const auto count = static_cast<std::uint32_t>(vocabulary.merges.size());
    merges_.reserve(count);
    for (std::uint32_t rank = 0; rank < count; ++rank) {
      const std::string& left = vocabulary.merges[rank].first;
      const std::string& right = vocabulary.merges[rank].second;
      const auto id_of = [&](const std::string& token) {
        if (const auto id = ids_->find(token)) return *id;
        fail<BadInput>(vocabulary.source + ": merge " + std::to_string(rank) + " (\"" + printable(left) + "\" and \"" + printable(right) + "\"): \"" +
                       printable(token) + "\" is not a token");
      };
      merges_.push_back({id_of(left), id_of(right), id_of(left + right), rank});
    }
    std::sort(merges_.begin(), merges_.end(), [](const Merge& a, const Merge& b) {
      if (a.left != b.left) return a.left < b.left;
      return a.right != b.right ? a.right < b.right : a.rank > b.rank; // of equal pairs the last one counts
    });
    const auto same_pair = [](const Merge& a, const Merge& b) { return a.left == b.left && a.right == b.right; };
    merges_.erase(std::unique(merges_.begin(), merges_.end(), same_pair), merges_.end());
    first_merge_.assign(ids_->size() + 1, 0);
    for (const Merge& merge : merges_) ++first_merge_[merge.left + 1];
    for (std::size_t i = 1; i < first_merge_.size(); ++i) first_merge_[i] += first_merge_[i - 1];
  }

  const Merge* find_merge(TokenId left, TokenId right) const noexcept {
    const auto begin = merges_.begin() + first_merge_[left];
    const auto end = merges_.begin() + first_merge_[left + 1];
    const auto at = std::lower_bound(begin, end, right, [](const Merge& merge, TokenId wanted) { return merge.right < wanted; });
    return at != end && at->right == right ? &*at : nullptr;
  }

  /// Adds a symbol; `none` is a piece of text without a token, which is dropped where there is no unknown token, as in the reference tokenizers.
  void add(Workspace& workspace, TokenId id) const {
    auto& symbols = workspace.symbols;
    if (id == none) {
      if (!unknown_ || (options_.fuse_unknown && !symbols.empty() && symbols.back().id == *unknown_)) return;
      id = *unknown_;
    }
    const auto index = static_cast<std::uint32_t>(symbols.size());
    symbols.push_back({id, index - 1, index + 1}); // the first has no previous: 0 - 1 is `nowhere`
  }

  void split_into_characters(std::string_view word, Workspace& workspace) const {
    const auto byte_token_of = [&](char c) { return byte_tokens_[static_cast<unsigned char>(c)]; };
    for (std::string_view rest = word; !rest.empty();) {
      const std::string_view character = rest.substr(0, std::max<std::size_t>(first_code_point(rest).length, 1));
      rest.remove_prefix(character.size());
      if (const auto id = ids_->find(character)) {
        add(workspace, *id);
      } else if (options_.byte_fallback && std::none_of(character.begin(), character.end(), [&](char c) { return byte_token_of(c) == none; })) {
        for (const char c : character) add(workspace, byte_token_of(c));
      } else {
        add(workspace, none);
      }
    }
  }

  /// Merges the pair of lowest rank, the leftmost of equal ones, until no pair has a rank. Symbols merged away get the id `none`.
  void merge(Workspace& workspace) const {
    auto& symbols = workspace.symbols;
    auto& heap = workspace.heap;
    if (symbols.empty()) return;
    symbols.back().next = nowhere;
    const auto later = [](const Workspace::Candidate& a, const Workspace::Candidate& b) {
      return a.rank != b.rank ? a.rank > b.rank : a.position > b.position;
    };
    const auto consider = [&](std::uint32_t position) {
      if (position == nowhere || symbols[position].next == nowhere) return false;
      const TokenId left = symbols[position].id;
      const TokenId right = symbols[symbols[position].next].id;
      const Merge* found = find_merge(left, right);
      if (found != nullptr) heap.push_back({found->rank, position, left, right, found->merged});
      return found != nullptr;
    };
    heap.clear();
    for (std::uint32_t i = 0; i < symbols.size(); ++i) consider(i);
    std::make_heap(heap.begin(), heap.end(), later);
    while (!heap.empty()) {
      std::pop_heap(heap.begin(), heap.end(), later);
      const Workspace::Candidate best = heap.back();
      heap.pop_back();
      auto& left = symbols[best.position];
      if (left.id != best.left || left.next == nowhere || symbols[left.next].id != best.right) continue; // an earlier merge took one of the two
      auto& right = symbols[left.next];
      left.id = best.merged;
      left.next = right.next;
      right.id = none;
      if (left.next != nowhere) symbols[left.next].previous = best.position;
      if (consider(best.position)) std::push_heap(heap.begin(), heap.end(), later);
      if (consider(left.previous)) std::push_heap(heap.begin(), heap.end(), later);
    }
  }

  const TokenIndex* ids_;
  const TokenIndex* words_;
  std::vector<Merge> merges_;              ///< by left, then right token
  std::vector<std::uint32_t> first_merge_; ///< by left token: its first entry in merges_
  std::array<TokenId, 256> byte_tokens_{};
  std::optional<TokenId> unknown_;
  BpeOptions options_;
};

} // namespace lsaq::inline v0::inline LSAQ_BASELINE
