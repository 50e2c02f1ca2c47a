// What a decoder computes between its products on x86-64 with AVX-512 (F, BW, DQ, VL) besides AVX2: exponentials, and attention of single queries. What memory
// bounds is AVX2's. See avx512.hpp.
#pragma once

#include <lsaq/kernels/cpu/avx2_attention.hpp>

#if LSAQ_X86
#define LSAQ_AVX512 [[gnu::target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]] inline
#define LSAQ_AVX512_HELPER [[gnu::target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c"), gnu::always_inline]] inline

namespace lsaq::inline v0::inline LSAQ_BASELINE::avx512 {

inline constexpr __mmask16 all_lanes = 0xffff; // GCC 12 warns of its own unmasked intrinsics: they read a register nobody set (GCC bug 105593)

/// The first n lanes, n <= 16.
LSAQ_AVX512_HELPER __mmask16 first_lanes(std::size_t n) noexcept { return static_cast<__mmask16>(0xffffu >> (16 - n)); }

template <int Half> LSAQ_AVX512_HELPER __m256 half_of(__m512 v) noexcept { return _mm512_maskz_extractf32x8_ps(0xff, v, Half); }
LSAQ_AVX512_HELPER __m512 higher(__m512 a, __m512 b) noexcept { return _mm512_maskz_max_ps(all_lanes, a, b); }
LSAQ_AVX512_HELPER float sum_lanes(__m512 v) noexcept { return avx2::sum_lanes(_mm256_add_ps(half_of<0>(v), half_of<1>(v))); }
LSAQ_AVX512_HELPER float highest_of_lanes(__m512 v) noexcept { return avx2::highest_of_lanes(_mm256_max_ps(half_of<0>(v), half_of<1>(v))); }

/// e^x for x <= 88, within 2 units in the last place, subnormal results too; as avx2::exp_of.
LSAQ_AVX512_HELPER __m512 exp_of(__m512 x) noexcept {
  x = higher(_mm512_set1_ps(-104), x); // e^-104 is 0, and so is what is below; NaN is the second operand and stays
  const __m512 n = _mm512_maskz_roundscale_ps(all_lanes, _mm512_mul_ps(x, _mm512_set1_ps(0x1.715476p+0f)), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  __m512 r = _mm512_fnmadd_ps(n, _mm512_set1_ps(0x1.62e43p-1f), x);
  r = _mm512_fnmadd_ps(n, _mm512_set1_ps(-0x1.05c61p-29f), r);
  __m512 p = _mm512_set1_ps(0x1.6a23c8p-10f);
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(0x1.123a2p-7f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(0x1.5558f4p-5f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(0x1.555492p-3f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(0x1.fffffcp-2f));
  const __m512 e = _mm512_add_ps(_mm512_set1_ps(1), _mm512_fmadd_ps(p, _mm512_mul_ps(r, r), r));
  return _mm512_maskz_scalef_ps(all_lanes, e, n);
}

LSAQ_AVX512 float softmax_step(float* scores, std::size_t n, float scale, RunningSoftmax& softmax) noexcept {
  const __m512 lowest = _mm512_set1_ps(std::numeric_limits<float>::lowest());
  __m512 most = lowest;
  for (std::size_t i = 0; i < n; i += 16)
    most = higher(most, n - i >= 16 ? _mm512_loadu_ps(scores + i) : _mm512_mask_loadu_ps(lowest, first_lanes(n - i), scores + i));
  const float before = softmax.highest, piece = highest_of_lanes(most) * scale;
  const float highest = piece > before ? piece : before;
  const __m512 factor = _mm512_set1_ps(scale), shift = _mm512_set1_ps(highest);
  __m512 sum = _mm512_setzero_ps();
  for (std::size_t i = 0; i < n; i += 16) {
    const __mmask16 lanes = n - i >= 16 ? all_lanes : first_lanes(n - i);
    const __m512 e = exp_of(_mm512_fmsub_ps(_mm512_maskz_loadu_ps(lanes, scores + i), factor, shift));
    _mm512_mask_storeu_ps(scores + i, lanes, e);
    sum = _mm512_mask_add_ps(sum, lanes, sum, e);
  }
  const float shrink = highest == before ? 1.0f : _mm256_cvtss_f32(avx2::exp_of(_mm256_set1_ps(before - highest)));
  softmax.highest = highest;
  softmax.total = softmax.total * shrink + sum_lanes(sum);
  return shrink;
}

/// silu(x) * up, as avx2::gated8.
LSAQ_AVX512_HELPER __m512 gated16(__m512 x, __m512 up) noexcept {
  const __m512 one = _mm512_set1_ps(1), e = exp_of(_mm512_or_ps(x, _mm512_set1_ps(-0.0f)));
  const __m512 numerator = _mm512_mul_ps(x, _mm512_mask_blend_ps(_mm512_movepi32_mask(_mm512_castps_si512(x)), one, e));
  return _mm512_mul_ps(_mm512_div_ps(numerator, _mm512_add_ps(one, e)), up);
}

LSAQ_AVX512 void gate(float* gate, const float* up, std::size_t n) noexcept {
  std::size_t i = 0;
  for (; i + 16 <= n; i += 16) _mm512_storeu_ps(gate + i, gated16(_mm512_loadu_ps(gate + i), _mm512_loadu_ps(up + i)));
  if (i == n) return;
  const __mmask16 rest = first_lanes(n - i);
  _mm512_mask_storeu_ps(gate + i, rest, gated16(_mm512_maskz_loadu_ps(rest, gate + i), _mm512_maskz_loadu_ps(rest, up + i)));
}

/// Columns [column, column + 16) of a cached row as FP32, those of `lanes` only: the others are 0 and not read. Q8_0 has whole blocks, all its lanes are read.
template <ElementType T> LSAQ_AVX512_HELPER __m512 cached16(const std::byte* row, std::size_t column, __mmask16 lanes) noexcept {
  if constexpr (T == ElementType::f32) {
    return _mm512_maskz_loadu_ps(lanes, row + 4 * column);
  } else if constexpr (T == ElementType::q8_0) {
    const std::byte* block = row + column / q8_0_block * q8_0_block_bytes;
    short half;
    std::memcpy(&half, block, sizeof half);
    const __m512 scale = _mm512_maskz_cvtph_ps(all_lanes, _mm256_set1_epi16(half));
    const __m128i codes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(block + 2 + column % q8_0_block));
    return _mm512_mul_ps(scale, _mm512_maskz_cvtepi32_ps(all_lanes, _mm512_maskz_cvtepi8_epi32(all_lanes, codes))); // exact: 11 and 8 bits
  } else {
    static_assert(T == ElementType::f16);
    return _mm512_maskz_cvtph_ps(all_lanes, _mm256_maskz_loadu_epi16(lanes, row + 2 * column));
  }
}

/// K keys by H queries in K x H accumulators.
template <ElementType T, int K, int H> LSAQ_AVX512_HELPER void score_tile(const CacheRows& keys, const float* q, float* scores, std::size_t stride) noexcept {
  __m512 sum[K][H];
#pragma GCC unroll 4
  for (int k = 0; k < K; ++k)
#pragma GCC unroll 4
    for (int h = 0; h < H; ++h) sum[k][h] = _mm512_setzero_ps();
  for (std::size_t c = 0; c < keys.columns; c += 16) {
    const __mmask16 lanes = keys.columns - c >= 16 ? all_lanes : first_lanes(keys.columns - c);
    __m512 key[K];
#pragma GCC unroll 4
    for (int k = 0; k < K; ++k) key[k] = cached16<T>(keys.row(k), c, lanes);
#pragma GCC unroll 4
    for (int h = 0; h < H; ++h) {
      const __m512 query = _mm512_maskz_loadu_ps(lanes, q + h * keys.columns + c);
#pragma GCC unroll 4
      for (int k = 0; k < K; ++k) sum[k][h] = _mm512_fmadd_ps(key[k], query, sum[k][h]);
    }
  }
#pragma GCC unroll 4
  for (int k = 0; k < K; ++k)
#pragma GCC unroll 4
    for (int h = 0; h < H; ++h) scores[h * stride + k] = sum_lanes(sum[k][h]);
}

template <ElementType T, int H>
LSAQ_AVX512 void score_heads(const CacheRows& keys, std::size_t count, const float* q, float* scores, std::size_t stride) noexcept {
  std::size_t k = 0;
  for (; k + 4 <= count; k += 4) score_tile<T, 4, H>(keys.from(k), q, scores + k, stride);
  for (; k < count; ++k) score_tile<T, 1, H>(keys.from(k), q, scores + k, stride);
}

template <ElementType T>
LSAQ_AVX512 void score_of(const CacheRows& keys, std::size_t count, const float* q, std::size_t heads, float* scores, std::size_t stride) noexcept {
  for (std::size_t h = 0; h < heads; h += avx2::heads_at_once) {
    const float* queries = q + h * keys.columns;
    float* out = scores + h * stride;
    switch (heads - h) {
    case 1: score_heads<T, 1>(keys, count, queries, out, stride); break;
    case 2: score_heads<T, 2>(keys, count, queries, out, stride); break;
    case 3: score_heads<T, 3>(keys, count, queries, out, stride); break;
    default: score_heads<T, 4>(keys, count, queries, out, stride); break;
    }
  }
}

LSAQ_AVX512 void score(const CacheRows& keys, std::size_t count, const float* q, std::size_t heads, float* scores, std::size_t stride) noexcept {
  switch (keys.type) {
  case ElementType::f32: return score_of<ElementType::f32>(keys, count, q, heads, scores, stride);
  case ElementType::f16: return score_of<ElementType::f16>(keys, count, q, heads, scores, stride);
  case ElementType::bf16: return scalar::score(keys, count, q, heads, scores, stride);
  case ElementType::q8_0: return score_of<ElementType::q8_0>(keys, count, q, heads, scores, stride);
  }
}

/// Columns [column, column + 16 V) of H outputs, in V x H accumulators; `last` are the lanes of the last vector that exist.
template <ElementType T, int V, int H>
LSAQ_AVX512_HELPER void weigh_tile(const CacheRows& values, std::size_t count, const float* weights, std::size_t stride, std::size_t column, __mmask16 last,
                                   float* out) noexcept {
  __m512 sum[H][V];
#pragma GCC unroll 4
  for (int h = 0; h < H; ++h)
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) sum[h][v] = _mm512_maskz_loadu_ps(v + 1 < V ? all_lanes : last, out + h * values.columns + column + 16 * v);
  for (std::size_t k = 0; k < count; ++k) {
    __m512 value[V];
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) value[v] = cached16<T>(values.row(k), column + 16 * v, v + 1 < V ? all_lanes : last);
#pragma GCC unroll 4
    for (int h = 0; h < H; ++h) {
      const __m512 weight = _mm512_set1_ps(weights[h * stride + k]);
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) sum[h][v] = _mm512_fmadd_ps(weight, value[v], sum[h][v]);
    }
  }
#pragma GCC unroll 4
  for (int h = 0; h < H; ++h)
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) _mm512_mask_storeu_ps(out + h * values.columns + column + 16 * v, v + 1 < V ? all_lanes : last, sum[h][v]);
}

