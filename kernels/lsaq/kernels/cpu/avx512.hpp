// Kernels for x86-64 with AVX-512 (F, BW, DQ, VL) besides AVX2: products of up to four panels at once, codes of FP32 weights. Whatever wider registers do not
// help is AVX2's. Compiled with target attributes: the consumer needs no -m flags, and must not call these where cpu_runs(Isa::avx512) is false.
#pragma once

#include <lsaq/kernels/cpu/avx2.hpp>
#include <lsaq/kernels/cpu/avx512_decoder.hpp>
#include <lsaq/kernels/cpu/avx512_quantize.hpp>

#if LSAQ_X86
#define LSAQ_AVX512 [[gnu::target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]] inline
#define LSAQ_AVX512_HELPER [[gnu::target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c"), gnu::always_inline]] inline

namespace lsaq::inline v0::inline LSAQ_BASELINE::avx512 {

/// 16 elements of a float type as FP32.
template <ElementType T> LSAQ_AVX512_HELPER __m512 load16(const std::byte* in) noexcept {
  const __m256i halves = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(in));
  constexpr __mmask16 every = 0xffff; // GCC 12 warns of its own unmasked conversions: they read a register nobody set (GCC bug 105593)
  if constexpr (T == ElementType::f16) return _mm512_maskz_cvtph_ps(every, halves);
  return _mm512_castsi512_ps(_mm512_maskz_slli_epi32(every, _mm512_maskz_cvtepu16_epi32(every, halves), 16));
}

template <ElementType T> LSAQ_AVX512 void widen_halves(const std::byte* in, std::size_t n, float* out) noexcept {
  std::size_t i = 0;
  for (; i + 64 <= n; i += 64) {
#pragma GCC unroll 4
    for (std::size_t j = 0; j < 64; j += 16) _mm512_storeu_ps(out + i + j, load16<T>(in + 2 * (i + j)));
  }
  avx2::widen(in + 2 * i, T, n - i, out + i);
}

LSAQ_AVX512 void widen(const void* in, ElementType type, std::size_t n, float* out) noexcept {
  const auto* bytes = static_cast<const std::byte*>(in);
  if (type == ElementType::f16) return widen_halves<ElementType::f16>(bytes, n, out);
  if (type == ElementType::bf16) return widen_halves<ElementType::bf16>(bytes, n, out);
  avx2::widen(in, type, n, out);
}

/// As avx2::dot_streams_of().
template <ElementType T>
LSAQ_AVX512 void dot_streams_of(const WeightRows& weights, std::size_t part, std::size_t last, std::size_t columns, const float* x, float* y) noexcept {
  constexpr std::size_t bytes = size_of(T);
  const std::size_t whole = columns / 32 * 32;
  for (std::size_t r = 0; r < part; ++r) {
    std::size_t number[row_streams];
    const std::byte* row[row_streams];
    __m512 sum0[row_streams], sum1[row_streams];
#pragma GCC unroll 4
    for (std::size_t s = 0; s < row_streams; ++s) {
      number[s] = row_of_stream(r, s, part, last);
      row[s] = weights.row(number[s]);
      sum0[s] = sum1[s] = _mm512_setzero_ps();
    }
    for (std::size_t c = 0; c < whole; c += 32) {
      const __m512 x0 = _mm512_loadu_ps(x + c), x1 = _mm512_loadu_ps(x + c + 16);
#pragma GCC unroll 4
      for (std::size_t s = 0; s < row_streams; ++s) {
        fetch_ahead(row[s] + bytes * c, 32 * bytes);
        sum0[s] = _mm512_fmadd_ps(load16<T>(row[s] + bytes * c), x0, sum0[s]);
        sum1[s] = _mm512_fmadd_ps(load16<T>(row[s] + bytes * (c + 16)), x1, sum1[s]);
      }
    }
#pragma GCC unroll 4
    for (std::size_t s = 0; s < row_streams; ++s) {
      float sum = sum_lanes(_mm512_add_ps(sum0[s], sum1[s]));
      for (std::size_t c = whole; c < columns; ++c) sum += load_element(row[s], T, c) * x[c];
      y[number[s]] = sum;
    }
  }
}

template <ElementType T> LSAQ_AVX512 void dot_rows_of(const WeightRows& weights, std::size_t rows, std::size_t columns, const float* x, float* y) noexcept {
  const std::size_t whole = rows / row_streams * row_streams;
  if (whole != 0) dot_streams_of<T>(weights, whole / row_streams, whole - 1, columns, x, y);
  if (whole != rows) dot_streams_of<T>(weights.from(whole), 1, rows - whole - 1, columns, x, y + whole);
}

LSAQ_AVX512 void dot_rows(const WeightRows& weights, std::size_t rows, std::size_t columns, const float* x, float* y) noexcept {
  if (!weights.format.packed() && weights.format.element == ElementType::f16) return dot_rows_of<ElementType::f16>(weights, rows, columns, x, y);
  if (!weights.format.packed() && weights.format.element == ElementType::bf16) return dot_rows_of<ElementType::bf16>(weights, rows, columns, x, y);
  avx2::dot_rows(weights, rows, columns, x, y);
}

