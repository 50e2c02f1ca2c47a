// Integer products for x86-64 with AVX-VNNI and no AVX-512 (Alder Lake, Sierra Forest and later): vpdpbusd multiplies 32 unsigned codes with 32 signed bytes of
// a token at once. Everything else is AVX2's; what is added to codes (2^(bits-1)) is taken off at the end, as so often the sum of q.
//
// Few tokens: rows of weights, four of them far apart so that memory sees four streams, by rows of tokens.
// Many tokens: 16 rows are unpacked into two panels in the first-level cache, bytes [column / 4][row][column % 4], and meet tiles of up to 6 tokens,
// [column / 4][token][column % 4]: 12 sums in registers, every token's four bytes broadcast.
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
inline constexpr std::size_t panel_depth = 1024; ///< columns of a panel of 8 rows: two of them fill half of a first-level cache
using avx2::panel_bytes;
static_assert(panel_bytes == 8 * panel_depth);

inline TokenLayout layout(unsigned bits, std::size_t tokens, Scaling scaling) noexcept {
  const std::size_t lanes = scaling == Scaling::block ? std::clamp<std::size_t>(tokens, 1, tile_lanes) : tokens <= dot_tokens_max ? 1 : tile_lanes;
  return {.width = 1, .lanes = lanes, .step = avx2::step_of(bits)};
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
  static constexpr std::size_t columns = 32, loaded = avx2::bytes_loaded_of_32(Bits), most = std::size_t{1} << 32;

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
#pragma GCC unroll 6
  for (int t = 0; t < N; ++t) {
    const std::int32_t* const out = sums + t * static_cast<int>(tile_rows);
    a[t] = first ? _mm256_set1_epi32(-(start[t] << (bits - 1))) : avx2::load_bytes(out);
    b[t] = first ? a[t] : avx2::load_bytes(out + 8);
  }
  multiply<E>(panels, 0, depth, tile, tile_lanes, a, b);
  avx2::store_sums(sums, a, b);
}

/// sums[r] += 128 * the products of a token's high plane with two panels of columns [column, end): blocks from `done` on, which moves.
template <Encoding E>
LSAQ_AVX2_HELPER void multiply_high(const std::byte* panels, std::size_t column, std::size_t end, const TokenCodes& tokens, std::size_t token,
                                    std::uint32_t& done, std::int32_t* sums) noexcept {
  const std::size_t slots = token * tokens.high_limit, count = tokens.high_counts[token];
  if (done == count || tokens.high_blocks[slots + done] * code_block >= end) return;
  __m256i a = _mm256_setzero_si256(), b = a;
  for (; done < count && tokens.high_blocks[slots + done] * code_block < end; ++done) {
    const std::byte* const w = panels + (tokens.high_blocks[slots + done] * code_block - column) * 8;
    const std::int8_t* const high = tokens.high + (slots + done) * code_block;
    for (unsigned runs = runs_of_units(tokens.high_units[slots + done], tokens.layout.step); runs != 0; runs &= runs - 1) {
      const auto c = 4 * static_cast<std::size_t>(__builtin_ctz(runs));
      const __m256i q = avx2::broadcast(reinterpret_cast<const std::byte*>(high + c));
      dot<E>(a, avx2::load_bytes(w + 8 * c), q);
      dot<E>(b, avx2::load_bytes(w + panel_bytes + 8 * c), q);
    }
  }
  avx2::store_bytes(sums, _mm256_add_epi32(avx2::load_bytes(sums), _mm256_slli_epi32(a, 7)));
  avx2::store_bytes(sums + 8, _mm256_add_epi32(avx2::load_bytes(sums + 8), _mm256_slli_epi32(b, 7)));
}