template <ElementType T, int H>
LSAQ_AVX512 void weigh_heads(const CacheRows& values, std::size_t count, const float* weights, std::size_t stride, float* out) noexcept {
  std::size_t c = 0;
  for (; c + 64 <= values.columns; c += 64) weigh_tile<T, 4, H>(values, count, weights, stride, c, all_lanes, out);
  for (; c + 32 <= values.columns; c += 32) weigh_tile<T, 2, H>(values, count, weights, stride, c, all_lanes, out);
  for (; c < values.columns; c += 16) {
    const __mmask16 lanes = values.columns - c >= 16 ? all_lanes : first_lanes(values.columns - c);
    weigh_tile<T, 1, H>(values, count, weights, stride, c, lanes, out);
  }
}

template <ElementType T>
LSAQ_AVX512 void weigh_of(const CacheRows& values, std::size_t count, const float* weights, std::size_t stride, std::size_t heads, float* out) noexcept {
  for (std::size_t h = 0; h < heads; h += avx2::heads_at_once) {
    const float* of_head = weights + h * stride;
    float* to = out + h * values.columns;
    switch (heads - h) {
    case 1: weigh_heads<T, 1>(values, count, of_head, stride, to); break;
    case 2: weigh_heads<T, 2>(values, count, of_head, stride, to); break;
    case 3: weigh_heads<T, 3>(values, count, of_head, stride, to); break;
    default: weigh_heads<T, 4>(values, count, of_head, stride, to); break;
    }
  }
}

LSAQ_AVX512 void weigh(const CacheRows& values, std::size_t count, const float* weights, std::size_t stride, std::size_t heads, float* out) noexcept {
  switch (values.type) {
  case ElementType::f32: return weigh_of<ElementType::f32>(values, count, weights, stride, heads, out);
  case ElementType::f16: return weigh_of<ElementType::f16>(values, count, weights, stride, heads, out);
  case ElementType::bf16: return scalar::weigh(values, count, weights, stride, heads, out);
  case ElementType::q8_0: return weigh_of<ElementType::q8_0>(values, count, weights, stride, heads, out);
  }
}

inline constexpr DecoderKernels decoder_kernels{softmax_step, gate, avx2::rms_norm, avx2::rotate, avx2::add, avx2::scale, avx2::narrow_finite_f16,
                                                score,        weigh};

} // namespace lsaq::inline v0::inline LSAQ_BASELINE::avx512

#undef LSAQ_AVX512
#undef LSAQ_AVX512_HELPER
#endif
