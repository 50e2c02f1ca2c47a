// Rows of packed codes by rows of tokens with AVX2: few tokens, every weight read once. A Step says how a register's codes are unpacked and multiplied; the
// rows of every instruction set with registers of 32 bytes are here.
#pragma once

#include <lsaq/kernels/cpu/avx2_tokens.hpp>

#include <array>
#include <type_traits>

#if LSAQ_X86
#define LSAQ_AVX2 [[gnu::target("avx2,fma,f16c")]] inline
#define LSAQ_AVX2_HELPER [[gnu::target("avx2,fma,f16c"), gnu::always_inline]] inline
#define LSAQ_AVX2_KERNEL [[gnu::target("avx2,fma,f16c"), gnu::noinline]] inline // a loop whose registers the compiler should not share with others

namespace lsaq::inline v0::inline LSAQ_BASELINE::avx2 {

/// 16 unsigned codes as 16 bits each, from 16 bytes; codes beyond the row are nothing in particular.
template <unsigned Bits> LSAQ_AVX2_HELPER __m256i wide16(const std::byte* in) noexcept {
  const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(in));
  if constexpr (Bits == 8) return _mm256_cvtepu8_epi16(bytes);
  // The two bytes that hold a code, its upper bits shifted out by a product, then the lower ones.
  alignas(32) static constexpr auto spread = [] {
    std::array<std::uint8_t, 32> at{};
    for (unsigned i = 0; i < 16; ++i) at[2 * i] = static_cast<std::uint8_t>(i * Bits / 8), at[2 * i + 1] = static_cast<std::uint8_t>(i * Bits / 8 + 1);
    return at;
  }();
  alignas(32) static constexpr auto factors = [] {
    std::array<std::uint16_t, 16> factor{};
    for (unsigned i = 0; i < 16; ++i) factor[i] = static_cast<std::uint16_t>(1u << (16 - Bits - i * Bits % 8));
    return factor;
  }();
  const __m256i pairs = _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(bytes), load_bytes(spread.data()));
  return _mm256_srli_epi16(_mm256_mullo_epi16(pairs, load_bytes(factors.data())), 16 - Bits);
}

/// 32 unsigned codes as bytes, from bytes_loaded_of_32(): in order, or sorted by step_of().
template <unsigned Bits> LSAQ_AVX2_HELPER __m256i codes32(const std::byte* in) noexcept {
  if constexpr (Bits == 8) {
    return load_bytes(in);
  } else if constexpr (Bits == 4) {
    const __m256i twice = _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(in)));
    return _mm256_and_si256(_mm256_srlv_epi64(twice, _mm256_setr_epi64x(0, 0, 4, 4)), _mm256_set1_epi8(15));
  } else if constexpr (Bits == 2) {
    const __m256i four_times = _mm256_broadcastq_epi64(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(in)));
    return _mm256_and_si256(_mm256_srlv_epi64(four_times, _mm256_setr_epi64x(0, 2, 4, 6)), _mm256_set1_epi8(3));
  } else {
    return narrow8(wide16<Bits>(in), wide16<Bits>(in + 2 * Bits));
  }
}

constexpr std::size_t bytes_loaded_of_32(unsigned bits) noexcept { return bits == 8 || bits == 4 || bits == 2 ? 4 * bits : 2 * bits + 16; }

inline constexpr std::size_t steps_at_once = 8; ///< of one Step::add()
static_assert(steps_at_once <= steps_in_16_bits(4));

