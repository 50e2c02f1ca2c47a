// Integer products for x86-64 with AVX-VNNI and no AVX-512 (Alder Lake, Sierra Forest and later): vpdpbusd multiplies 32 unsigned codes with 32 signed bytes of
// a token at once. Everything else is AVX2's; what is added to codes (2^(bits-1)) is taken off at the end, as so often the sum of q.
//
// Few tokens: rows of weights, four of them far apart so that memory sees four streams, by rows of tokens.
// Many tokens: 32 rows are unpacked into four panels in the first-level cache, bytes [column / 4][row][column % 4], of which two at a time meet tiles of up to
// 6 tokens, [column / 4][token][column % 4]: 12 sums in registers, every token's four bytes broadcast.
#pragma once

#include <lsaq/kernels/cpu/avx2.hpp>

#if LSAQ_X86
#define LSAQ_AVX2 [[gnu::target("avx2,fma,f16c")]] inline
#define LSAQ_AVX2_HELPER [[gnu::target("avx2,fma,f16c"), gnu::always_inline]] inline
#define LSAQ_AVX2_KERNEL [[gnu::target("avx2,fma,f16c"), gnu::noinline]] inline // a loop whose registers the compiler should not share with others

namespace lsaq::inline v0::inline LSAQ_BASELINE::avxvnni {

/// The bytes vpdpbusd is written in: those of AVX-VNNI, or those that machines with AVX-512 VNNI and VL run, so that these can test the rest.
enum class Encoding : std::uint8_t { vex, evex };

inline constexpr std::size_t tile_lanes = 6;
using avx2::panel_bytes;
using avx2::panels_of;
inline constexpr std::size_t panel_depth = panel_bytes / 8; ///< columns of a panel of 8 rows

inline TokenLayout layout(unsigned bits, std::size_t tokens, Scaling scaling) noexcept {
  if (scaling == Scaling::token && tokens > dot_tokens_max) return {.width = 1, .lanes = tile_lanes, .step = avx2::step_of(bits), .runs = true};
  const std::size_t most = scaling == Scaling::token ? 1 : tile_lanes;
  return {.width = 1, .lanes = std::clamp<std::size_t>(tokens, 1, most), .step = avx2::step_of(bits)};
}

/// sum += products of four unsigned codes with four signed bytes in every lane. Written out since an intrinsic would have one encoding only.
template <Encoding E> LSAQ_AVX2_HELPER void dot(__m256i& sum, __m256i codes, __m256i q) noexcept {
  if constexpr (E == Encoding::vex)
    asm("%{vex%} vpdpbusd {%2, %1, %0|%0, %1, %2}" : "+x"(sum) : "x"(codes), "x"(q));
  else
    asm("%{evex%} vpdpbusd {%2, %1, %0|%0, %1, %2}" : "+x"(sum) : "x"(codes), "x"(q));
}

/// Codes of 2 to 8 bits, as bytes beside the tokens' planes.
template <Encoding E, unsigned Bits> struct DotStep {
  static constexpr unsigned bits = Bits;
  static constexpr bool planes = true;
  static constexpr std::size_t token_bytes = 1;
  static constexpr std::size_t columns = 32, loaded = avx2::bytes_loaded_of_32(Bits);

  LSAQ_AVX2_HELPER static __m256i codes(const std::byte* in) noexcept { return avx2::codes32<Bits>(in); }
  LSAQ_AVX2_HELPER static void multiply(__m256i& sum, __m256i codes, __m256i q) noexcept { dot<E>(sum, codes, q); }

  template <int T>
  LSAQ_AVX2_HELPER static void add(const std::byte* const (&row)[row_streams], const std::byte* const (&q)[T], std::size_t steps,
                                   __m256i (&sum)[row_streams][T]) noexcept {
    avx2::add_steps<DotStep>(row, q, steps, sum);
  }

  LSAQ_AVX2_HELPER static void add_high(__m256i& sum, const std::byte* in, const std::int8_t* high) noexcept {
    __m256i product = _mm256_setzero_si256();
    dot<E>(product, codes(in), avx2::load_bytes(high));
    sum = _mm256_add_epi32(sum, _mm256_slli_epi32(product, 7));
  }

  LSAQ_AVX2_HELPER static __m256i block(const std::byte* in, const std::byte* q) noexcept {
    __m256i sum = _mm256_setzero_si256();
    dot<E>(sum, codes(in), avx2::load_bytes(q));
    return sum;
  }
};

template <Encoding E> struct Steps { template <unsigned Bits> using Of = DotStep<E, Bits>; };

/// N tokens of a tile by two panels' columns [first, end): added to a and b.
template <Encoding E, int N>
LSAQ_AVX2_HELPER void multiply(const std::byte* panels, std::size_t first, std::size_t end, const std::byte* tile, std::size_t lanes, __m256i (&a)[N],
                               __m256i (&b)[N]) noexcept {
  for (std::size_t c = first; c < end; c += 4) {
    const __m256i w0 = avx2::load_bytes(panels + c * 8), w1 = avx2::load_bytes(panels + panel_bytes + c * 8);
#pragma GCC unroll 6
    for (int t = 0; t < N; ++t) {
      const __m256i q = avx2::broadcast(tile + c * lanes + 4 * static_cast<std::size_t>(t));
      dot<E>(a[t], w0, q);
      dot<E>(b[t], w1, q);
    }
  }
}

/// N tokens of a tile by two panels of `depth` columns: sums[t * 32 + r], from -start[t] * 2^(bits-1) where `first`, else added to.
template <Encoding E, int N>
LSAQ_AVX2_KERNEL void multiply_tile(const std::byte* panels, std::size_t depth, unsigned bits, const std::byte* tile, const std::int32_t* start, bool first,
                                    std::int32_t* sums) noexcept {
  __m256i a[N], b[N];
  avx2::load_sums(sums, first, start, bits, a, b);
  multiply<E>(panels, 0, depth, tile, tile_lanes, a, b);
  avx2::store_sums(sums, a, b);
}

/// sums[lane * 32 + r] += 128 * the products of a tile's high planes with 8 x Panels rows' columns [column, end).
template <Encoding E, int Panels>
LSAQ_AVX2_HELPER void multiply_high(const std::byte* panels, std::size_t column, std::size_t end, const TokenCodes& tokens, std::size_t tile,
                                    std::int32_t* sums) noexcept {
  for (const HighRun& run : tokens.runs_of(tile, column, end)) {
    const std::byte* const w = panels + (run.place * std::size_t{4} - column) * 8;
    const __m256i q = avx2::broadcast(run.plane);
    std::int32_t* const out = sums + run.lane * tile_rows;
#pragma GCC unroll 4
    for (std::size_t p = 0; p < Panels; ++p) {
      __m256i product = _mm256_setzero_si256();
      dot<E>(product, avx2::load_bytes(w + p * panel_bytes), q);
      avx2::store_bytes(out + 8 * p, _mm256_add_epi32(avx2::load_bytes(out + 8 * p), _mm256_slli_epi32(product, 7)));
    }
  }
}

template <Encoding E>
LSAQ_AVX2 void dot_tiles(const WeightRows& weights, std::size_t rows, const TokenCodes& tokens, std::size_t first_tile, std::size_t end_tile,
                         std::int32_t* sums, const RowOutputs& outputs) noexcept {
  static constexpr decltype(&multiply_tile<E, 4>) of_count[] = {multiply_tile<E, 4>, multiply_tile<E, 5>, multiply_tile<E, 6>};
  alignas(64) std::byte panels[4 * panel_bytes];
  const unsigned bits = weights.format.bits;
  const std::size_t padded = padded_columns(tokens.columns), chunk = even_chunk(padded, panel_depth), first_token = tokens.first_of(first_tile);
  for (std::size_t column = 0; column < padded; column += chunk) {
    const std::size_t depth = padded - column < chunk ? padded - column : chunk;
    avx2::fill_panels_by<Steps<E>::template Of>(weights, rows, column, depth, panels);
    for (std::size_t tile = first_tile; tile < end_tile; ++tile) {
      const std::size_t token = tokens.first_of(tile), count = tokens.first_of(tile + 1) - token; // 16 tokens and more make tiles of 4 to 6
      std::int32_t* const out = sums + (token - first_token) * tile_rows;
      for (std::size_t part = 0; part < panels_of(rows); part += 2)
        of_count[count - 4](panels + part * panel_bytes, depth, bits, tokens.tile(tile) + column * tile_lanes, tokens.sums + token, column == 0,
                            out + 8 * part);
      if (rows > 16)
        multiply_high<E, 4>(panels, column, column + depth, tokens, tile, out);
      else
        multiply_high<E, 2>(panels, column, column + depth, tokens, tile, out);
      if (column + depth == padded) avx2::finish(out, tile_rows, rows, count, tokens.scales + token, outputs.row_scales, outputs.of(token), outputs.stride);
    }
  }
}

/// N tokens of a tile by two panels of `depth` columns from `column` on, block by block: sums[t * 32 + r], added to unless column is 0.
template <Encoding E, int N>
LSAQ_AVX2_KERNEL void multiply_blocks(const std::byte* panels, std::size_t column, std::size_t depth, unsigned bits, const std::byte* tile, std::size_t lanes,
                                      const float* token_scales, const std::int32_t* start, std::size_t scales_per_token, const PanelScales& scales,
                                      float* sums) noexcept {
  PanelScales::Walk walk(scales, column);
  for (std::size_t first = 0; first < depth; first += code_block, walk.next()) {
    const std::size_t block = (column + first) / code_block;
    __m256i a[N], b[N];
#pragma GCC unroll 6
    for (int t = 0; t < N; ++t) a[t] = b[t] = _mm256_set1_epi32(-(start[static_cast<std::size_t>(t) * scales_per_token + block] << (bits - 1)));
    multiply<E>(panels, first, first + code_block, tile, lanes, a, b);
    const float* const row_scales = walk.here();
    const __m256 s0 = _mm256_loadu_ps(row_scales), s1 = _mm256_loadu_ps(row_scales + 8);
    const bool begins = column + first == 0;
#pragma GCC unroll 6
    for (int t = 0; t < N; ++t) {
      const __m256 scale = _mm256_set1_ps(token_scales[static_cast<std::size_t>(t) * scales_per_token + block]);
      float* const out = sums + t * static_cast<int>(tile_rows);
      const __m256 before0 = begins ? _mm256_setzero_ps() : _mm256_loadu_ps(out), before1 = begins ? _mm256_setzero_ps() : _mm256_loadu_ps(out + 8);
      _mm256_storeu_ps(out, _mm256_fmadd_ps(_mm256_cvtepi32_ps(a[t]), _mm256_mul_ps(s0, scale), before0));
      _mm256_storeu_ps(out + 8, _mm256_fmadd_ps(_mm256_cvtepi32_ps(b[t]), _mm256_mul_ps(s1, scale), before1));
    }
  }
}

template <Encoding E>
LSAQ_AVX2 void dot_blocks(const WeightRows& weights, std::size_t rows, const TokenCodes& tokens, std::size_t first_tile, std::size_t end_tile,
                          std::size_t column, std::size_t end, const PanelScales& scales, float* sums) noexcept {
  static constexpr decltype(&multiply_blocks<E, 1>) of_count[] = {multiply_blocks<E, 1>, multiply_blocks<E, 2>, multiply_blocks<E, 3>,
                                                                  multiply_blocks<E, 4>, multiply_blocks<E, 5>, multiply_blocks<E, 6>};
  if (tokens.tokens == 1) return avx2::dot_block_rows_by<Steps<E>::template Of>(weights, rows, tokens, column, end, scales, sums);
  alignas(64) std::byte panels[4 * panel_bytes];
  const std::size_t lanes = tokens.layout.lanes, per_token = tokens.scales_per_token;
  const std::size_t chunk = even_chunk(end - column, panel_depth), first_token = tokens.first_of(first_tile);
  for (; column < end; column += chunk) {
    const std::size_t depth = end - column < chunk ? end - column : chunk;
    avx2::fill_panels_by<Steps<E>::template Of>(weights, rows, column, depth, panels);
    for (std::size_t tile = first_tile; tile < end_tile; ++tile) {
      const std::size_t token = tokens.first_of(tile), count = tokens.first_of(tile + 1) - token;
      for (std::size_t part = 0; part < panels_of(rows); part += 2)
        of_count[count - 1](panels + part * panel_bytes, column, depth, weights.format.bits, tokens.tile(tile) + column * lanes, lanes,
                            tokens.scales + token * per_token, tokens.sums + token * per_token, per_token, part == 0 ? scales : scales.upper(),
                            sums + (token - first_token) * tile_rows + 8 * part);
    }
  }
}

template <Encoding E>
inline constexpr IntegerKernels integer_kernels{layout,       avx2::unit_maxima, avx2::place, avx2::dot_rows_by<Steps<E>::template Of>,
                                                dot_tiles<E>, dot_blocks<E>,     avx2::finish};

inline constexpr CpuKernels kernels = with_integer_products(avx2::kernels, Isa::avxvnni, integer_kernels<Encoding::vex>);

} // namespace lsaq::inline v0::inline LSAQ_BASELINE::avxvnni

#undef LSAQ_AVX2
#undef LSAQ_AVX2_HELPER
#undef LSAQ_AVX2_KERNEL
#endif
