// Reading untrusted little-endian bytes in order: every read is checked against what is left.
#pragma once

#include <lsaq/error.hpp>
#include <lsaq/formats/names.hpp>

#include <bit>
#include <cstdint>
#include <cstring>
#include <limits>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

namespace lsaq::inline v0::inline LSAQ_BASELINE {

static_assert(std::endian::native == std::endian::little, "model files are little-endian and are read in place");
static_assert(sizeof(std::size_t) == 8, "model files are mapped whole");

/// a * b, or nothing if that does not fit into 64 bits.
constexpr std::optional<std::uint64_t> checked_product(std::uint64_t a, std::uint64_t b) noexcept {
  std::uint64_t result = 0;
  if (__builtin_mul_overflow(a, b, &result)) return std::nullopt;
  return result;
}

/// a + b, or nothing if that does not fit into 64 bits.
constexpr std::optional<std::uint64_t> checked_sum(std::uint64_t a, std::uint64_t b) noexcept {
  std::uint64_t result = 0;
  if (__builtin_add_overflow(a, b, &result)) return std::nullopt;
  return result;
}

/// A cursor over bytes that somebody else owns. Its errors are BadInput: "FILE: SUBJECT: what is wrong".
class ByteReader {
public:
  /// Reads `bytes`; `file` is how messages call them, fit to print.
  ByteReader(std::span<const std::byte> bytes, std::string file) : bytes_(bytes), file_(std::move(file)) {}

  /// What the next reads belong to, for messages: "key 'x'".
  void about(std::string subject) { subject_ = std::move(subject); }

  std::size_t position() const noexcept { return position_; }
  std::size_t remaining() const noexcept { return bytes_.size() - position_; }

  [[noreturn, gnu::cold]] void refuse(const std::string& reason) const { fail<BadInput>(file_ + ": " + (subject_.empty() ? "" : subject_ + ": ") + reason); }

  /// The next `count` bytes, in place.
  std::span<const std::byte> take(std::uint64_t count, std::string_view what) {
    if (count > remaining()) {
      refuse(std::string(what) + " needs " + std::to_string(count) + " bytes, but " + std::to_string(remaining()) + " are left in the file");
    }
    const auto taken = bytes_.subspan(position_, static_cast<std::size_t>(count));
    position_ += taken.size();
    return taken;
  }

  /// The next number of type T, at any alignment.
  template <class T>
  requires std::is_arithmetic_v<T> T number(std::string_view what) {
    T value;
    std::memcpy(&value, take(sizeof(T), what).data(), sizeof value);
    return value;
  }

  /// A 64-bit length and as many bytes. The view points into the file.
  std::string_view string(std::string_view what, std::uint64_t longest = std::numeric_limits<std::uint64_t>::max()) {
    const auto length = number<std::uint64_t>(what);
    if (length > longest) refuse(std::string(what) + " is " + std::to_string(length) + " bytes long; at most " + std::to_string(longest) + " are allowed");
    const auto text = take(length, what);
    return {reinterpret_cast<const char*>(text.data()), text.size()};
  }

  /// `count` numbers of type T; nothing is allocated unless the file holds them.
  template <class T>
  requires std::is_arithmetic_v<T> std::vector<T> numbers(std::uint64_t count, std::string_view what) {
    require_room(count, sizeof(T), what);
    const auto taken = take(count * sizeof(T), what);
    std::vector<T> values(static_cast<std::size_t>(count));
    if (!values.empty()) std::memcpy(values.data(), taken.data(), taken.size());
    return values;
  }

  /// Refuses a count of records that can't fit into the rest of the file, before anything is reserved for them.
  void require_room(std::uint64_t count, std::size_t smallest_record, std::string_view what) const {
    if (count <= remaining() / smallest_record) return;
    refuse(std::string(what) + ": " + std::to_string(count) + " are announced, but the " + std::to_string(remaining()) +
           " bytes left in the file hold at most " + std::to_string(remaining() / smallest_record));
  }

private:
  std::span<const std::byte> bytes_;
  std::size_t position_ = 0;
  std::string file_;
  std::string subject_;
};

} // namespace lsaq::inline v0::inline LSAQ_BASELINE
