// Activations as integers, a token at a time: x ~ scale * q, so that products with codes are exact sums of integers.
//
// A few columns of a token are far larger than the rest. One scale for 8-bit numbers would leave those nothing; a scale for every 32 columns would interrupt
// the sum as often. So one scale serves the token, q has 8 bits almost everywhere, and up to one in 16 of the units of 8 columns has up to 15 bits in two
// planes:
//
//   scale = max(w / 127, m[0] / 16319)       m: largest magnitudes of the units in descending order, k: columns / 128, at least 1
//                                            w: the largest of the m up to 1.25 m[k]: units hardly larger than others are not worth a second plane
//   q     = round_half_even(x / scale)       |q| <= 127 where m <= w, |q| <= 16319 in the k largest units at most
//   q     = low + 128 * high                 high is 0 outside of those; low of the large units is in -64 .. 63
//
// k is limited so that sum |q| < 2^24: a product with codes of magnitude up to 128 fits 32 bits whatever the values are, and intermediate sums may wrap around.
//
// Where weights have scales for groups of columns, sums end with every group anyway. Then (Scaling::block) each block of 32 columns of a token has a scale of
// its own, scale = m / 127, and q has 8 bits: one plane.
//
// In memory the codes are tiles of `lanes` tokens; in each, every token has `run` bytes in turn, here 4:
//
//   width 1 (low plane): byte  [tile][column / 4][lane][column % 4]      high planes of blocks of 32 columns beside it
//   width 2 (q whole):   16 bit [tile][column / 2][lane][column % 2]
//
// One lane is plain rows. Within blocks of 32, columns of the planes may be sorted by their remainder modulo `step`, so that codes of 4 or 2 bits, shifted down
// where they are, meet their columns: columns 0, step, 2 step, ..., then 1, step + 1, ...
//
// Columns are padded with zeros to a multiple of 64: what lies behind a row's weights never counts.
#pragma once

#include <lsaq/config.hpp>

#include <cstddef>
#include <cstdint>
#include <span>

namespace lsaq::inline v0 {

/// How the codes of tokens lie in memory.
struct TokenLayout {
  std::size_t width = 1; ///< bytes of a column: 1, planes; 2, whole
  std::size_t lanes = 1; ///< tokens of a tile
  std::size_t step = 1;  ///< 1, 2 or 4: how columns are sorted within blocks
  std::size_t run = 4;   ///< 4 or 64: bytes a token has in turn

  /// Where a column's byte is in a row of the planes.
  constexpr std::size_t position(std::size_t column) const noexcept { return column / 32 * 32 + column % step * (32 / step) + column % 32 / step; }
};

/// What shares a scale.
enum class Scaling : std::uint8_t { token, block };

inline constexpr std::size_t code_block = 32;      ///< columns whose high planes lie together, or that share a scale
inline constexpr std::size_t code_unit = 8;        ///< columns that have two planes together
inline constexpr int low_plane_limit = 127;        ///< |q| of a unit with one plane
inline constexpr int high_plane_limit = 16319;     ///< |q| of a unit with two: 127 * 128 + 63
inline constexpr float plane_slack = 1.25f;        ///< how much larger than the largest of the others a unit with one plane may be
inline constexpr std::size_t sum_limit = 1u << 24; ///< sum |q| of a token stays below

/// Columns of a token with its padding.
constexpr std::size_t padded_columns(std::size_t columns) noexcept { return (columns + 63) / 64 * 64; }

inline constexpr std::size_t most_integer_columns = 1 << 16; ///< of longer tokens, sums of 32 bits would not be exact or hardly

/// Units of a token that may have two planes; 0: it is too long for integers.
constexpr std::size_t high_units_of(std::size_t columns) noexcept {
  const std::size_t wanted = columns / 128 > 1 ? columns / 128 : 1, low_sum = columns * low_plane_limit;
  const std::size_t possible = low_sum < sum_limit ? (sum_limit - 1 - low_sum) / (code_unit * (high_plane_limit - low_plane_limit)) : 0;
  return columns > most_integer_columns ? 0 : wanted < possible ? wanted : possible;
}

static_assert(high_units_of(8192) == 64 && high_units_of(11008) == 86 && high_units_of(4096) == 32 && high_units_of(1) == 1);
static_assert(high_units_of(most_integer_columns) > 50 && high_units_of(most_integer_columns + 1) == 0);

/// The runs of four bytes in a block's plane that hold columns of some units, a bit each.
[[gnu::always_inline]] constexpr unsigned runs_of_units(unsigned units, std::size_t step) noexcept {
  unsigned runs = 0;
  for (unsigned u = 0; u < code_block / code_unit; ++u) {
    if ((units >> u & 1) == 0) continue;
    runs |= step == 1 ? 3u << 2 * u : step == 2 ? 0x11u << u : 0x55u << u / 2;
  }
  return runs;
}

/// The codes of some tokens in memory that somebody else owns; trivially copyable.
struct TokenCodes {
  std::size_t tokens = 0;
  std::size_t columns = 0;
  TokenLayout layout;
  std::size_t high_limit = 0;           ///< blocks a token has room for in the high plane
  std::size_t scales_per_token = 1;     ///< 1, or its blocks with their padding
  float* scales = nullptr;              ///< tokens x scales_per_token; NaN where one of the values is not finite
  std::int32_t* sums = nullptr;         ///< tokens x scales_per_token: sum of the q
  std::uint32_t* high_counts = nullptr; ///< blocks with two planes
  std::uint16_t* high_blocks = nullptr; ///< tokens x high_limit: their numbers, ascending
  std::uint8_t* high_units = nullptr;   ///< tokens x high_limit: which of their units have, a bit each; the others' high is 0
  std::int8_t* high = nullptr;          ///< tokens x high_limit x 32
  std::byte* low = nullptr;             ///< tiles x lanes x padded columns x width