/// Codes as bytes beside the tokens' planes. Products are for those of 2 to 4 bits: sums of pairs run in 16 bits for eight steps, 8 x 2 x 15 x 127 < 2^15.
template <unsigned Bits> struct PlanesStep {
  static constexpr unsigned bits = Bits;
  static constexpr bool planes = true;
  static constexpr std::size_t token_bytes = 1;                                 ///< of a column
  static constexpr std::size_t columns = 32, loaded = bytes_loaded_of_32(Bits); ///< codes of a register, and the bytes they are read from

  LSAQ_AVX2_HELPER static __m256i codes(const std::byte* in) noexcept { return codes32<Bits>(in); }

  /// sum[s][t] += codes of row s x q of token t, for so many steps.
  template <int T>
  LSAQ_AVX2_HELPER static void add(const std::byte* const (&row)[row_streams], const std::byte* const (&q)[T], std::size_t steps,
                                   __m256i (&sum)[row_streams][T]) noexcept {
    __m256i some[row_streams][T];
#pragma GCC unroll 4
    for (std::size_t s = 0; s < row_streams; ++s)
#pragma GCC unroll 2
      for (int t = 0; t < T; ++t) some[s][t] = _mm256_setzero_si256();
    for (std::size_t i = 0; i < steps; ++i)
#pragma GCC unroll 4
      for (std::size_t s = 0; s < row_streams; ++s) {
        const __m256i w = codes(row[s] + i * 4 * Bits);
#pragma GCC unroll 2
        for (int t = 0; t < T; ++t) some[s][t] = _mm256_add_epi16(some[s][t], _mm256_maddubs_epi16(w, load_bytes(q[t] + i * 32)));
      }
#pragma GCC unroll 4
    for (std::size_t s = 0; s < row_streams; ++s)
#pragma GCC unroll 2
      for (int t = 0; t < T; ++t) sum[s][t] = _mm256_add_epi32(sum[s][t], _mm256_madd_epi16(some[s][t], _mm256_set1_epi16(1)));
  }

  /// sum += 128 x codes x a block of the high plane.
  LSAQ_AVX2_HELPER static void add_high(__m256i& sum, const std::byte* in, const std::int8_t* high) noexcept {
    sum = _mm256_add_epi32(sum, _mm256_madd_epi16(_mm256_maddubs_epi16(codes(in), load_bytes(high)), _mm256_set1_epi16(128)));
  }

  /// The products of a block of 32 columns, summed to eight numbers.
  LSAQ_AVX2_HELPER static __m256i block(const std::byte* in, const std::byte* q) noexcept {
    return _mm256_madd_epi16(_mm256_maddubs_epi16(codes(in), load_bytes(q)), _mm256_set1_epi16(1));
  }
};

/// sum[s][t] += codes of row s x q of token t, for so many steps whose products are added up one by one.
template <class Step, int T>
LSAQ_AVX2_HELPER void add_steps(const std::byte* const (&row)[row_streams], const std::byte* const (&q)[T], std::size_t steps,
                                __m256i (&sum)[row_streams][T]) noexcept {
  for (std::size_t i = 0; i < steps; ++i)
#pragma GCC unroll 4
    for (std::size_t s = 0; s < row_streams; ++s) {
      const __m256i w = Step::codes(row[s] + i * Step::columns * Step::bits / 8);
#pragma GCC unroll 2
      for (int t = 0; t < T; ++t) Step::multiply(sum[s][t], w, load_bytes(q[t] + i * 32));
    }
}

/// Codes of 5 to 8 bits, as 16 bits beside the tokens' q, whole.
template <unsigned Bits> struct WholeStep {
  static constexpr unsigned bits = Bits;
  static constexpr bool planes = false;
  static constexpr std::size_t token_bytes = 2;
  static constexpr std::size_t columns = 16, loaded = 16;

  LSAQ_AVX2_HELPER static __m256i codes(const std::byte* in) noexcept { return wide16<Bits>(in); }
  LSAQ_AVX2_HELPER static void multiply(__m256i& sum, __m256i codes, __m256i q) noexcept { sum = _mm256_add_epi32(sum, _mm256_madd_epi16(codes, q)); }

  template <int T>
  LSAQ_AVX2_HELPER static void add(const std::byte* const (&row)[row_streams], const std::byte* const (&q)[T], std::size_t steps,
                                   __m256i (&sum)[row_streams][T]) noexcept {
    add_steps<WholeStep>(row, q, steps, sum);
  }

  LSAQ_AVX2_HELPER static __m256i block(const std::byte* in, const std::byte* q) noexcept {
    return _mm256_add_epi32(_mm256_madd_epi16(codes(in), load_bytes(q)), _mm256_madd_epi16(codes(in + 2 * Bits), load_bytes(q + 32)));
  }
};

template <unsigned Bits> using StepOf = std::conditional_t<in_planes(Bits), PlanesStep<Bits>, WholeStep<Bits>>;

