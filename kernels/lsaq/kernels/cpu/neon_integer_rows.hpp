// Rows of packed codes by rows of tokens on AArch64: few tokens, every weight read once. What multiplies is in a helper for both ways (neon_integer.hpp).
#pragma once

#include <lsaq/kernels/cpu/neon_tokens.hpp>

#include <array>

#if LSAQ_ARM64
#define LSAQ_NEON_HELPER [[gnu::always_inline]] inline

namespace lsaq::inline v0::inline LSAQ_BASELINE::neon {

/// How 16 products of bytes are summed: by widening multiplications that every machine has, or by sdot.
enum class Dot : std::uint8_t { widening, instruction };

/// Bytes that codes32() loads.
constexpr std::size_t bytes_loaded_of_32(unsigned bits) noexcept { return bits == 4 ? 16 : 2 * bits + 16; }

inline constexpr std::size_t most_bytes_loaded = 32;

/// Copies what is left of a row from `at` on, and zeros.
inline const std::byte* copy_rest(const std::byte* row, std::size_t row_bytes, std::size_t at, std::byte (&copy)[most_bytes_loaded]) noexcept {
  std::memset(copy, 0, sizeof copy);
  if (at < row_bytes) std::memcpy(copy, row + at, row_bytes - at);
  return copy;
}

/// Where codes32() may load the codes from byte `at` of a row on: there, or from a copy.
template <unsigned Bits>
LSAQ_NEON_HELPER const std::byte* loadable(const std::byte* row, std::size_t row_bytes, std::size_t at, std::byte (&copy)[most_bytes_loaded]) noexcept {
  return at + bytes_loaded_of_32(Bits) <= row_bytes ? row + at : copy_rest(row, row_bytes, at, copy);
}

/// 16 codes of 2, 3, 5, 6 or 7 bits.
template <unsigned Bits> LSAQ_NEON_HELPER int8x16_t codes16(uint8x16_t bytes) noexcept {
  // The byte that a code begins in, shifted right, and the next one, shifted left.
  static constexpr auto first = [] {
    std::array<std::uint8_t, 16> at{};
    for (unsigned i = 0; i < 16; ++i) at[i] = static_cast<std::uint8_t>(i * Bits / 8);
    return at;
  }();
  static constexpr auto shifts = [] {
    std::array<std::int8_t, 16> by{};
    for (unsigned i = 0; i < 16; ++i) by[i] = static_cast<std::int8_t>(-static_cast<int>(i * Bits % 8));
    return by;
  }();
  const uint8x16_t at = vld1q_u8(first.data());
  const int8x16_t right = vld1q_s8(shifts.data());
  uint8x16_t codes = vshlq_u8(vqtbl1q_u8(bytes, at), right);
  if constexpr (8 % Bits != 0) codes = vorrq_u8(codes, vshlq_u8(vqtbl1q_u8(bytes, vaddq_u8(at, vdupq_n_u8(1))), vaddq_s8(right, vdupq_n_s8(8))));
  return vreinterpretq_s8_u8(vandq_u8(codes, vdupq_n_u8((1u << Bits) - 1)));
}

/// 32 codes, those of 8 bits less 128.
template <unsigned Bits> LSAQ_NEON_HELPER int8x16x2_t codes32(const std::byte* in) noexcept {
  const auto* from = reinterpret_cast<const std::uint8_t*>(in);
  const uint8x16_t bytes = vld1q_u8(from);
  if constexpr (Bits == 4) {
    const uint8x16_t even = vandq_u8(bytes, vdupq_n_u8(15)), odd = vshrq_n_u8(bytes, 4);
    return {{vreinterpretq_s8_u8(vzip1q_u8(even, odd)), vreinterpretq_s8_u8(vzip2q_u8(even, odd))}};
  } else {
    const uint8x16_t next = vld1q_u8(from + 2 * Bits);
    if constexpr (Bits != 8) return {{codes16<Bits>(bytes), codes16<Bits>(next)}};
    const uint8x16_t sign = vdupq_n_u8(128);
    return {{vreinterpretq_s8_u8(veorq_u8(bytes, sign)), vreinterpretq_s8_u8(veorq_u8(next, sign))}};
  }
}

/// What codes32() leaves on codes, times a sum of q.
LSAQ_NEON_HELPER std::int32_t offset_of(unsigned bits, std::int32_t sum) noexcept { return bits == 8 ? 0 : sum << (bits - 1); }

/// The four lanes of `sum` together grow by 16 products. sdot is written out: Clang 14 has its intrinsic only where the compiler's flags have the extension.
template <Dot D> LSAQ_NEON_HELPER void dot(int32x4_t& sum, int8x16_t codes, int8x16_t q) noexcept {
  if constexpr (D == Dot::instruction)
    asm("sdot %0.4s, %1.16b, %2.16b" : "+w"(sum) : "w"(codes), "w"(q));
  else // two products of at most 128 x 127 fit 16 bits
    sum = vpadalq_s16(sum, vmlal_high_s8(vmull_s8(vget_low_s8(codes), vget_low_s8(q)), codes, q));
}

/// sum[i] += four codes of row i by the four bytes in lane Lane of q.
template <Dot D, int Lane> LSAQ_NEON_HELPER void dot_lane(int32x4_t& sum, int8x16_t codes, int8x16_t q) noexcept {
  if constexpr (D == Dot::instruction) {
    asm("sdot %0.4s, %1.16b, %2.4b[%c3]" : "+w"(sum) : "w"(codes), "w"(q), "i"(Lane));
  } else {
    const int8x16_t four = vreinterpretq_s8_s32(vdupq_laneq_s32(vreinterpretq_s32_s8(q), Lane));
    sum = vpadalq_s16(sum, vpaddq_s16(vmull_s8(vget_low_s8(codes), vget_low_s8(four)), vmull_high_s8(codes, four)));
  }
}

LSAQ_NEON_HELPER int8x16_t load_signed(const void* in) noexcept { return vld1q_s8(static_cast<const std::int8_t*>(in)); }

/// T tokens by four streams of `part` rows each: rows r, part + r, 2 part + r, ...; those beyond `last` are that one again.
template <Dot D, unsigned Bits, int T>
LSAQ_NEON_HELPER void dot_part(const WeightRows& weights, std::size_t part, std::size_t last, const TokenCodes& tokens, std::size_t first_token,
                               std::int32_t* sums, std::size_t stride) noexcept {
  const std::size_t row_bytes = weights.row_bytes, blocks = (tokens.columns + code_block - 1) / code_block;
  std::byte copy[most_bytes_loaded];
  const std::byte* q[T];
#pragma GCC unroll 2
  for (int t = 0; t < T; ++t) q[t] = tokens.tile(first_token + static_cast<std::size_t>(t));
  for (std::size_t r = 0; r < part; ++r) {
    std::size_t number[row_streams];
    const std::byte* row[row_streams];
    int32x4_t sum[row_streams][T];
#pragma GCC unroll 4
    for (std::size_t s = 0; s < row_streams; ++s) {
      number[s] = row_of_stream(r, s, part, last);
      row[s] = weights.row(number[s]);
#pragma GCC unroll 2
      for (int t = 0; t < T; ++t) sum[s][t] = vdupq_n_s32(0);
    }
    for (std::size_t b = 0; b < blocks; ++b) {
      const std::size_t at = b * 4 * Bits;
      int8x16x2_t w[row_streams];
#pragma GCC unroll 4
      for (std::size_t s = 0; s < row_streams; ++s) w[s] = codes32<Bits>(loadable<Bits>(row[s], row_bytes, at, copy));
#pragma GCC unroll 2
      for (int t = 0; t < T; ++t) {
        const int8x16_t q0 = load_signed(q[t] + b * code_block), q1 = load_signed(q[t] + b * code_block + 16);
#pragma GCC unroll 4
        for (std::size_t s = 0; s < row_streams; ++s) {
          dot<D>(sum[s][t], w[s].val[0], q0);
          dot<D>(sum[s][t], w[s].val[1], q1);
        }
      }
    }
#pragma GCC unroll 2
    for (int t = 0; t < T; ++t) {
      const std::size_t token = first_token + static_cast<std::size_t>(t);
      int32x4_t high[row_streams];
#pragma GCC unroll 4
      for (std::size_t s = 0; s < row_streams; ++s) high[s] = vdupq_n_s32(0);
      for (std::size_t slot = token * tokens.high_limit; slot < token * tokens.high_limit + tokens.high_counts[token]; ++slot) {
        const std::size_t at = std::size_t{tokens.high_blocks[slot]} * 4 * Bits;
#pragma GCC unroll 4
        for (std::size_t s = 0; s < row_streams; ++s) {
          const int8x16x2_t w = codes32<Bits>(loadable<Bits>(row[s], row_bytes, at, copy));
          dot<D>(high[s], w.val[0], load_signed(tokens.high + slot * code_block));
          dot<D>(high[s], w.val[1], load_signed(tokens.high + slot * code_block + 16));
        }
      }
#pragma GCC unroll 4
      for (std::size_t s = 0; s < row_streams; ++s)
        sums[token * stride + number[s]] = vaddvq_s32(vaddq_s32(sum[s][t], vshlq_n_s32(high[s], 7))) - offset_of(Bits, tokens.sums[token]);
    }
  }
}

template <Dot D, unsigned Bits>
LSAQ_NEON_HELPER void dot_rows_body(const WeightRows& weights, std::size_t rows, const TokenCodes& tokens, std::int32_t* sums, std::size_t stride) noexcept {
  std::size_t t = 0;
  for (; t + 2 <= tokens.tokens; t += 2) dot_streams<dot_part<D, Bits, 2>>(weights, rows, tokens, t, sums, stride);
  if (t < tokens.tokens) dot_streams<dot_part<D, Bits, 1>>(weights, rows, tokens, t, sums, stride);
}

} // namespace lsaq::inline v0::inline LSAQ_BASELINE::neon

#undef LSAQ_NEON_HELPER
#endif
