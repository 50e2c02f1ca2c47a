// Attention of single queries on x86-64 with AVX2, FMA and F16C: products with keys and sums of values, as the cache stores them. See avx2.hpp.
#pragma once

#include <lsaq/kernels/cpu/avx2_decoder.hpp>

#if LSAQ_X86
#define LSAQ_AVX2 [[gnu::target("avx2,fma,f16c")]] inline
#define LSAQ_AVX2_HELPER [[gnu::target("avx2,fma,f16c"), gnu::always_inline]] inline

namespace lsaq::inline v0::inline LSAQ_BASELINE::avx2 {

inline constexpr std::size_t heads_at_once = 4; ///< queries that share a key or a value while it is in registers

/// Columns [column, column + 8) of a cached row as FP32.
template <ElementType T> LSAQ_AVX2_HELPER __m256 cached8(const std::byte* row, std::size_t column) noexcept {
  if constexpr (T == ElementType::q8_0) {
    const std::byte* block = row + column / q8_0_block * q8_0_block_bytes;
    short half;
    std::memcpy(&half, block, sizeof half);
    const __m256 scale = _mm256_cvtph_ps(_mm_set1_epi16(half));
    const __m128i codes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(block + 2 + column % q8_0_block));
    return _mm256_mul_ps(scale, _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(codes))); // exact: 11 and 8 bits
  } else {
    return load8 < T == ElementType::f32 ? Load::f32 : Load::f16 > (row, column);
  }
}

/// K keys by H queries in K x H accumulators.
template <ElementType T, int K, int H> LSAQ_AVX2_HELPER void score_tile(const CacheRows& keys, const float* q, float* scores, std::size_t stride) noexcept {
  const std::size_t columns = keys.columns, whole = columns / 8 * 8;
  __m256 sum[K][H];
#pragma GCC unroll 2
  for (int k = 0; k < K; ++k)
#pragma GCC unroll 4
    for (int h = 0; h < H; ++h) sum[k][h] = _mm256_setzero_ps();
  for (std::size_t c = 0; c < whole; c += 8) {
    __m256 key[K];
#pragma GCC unroll 2
    for (int k = 0; k < K; ++k) key[k] = cached8<T>(keys.row(k), c);
#pragma GCC unroll 4
    for (int h = 0; h < H; ++h) {
      const __m256 query = _mm256_loadu_ps(q + h * columns + c);
#pragma GCC unroll 2
      for (int k = 0; k < K; ++k) sum[k][h] = _mm256_fmadd_ps(key[k], query, sum[k][h]);
    }
  }
#pragma GCC unroll 2
  for (int k = 0; k < K; ++k)
#pragma GCC unroll 4
    for (int h = 0; h < H; ++h) {
      float total = sum_lanes(sum[k][h]);
      for (std::size_t c = whole; c < columns; ++c) total += load_element(keys.row(k), T, c) * q[h * columns + c];
      scores[h * stride + k] = total;
    }
}

template <ElementType T, int H>
LSAQ_AVX2 void score_heads(const CacheRows& keys, std::size_t count, const float* q, float* scores, std::size_t stride) noexcept {
  std::size_t k = 0;
  for (; k + 2 <= count; k += 2) score_tile<T, 2, H>(keys.from(k), q, scores + k, stride);
  if (k < count) score_tile<T, 1, H>(keys.from(k), q, scores + k, stride);
}

template <ElementType T>
LSAQ_AVX2 void score_of(const CacheRows& keys, std::size_t count, const float* q, std::size_t heads, float* scores, std::size_t stride) noexcept {
  for (std::size_t h = 0; h < heads; h += heads_at_once) {
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

LSAQ_AVX2 void score(const CacheRows& keys, std::size_t count, const float* q, std::size_t heads, float* scores, std::size_t stride) noexcept {
  switch (keys.type) {
  case ElementType::f32: return score_of<ElementType::f32>(keys, count, q, heads, scores, stride);
  case ElementType::f16: return score_of<ElementType::f16>(keys, count, q, heads, scores, stride);
  case ElementType::bf16: return scalar::score(keys, count, q, heads, scores, stride);
  case ElementType::q8_0: return score_of<ElementType::q8_0>(keys, count, q, heads, scores, stride);
  }
}

/// Columns [column, column + 8 V) of H outputs, in V x H accumulators.
template <ElementType T, int V, int H>
LSAQ_AVX2_HELPER void weigh_tile(const CacheRows& values, std::size_t count, const float* weights, std::size_t stride, std::size_t column,
                                 float* out) noexcept {
  __m256 sum[H][V];
#pragma GCC unroll 4
  for (int h = 0; h < H; ++h)
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v) sum[h][v] = _mm256_loadu_ps(out + h * values.columns + column + 8 * v);
  for (std::size_t k = 0; k < count; ++k) {
    __m256 value[V];
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v) value[v] = cached8<T>(values.row(k), column + 8 * v);
#pragma GCC unroll 4
    for (int h = 0; h < H; ++h) {
      const __m256 weight = _mm256_set1_ps(weights[h * stride + k]);
#pragma GCC unroll 2
      for (int v = 0; v < V; ++v) sum[h][v] = _mm256_fmadd_ps(weight, value[v], sum[h][v]);
    }
  }
#pragma GCC unroll 4
  for (int h = 0; h < H; ++h)
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v) _mm256_storeu_ps(out + h * values.columns + column + 8 * v, sum[h][v]);
}

template <ElementType T, int H>
LSAQ_AVX2 void weigh_heads(const CacheRows& values, std::size_t count, const float* weights, std::size_t stride, float* out) noexcept {
  std::size_t c = 0;
  for (; c + 16 <= values.columns; c += 16) weigh_tile<T, 2, H>(values, count, weights, stride, c, out);
  for (; c + 8 <= values.columns; c += 8) weigh_tile<T, 1, H>(values, count, weights, stride, c, out);
  for (; c < values.columns; ++c)
    for (int h = 0; h < H; ++h) {
      float& sum = out[h * values.columns + c];
      for (std::size_t k = 0; k < count; ++k) sum += weights[h * stride + k] * load_element(values.row(k), T, c);
    }
}

template <ElementType T>
LSAQ_AVX2 void weigh_of(const CacheRows& values, std::size_t count, const float* weights, std::size_t stride, std::size_t heads, float* out) noexcept {
  for (std::size_t h = 0; h < heads; h += heads_at_once) {
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

LSAQ_AVX2 void weigh(const CacheRows& values, std::size_t count, const float* weights, std::size_t stride, std::size_t heads, float* out) noexcept {
  switch (values.type) {
  case ElementType::f32: return weigh_of<ElementType::f32>(values, count, weights, stride, heads, out);
  case ElementType::f16: return weigh_of<ElementType::f16>(values, count, weights, stride, heads, out);
  case ElementType::bf16: return scalar::weigh(values, count, weights, stride, heads, out);
  case ElementType::q8_0: return weigh_of<ElementType::q8_0>(values, count, weights, stride, heads, out);
  }
}

inline constexpr DecoderKernels decoder_kernels{softmax_step, gate, rms_norm, rotate, add, scale, narrow_finite_f16, score, weigh};

} // namespace lsaq::inline v0::inline LSAQ_BASELINE::avx2

#undef LSAQ_AVX2
#undef LSAQ_AVX2_HELPER
#endif
