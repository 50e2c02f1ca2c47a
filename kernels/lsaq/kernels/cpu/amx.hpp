// Integer products for x86-64 with AMX (Sapphire Rapids and later): tdpbsud multiplies 16 tokens' rows of 64 signed bytes with 64 columns of 16 rows of unsigned
// codes at once, four times what vpdpbusd does in that time.
//
// Few tokens are avx512vnni's. Of many, 32 tokens at a time meet the two panels that it unpacks, four tiles of sums that stay in registers over a panel's depth;
// tokens are plain rows.
//
// The instructions are written out: GCC 12's intrinsics don't say what memory they read, and need no flags this way.
#pragma once

#include <lsaq/kernels/cpu/avx512vnni.hpp>

#if LSAQ_X86
#define LSAQ_AMX [[gnu::target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vbmi,avx2,fma,f16c")]] inline
#define LSAQ_AMX_HELPER [[gnu::target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vbmi,avx2,fma,f16c"), gnu::always_inline]] inline

namespace lsaq::inline v0::inline LSAQ_BASELINE::amx {

inline constexpr std::size_t amx_rows = 16;   ///< of a tile register
inline constexpr std::size_t amx_bytes = 64;  ///< of a row of it: columns of a token, or sums

/// What ldtilecfg loads: the shape of each tile register (Intel SDM, volume 1, 18.2).
struct TileShapes {
  std::uint8_t palette = 1, start_row = 0, reserved[14] = {};
  std::uint16_t row_bytes[16] = {};
  std::uint8_t rows[16] = {};
};
static_assert(sizeof(TileShapes) == 64);

/// Registers 0 and 1: sums of the first tokens by either panel, 2 and 3: of the next 16; 4 and 5: those tokens; 6 and 7: the panels.
LSAQ_AMX_HELPER void shape_tiles(std::size_t first_tokens, std::size_t next_tokens) noexcept {
  TileShapes shapes;
  const std::size_t rows[8] = {first_tokens, first_tokens, next_tokens, next_tokens, first_tokens, next_tokens, amx_rows, amx_rows};
  for (std::size_t i = 0; i < 8; ++i) {
    shapes.rows[i] = static_cast<std::uint8_t>(rows[i]);
    shapes.row_bytes[i] = rows[i] == 0 ? 0 : amx_bytes;
  }
  asm volatile("ldtilecfg %0" ::"m"(shapes));
}

#define LSAQ_TILE_LOAD(tile, from, stride) asm volatile("tileloadd (%0,%1,1), %%tmm" #tile ::"r"(from), "r"(stride) : "memory")
#define LSAQ_TILE_STORE(tile, to, stride) asm volatile("tilestored %%tmm" #tile ", (%0,%1,1)" ::"r"(to), "r"(stride) : "memory")
#define LSAQ_TILE_MULTIPLY(sums, tokens, panel) asm volatile("tdpbsud %%tmm" #panel ", %%tmm" #tokens ", %%tmm" #sums ::)

/// sums[t * 32 + r] += the products of up to 16, or with `Two` up to 32 tokens, rows `stride` bytes apart, with two panels of `depth` columns. As many tokens as
/// the registers are shaped for.
template <bool Two>
LSAQ_AMX_HELPER void multiply_tokens(const std::byte* panels, std::size_t depth, const std::byte* tokens, std::size_t stride, std::int32_t* sums) noexcept {
  constexpr std::size_t panel_bytes = amx_rows * avx512vnni::panel_depth, sums_stride = 4 * tile_rows;
  LSAQ_TILE_LOAD(0, sums, sums_stride);
  LSAQ_TILE_LOAD(1, sums + amx_rows, sums_stride);
  if constexpr (Two) {
    LSAQ_TILE_LOAD(2, sums + amx_rows * tile_rows, sums_stride);
    LSAQ_TILE_LOAD(3, sums + amx_rows * tile_rows + amx_rows, sums_stride);
  }
  for (std::size_t c = 0; c < depth; c += amx_bytes) {
    LSAQ_TILE_LOAD(6, panels + c * amx_rows, amx_bytes);
    LSAQ_TILE_LOAD(4, tokens + c, stride);
    LSAQ_TILE_MULTIPLY(0, 4, 6);
    LSAQ_TILE_LOAD(7, panels + panel_bytes + c * amx_rows, amx_bytes);
    LSAQ_TILE_MULTIPLY(1, 4, 7);
    if constexpr (Two) {
      LSAQ_TILE_LOAD(5, tokens + amx_rows * stride + c, stride);
      LSAQ_TILE_MULTIPLY(2, 5, 6);
      LSAQ_TILE_MULTIPLY(3, 5, 7);
    }
  }
  LSAQ_TILE_STORE(0, sums, sums_stride);
  LSAQ_TILE_STORE(1, sums + amx_rows, sums_stride);
  if constexpr (Two) {
    LSAQ_TILE_STORE(2, sums + amx_rows * tile_rows, sums_stride);
    LSAQ_TILE_STORE(3, sums + amx_rows * tile_rows + amx_rows, sums_stride);
  }
}

#undef LSAQ_TILE_LOAD
#undef LSAQ_TILE_STORE
#undef LSAQ_TILE_MULTIPLY

inline TokenLayout layout(unsigned bits, std::size_t tokens, Scaling scaling) noexcept {
  if (scaling == Scaling::block || tokens <= dot_tokens_max) return avx512vnni::layout(bits, tokens, scaling);
  return {.width = 1, .lanes = 1};
}

LSAQ_AMX void dot_tiles(const WeightRows& weights, std::size_t rows, const TokenCodes& tokens, std::size_t first, std::size_t end, std::int32_t* sums) noexcept {
  alignas(64) std::byte panels[2 * 16 * avx512vnni::panel_depth];
  const std::size_t padded = padded_columns(tokens.columns), chunk = even_chunk(padded, avx512vnni::panel_depth), count = end - first;
  std::uint32_t high_done[largest_pass_of_tokens] = {};
  for (std::size_t t = 0; t < count; ++t) { // the 2^(bits-1) that codes have too much, off from the start
    const __m512i start = _mm512_set1_epi32(-(tokens.sums[first + t] << (weights.format.bits - 1)));
    _mm512_storeu_si512(sums + t * tile_rows, start);
    _mm512_storeu_si512(sums + t * tile_rows + 16, start);
  }
  for (std::size_t column = 0; column < padded; column += chunk) {
    const std::size_t depth = padded - column < chunk ? padded - column : chunk;
    avx512vnni::fill_panels(weights, rows, column, depth, panels);
    shape_tiles(amx_rows, amx_rows);
    std::size_t t = 0;
    for (; t + 2 * amx_rows <= count; t += 2 * amx_rows) multiply_tokens<true>(panels, depth, tokens.tile(first + t) + column, padded, sums + t * tile_rows);
    if (const std::size_t left = count - t; left != 0) {
      shape_tiles(left < amx_rows ? left : amx_rows, left > amx_rows ? left - amx_rows : 0);
      if (left > amx_rows)
        multiply_tokens<true>(panels, depth, tokens.tile(first + t) + column, padded, sums + t * tile_rows);
      else
        multiply_tokens<false>(panels, depth, tokens.tile(first + t) + column, padded, sums + t * tile_rows);
    }
    for (t = 0; t < count; ++t) avx512vnni::multiply_high(panels, column, column + depth, tokens, first + t, high_done[t], sums + t * tile_rows);
  }
  asm volatile("tilerelease" ::: "memory");
}

inline constexpr IntegerKernels integer_kernels{layout, avx2::unit_maxima, avx512vnni::place, avx512vnni::dot_rows,
                                                dot_tiles, avx512vnni::dot_blocks, avx512vnni::finish};

inline constexpr CpuKernels kernels = with_integer_products(avx512::kernels, Isa::amx, integer_kernels);

} // namespace lsaq::inline v0::inline LSAQ_BASELINE::amx

#undef LSAQ_AMX
#undef LSAQ_AMX_HELPER
#endif
