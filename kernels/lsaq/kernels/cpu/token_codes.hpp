// Activations as integers, a token at a time: x ~ scale * q, so that products with codes are exact sums of integers.
//
// A few columns of a token are far larger than the rest. One scale for 8-bit numbers would leave those nothing; a scale for every 32 columns would interrupt
// the sum as often. So one scale serves the token, q has 8 bits almost everywhere, and up to one in 16 of the units of 8 columns has up to 15 bits in two
// planes:
//
//   scale = max(w / 127, m[0] / 16319)       m: largest magnitudes of the units in descending order, k: columns / 128, at least 1
//                                            w: the largest of the m up to 1.25 m[k]: units hardly larger than others are not worth a second plane
//   q     = round_half_even(x / scale)       |q| <= 127 where m <= w, |q| <= 16319 in the k largest units at most
//   q     = low + 128 * high                 |low| <= 127; in -64 .. 63 where high is not 0
//
// k is limited so that sum |q| < 2^24: a product with codes of magnitude up to 128 fits 32 bits whatever the values are, and intermediate sums may wrap around.
//
// Where weights have scales for groups of columns, sums end with every group anyway. Then (Scaling::block) each block of 32 columns of a token has a scale of
// its own, scale = m / 127, and q has 8 bits: one plane.
//
// In memory the codes are tiles of `lanes` tokens; in each, every token has `run` bytes in turn, here 4:
//
//   width 1 (low plane): byte  [tile][column / 4][lane][column % 4]      high planes beside it, where they are not 0
//   width 2 (q whole):   16 bit [tile][column / 2][lane][column % 2]
//
// High planes are kept as blocks of 32 columns, token by token, or as runs of 4, those of a tile's tokens together, grouped by every 64 columns. Where products
// are summed in 16 bits, two columns at a time, codes of 8 bits have room for no more than 128 on either side of 0: then runs whose pairs may exceed that have
// a high plane too, in two parts if that alone exceeds it.
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
  bool runs = false;     ///< high planes are runs of 4 columns, else blocks of 32
  bool pairs = false;    ///< pair_limit holds, in both planes

  /// Where a column's byte is in a row of the planes.
  constexpr std::size_t position(std::size_t column) const noexcept { return column / 32 * 32 + column % step * (32 / step) + column % 32 / step; }
};

/// What shares a scale.
enum class Scaling : std::uint8_t { token, block };

inline constexpr std::size_t code_block = 32;      ///< columns that are turned into codes together, or that share a scale
inline constexpr std::size_t granule = 64;         ///< columns that chunks of tokens and of weights are multiples of
inline constexpr std::size_t code_unit = 8;        ///< columns whose largest magnitude decides whether they may have two planes
inline constexpr int low_plane_limit = 127;        ///< |q| of a unit with one plane
inline constexpr int high_plane_limit = 16319;     ///< |q| of a unit with two: 127 * 128 + 63
inline constexpr int pair_limit = 128;             ///< what two columns may sum up to on either side of 0: 255 x 128 < 2^15
inline constexpr float plane_slack = 1.25f;        ///< how much larger than the largest of the others a unit with one plane may be
inline constexpr std::size_t sum_limit = 1u << 24; ///< sum |q| of a token stays below

/// Columns of a token with its padding.
constexpr std::size_t granules(std::size_t columns) noexcept { return (columns + granule - 1) / granule; }
constexpr std::size_t padded_columns(std::size_t columns) noexcept { return granules(columns) * granule; }

inline constexpr std::size_t most_integer_columns = 1 << 16; ///< of longer tokens, sums of 32 bits would not be exact or hardly

/// Units of a token that may have two planes; 0: it is too long for integers.
constexpr std::size_t high_units_of(std::size_t columns) noexcept {
  const std::size_t wanted = columns / 128 > 1 ? columns / 128 : 1, low_sum = columns * low_plane_limit;
  const std::size_t possible = low_sum < sum_limit ? (sum_limit - 1 - low_sum) / (code_unit * (high_plane_limit - low_plane_limit)) : 0;
  return columns > most_integer_columns ? 0 : wanted < possible ? wanted : possible;
}