/// T tokens by four streams of `part` rows each: rows r, part + r, 2 part + r, ...; those beyond `last` are that one again.
template <class Step, int T>
LSAQ_AVX2_KERNEL void dot_part(const WeightRows& weights, std::size_t part, std::size_t last, const TokenCodes& tokens, std::size_t first_token,
                               std::int32_t* sums, std::size_t stride) noexcept {
  constexpr std::size_t step_bytes = Step::columns * Step::bits / 8;
  const std::size_t row_bytes = weights.row_bytes, steps = (tokens.columns + Step::columns - 1) / Step::columns;
  const std::size_t whole = whole_blocks(row_bytes, step_bytes, Step::loaded, steps); // the rest is copied to where registers may be read beyond it
  alignas(32) std::byte ends[row_streams][96] = {};
  const std::byte* q[T];
#pragma GCC unroll 2
  for (std::size_t t = 0; t < T; ++t) q[t] = tokens.tile(first_token + t);
  for (std::size_t r = 0; r < part; ++r) {
    std::size_t number[row_streams];
    const std::byte* row[row_streams];
    __m256i sum[row_streams][T];
#pragma GCC unroll 4
    for (std::size_t s = 0; s < row_streams; ++s) {
      number[s] = row_of_stream(r, s, part, last);
      row[s] = weights.row(number[s]);
#pragma GCC unroll 2
      for (int t = 0; t < T; ++t) sum[s][t] = _mm256_setzero_si256();
    }
    for (std::size_t first = 0; first < whole; first += steps_at_once) {
      const std::byte* row_here[row_streams];
      const std::byte* q_here[T];
#pragma GCC unroll 4
      for (std::size_t s = 0; s < row_streams; ++s) {
        row_here[s] = row[s] + first * step_bytes;
        fetch_ahead(row_here[s], steps_at_once * step_bytes);
      }
#pragma GCC unroll 2
      for (int t = 0; t < T; ++t) q_here[t] = q[t] + first * 32;
      Step::add(row_here, q_here, whole - first < steps_at_once ? whole - first : steps_at_once, sum);
    }
    if (whole != steps) {
      const std::byte* end[row_streams];
      const std::byte* q_end[T];
#pragma GCC unroll 4
      for (std::size_t s = 0; s < row_streams; ++s) {
        std::memcpy(ends[s], row[s] + whole * step_bytes, row_bytes - whole * step_bytes);
        end[s] = ends[s];
      }
#pragma GCC unroll 2
      for (int t = 0; t < T; ++t) q_end[t] = q[t] + whole * 32;
      Step::add(end, q_end, steps - whole, sum);
    }
#pragma GCC unroll 2
    for (std::size_t t = 0; t < T; ++t) {
      const std::size_t token = first_token + t;
      if constexpr (Step::planes)
        for (std::size_t slot = token * tokens.high_limit; slot < token * tokens.high_limit + tokens.high_counts[token]; ++slot) {
          const std::size_t block = tokens.high_blocks[slot];
#pragma GCC unroll 4
          for (std::size_t s = 0; s < row_streams; ++s)
            Step::add_high(sum[s][t], block < whole ? row[s] + block * step_bytes : ends[s] + (block - whole) * step_bytes, tokens.high + slot * code_block);
        }
#pragma GCC unroll 4
      for (std::size_t s = 0; s < row_streams; ++s) sums[token * stride + number[s]] = sum_lanes(sum[s][t]) - (tokens.sums[token] << (Step::bits - 1));
    }
  }
}

template <class Step>
LSAQ_AVX2 void dot_rows_of(const WeightRows& weights, std::size_t rows, const TokenCodes& tokens, std::int32_t* sums, std::size_t stride) noexcept {
  std::size_t t = 0;
  for (; t + 2 <= tokens.tokens; t += 2) dot_streams<dot_part<Step, 2>>(weights, rows, tokens, t, sums, stride);
  if (t < tokens.tokens) dot_streams<dot_part<Step, 1>>(weights, rows, tokens, t, sums, stride);
}

/// dot_rows() with the steps of each width.
template <template <unsigned> class Step>
inline void dot_rows_by(const WeightRows& weights, std::size_t rows, const TokenCodes& tokens, std::int32_t* sums, std::size_t stride) noexcept {
  static constexpr decltype(&dot_rows_of<Step<8>>) of_bits[] = {dot_rows_of<Step<2>>, dot_rows_of<Step<3>>, dot_rows_of<Step<4>>, dot_rows_of<Step<5>>,
                                                                dot_rows_of<Step<6>>, dot_rows_of<Step<7>>, dot_rows_of<Step<8>>};
  of_bits[weights.format.bits - 2](weights, rows, tokens, sums, stride);
}

/// The sums of each half of four registers, side by side.
LSAQ_AVX2_HELPER __m256i sum_halves(__m256i a, __m256i b, __m256i c, __m256i d) noexcept {
  const __m256i ab = _mm256_add_epi32(_mm256_unpacklo_epi32(a, b), _mm256_unpackhi_epi32(a, b));
  const __m256i cd = _mm256_add_epi32(_mm256_unpacklo_epi32(c, d), _mm256_unpackhi_epi32(c, d));
  return _mm256_add_epi32(_mm256_unpacklo_epi64(ab, cd), _mm256_unpackhi_epi64(ab, cd));
}

