// Kernels for x86-64 with AVX2, FMA and F16C. Compiled with target attributes: the consumer needs no -m flags, and must not call these where
// cpu_runs(Isa::avx2) is false.
#pragma once

#include <lsaq/kernels/cpu/avx2_attention.hpp>
#include <lsaq/kernels/cpu/avx2_integer.hpp>

#if LSAQ_X86
#define LSAQ_AVX2 [[gnu::target("avx2,fma,f16c")]] inline
#define LSAQ_AVX2_HELPER [[gnu::target("avx2,fma,f16c"), gnu::always_inline]] inline

namespace lsaq::inline v0::inline LSAQ_BASELINE::avx2 {

/// Streams of `part` rows each, far apart so that memory sees as many: rows r, part + r, 2 part + r, ...; those beyond `last` are that one again.
template <Load L>
LSAQ_AVX2 void dot_streams_of(const WeightRows& weights, std::size_t part, std::size_t last, std::size_t columns, const float* x, float* y) noexcept {
  const std::size_t whole16 = columns / 16 * 16, whole8 = columns / 8 * 8;
  for (std::size_t r = 0; r < part; ++r) {
    std::size_t number[row_streams];
    const std::byte* row[row_streams];
    __m256 sum0[row_streams], sum1[row_streams];
#pragma GCC unroll 4
    for (std::size_t s = 0; s < row_streams; ++s) {
      number[s] = row_of_stream(r, s, part, last);
      row[s] = weights.row(number[s]);
      sum0[s] = sum1[s] = _mm256_setzero_ps();
    }
    for (std::size_t c = 0; c < whole16; c += 16) {
      const __m256 x0 = _mm256_loadu_ps(x + c), x1 = _mm256_loadu_ps(x + c + 8);
#pragma GCC unroll 4
      for (std::size_t s = 0; s < row_streams; ++s) {
        sum0[s] = _mm256_fmadd_ps(load8<L>(row[s], c), x0, sum0[s]);
        sum1[s] = _mm256_fmadd_ps(load8<L>(row[s], c + 8), x1, sum1[s]);
      }
    }
#pragma GCC unroll 4
    for (std::size_t s = 0; s < row_streams; ++s) {
      if (whole16 != whole8) sum0[s] = _mm256_fmadd_ps(load8<L>(row[s], whole16), _mm256_loadu_ps(x + whole16), sum0[s]);
      float sum = sum_lanes(_mm256_add_ps(sum0[s], sum1[s]));
      for (std::size_t c = whole8; c < columns; ++c) sum += scalar::weight_at(row[s], weights.format, c) * x[c];
      y[number[s]] = sum;
    }
  }
}

template <Load L> LSAQ_AVX2 void dot_rows_of(const WeightRows& weights, std::size_t rows, std::size_t columns, const float* x, float* y) noexcept {
  const std::size_t whole = rows / row_streams * row_streams;
  if (whole != 0) dot_streams_of<L>(weights, whole / row_streams, whole - 1, columns, x, y);
  if (whole != rows) dot_streams_of<L>(weights.from(whole), 1, rows - whole - 1, columns, x, y + whole);
}

/// Writes eight rows by eight columns transposed: panel[c * 16 + r].
LSAQ_AVX2_HELPER void store_transposed(__m256 (&v)[8], float* panel) noexcept {
  const __m256 a0 = _mm256_unpacklo_ps(v[0], v[1]), a1 = _mm256_unpackhi_ps(v[0], v[1]);
  const __m256 a2 = _mm256_unpacklo_ps(v[2], v[3]), a3 = _mm256_unpackhi_ps(v[2], v[3]);
  const __m256 a4 = _mm256_unpacklo_ps(v[4], v[5]), a5 = _mm256_unpackhi_ps(v[4], v[5]);
  const __m256 a6 = _mm256_unpacklo_ps(v[6], v[7]), a7 = _mm256_unpackhi_ps(v[6], v[7]);
  const __m256 b0 = _mm256_shuffle_ps(a0, a2, 0x44), b1 = _mm256_shuffle_ps(a0, a2, 0xee);
  const __m256 b2 = _mm256_shuffle_ps(a1, a3, 0x44), b3 = _mm256_shuffle_ps(a1, a3, 0xee);
  const __m256 b4 = _mm256_shuffle_ps(a4, a6, 0x44), b5 = _mm256_shuffle_ps(a4, a6, 0xee);
  const __m256 b6 = _mm256_shuffle_ps(a5, a7, 0x44), b7 = _mm256_shuffle_ps(a5, a7, 0xee);
  _mm256_storeu_ps(panel + 0 * panel_rows, _mm256_permute2f128_ps(b0, b4, 0x20));
  _mm256_storeu_ps(panel + 1 * panel_rows, _mm256_permute2f128_ps(b1, b5, 0x20));
  _mm256_storeu_ps(panel + 2 * panel_rows, _mm256_permute2f128_ps(b2, b6, 0x20));
  _mm256_storeu_ps(panel + 3 * panel_rows, _mm256_permute2f128_ps(b3, b7, 0x20));
  _mm256_storeu_ps(panel + 4 * panel_rows, _mm256_permute2f128_ps(b0, b4, 0x31));
  _mm256_storeu_ps(panel + 5 * panel_rows, _mm256_permute2f128_ps(b1, b5, 0x31));
  _mm256_storeu_ps(panel + 6 * panel_rows, _mm256_permute2f128_ps(b2, b6, 0x31));
  _mm256_storeu_ps(panel + 7 * panel_rows, _mm256_permute2f128_ps(b3, b7, 0x31));
}

template <Load L> LSAQ_AVX2 void unpack_of(const WeightRows& weights, std::size_t rows, std::size_t first_column, std::size_t columns, float* panel) noexcept {
  const std::size_t whole8 = columns / 8 * 8;
  for (std::size_t group = 0; group < panel_rows; group += 8) {
    const std::byte* row[8]; // a missing row reads row 0 again: its lane is never stored
    for (std::size_t r = 0; r < 8; ++r) row[r] = weights.row(group + r < rows ? group + r : 0);
    for (std::size_t k = 0; k < whole8; k += 8) {
      __m256 v[8];
#pragma GCC unroll 8
      for (std::size_t r = 0; r < 8; ++r) v[r] = load8<L>(row[r], first_column + k);
      store_transposed(v, panel + k * panel_rows + group);
    }
    for (std::size_t k = whole8; k < columns; ++k)
      for (std::size_t r = 0; r < 8; ++r) panel[k * panel_rows + group + r] = scalar::weight_at(row[r], weights.format, first_column + k);
  }
}

/// R rows of x by one panel in 2 R accumulators; `low` and `high` are the lanes that exist.
template <int R>
LSAQ_AVX2_HELPER void product_tile(const float* panel, std::size_t step, std::size_t depth, const float* x, std::size_t x_stride, float* y,
                                   std::size_t y_stride, bool full, __m256i low, __m256i high, bool accumulate, const Ahead& ahead) noexcept {
  __m256 sum0[R], sum1[R];
#pragma GCC unroll 6
  for (int i = 0; i < R; ++i) sum0[i] = sum1[i] = _mm256_setzero_ps();
  for (std::size_t first = 0; first < depth; first += 16) {
    if (ahead.first != nullptr) {
#pragma GCC unroll 6
      for (int i = 0; i < R; ++i) _mm_prefetch(reinterpret_cast<const char*>(ahead.first + i * ahead.row_bytes + first * ahead.column_bits / 8), _MM_HINT_T0);
    }
    const std::size_t end = first + 16 < depth ? first + 16 : depth;
    for (std::size_t k = first; k < end; ++k) {
      const __m256 lanes0 = _mm256_loadu_ps(panel + k * step);
      const __m256 lanes1 = _mm256_loadu_ps(panel + k * step + 8);
#pragma GCC unroll 6
      for (int i = 0; i < R; ++i) {
        const __m256 value = _mm256_broadcast_ss(x + i * x_stride + k);
        sum0[i] = _mm256_fmadd_ps(value, lanes0, sum0[i]);
        sum1[i] = _mm256_fmadd_ps(value, lanes1, sum1[i]);
      }
    }
  }
#pragma GCC unroll 6
  for (int i = 0; i < R; ++i) {
    float* out = y + i * y_stride;
    if (full) { // masked stores cost several plain ones
      _mm256_storeu_ps(out, accumulate ? _mm256_add_ps(_mm256_loadu_ps(out), sum0[i]) : sum0[i]);
      _mm256_storeu_ps(out + 8, accumulate ? _mm256_add_ps(_mm256_loadu_ps(out + 8), sum1[i]) : sum1[i]);
      continue;
    }
    if (accumulate) {
      sum0[i] = _mm256_add_ps(_mm256_maskload_ps(out, low), sum0[i]);
      sum1[i] = _mm256_add_ps(_mm256_maskload_ps(out + 8, high), sum1[i]);
    }
    _mm256_maskstore_ps(out, low, sum0[i]);
    _mm256_maskstore_ps(out + 8, high, sum1[i]);
  }
}

LSAQ_AVX2 void product(const Panels& panels, std::size_t depth, const float* x, std::size_t x_stride, std::size_t rows, float* y, std::size_t y_stride,
                       bool accumulate, const Ahead& ahead) noexcept {
  const __m256i lane_numbers = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  for (std::size_t i = 0; i < rows; i += 6) {
    const float* row = x + i * x_stride;
    Ahead next = ahead.first == nullptr ? ahead : Ahead{ahead.first + i * ahead.row_bytes, ahead.row_bytes, ahead.column_bits};
    for (std::size_t lane = 0; lane < panels.lanes; lane += panel_rows) {
      const __m256i left = _mm256_set1_epi32(static_cast<int>(panels.lanes - lane));
      const __m256i low = _mm256_cmpgt_epi32(left, lane_numbers);
      const __m256i high = _mm256_cmpgt_epi32(left, _mm256_add_epi32(lane_numbers, _mm256_set1_epi32(8)));
      const float* panel = panels.data + lane / panel_rows * panels.panel_stride;
      float* out = y + i * y_stride + lane;
      const bool full = panels.lanes - lane >= panel_rows;
      switch (rows - i) {
      default: product_tile<6>(panel, panels.step, depth, row, x_stride, out, y_stride, full, low, high, accumulate, next); break;
      case 5: product_tile<5>(panel, panels.step, depth, row, x_stride, out, y_stride, full, low, high, accumulate, next); break;
      case 4: product_tile<4>(panel, panels.step, depth, row, x_stride, out, y_stride, full, low, high, accumulate, next); break;
      case 3: product_tile<3>(panel, panels.step, depth, row, x_stride, out, y_stride, full, low, high, accumulate, next); break;
      case 2: product_tile<2>(panel, panels.step, depth, row, x_stride, out, y_stride, full, low, high, accumulate, next); break;
      case 1: product_tile<1>(panel, panels.step, depth, row, x_stride, out, y_stride, full, low, high, accumulate, next); break;
      }
      next.first = nullptr; // once is enough
    }
  }
}

LSAQ_AVX2 std::uint64_t above(const float* values, const float* limits, std::size_t n) noexcept {
  std::uint64_t mask = 0;
  std::size_t i = 0;
  for (; i + 8 <= n; i += 8) {
    const __m256 lanes = _mm256_cmp_ps(_mm256_loadu_ps(values + i), _mm256_loadu_ps(limits + i), _CMP_NLE_UQ);
    mask |= std::uint64_t{static_cast<unsigned>(_mm256_movemask_ps(lanes))} << i;
  }
  return i == n ? mask : mask | scalar::above(values + i, limits + i, n - i) << i;
}

LSAQ_AVX2 void dot_rows(const WeightRows& weights, std::size_t rows, std::size_t columns, const float* x, float* y) noexcept {
  switch (weights.format.bits) {
  case 0:
    switch (weights.format.element) {
    case ElementType::f32: return dot_rows_of<Load::f32>(weights, rows, columns, x, y);
    case ElementType::f16: return dot_rows_of<Load::f16>(weights, rows, columns, x, y);
    case ElementType::bf16: return dot_rows_of<Load::bf16>(weights, rows, columns, x, y);
    case ElementType::q8_0: return scalar::dot_rows(weights, rows, columns, x, y);
    }
    return;
  case 8: return dot_rows_of<Load::i8>(weights, rows, columns, x, y);
  case 4: return dot_rows_of<Load::i4>(weights, rows, columns, x, y);
  default: return scalar::dot_rows(weights, rows, columns, x, y);
  }
}

LSAQ_AVX2 void unpack(const WeightRows& weights, std::size_t rows, std::size_t first_column, std::size_t columns, float* panel) noexcept {
  switch (weights.format.bits) {
  case 0:
    switch (weights.format.element) {
    case ElementType::f32: return unpack_of<Load::f32>(weights, rows, first_column, columns, panel);
    case ElementType::f16: return unpack_of<Load::f16>(weights, rows, first_column, columns, panel);
    case ElementType::bf16: return unpack_of<Load::bf16>(weights, rows, first_column, columns, panel);
    case ElementType::q8_0: return scalar::unpack(weights, rows, first_column, columns, panel);
    }
    return;
  case 8: return unpack_of<Load::i8>(weights, rows, first_column, columns, panel);
  case 4:
    if (first_column % 8 == 0) return unpack_of<Load::i4>(weights, rows, first_column, columns, panel);
    break;
  default: break;
  }
  scalar::unpack(weights, rows, first_column, columns, panel);
}

inline constexpr CpuKernels kernels{Isa::avx2,       widen,    widen_codes, narrow_f16, magnitude_bits, quantize,         extremes,
                                    quantize_packed, dot_rows, unpack,      product,    above,          &integer_kernels, &decoder_kernels};

} // namespace lsaq::inline v0::inline LSAQ_BASELINE::avx2

#undef LSAQ_AVX2
#undef LSAQ_AVX2_HELPER
#endif