static_assert(high_units_of(8192) == 64 && high_units_of(11008) == 86 && high_units_of(4096) == 32 && high_units_of(1) == 1);
static_assert(high_units_of(most_integer_columns) > 50 && high_units_of(most_integer_columns + 1) == 0);

/// The high plane of four columns that lie together in a token's row of the low plane.
struct HighRun {
  std::uint16_t place = 0; ///< where in that row they are, in runs
  std::uint16_t lane = 0;  ///< of the tile
  std::int8_t plane[4] = {};
};
static_assert(sizeof(HighRun) == 8);

/// The codes of some tokens in memory that somebody else owns; trivially copyable.
struct TokenCodes {
  std::size_t tokens = 0;
  std::size_t columns = 0;
  TokenLayout layout;
  std::size_t high_limit = 0;           ///< blocks or runs of the high plane that a token has room for
  std::size_t scales_per_token = 1;     ///< 1, or its blocks with their padding
  float* scales = nullptr;              ///< tokens x scales_per_token; NaN where one of the values is not finite
  std::int32_t* sums = nullptr;         ///< tokens x scales_per_token: sum of the q
  std::uint32_t* high_counts = nullptr; ///< of each tile's runs, or of each token's blocks
  HighRun* high_runs = nullptr;         ///< layout.runs: tiles x lanes x high_limit, by granules of 64 columns
  std::uint32_t* high_ends = nullptr;   ///< layout.runs: tiles x granules, where among those of the tile each granule's end
  std::uint16_t* high_blocks = nullptr; ///< else: tokens x high_limit, their numbers, ascending
  std::int8_t* high = nullptr;          ///< else: tokens x high_limit x 32
  std::byte* low = nullptr;             ///< tiles x lanes x padded columns x width

  std::size_t tile_tokens = 1;  ///< tokens of a tile, of the first ones one more: tiles are as even as can be
  std::size_t larger_tiles = 0; ///< how many have one more

  [[gnu::always_inline]] std::size_t tiles() const noexcept { return tiles_of(tokens, layout); }
  /// The first token of a tile.
  [[gnu::always_inline]] std::size_t first_of(std::size_t tile) const noexcept { return tile * tile_tokens + (tile < larger_tiles ? tile : larger_tiles); }
  [[gnu::always_inline]] std::byte* tile(std::size_t number) const noexcept { return low + number * layout.lanes * padded_columns(columns) * layout.width; }

  /// Where the runs of a tile's high planes begin.
  [[gnu::always_inline]] HighRun* first_run(std::size_t tile) const noexcept { return high_runs + tile * layout.lanes * high_limit; }
  /// The runs of a tile's high planes in columns [column, end), which are multiples of 64.
  [[gnu::always_inline]] std::span<const HighRun> runs_of(std::size_t tile, std::size_t column, std::size_t end) const noexcept {
    const std::uint32_t* const ends = high_ends + tile * granules(columns);
    const std::uint32_t first = column == 0 ? 0 : ends[column / granule - 1], last = ends[end / granule - 1];
    return {first_run(tile) + first, last - first};
  }

  /// Bytes that divide() needs at any alignment.
  static constexpr std::size_t bytes(std::size_t tokens, std::size_t columns, TokenLayout layout, Scaling scaling = Scaling::token) noexcept {
    const std::size_t tiles = tiles_of(tokens, layout), high = high_limit_of(columns, layout, scaling);
    const std::size_t of_high = layout.runs ? aligned(sizeof(HighRun) * tiles * layout.lanes * high) + aligned(4 * tiles * granules(columns))
                                            : aligned(2 * tokens * high) + aligned(code_block * tokens * high);
    return alignment + 2 * aligned(4 * tokens * scales_of(columns, scaling)) + aligned(4 * tokens) + of_high +
           tiles * layout.lanes * padded_columns(columns) * layout.width;
  }