/// R rows of x by P panels in R x P accumulators, at most 24 of the 32 registers; `last` are the lanes of the last panel that exist.
template <int R, int P>
LSAQ_AVX512_HELPER void product_tile(const Panels& panels, std::size_t depth, const float* x, std::size_t x_stride, float* y, std::size_t y_stride,
                                     __mmask16 last, bool accumulate, const Ahead& ahead) noexcept {
  static_assert(R * P <= 24);
  __m512 sum[R][P];
#pragma GCC unroll 12
  for (int i = 0; i < R; ++i)
#pragma GCC unroll 4
    for (int p = 0; p < P; ++p) sum[i][p] = _mm512_setzero_ps();
  for (std::size_t first = 0; first < depth; first += 16) {
    if (ahead.first != nullptr) {
#pragma GCC unroll 12
      for (int i = 0; i < R; ++i) _mm_prefetch(reinterpret_cast<const char*>(ahead.first + i * ahead.row_bytes + first * ahead.column_bits / 8), _MM_HINT_T0);
    }
    const std::size_t end = first + 16 < depth ? first + 16 : depth;
    for (std::size_t k = first; k < end; ++k) {
      __m512 lanes[P];
#pragma GCC unroll 4
      for (int p = 0; p < P; ++p) lanes[p] = _mm512_loadu_ps(panels.data + p * panels.panel_stride + k * panels.step);
#pragma GCC unroll 12
      for (int i = 0; i < R; ++i) {
        const __m512 value = _mm512_set1_ps(x[i * x_stride + k]);
#pragma GCC unroll 4
        for (int p = 0; p < P; ++p) sum[i][p] = _mm512_fmadd_ps(value, lanes[p], sum[i][p]);
      }
    }
  }
#pragma GCC unroll 12
  for (int i = 0; i < R; ++i)
#pragma GCC unroll 4
    for (int p = 0; p < P; ++p) {
      float* out = y + i * y_stride + p * panel_rows;
      if (p + 1 < P || last == 0xffff) { // masked stores cost several plain ones
        _mm512_storeu_ps(out, accumulate ? _mm512_add_ps(_mm512_loadu_ps(out), sum[i][p]) : sum[i][p]);
      } else {
        if (accumulate) sum[i][p] = _mm512_add_ps(_mm512_maskz_loadu_ps(last, out), sum[i][p]);
        _mm512_mask_storeu_ps(out, last, sum[i][p]);
      }
    }
}

/// All rows of x by P panels: tiles of at most `most` rows, halved at the end.
template <int P>
LSAQ_AVX512 void product_of(const Panels& panels, std::size_t depth, const float* x, std::size_t x_stride, std::size_t rows, float* y, std::size_t y_stride,
                            bool accumulate, Ahead ahead) noexcept {
  constexpr int most = P == 4 ? 6 : P == 3 ? 8 : 12;
  const std::size_t lanes = panels.lanes - (P - 1) * panel_rows;
  const auto last = static_cast<__mmask16>(0xffffu >> (panel_rows - lanes));
  for (std::size_t i = 0, count = 0; i < rows; i += count) {
    const float* row = x + i * x_stride;
    float* out = y + i * y_stride;
    if (rows - i >= most) {
      count = most;
      product_tile<most, P>(panels, depth, row, x_stride, out, y_stride, last, accumulate, ahead);
    } else if (most > 8 && rows - i >= 8) {
      count = 8;
      product_tile<(most > 8 ? 8 : 1), P>(panels, depth, row, x_stride, out, y_stride, last, accumulate, ahead);
    } else if (rows - i >= 4) {
      count = 4;
      product_tile<4, P>(panels, depth, row, x_stride, out, y_stride, last, accumulate, ahead);
    } else if (rows - i >= 2) {
      count = 2;
      product_tile<2, P>(panels, depth, row, x_stride, out, y_stride, last, accumulate, ahead);
    } else {
      count = 1;
      product_tile<1, P>(panels, depth, row, x_stride, out, y_stride, last, accumulate, ahead);
    }
    if (ahead.first != nullptr) ahead.first += count * ahead.row_bytes;
  }
}

LSAQ_AVX512 void product(const Panels& panels, std::size_t depth, const float* x, std::size_t x_stride, std::size_t rows, float* y, std::size_t y_stride,
                         bool accumulate, const Ahead& ahead) noexcept {
  if (panels.lanes == 0) return;
  switch ((panels.lanes - 1) / panel_rows) {
  case 0: return product_of<1>(panels, depth, x, x_stride, rows, y, y_stride, accumulate, ahead);
  case 1: return product_of<2>(panels, depth, x, x_stride, rows, y, y_stride, accumulate, ahead);
  case 2: return product_of<3>(panels, depth, x, x_stride, rows, y, y_stride, accumulate, ahead);
  default: return product_of<4>(panels, depth, x, x_stride, rows, y, y_stride, accumulate, ahead);
  }
}

inline constexpr CpuKernels kernels{Isa::avx512,    widen,          avx2::widen_codes,      avx2::narrow_f16, avx2::magnitude_bits,
                                    avx2::quantize, avx2::extremes, quantize_packed,        dot_rows,         avx2::unpack,
                                    product,        avx2::above,    &avx2::integer_kernels, &decoder_kernels};

} // namespace lsaq::inline v0::inline LSAQ_BASELINE::avx512

#undef LSAQ_AVX512
#undef LSAQ_AVX512_HELPER
#endif
