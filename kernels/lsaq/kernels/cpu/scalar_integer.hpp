// The oracle of the integer products: the plainest loops that say what they compute, and what the other paths do with odd pieces.
#pragma once

#include <lsaq/kernels/cpu/integer_kernels.hpp>
#include <lsaq/kernels/cpu/scalar.hpp>

namespace lsaq::inline v0::inline LSAQ_BASELINE::scalar {

inline TokenLayout layout(unsigned, std::size_t, Scaling) noexcept { return {.width = 2, .lanes = 1}; }

inline void unit_maxima(const float* x, std::size_t columns, std::uint32_t* maxima) noexcept {
  for (std::size_t first = 0; first < columns; first += code_unit) *maxima++ = magnitude_bits(x + first, std::min(code_unit, columns - first));
}

/// Writes the codes of the block of columns that begins with `first` to a lane, of which it is the low plane where they are bytes.
inline void place_codes(const int (&q)[code_block], std::size_t first, std::byte* tile, std::size_t lane, TokenLayout layout) noexcept {
  const std::size_t run = layout.run / layout.width; // columns a token has in turn
  for (std::size_t i = 0; i < code_block; ++i) {
    const std::size_t column = layout.position(first + i);
    const auto whole = static_cast<std::int16_t>(q[i]);
    std::memcpy(tile + ((column / run * layout.lanes + lane) * run + column % run) * layout.width, &whole, layout.width); // the lower byte comes first
  }
}

inline void place(const float* x, const float* inverse_scales, std::size_t tile, std::size_t lane, const TokenCodes& codes) noexcept {
  const std::size_t token = codes.first_of(tile) + lane;
  const std::size_t padded = padded_columns(codes.columns);
  std::fill_n(codes.sums + token * codes.scales_per_token, codes.scales_per_token, 0);
  for (std::size_t first = 0; first < padded; first += code_block) {
    int q[code_block] = {};
    const std::size_t scale = codes.scales_per_token == 1 ? 0 : first / code_block;
    std::int32_t& sum = codes.sums[token * codes.scales_per_token + scale];
    for (std::size_t i = 0; i < code_block && first + i < codes.columns; ++i) sum += q[i] = round_half_even(x[first + i] * inverse_scales[scale]);
    place_codes(q, first, codes.tile(tile), lane, codes.layout);
  }
}

/// sum of (code + offset) x (what a token's lane holds at its place), for columns of one row; of the low plane or of whole codes.
inline void dot_rows(const WeightRows& weights, std::size_t rows, const TokenCodes& tokens, std::int32_t* sums, std::size_t stride) noexcept {
  const unsigned bits = weights.format.bits;
  for (std::size_t t = 0; t < tokens.tokens; ++t)
    for (std::size_t r = 0; r < rows; ++r) {
      std::int32_t sum = 0;
      for (std::size_t c = 0; c < tokens.columns; ++c) {
        std::int16_t q;
        std::memcpy(&q, tokens.tile(t) + 2 * c, sizeof q);
        sum += (static_cast<int>(unpack_code(weights.row(r), bits, c)) - (1 << (bits - 1))) * q;
      }
      sums[t * stride + r] = sum;
    }
}

inline void dot_blocks(const WeightRows& weights, std::size_t rows, const TokenCodes& tokens, std::size_t first_tile, std::size_t end_tile, std::size_t column,
                       std::size_t end, const PanelScales& scales, float* sums) noexcept {
  const unsigned bits = weights.format.bits;
  for (std::size_t t = first_tile; t < end_tile; ++t)
    for (std::size_t r = 0; r < rows; ++r) {
      float& total = sums[(t - first_tile) * tile_rows + r];
      if (column == 0) total = 0;
      for (std::size_t first = column; first < std::min(end, tokens.columns); first += code_block) {
        std::int32_t sum = 0;
        for (std::size_t c = first; c < std::min(first + code_block, tokens.columns); ++c) {
          std::int16_t q;
          std::memcpy(&q, tokens.tile(t) + 2 * c, sizeof q);
          sum += (static_cast<int>(unpack_code(weights.row(r), bits, c)) - (1 << (bits - 1))) * q;
        }
        const float row_scale = (r < 16 ? scales : scales.upper()).at(first)[r % 16];
        total = std::fma(static_cast<float>(sum), row_scale * tokens.scales[t * tokens.scales_per_token + first / code_block], total);
      }
    }
}

inline void finish(const std::int32_t* sums, std::size_t stride, std::size_t rows, std::size_t tokens, const float* token_scales, const float* row_scales,
                   float* y, std::size_t y_stride) noexcept {
  for (std::size_t t = 0; t < tokens; ++t)
    for (std::size_t r = 0; r < rows; ++r) y[t * y_stride + r] = static_cast<float>(sums[t * stride + r]) * token_scales[t] * row_scales[r];
}

/// Rows are all this path has.
inline void dot_tiles(const WeightRows& weights, std::size_t rows, const TokenCodes& tokens, std::size_t first_tile, std::size_t end_tile, std::int32_t* sums,
                      const RowOutputs& outputs) noexcept {
  TokenCodes part = tokens;
  part.tokens = end_tile - first_tile;
  part.low = tokens.tile(first_tile);
  dot_rows(weights, rows, part, sums, tile_rows);
  finish(sums, tile_rows, rows, part.tokens, tokens.scales + first_tile, outputs.row_scales, outputs.of(first_tile), outputs.stride);
}

inline constexpr IntegerKernels integer_kernels{layout, unit_maxima, place, dot_rows, dot_tiles, dot_blocks, finish};

inline constexpr CpuKernels kernels{Isa::scalar,     widen,    widen_codes, narrow_f16, magnitude_bits, quantize,         extremes,
                                    quantize_packed, dot_rows, unpack,      product,    above,          &integer_kernels, &decoder_kernels};

} // namespace lsaq::inline v0::inline LSAQ_BASELINE::scalar