  /// Lays the arrays out in `memory` of at least bytes(); fills nothing.
  [[gnu::always_inline]] static TokenCodes divide(std::size_t tokens, std::size_t columns, TokenLayout layout, std::byte* memory,
                                                  Scaling scaling = Scaling::token) noexcept {
    TokenCodes codes{tokens, columns, layout, high_limit_of(columns, layout, scaling), scales_of(columns, scaling)};
    if (tokens != 0) {
      codes.tile_tokens = tokens / codes.tiles();
      codes.larger_tiles = tokens % codes.tiles();
    }
    const std::size_t of_scales = aligned(4 * tokens * codes.scales_per_token);
    std::byte* at = memory + -reinterpret_cast<std::uintptr_t>(memory) % alignment;
    codes.scales = reinterpret_cast<float*>(at);
    codes.sums = reinterpret_cast<std::int32_t*>(at += of_scales);
    codes.high_counts = reinterpret_cast<std::uint32_t*>(at += of_scales);
    at += aligned(4 * tokens);
    if (layout.runs) {
      codes.high_runs = reinterpret_cast<HighRun*>(at);
      codes.high_ends = reinterpret_cast<std::uint32_t*>(at += aligned(sizeof(HighRun) * codes.tiles() * layout.lanes * codes.high_limit));
      at += aligned(4 * codes.tiles() * granules(columns));
    } else {
      codes.high_blocks = reinterpret_cast<std::uint16_t*>(at);
      codes.high = reinterpret_cast<std::int8_t*>(at += aligned(2 * tokens * codes.high_limit));
      at += aligned(code_block * tokens * codes.high_limit);
    }
    codes.low = at;
    return codes;
  }

  /// Where the next block of a token's high plane is to be written, and that it has been.
  [[gnu::always_inline]] std::int8_t* next_high_block(std::size_t token) const noexcept {
    return high + (token * high_limit + high_counts[token]) * code_block;
  }
  [[gnu::always_inline]] void append_high_block(std::size_t token, std::size_t block) const noexcept {
    high_blocks[token * high_limit + high_counts[token]++] = static_cast<std::uint16_t>(block);
  }

  /// Appends a run of the high plane to those of a tile, in two parts if its pairs exceed their limit; group_high_runs() brings them in order.
  [[gnu::always_inline]] void append_high_run(std::size_t tile, std::size_t lane, std::size_t place, const std::int8_t (&plane)[4]) const noexcept {
    const int first = plane[0] + plane[1], second = plane[2] + plane[3];
    const int parts = layout.pairs && (first > pair_limit || first < -pair_limit || second > pair_limit || second < -pair_limit) ? 2 : 1;
    for (int part = 0; part < parts; ++part) {
      HighRun& run = first_run(tile)[high_counts[tile]++];
      run.place = static_cast<std::uint16_t>(place);
      run.lane = static_cast<std::uint16_t>(lane);
      for (int i = 0; i < 4; ++i) run.plane[i] = static_cast<std::int8_t>(part == 0 ? plane[i] / parts : plane[i] - plane[i] / parts);
    }
  }

private:
  static constexpr std::size_t alignment = 64;
  static constexpr std::size_t tiles_of(std::size_t tokens, TokenLayout layout) noexcept { return (tokens + layout.lanes - 1) / layout.lanes; }
  static constexpr std::size_t high_limit_of(std::size_t columns, TokenLayout layout, Scaling scaling) noexcept {
    if (layout.width != 1 || scaling != Scaling::token) return 0;
    const std::size_t units = high_units_of(columns);
    return layout.runs ? (layout.pairs ? padded_columns(columns) / 4 : 0) + 4 * units : units; // a unit has columns in up to four runs
  }
  static constexpr std::size_t scales_of(std::size_t columns, Scaling scaling) noexcept {
    return scaling == Scaling::token ? 1 : padded_columns(columns) / code_block;
  }
  static constexpr std::size_t aligned(std::size_t size) noexcept { return (size + alignment - 1) / alignment * alignment; }
};

} // namespace lsaq::inline v0
