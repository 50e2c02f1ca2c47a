// Integer products for x86-64 with AMX (Sapphire Rapids and later): tdpbsud multiplies 16 tokens' rows of 64 signed bytes with 64 columns of 16 rows of
// unsigned codes at once, eight times what vpdpbusd does in that time.
//
// Few tokens are avx512vnni's. Of many, two tiles of up to 16 tokens at a time, [column / 64][token][column % 64], meet the two panels that it unpacks: four
// tile registers of sums, which stay over a panel's depth, two of tokens and two of codes.
//
// The instructions are written out: this way they need no flags, and GCC 12 loses part of what its intrinsics load.
#pragma once

#include <lsaq/kernels/cpu/avx512vnni.hpp>

#if LSAQ_X86
#define LSAQ_AMX [[gnu::target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vbmi,avx2,fma,f16c")]] inline
#define LSAQ_AMX_HELPER [[gnu::target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vbmi,avx2,fma,f16c"), gnu::always_inline]] inline

namespace lsaq::inline v0::inline LSAQ_BASELINE::amx {

inline constexpr std::size_t tile_tokens = 16; ///< rows of a tile register
inline constexpr std::size_t row_bytes = 64;   ///< of its rows: columns of a token, or sums by 16 rows of weights

inline constexpr std::size_t panel_depth = 2048;             ///< columns of a panel: second-level caches keep up, and sums move half as often
inline constexpr std::size_t panel_bytes = 16 * panel_depth; ///< from one panel to the other

/// What ldtilecfg loads: the shape of each tile register (Intel SDM, volume 1, 18.2).
struct TileShapes {
  std::uint8_t palette = 1, start_row = 0, reserved[14] = {};
  std::uint16_t row_bytes[16] = {};
  std::uint8_t rows[16] = {};
};
static_assert(sizeof(TileShapes) == 64);

/// How many tokens two tiles have; the second may be missing.
struct TokenCounts {
  std::size_t first = 0, second = 0;
  friend constexpr bool operator==(TokenCounts, TokenCounts) = default;
};

/// Registers 0 and 1: sums of the first tile of tokens by either panel, 2 and 3: of the second; 4 and 5: the tokens; 6 and 7: the panels.
[[gnu::always_inline]] inline void shape_registers(TokenCounts tokens) noexcept {
  TileShapes shapes;
  const std::size_t rows[8] = {tokens.first, tokens.first, tokens.second, tokens.second, tokens.first, tokens.second, tile_tokens, tile_tokens};
  for (std::size_t i = 0; i < 8; ++i) {
    shapes.rows[i] = static_cast<std::uint8_t>(rows[i]);
    shapes.row_bytes[i] = rows[i] == 0 ? 0 : row_bytes;
  }
  asm volatile("ldtilecfg %0" ::"m"(shapes));
}

#define LSAQ_TILE_LOAD(tile, from, stride) asm volatile("tileloadd (%0,%1,1), %%tmm" #tile ::"r"(from), "r"(stride) : "memory")
#define LSAQ_TILE_STORE(tile, to, stride) asm volatile("tilestored %%tmm" #tile ", (%0,%1,1)" ::"r"(to), "r"(stride) : "memory")
#define LSAQ_TILE_MULTIPLY(sums, tokens, panel) asm volatile("tdpbsud %%tmm" #panel ", %%tmm" #tokens ", %%tmm" #sums ::)

/// sums[t * 32 + r] += the products of the tokens of one tile, or with `Two` those of the next one too, with two panels of `depth` columns.
template <bool Two>
LSAQ_AMX_HELPER void multiply_tiles(const std::byte* panels, std::size_t depth, const std::byte* first, const std::byte* second, std::int32_t* first_sums,
                                    std::int32_t* second_sums) noexcept {
  constexpr std::size_t stride = sizeof(std::int32_t) * tile_rows;
  LSAQ_TILE_LOAD(0, first_sums, stride);
  LSAQ_TILE_LOAD(1, first_sums + 16, stride);
  if constexpr (Two) {
    LSAQ_TILE_LOAD(2, second_sums, stride);
    LSAQ_TILE_LOAD(3, second_sums + 16, stride);
  }
  for (std::size_t c = 0; c < depth; c += row_bytes) {
    LSAQ_TILE_LOAD(6, panels + c * 16, row_bytes);
    LSAQ_TILE_LOAD(4, first + c * tile_tokens, row_bytes);
    LSAQ_TILE_MULTIPLY(0, 4, 6);
    LSAQ_TILE_LOAD(7, panels + panel_bytes + c * 16, row_bytes);
    LSAQ_TILE_MULTIPLY(1, 4, 7);
    if constexpr (Two) {
      LSAQ_TILE_LOAD(5, second + c * tile_tokens, row_bytes);
      LSAQ_TILE_MULTIPLY(2, 5, 6);
      LSAQ_TILE_MULTIPLY(3, 5, 7);
    }
  }
  LSAQ_TILE_STORE(0, first_sums, stride);
  LSAQ_TILE_STORE(1, first_sums + 16, stride);
  if constexpr (Two) {
    LSAQ_TILE_STORE(2, second_sums, stride);
    LSAQ_TILE_STORE(3, second_sums + 16, stride);
  }
}

#undef LSAQ_TILE_LOAD
#undef LSAQ_TILE_STORE
#undef LSAQ_TILE_MULTIPLY

inline TokenLayout layout(unsigned bits, std::size_t tokens, Scaling scaling) noexcept {
  if (scaling == Scaling::block || tokens <= dot_tokens_max) return avx512vnni::layout(bits, tokens, scaling);
  return {.width = 1, .lanes = tile_tokens, .run = row_bytes, .runs = true};
}

LSAQ_AMX void dot_tiles(const WeightRows& weights, std::size_t rows, const TokenCodes& tokens, std::size_t first_tile, std::size_t end_tile, std::int32_t* sums,
                        const RowOutputs& outputs) noexcept {
  alignas(64) std::byte panels[2 * panel_bytes];
  const std::size_t padded = padded_columns(tokens.columns), chunk = even_chunk(padded, panel_depth);
  const std::size_t first_token = tokens.first_of(first_tile), end_token = tokens.first_of(end_tile);
  for (std::size_t t = first_token; t < end_token; ++t) { // what the offset of the codes adds is off from the start
    const __m512i start = _mm512_set1_epi32(-(tokens.sums[t] << (weights.format.bits - 1)));
    _mm512_storeu_si512(sums + (t - first_token) * tile_rows, start);
    _mm512_storeu_si512(sums + (t - first_token) * tile_rows + 16, start);
  }
  TokenCounts shaped;
  for (std::size_t column = 0; column < padded; column += chunk) {
    const std::size_t depth = padded - column < chunk ? padded - column : chunk;
    avx512vnni::fill_panels(weights, rows, column, depth, panels, panel_bytes);
    for (std::size_t tile = first_tile; tile < end_tile; tile += 2) {
      const bool two = tile + 1 < end_tile;
      const std::size_t begin = tokens.first_of(tile), middle = tokens.first_of(tile + 1), end = two ? tokens.first_of(tile + 2) : middle;
      const TokenCounts counts{middle - begin, end - middle};
      if (counts != shaped) shape_registers(shaped = counts);
      const std::byte* const first = tokens.tile(tile) + column * tile_tokens;
      std::int32_t *const first_sums = sums + (begin - first_token) * tile_rows, *const second_sums = sums + (middle - first_token) * tile_rows;
      if (two)
        multiply_tiles<true>(panels, depth, first, tokens.tile(tile + 1) + column * tile_tokens, first_sums, second_sums);
      else
        multiply_tiles<false>(panels, depth, first, nullptr, first_sums, nullptr);
    }
    for (std::size_t tile = first_tile; tile < end_tile; ++tile) // after all products: what tile registers have stored cannot be read at once
      avx512vnni::multiply_high<panel_bytes>(panels, column, column + depth, tokens, tile, sums + (tokens.first_of(tile) - first_token) * tile_rows);
  }
  asm volatile("tilerelease" ::: "memory");
  avx512vnni::finish(sums, tile_rows, rows, end_token - first_token, tokens.scales + first_token, outputs.row_scales, outputs.of(first_token), outputs.stride);
}

inline constexpr IntegerKernels integer_kernels{layout,    avx2::unit_maxima,      avx512vnni::place, avx512vnni::dot_rows,
                                                dot_tiles, avx512vnni::dot_blocks, avx512vnni::finish};

inline constexpr CpuKernels kernels = with_integer_products(avx512::kernels, Isa::amx, integer_kernels);

} // namespace lsaq::inline v0::inline LSAQ_BASELINE::amx

#undef LSAQ_AMX
#undef LSAQ_AMX_HELPER
#endif
