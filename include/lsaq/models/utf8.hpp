// UTF-8 as tokenizers produce it: characters written one by one, and pieces of text cut in the middle of a character.
#pragma once

#include <lsaq/formats/names.hpp>

#include <cstddef>
#include <string>
#include <string_view>

namespace lsaq::inline v0::inline LSAQ_BASELINE {

/// Appends a Unicode scalar value as UTF-8.
inline void append_utf8(std::string& out, char32_t value) {
  const auto put = [&](char32_t byte) { out.push_back(static_cast<char>(static_cast<unsigned char>(byte))); };
  if (value < 0x80) return put(value);
  if (value < 0x800) {
    put(0xc0 | (value >> 6));
  } else {
    if (value < 0x10000) {
      put(0xe0 | (value >> 12));
    } else {
      put(0xf0 | (value >> 18));
      put(0x80 | ((value >> 12) & 0x3f));
    }
    put(0x80 | ((value >> 6) & 0x3f));
  }
  put(0x80 | (value & 0x3f));
}

/// Makes whole characters of pieces that are cut anywhere, as generated tokens are: what push() returns is always valid UTF-8.
///
/// An incomplete character at the end is held back (at most 3 bytes); each byte that can't be part of one becomes U+FFFD.
class Utf8Stream {
public:
  /// The characters that are complete with these bytes.
  std::string push(std::string_view bytes) {
    held_.append(bytes);
    std::string out;
    std::string_view rest = held_;
    while (!rest.empty()) {
      const std::size_t length = first_code_point(rest).length;
      if (length == 0 && may_be_completed(rest)) break;
      out += length == 0 ? replacement : rest.substr(0, length);
      rest.remove_prefix(length == 0 ? 1 : length);
    }
    held_.erase(0, held_.size() - rest.size());
    return out;
  }

  /// What is left when no more bytes come: a U+FFFD for each byte held back.
  std::string finish() {
    std::string out;
    for (std::size_t i = 0; i < held_.size(); ++i) out += replacement;
    held_.clear();
    return out;
  }

private:
  static constexpr std::string_view replacement = "\xef\xbf\xbd";

  static bool may_be_completed(std::string_view start) noexcept {
    const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(start[i]); };
    const std::size_t length = byte(0) < 0xc2 || byte(0) > 0xf4 ? 0 : byte(0) >= 0xf0 ? 4 : byte(0) >= 0xe0 ? 3 : 2;
    if (start.size() >= length) return false;
    for (std::size_t i = 1; i < start.size(); ++i)
      if ((byte(i) & 0xc0u) != 0x80u) return false;
    if (start.size() < 2) return true;
    switch (byte(0)) { // second bytes that make the whole overlong, a surrogate or too large
    case 0xe0: return byte(1) >= 0xa0;
    case 0xed: return byte(1) < 0xa0;
    case 0xf0: return byte(1) >= 0x90;
    case 0xf4: return byte(1) < 0x90;
    default: return true;
    }
  }

  std::string held_;
};

} // namespace lsaq::inline v0::inline LSAQ_BASELINE
