// Integer products for AArch64 with the dot product extension of ARMv8.2 (Cortex-A76 and A55, Neoverse N1, Apple M1 and later): NEON's, with sdot.
#pragma once

#include <lsaq/kernels/cpu/neon.hpp>

#if LSAQ_ARM64
// GCC adds the extension to what its flags say, which has to be ARMv8.2 at least. Flags below that know no newer extensions than those named here, and
// functions can't be inlined into one that has fewer.
#if defined(__ARM_FEATURE_DOTPROD)
#define LSAQ_DOTPROD
#elif defined(__clang__)
#define LSAQ_DOTPROD [[gnu::target("dotprod")]]
#elif defined(__ARM_FEATURE_FP16_VECTOR_ARITHMETIC) || defined(__ARM_FEATURE_COMPLEX)
#define LSAQ_DOTPROD [[gnu::target("+dotprod")]]
#else
#define LSAQ_DOTPROD [[gnu::target("arch=armv8.2-a+crypto+dotprod")]]
#endif

namespace lsaq::inline v0::inline LSAQ_BASELINE::neon_dotprod {

template <unsigned Bits>
LSAQ_DOTPROD inline void multiply_rows(const WeightRows& weights, std::size_t rows, const TokenCodes& tokens, std::int32_t* sums, std::size_t stride) noexcept {
  neon::dot_rows_body<neon::Dot::instruction, Bits>(weights, rows, tokens, sums, stride);
}

template <int N>
LSAQ_DOTPROD inline void tile_of(const std::byte* panel, unsigned bits, std::size_t depth, const std::byte* tile, const std::int32_t* start, bool first,
                                 std::int32_t* sums) noexcept {
  neon::multiply_tile<neon::Dot::instruction, N>(panel, bits, depth, tile, start, first, sums);
}

LSAQ_DOTPROD inline void high_of(const std::byte* panel, std::size_t column, const std::int8_t* high, std::int32_t* sums) noexcept {
  neon::multiply_high<neon::Dot::instruction>(panel, column, high, sums);
}

template <int N>
LSAQ_DOTPROD inline void blocks_of(const std::byte* panel, unsigned bits, std::size_t column, std::size_t depth, const neon::BlockTile& from,
                                   const PanelScales& row_scales, std::size_t first_row, float* sums) noexcept {
  neon::multiply_blocks<neon::Dot::instruction, N>(panel, bits, column, depth, from, row_scales, first_row, sums);
}

inline constexpr neon::Products products{
    {multiply_rows<2>, multiply_rows<3>, multiply_rows<4>, multiply_rows<5>, multiply_rows<6>, multiply_rows<7>, multiply_rows<8>},
    {tile_of<1>, tile_of<2>, tile_of<3>, tile_of<4>, tile_of<5>, tile_of<6>, tile_of<7>, tile_of<8>},
    high_of,
    {blocks_of<1>, blocks_of<2>, blocks_of<3>, blocks_of<4>, blocks_of<5>, blocks_of<6>, blocks_of<7>, blocks_of<8>}};

inline void dot_rows_codes(const WeightRows& weights, std::size_t rows, const TokenCodes& tokens, std::int32_t* sums, std::size_t stride) noexcept {
  products.rows[weights.format.bits - 2](weights, rows, tokens, sums, stride);
}

inline void dot_tiles(const WeightRows& weights, std::size_t rows, const TokenCodes& tokens, std::size_t first_tile, std::size_t end_tile, std::int32_t* sums,
                      const RowOutputs& outputs) noexcept {
  neon::dot_tiles_by(products, weights, rows, tokens, first_tile, end_tile, sums, outputs);
}

inline void dot_blocks(const WeightRows& weights, std::size_t rows, const TokenCodes& tokens, std::size_t first_tile, std::size_t end_tile, std::size_t column,
                       std::size_t end, const PanelScales& scales, float* sums) noexcept {
  neon::dot_blocks_by(products, weights, rows, tokens, first_tile, end_tile, column, end, scales, sums);
}

inline constexpr IntegerKernels integer_kernels{neon::layout, neon::unit_maxima, neon::place, dot_rows_codes, dot_tiles, dot_blocks, neon::finish};

inline constexpr CpuKernels kernels = with_integer_products(neon::kernels, Isa::neon_dotprod, integer_kernels);

} // namespace lsaq::inline v0::inline LSAQ_BASELINE::neon_dotprod

#undef LSAQ_DOTPROD
#endif