/// dot_tiles() of at most 16 rows.
template <Encoding E>
LSAQ_AVX2 void dot_half(const WeightRows& weights, std::size_t rows, const TokenCodes& tokens, std::size_t first_tile, std::size_t end_tile,
                        std::int32_t* sums) noexcept {
  alignas(64) std::byte panels[2 * panel_bytes];
  const std::size_t padded = padded_columns(tokens.columns), chunk = even_chunk(padded, panel_depth), first_token = tokens.first_of(first_tile);
  std::uint32_t high_done[largest_pass_of_tokens] = {};
  for (std::size_t column = 0; column < padded; column += chunk) {
    const std::size_t depth = padded - column < chunk ? padded - column : chunk;
    avx2::fill_panels_by<Steps<E>::template Of>(weights, rows, column, depth, panels);
    for (std::size_t tile = first_tile; tile < end_tile; ++tile) {
      const std::size_t token = tokens.first_of(tile), count = tokens.first_of(tile + 1) - token;
      const std::byte* const q = tokens.tile(tile) + column * tile_lanes;
      std::int32_t* out = sums + (token - first_token) * tile_rows;
      switch (count) { // 16 tokens and more make tiles of 4 to 6
      case 6: multiply_tile<E, 6>(panels, depth, weights.format.bits, q, tokens.sums + token, column == 0, out); break;
      case 5: multiply_tile<E, 5>(panels, depth, weights.format.bits, q, tokens.sums + token, column == 0, out); break;
      default: multiply_tile<E, 4>(panels, depth, weights.format.bits, q, tokens.sums + token, column == 0, out); break;
      }
      for (std::size_t t = token; t < token + count; ++t, out += tile_rows)
        multiply_high<E>(panels, column, column + depth, tokens, t, high_done[t - first_token], out);
    }
  }
}

template <Encoding E>
LSAQ_AVX2 void dot_tiles(const WeightRows& weights, std::size_t rows, const TokenCodes& tokens, std::size_t first_tile, std::size_t end_tile,
                         std::int32_t* sums) noexcept {
  dot_half<E>(weights, rows < 16 ? rows : 16, tokens, first_tile, end_tile, sums);
  if (rows > 16) dot_half<E>(weights.from(16), rows - 16, tokens, first_tile, end_tile, sums + 16);
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

/// dot_blocks() of at most 16 rows.
template <Encoding E>
LSAQ_AVX2 void dot_half_blocks(const WeightRows& weights, std::size_t rows, const TokenCodes& tokens, std::size_t first_tile, std::size_t end_tile,
                               std::size_t column, std::size_t end, const PanelScales& scales, float* sums) noexcept {
  static constexpr decltype(&multiply_blocks<E, 1>) of_count[] = {multiply_blocks<E, 1>, multiply_blocks<E, 2>, multiply_blocks<E, 3>,
                                                                  multiply_blocks<E, 4>, multiply_blocks<E, 5>, multiply_blocks<E, 6>};
  alignas(64) std::byte panels[2 * panel_bytes];
  const std::size_t lanes = tokens.layout.lanes, per_token = tokens.scales_per_token;
  const std::size_t chunk = even_chunk(end - column, panel_depth), first_token = tokens.first_of(first_tile);
  for (; column < end; column += chunk) {
    const std::size_t depth = end - column < chunk ? end - column : chunk;
    avx2::fill_panels_by<Steps<E>::template Of>(weights, rows, column, depth, panels);
    for (std::size_t tile = first_tile; tile < end_tile; ++tile) {
      const std::size_t token = tokens.first_of(tile);
      of_count[tokens.first_of(tile + 1) - token - 1](panels, column, depth, weights.format.bits, tokens.tile(tile) + column * lanes, lanes,
                                                      tokens.scales + token * per_token, tokens.sums + token * per_token, per_token, scales,
                                                      sums + (token - first_token) * tile_rows);
    }
  }
}

template <Encoding E>
LSAQ_AVX2 void dot_blocks(const WeightRows& weights, std::size_t rows, const TokenCodes& tokens, std::size_t first_tile, std::size_t end_tile,
                          std::size_t column, std::size_t end, const PanelScales& scales, float* sums) noexcept {
  if (tokens.tokens == 1) return avx2::dot_block_rows_by<Steps<E>::template Of>(weights, rows, tokens, column, end, scales, sums);
  dot_half_blocks<E>(weights, rows < 16 ? rows : 16, tokens, first_tile, end_tile, column, end, scales, sums);
  if (rows > 16) dot_half_blocks<E>(weights.from(16), rows - 16, tokens, first_tile, end_tile, column, end, scales.upper(), sums + 16);
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
