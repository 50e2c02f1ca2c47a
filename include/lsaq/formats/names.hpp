// Names that come out of files: checked, shown in messages, looked up.
//
// Such a name may be hostile: it may hold terminal escapes, may be megabytes long, may be one of a million that collide in a hash table. So it is refused if it
// has control characters, printed escaped and cut, and found by binary search.
#pragma once

#include <lsaq/config.hpp>

#include <algorithm>
#include <cstddef>
#include <numeric>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace lsaq::inline v0::inline LSAQ_BASELINE {

/// A Unicode code point and how many bytes of UTF-8 it takes; length 0: the bytes are not well-formed UTF-8.
struct CodePoint {
  char32_t value = 0;
  std::size_t length = 0;
};

/// Decodes the first code point of `text`. Overlong forms, surrogates and values above U+10FFFF are not well-formed (RFC 3629).
constexpr CodePoint first_code_point(std::string_view text) noexcept {
  if (text.empty()) return {};
  const auto byte = [&](std::size_t i) -> char32_t { return static_cast<unsigned char>(text[i]); };
  const char32_t lead = byte(0);
  if (lead < 0x80) return {lead, 1};
  const std::size_t length = lead >= 0xf0 ? 4 : lead >= 0xe0 ? 3 : 2;
  if (lead < 0xc2 || lead > 0xf4 || text.size() < length) return {};
  char32_t value = lead & (0x7fu >> length);
  for (std::size_t i = 1; i < length; ++i) {
    if ((byte(i) & 0xc0u) != 0x80u) return {};
    value = (value << 6) | (byte(i) & 0x3fu);
  }
  const char32_t smallest = length == 4 ? 0x10000 : length == 3 ? 0x800 : 0x80;
  if (value < smallest || value > 0x10ffff || (value >= 0xd800 && value <= 0xdfff)) return {};
  return {value, length};
}

/// Whether a terminal may act on this code point instead of showing it: C0 and C1 controls, line separators, bidirectional overrides.
constexpr bool is_control(char32_t c) noexcept {
  return c < 0x20 || (c >= 0x7f && c < 0xa0) || (c >= 0x200e && c <= 0x200f) || (c >= 0x2028 && c <= 0x202e) || (c >= 0x2066 && c <= 0x2069);
}

/// `text` fit for a one-line message: control characters, backslashes and bytes that are not UTF-8 as \xNN, cut after about `limit` characters.
inline std::string printable(std::string_view text, std::size_t limit = 80) {
  static constexpr char digits[] = "0123456789abcdef";
  std::string shown;
  while (!text.empty()) {
    const CodePoint c = first_code_point(text);
    const std::size_t length = std::max<std::size_t>(c.length, 1);
    const bool escaped = c.length == 0 || is_control(c.value) || c.value == U'\\';
    if (shown.size() + (escaped ? 4 * length : length) > limit) return shown + "...";
    for (const char byte : text.substr(0, length)) {
      const auto code = static_cast<unsigned char>(byte);
      if (escaped) {
        shown += {'\\', 'x', digits[code >> 4], digits[code & 15u]};
      } else {
        shown += byte;
      }
    }
    text.remove_prefix(length);
  }
  return shown;
}

/// Whether `text` may be the name of a tensor or key: not empty, well-formed UTF-8, no control characters.
constexpr bool is_clean_name(std::string_view text) noexcept {
  if (text.empty()) return false;
  while (!text.empty()) {
    const CodePoint c = first_code_point(text);
    if (c.length == 0 || is_control(c.value)) return false;
    text.remove_prefix(c.length);
  }
  return true;
}

/// An item whose name another one has, too, or null; items have a member `name`.
template <class Item> const Item* duplicate_name(const std::vector<Item>& items) {
  std::vector<const Item*> by_name;
  by_name.reserve(items.size());
  for (const Item& item : items) by_name.push_back(&item);
  std::sort(by_name.begin(), by_name.end(), [](const Item* a, const Item* b) { return a->name < b->name; });
  const auto at = std::adjacent_find(by_name.begin(), by_name.end(), [](const Item* a, const Item* b) { return a->name == b->name; });
  return at != by_name.end() ? *at : nullptr;
}

/// A list whose items have a member `name`, no two the same, kept in its order and searchable by name in O(log n) whatever the names are.
template <class Item> class NamedList {
public:
  NamedList() = default;
  explicit NamedList(std::vector<Item> items) : items_(std::move(items)), by_name_(items_.size()) {
    std::iota(by_name_.begin(), by_name_.end(), std::size_t{0});
    std::sort(by_name_.begin(), by_name_.end(), [&](std::size_t a, std::size_t b) { return items_[a].name < items_[b].name; });
  }

  std::span<const Item> items() const noexcept { return items_; }

  /// The item of this name, or null.
  const Item* find(std::string_view name) const noexcept {
    const auto at = std::lower_bound(by_name_.begin(), by_name_.end(), name, [&](std::size_t i, std::string_view wanted) { return items_[i].name < wanted; });
    return at != by_name_.end() && items_[*at].name == name ? &items_[*at] : nullptr;
  }

private:
  std::vector<Item> items_;
  std::vector<std::size_t> by_name_;
};

} // namespace lsaq::inline v0::inline LSAQ_BASELINE
