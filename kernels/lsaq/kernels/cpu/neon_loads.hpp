// How AArch64 with Advanced SIMD loads weights and cached values. See neon.hpp.
#pragma once

#include <lsaq/kernels/cpu/scalar.hpp>

#if LSAQ_ARM64
#include <arm_neon.h>

#define LSAQ_NEON_HELPER [[gnu::always_inline]] inline

namespace lsaq::inline v0::inline LSAQ_BASELINE::neon {

/// Formats with vector loads; other bit widths go through the scalar unpacking.
enum class Load : std::uint8_t { f32, f16, bf16, i8, i4 };

LSAQ_NEON_HELPER float32x4x2_t to_floats(int8x8_t codes) noexcept {
  const int16x8_t wide = vmovl_s8(codes);
  return {{vcvtq_f32_s32(vmovl_s16(vget_low_s16(wide))), vcvtq_f32_s32(vmovl_high_s16(wide))}};
}

/// Weights of columns [column, column + 8) as FP32, at any address. i4 wants column % 8 == 0.
template <Load L> LSAQ_NEON_HELPER float32x4x2_t load8(const std::byte* row, std::size_t column) noexcept {
  const auto* bytes = reinterpret_cast<const std::uint8_t*>(row);
  if constexpr (L == Load::f32) {
    return {{vreinterpretq_f32_u8(vld1q_u8(bytes + 4 * column)), vreinterpretq_f32_u8(vld1q_u8(bytes + 4 * column + 16))}};
  } else if constexpr (L == Load::f16) {
    const float16x8_t halves = vreinterpretq_f16_u8(vld1q_u8(bytes + 2 * column));
    return {{vcvt_f32_f16(vget_low_f16(halves)), vcvt_high_f32_f16(halves)}};
  } else if constexpr (L == Load::bf16) {
    const uint16x8_t halves = vreinterpretq_u16_u8(vld1q_u8(bytes + 2 * column));
    return {{vreinterpretq_f32_u32(vshll_n_u16(vget_low_u16(halves), 16)), vreinterpretq_f32_u32(vshll_high_n_u16(halves, 16))}};
  } else if constexpr (L == Load::i8) {
    return to_floats(vreinterpret_s8_u8(veor_u8(vld1_u8(bytes + column), vdup_n_u8(128)))); // less 128
  } else {
    std::uint32_t word; // eight codes, the first column in the lowest four bits
    std::memcpy(&word, bytes + column / 2, sizeof word);
    const uint8x8_t pairs = vreinterpret_u8_u32(vdup_n_u32(word));
    const uint8x8_t codes = vzip1_u8(vand_u8(pairs, vdup_n_u8(15)), vshr_n_u8(pairs, 4));
    return to_floats(vsub_s8(vreinterpret_s8_u8(codes), vdup_n_s8(8)));
  }
}

/// Columns [column, column + 8) of a cached row as FP32: F32, F16 or Q8_0.
template <ElementType T> LSAQ_NEON_HELPER float32x4x2_t cached8(const std::byte* row, std::size_t column) noexcept {
  if constexpr (T == ElementType::q8_0) {
    const std::byte* block = row + column / q8_0_block * q8_0_block_bytes;
    const float scale = load_element(block, ElementType::f16, 0);
    const float32x4x2_t codes = to_floats(vld1_s8(reinterpret_cast<const std::int8_t*>(block + 2 + column % q8_0_block)));
    return {{vmulq_n_f32(codes.val[0], scale), vmulq_n_f32(codes.val[1], scale)}}; // exact: 11 and 8 bits
  } else {
    static_assert(T == ElementType::f32 || T == ElementType::f16);
    return load8 < T == ElementType::f32 ? Load::f32 : Load::f16 > (row, column);
  }
}

} // namespace lsaq::inline v0::inline LSAQ_BASELINE::neon

#undef LSAQ_NEON_HELPER
#endif