/// The sums of eight registers' lanes, in order.
LSAQ_AVX2_HELPER __m256i sum_lanes(const __m256i (&v)[8]) noexcept {
  const __m256i first = sum_halves(v[0], v[1], v[2], v[3]), second = sum_halves(v[4], v[5], v[6], v[7]);
  return _mm256_add_epi32(_mm256_permute2x128_si256(first, second, 0x20), _mm256_permute2x128_si256(first, second, 0x31));
}

/// dot_blocks() of one token by at most eight rows, which are rows first_row on of the scales; a missing row is the last one again: its sums are never used.
template <class Step>
LSAQ_AVX2_KERNEL void block_rows_of(const WeightRows& weights, std::size_t rows, const TokenCodes& tokens, std::size_t column, std::size_t end,
                                    const PanelScales& scales, std::size_t first_row, float* sums) noexcept {
  constexpr std::size_t block_bytes = 4 * Step::bits, cache_line = 64;
  const std::size_t blocks = end / code_block, row_bytes = weights.row_bytes;
  const std::size_t whole = whole_blocks(row_bytes, block_bytes, bytes_loaded_of_32(Step::bits), blocks);
  const std::byte* const q = tokens.tile(0);
  const std::byte* row[8];
#pragma GCC unroll 8
  for (std::size_t r = 0; r < 8; ++r) row[r] = weights.row(r < rows ? r : rows - 1);
  PanelScales::Walk walk(scales, column);
  __m256 sum = column == 0 ? _mm256_setzero_ps() : _mm256_loadu_ps(sums);
  for (std::size_t b = column / code_block; b < blocks; ++b, walk.next()) {
    const std::size_t at = b * block_bytes;
    __m256i products[8];
    if (b < whole) {
      if (at % cache_line < block_bytes) // eight rows are too short for the machine to see where they go: it is told of the next ones
#pragma GCC unroll 8
        for (int r = 0; r < 8; ++r) _mm_prefetch(reinterpret_cast<const char*>(row[r] + at + 8 * row_bytes), _MM_HINT_T1);
#pragma GCC unroll 8
      for (int r = 0; r < 8; ++r) products[r] = Step::block(row[r] + at, q + b * 32 * Step::token_bytes);
    } else {
      for (int r = 0; r < 8; ++r) {
        alignas(32) std::byte rest[96] = {};
        if (at < row_bytes) std::memcpy(rest, row[r] + at, row_bytes - at < block_bytes ? row_bytes - at : block_bytes);
        products[r] = Step::block(rest, q + b * 32 * Step::token_bytes);
      }
    }
    const __m256i dot = _mm256_sub_epi32(sum_lanes(products), _mm256_set1_epi32(tokens.sums[b] << (Step::bits - 1)));
    const __m256 scale = _mm256_mul_ps(_mm256_loadu_ps(walk.here() + first_row), _mm256_set1_ps(tokens.scales[b]));
    sum = _mm256_fmadd_ps(_mm256_cvtepi32_ps(dot), scale, sum);
  }
  _mm256_storeu_ps(sums, sum);
}

/// dot_blocks() of one token with the steps of each width.
template <template <unsigned> class Step>
inline void dot_block_rows_by(const WeightRows& weights, std::size_t rows, const TokenCodes& tokens, std::size_t column, std::size_t end,
                              const PanelScales& scales, float* sums) noexcept {
  static constexpr decltype(&block_rows_of<Step<8>>) of_bits[] = {block_rows_of<Step<2>>, block_rows_of<Step<3>>, block_rows_of<Step<4>>,
                                                                  block_rows_of<Step<5>>, block_rows_of<Step<6>>, block_rows_of<Step<7>>,
                                                                  block_rows_of<Step<8>>};
  for (std::size_t r = 0; r < rows; r += 8) {
    of_bits[weights.format.bits - 2](weights.from(r), rows - r < 8 ? rows - r : 8, tokens, column, end, r < 16 ? scales : scales.upper(), r % 16, sums + r);
  }
}

} // namespace lsaq::inline v0::inline LSAQ_BASELINE::avx2

#undef LSAQ_AVX2
#undef LSAQ_AVX2_HELPER
#undef LSAQ_AVX2_KERNEL
#endif
