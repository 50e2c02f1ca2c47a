// Kernels for AArch64 with Advanced SIMD, which every AArch64 machine has: no target attributes, no check at run time.
#pragma once

#include <lsaq/kernels/cpu/neon_decoder.hpp>
#include <lsaq/kernels/cpu/neon_integer.hpp>
#include <lsaq/kernels/cpu/unfused_quantize.hpp>

#if LSAQ_ARM64
#define LSAQ_NEON_HELPER [[gnu::always_inline]] inline

namespace lsaq::inline v0::inline LSAQ_BASELINE::neon {

template <Load L> inline void dot_rows_of(const WeightRows& weights, std::size_t rows, std::size_t columns, const float* x, float* y) noexcept {
  const std::size_t whole32 = columns / 32 * 32;
  const std::size_t whole8 = columns / 8 * 8;
  for (std::size_t r = 0; r < rows; ++r) {
    const std::byte* row = weights.row(r);
    float32x4_t sum[8];
#pragma GCC unroll 8
    for (float32x4_t& lanes : sum) lanes = vdupq_n_f32(0);
    std::size_t c = 0;
    for (; c < whole32; c += 32) {
#pragma GCC unroll 4
      for (std::size_t j = 0; j < 4; ++j) {
        const float32x4x2_t w = load8<L>(row, c + 8 * j);
        sum[2 * j] = vfmaq_f32(sum[2 * j], w.val[0], vld1q_f32(x + c + 8 * j));
        sum[2 * j + 1] = vfmaq_f32(sum[2 * j + 1], w.val[1], vld1q_f32(x + c + 8 * j + 4));
      }
    }
    for (; c < whole8; c += 8) {
      const float32x4x2_t w = load8<L>(row, c);
      sum[0] = vfmaq_f32(sum[0], w.val[0], vld1q_f32(x + c));
      sum[1] = vfmaq_f32(sum[1], w.val[1], vld1q_f32(x + c + 4));
    }
    const float32x4_t low = vaddq_f32(vaddq_f32(sum[0], sum[1]), vaddq_f32(sum[2], sum[3]));
    const float32x4_t high = vaddq_f32(vaddq_f32(sum[4], sum[5]), vaddq_f32(sum[6], sum[7]));
    float total = vaddvq_f32(vaddq_f32(low, high));
    for (; c < columns; ++c) total += scalar::weight_at(row, weights.format, c) * x[c];
    y[r] = total;
  }
}

/// Writes four rows by four columns transposed: panel[c * 16 + r].
LSAQ_NEON_HELPER void store_transposed(float32x4_t a, float32x4_t b, float32x4_t c, float32x4_t d, float* panel) noexcept {
  const float64x2_t even0 = vreinterpretq_f64_f32(vtrn1q_f32(a, b)), odd0 = vreinterpretq_f64_f32(vtrn2q_f32(a, b));
  const float64x2_t even1 = vreinterpretq_f64_f32(vtrn1q_f32(c, d)), odd1 = vreinterpretq_f64_f32(vtrn2q_f32(c, d));
  vst1q_f32(panel + 0 * panel_rows, vreinterpretq_f32_f64(vtrn1q_f64(even0, even1)));
  vst1q_f32(panel + 1 * panel_rows, vreinterpretq_f32_f64(vtrn1q_f64(odd0, odd1)));
  vst1q_f32(panel + 2 * panel_rows, vreinterpretq_f32_f64(vtrn2q_f64(even0, even1)));
  vst1q_f32(panel + 3 * panel_rows, vreinterpretq_f32_f64(vtrn2q_f64(odd0, odd1)));
}

template <Load L> inline void unpack_of(const WeightRows& weights, std::size_t rows, std::size_t first_column, std::size_t columns, float* panel) noexcept {
  const std::size_t whole8 = columns / 8 * 8;
  for (std::size_t group = 0; group < panel_rows; group += 4) {
    const std::byte* row[4]; // a missing row reads row 0 again
    for (std::size_t r = 0; r < 4; ++r) row[r] = weights.row(group + r < rows ? group + r : 0);
    for (std::size_t k = 0; k < whole8; k += 8) {
      float32x4x2_t v[4];
#pragma GCC unroll 4
      for (std::size_t r = 0; r < 4; ++r) v[r] = load8<L>(row[r], first_column + k);
      store_transposed(v[0].val[0], v[1].val[0], v[2].val[0], v[3].val[0], panel + k * panel_rows + group);
      store_transposed(v[0].val[1], v[1].val[1], v[2].val[1], v[3].val[1], panel + (k + 4) * panel_rows + group);
    }
    for (std::size_t k = whole8; k < columns; ++k)
      for (std::size_t r = 0; r < 4; ++r) panel[k * panel_rows + group + r] = scalar::weight_at(row[r], weights.format, first_column + k);
  }
}

/// sum[i] += x[i][Column] * four lanes of the panel, V times.
template <int Column, int R, int V> LSAQ_NEON_HELPER void add_column(const float* panel, const float32x4_t (&x)[R], float32x4_t (&sum)[R][V]) noexcept {
#pragma GCC unroll 4
  for (int p = 0; p < V; ++p) {
    const float32x4_t lanes = vld1q_f32(panel + 4 * p);
#pragma GCC unroll 8
    for (int i = 0; i < R; ++i) sum[i][p] = vfmaq_laneq_f32(sum[i][p], lanes, x[i], Column);
  }
}

/// R rows of x by 4 V lanes of a panel in R x V accumulators: sixteen of the 32 registers keep four multipliers busy, others hold four columns of each row.
/// `lanes` of the 4 V exist.
template <int R, int V>
LSAQ_NEON_HELPER void product_tile(const float* panel, std::size_t step, std::size_t depth, const float* x, std::size_t x_stride, float* y,
                                   std::size_t y_stride, std::size_t lanes, bool accumulate, const Ahead& ahead) noexcept {
  static_assert(R * V <= 16);
  float32x4_t sum[R][V];
#pragma GCC unroll 8
  for (int i = 0; i < R; ++i)
#pragma GCC unroll 4
    for (int p = 0; p < V; ++p) sum[i][p] = vdupq_n_f32(0);
  std::size_t k = 0;
  for (; k + 4 <= depth; k += 4) {
    if (ahead.first != nullptr && k % 16 == 0) {
#pragma GCC unroll 8
      for (int i = 0; i < R; ++i) __builtin_prefetch(ahead.first + i * ahead.row_bytes + k * ahead.column_bits / 8);
    }
    float32x4_t values[R];
#pragma GCC unroll 8
    for (int i = 0; i < R; ++i) values[i] = vld1q_f32(x + i * x_stride + k);
    add_column<0>(panel + k * step, values, sum);
    add_column<1>(panel + (k + 1) * step, values, sum);
    add_column<2>(panel + (k + 2) * step, values, sum);
    add_column<3>(panel + (k + 3) * step, values, sum);
  }
  for (; k < depth; ++k) {
    float32x4_t values[R];
#pragma GCC unroll 8
    for (int i = 0; i < R; ++i) values[i] = vdupq_n_f32(x[i * x_stride + k]);
    add_column<0>(panel + k * step, values, sum);
  }
#pragma GCC unroll 8
  for (int i = 0; i < R; ++i) {
    float* out = y + i * y_stride;
    if (lanes >= 4 * V) {
#pragma GCC unroll 4
      for (int p = 0; p < V; ++p) vst1q_f32(out + 4 * p, accumulate ? vaddq_f32(vld1q_f32(out + 4 * p), sum[i][p]) : sum[i][p]);
      continue;
    }
    float found[4 * V];
#pragma GCC unroll 4
    for (int p = 0; p < V; ++p) vst1q_f32(found + 4 * p, sum[i][p]);
    for (std::size_t l = 0; l < lanes; ++l) out[l] = accumulate ? out[l] + found[l] : found[l];
  }
}

/// Rows [0, R) of x by all lanes, 4 V of them at a time.
template <int R, int V>
inline void product_of(const Panels& panels, std::size_t depth, const float* x, std::size_t x_stride, float* y, std::size_t y_stride, bool accumulate,
                       Ahead ahead) noexcept {
  for (std::size_t lane = 0; lane < panels.lanes; lane += 4 * V) {
    const float* panel = panels.data + lane / panel_rows * panels.panel_stride + lane % panel_rows;
    product_tile<R, V>(panel, panels.step, depth, x, x_stride, y + lane, y_stride, panels.lanes - lane, accumulate, ahead);
    ahead.first = nullptr; // once is enough
  }
}

inline void product(const Panels& panels, std::size_t depth, const float* x, std::size_t x_stride, std::size_t rows, float* y, std::size_t y_stride,
                    bool accumulate, const Ahead& ahead) noexcept {
  Ahead next = ahead;
  for (std::size_t i = 0, count = 0; i < rows; i += count) {
    const float* row = x + i * x_stride;
    float* out = y + i * y_stride;
    if (rows - i >= 8) {
      count = 8;
      product_of<8, 2>(panels, depth, row, x_stride, out, y_stride, accumulate, next);
    } else if (rows - i >= 4) {
      count = 4;
      product_of<4, 4>(panels, depth, row, x_stride, out, y_stride, accumulate, next);
    } else if (rows - i >= 2) {
      count = 2;
      product_of<2, 4>(panels, depth, row, x_stride, out, y_stride, accumulate, next);
    } else {
      count = 1;
      product_of<1, 4>(panels, depth, row, x_stride, out, y_stride, accumulate, next);
    }
    if (next.first != nullptr) next.first += count * next.row_bytes;
  }
}

inline std::uint64_t above(const float* values, const float* limits, std::size_t n) noexcept {
  const uint8x16_t bits = {1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128};
  std::uint64_t mask = 0;
  std::size_t i = 0;
  for (; i + 16 <= n; i += 16) {
    uint16x8_t not_above[4];
#pragma GCC unroll 4
    for (std::size_t j = 0; j < 4; ++j) not_above[j] = vreinterpretq_u16_u32(vcleq_f32(vld1q_f32(values + i + 4 * j), vld1q_f32(limits + i + 4 * j)));
    const uint8x16_t bytes =
        vuzp1q_u8(vreinterpretq_u8_u16(vuzp1q_u16(not_above[0], not_above[1])), vreinterpretq_u8_u16(vuzp1q_u16(not_above[2], not_above[3])));
    const uint8x16_t found = vbicq_u8(bits, bytes);
    mask |= (std::uint64_t{vaddv_u8(vget_low_u8(found))} | std::uint64_t{vaddv_u8(vget_high_u8(found))} << 8) << i;
  }
  return i == n ? mask : mask | scalar::above(values + i, limits + i, n - i) << i;
}

inline void dot_rows(const WeightRows& weights, std::size_t rows, std::size_t columns, const float* x, float* y) noexcept {
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

inline void unpack(const WeightRows& weights, std::size_t rows, std::size_t first_column, std::size_t columns, float* panel) noexcept {
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

template <Load L> LSAQ_NEON_HELPER std::size_t widen_whole(const std::byte* row, std::size_t first_column, std::size_t n, float* out) noexcept {
  std::size_t i = 0;
  for (; i + 8 <= n; i += 8) {
    const float32x4x2_t w = load8<L>(row, first_column + i);
    vst1q_f32(out + i, w.val[0]);
    vst1q_f32(out + i + 4, w.val[1]);
  }
  return i;
}

inline void widen(const void* in, ElementType type, std::size_t n, float* out) noexcept {
  const auto* bytes = static_cast<const std::byte*>(in);
  std::size_t i = 0;
  switch (type) {
  case ElementType::f32: std::memcpy(out, in, n * sizeof(float)); return;
  case ElementType::f16: i = widen_whole<Load::f16>(bytes, 0, n, out); break;
  case ElementType::bf16: i = widen_whole<Load::bf16>(bytes, 0, n, out); break;
  case ElementType::q8_0:
    for (; i + q8_0_block <= n; i += q8_0_block) {
      const std::byte* block = bytes + bytes_of(type, i);
      const float scale = load_element(block, ElementType::f16, 0);
#pragma GCC unroll 4
      for (std::size_t j = 0; j < q8_0_block; j += 8) {
        const float32x4x2_t codes = to_floats(vld1_s8(reinterpret_cast<const std::int8_t*>(block + 2 + j)));
        vst1q_f32(out + i + j, vmulq_n_f32(codes.val[0], scale));
        vst1q_f32(out + i + j + 4, vmulq_n_f32(codes.val[1], scale));
      }
    }
    break;
  }
  for (; i < n; ++i) out[i] = load_element(in, type, i);
}

inline void widen_codes(const std::byte* row, unsigned bits, std::size_t first_column, std::size_t n, float* out) noexcept {
  std::size_t i = 0;
  if (bits == 8) i = widen_whole<Load::i8>(row, first_column, n, out);
  if (bits == 4) i = widen_whole<Load::i4>(row, first_column, n, out);
  scalar::widen_codes(row, bits, first_column + i, n - i, out + i);
}

inline void narrow_f16(const float* in, std::size_t n, f16* out) noexcept {
  std::size_t i = 0;
  for (; i + 8 <= n; i += 8) {
    const float16x8_t halves = vcvt_high_f16_f32(vcvt_f16_f32(vld1q_f32(in + i)), vld1q_f32(in + i + 4));
    vst1q_u16(&out[i].bits, vreinterpretq_u16_f16(halves));
  }
  for (; i < n; ++i) out[i] = to_f16(in[i]);
}

inline std::uint32_t magnitude_bits(const float* in, std::size_t n) noexcept {
  uint32x4_t largest = vdupq_n_u32(0); // as integers: monotonic for non-negative floats, and NaN is above infinity
  std::size_t i = 0;
  for (; i + 4 <= n; i += 4) largest = vmaxq_u32(largest, vbicq_u32(vreinterpretq_u32_f32(vld1q_f32(in + i)), vdupq_n_u32(0x80000000u)));
  const std::uint32_t whole = vmaxvq_u32(largest), rest = scalar::magnitude_bits(in + i, n - i);
  return whole > rest ? whole : rest;
}

/// a / b as the instruction: under -ffast-math compilers turn the intrinsic into a product with a reciprocal, which is not the nearest quotient.
LSAQ_NEON_HELPER float32x4_t divide4(float32x4_t a, float32x4_t b) noexcept {
#if defined(__GNUC__)
  float32x4_t quotient;
  asm("fdiv %0.4s, %1.4s, %2.4s" : "=w"(quotient) : "w"(a), "w"(b));
  return quotient;
#else
  return vdivq_f32(a, b);
#endif
}

inline void quantize(const float* in, std::size_t n, float scale, CodeBounds bounds, std::uint8_t* out) noexcept {
  const float32x4_t divisor = vdupq_n_f32(scale);
  const int32x4_t top = vdupq_n_s32(bounds.highest), bottom = vdupq_n_s32(bounds.lowest), shift = vdupq_n_s32(bounds.offset);
  std::size_t i = 0;
  for (; i + 16 <= n; i += 16) {
    uint16x8_t code[2];
#pragma GCC unroll 2
    for (std::size_t j = 0; j < 2; ++j) {
      const int32x4_t low = vcvtnq_s32_f32(divide4(vld1q_f32(in + i + 8 * j), divisor)); // half to even in any rounding mode
      const int32x4_t high = vcvtnq_s32_f32(divide4(vld1q_f32(in + i + 8 * j + 4), divisor));
      code[j] =
          vqmovun_high_s32(vqmovun_s32(vaddq_s32(vmaxq_s32(vminq_s32(low, top), bottom), shift)), vaddq_s32(vmaxq_s32(vminq_s32(high, top), bottom), shift));
    }
    vst1q_u8(out + i, vqmovn_high_u16(vqmovn_u16(code[0]), code[1]));
  }
  scalar::quantize(in + i, n - i, scale, bounds, out + i);
}

inline void quantize_packed(const Elements& in, std::size_t group, const float* scales, CodeBounds bounds, std::byte* out, const void*) noexcept {
  unfused::quantize_packed<widen, quantize>(in, group, scales, bounds, out);
}

inline constexpr CpuKernels kernels{Isa::neon,       widen,    widen_codes, narrow_f16, magnitude_bits, quantize,         unfused::extremes<widen>,
                                    quantize_packed, dot_rows, unpack,      product,    above,          &integer_kernels, &decoder_kernels};

} // namespace lsaq::inline v0::inline LSAQ_BASELINE::neon

#undef LSAQ_NEON_HELPER
#endif
