// Codes of 2 to 8 bits from one a byte to the canonical packed order.
#pragma once

#include <lsaq/config.hpp>

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>

namespace lsaq::inline v0::inline LSAQ_BASELINE {

/// Eight unsigned codes of `bits` bits, one a byte, moved together: the first in the lowest bits.
constexpr std::uint64_t gather_codes(std::uint64_t codes, unsigned bits) noexcept {
  codes = (codes & 0x00ff00ff00ff00ffu) | (codes & 0xff00ff00ff00ff00u) >> (8 - bits);
  codes = (codes & 0x0000ffff0000ffffu) | (codes & 0xffff0000ffff0000u) >> (16 - 2 * bits);
  return (codes & 0x00000000ffffffffu) | (codes & 0xffffffff00000000u) >> (32 - 4 * bits);
}

/// Writes n unsigned codes of `bits` bits in canonical order, and pads the row to whole 32-bit words with `padding`.
inline void pack_codes(const std::uint8_t* codes, std::size_t n, unsigned bits, std::uint8_t padding, std::byte* row) noexcept {
  const std::size_t row_bytes = (n * bits + 31) / 32 * 4;
  std::size_t written = 0, i = 0;
  if (bits == 8) {
    if (n != 0) std::memcpy(row, codes, n);
    for (written = n; written < row_bytes; ++written) row[written] = std::byte{padding};
    return;
  }
  if constexpr (std::endian::native == std::endian::little) {
    for (; i + 8 <= n; i += 8, written += bits) {
      std::uint64_t eight;
      std::memcpy(&eight, codes + i, sizeof eight);
      eight = gather_codes(eight, bits);
      if (written + sizeof eight <= row_bytes)
        std::memcpy(row + written, &eight, sizeof eight); // a word of which the next ones write over what is too much
      else
        std::memcpy(row + written, &eight, bits);
    }
  }
  std::uint64_t window = 0;
  unsigned filled = 0;
  for (; written < row_bytes; ++i) {
    window |= std::uint64_t{i < n ? codes[i] : padding} << filled;
    for (filled += bits; filled >= 8 && written < row_bytes; filled -= 8, window >>= 8) row[written++] = static_cast<std::byte>(window & 0xffu);
  }
}

} // namespace lsaq::inline v0::inline LSAQ_BASELINE