  [[gnu::always_inline]] std::size_t tiles() const noexcept { return (tokens + layout.lanes - 1) / layout.lanes; }
  /// The first token of a tile: tiles are as even as can be.
  [[gnu::always_inline]] std::size_t first_of(std::size_t tile) const noexcept { return tokens * tile / tiles(); }
  [[gnu::always_inline]] std::byte* tile(std::size_t number) const noexcept { return low + number * layout.lanes * padded_columns(columns) * layout.width; }

  /// Bytes that divide() needs at any alignment.
  static constexpr std::size_t bytes(std::size_t tokens, std::size_t columns, TokenLayout layout, Scaling scaling = Scaling::token) noexcept {
    const std::size_t high_limit = high_limit_of(columns, layout, scaling);
    const std::size_t tiles = (tokens + layout.lanes - 1) / layout.lanes;
    return alignment + 2 * aligned(4 * tokens * scales_of(columns, scaling)) + aligned(4 * tokens) + aligned(2 * tokens * high_limit) +
           aligned(tokens * high_limit) + aligned(code_block * tokens * high_limit) + tiles * layout.lanes * padded_columns(columns) * layout.width;
  }

  /// Lays the arrays out in `memory` of at least bytes(); fills nothing.
  [[gnu::always_inline]] static TokenCodes divide(std::size_t tokens, std::size_t columns, TokenLayout layout, std::byte* memory,
                                                  Scaling scaling = Scaling::token) noexcept {
    TokenCodes codes{tokens, columns, layout, high_limit_of(columns, layout, scaling), scales_of(columns, scaling)};
    const std::size_t of_scales = aligned(4 * tokens * codes.scales_per_token), high = tokens * codes.high_limit;
    std::byte* at = memory + -reinterpret_cast<std::uintptr_t>(memory) % alignment;
    codes.scales = reinterpret_cast<float*>(at);
    codes.sums = reinterpret_cast<std::int32_t*>(at += of_scales);
    codes.high_counts = reinterpret_cast<std::uint32_t*>(at += of_scales);
    codes.high_blocks = reinterpret_cast<std::uint16_t*>(at += aligned(4 * tokens));
    codes.high_units = reinterpret_cast<std::uint8_t*>(at += aligned(2 * high));
    codes.high = reinterpret_cast<std::int8_t*>(at += aligned(high));
    codes.low = at + aligned(code_block * high);
    return codes;
  }

private:
  static constexpr std::size_t alignment = 64;
  static constexpr std::size_t high_limit_of(std::size_t columns, TokenLayout layout, Scaling scaling) noexcept {
    return layout.width == 1 && scaling == Scaling::token ? high_units_of(columns) : 0;
  }
  static constexpr std::size_t scales_of(std::size_t columns, Scaling scaling) noexcept {
    return scaling == Scaling::token ? 1 : padded_columns(columns) / code_block;
  }
  static constexpr std::size_t aligned(std::size_t size) noexcept { return (size + alignment - 1) / alignment * alignment; }
};

} // namespace lsaq::inline v0
