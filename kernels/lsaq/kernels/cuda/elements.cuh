// Elements of matrices on the device: FP32, FP16 and BF16, widened exactly, narrowed half to even.
#pragma once

#include <lsaq/half.hpp>
#include <lsaq/kernels/cuda/simt.cuh>

namespace lsaq::inline v0::inline LSAQ_BASELINE::gpu {

/// A type that matrices on the device have.
template <class T>
concept element = std::same_as<T, float> || std::same_as<T, f16> || std::same_as<T, bf16>;

/// The type that views of such elements have.
template <element T> inline constexpr ElementType element_type_of = MatrixView(static_cast<const T*>(nullptr), 0, 0).type;

/// Rows of activations, one a token, of any of these types: what a block does to them is little beside its weights, so that their type is data.
struct TokenRows {
  const void* data = nullptr;
  std::size_t stride = 0; ///< elements from one token to the next
  unsigned count = 0;
  ElementType type = ElementType::f32;

  /// `some` tokens, from number `first` on.
  LSAQ_DEVICE TokenRows slice(unsigned first, unsigned some) const {
    return {static_cast<const std::byte*>(data) + first * stride * (type == ElementType::f32 ? 4 : 2), stride, some, type};
  }
};

#if defined(__CUDACC__)

__device__ inline float widen(float value) { return value; }
__device__ inline float widen(bf16 value) { return float_of_bits(std::uint32_t{value.bits} << 16); }
__device__ inline float widen(f16 value) {
  float wide;
  asm("cvt.f32.f16 %0, %1;" : "=f"(wide) : "h"(value.bits));
  return wide;
}

__device__ inline void narrow(float value, float& out) { out = value; }
__device__ inline void narrow(float value, f16& out) { asm("cvt.rn.f16.f32 %0, %1;" : "=h"(out.bits) : "f"(value)); }
__device__ inline void narrow(float value, bf16& out) {
  const std::uint32_t bits = bits_of_float(value);
  const bool nan = (bits & 0x7fffffffu) > 0x7f800000u;
  out.bits = static_cast<std::uint16_t>((nan ? bits | 0x400000u : bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

#else

inline float widen(float value) { return value; }
inline float widen(f16 value) { return to_float(value); }
inline float widen(bf16 value) { return to_float(value); }
inline void narrow(float value, float& out) { out = value; }
inline void narrow(float value, f16& out) { out = to_f16(value); }
inline void narrow(float value, bf16& out) { out = to_bf16(value); }

#endif

/// Elements in sixteen bytes.
template <element T> inline constexpr unsigned per_words = 16 / sizeof(T);

/// The elements of sixteen bytes, widened.
template <element T> LSAQ_DEVICE void widen(const Words& words, float (&out)[per_words<T>]) {
  if constexpr (sizeof(T) == 4) {
    for (unsigned i = 0; i < 4; ++i) out[i] = float_of_bits(words.word[i]);
  } else {
    for (unsigned i = 0; i < 4; ++i) {
      out[2 * i] = widen(T{static_cast<std::uint16_t>(words.word[i] & 0xffffu)});
      out[2 * i + 1] = widen(T{static_cast<std::uint16_t>(words.word[i] >> 16)});
    }
  }
}

/// Four neighbouring elements of which the first `count` exist, widened; the others are 0. `aligned`: the address is a multiple of their size.
template <element T> LSAQ_DEVICE Quad load_quad(const T* in, unsigned count, bool aligned) {
  Quad quad{};
  if (aligned && count >= 4) {
    if constexpr (sizeof(T) == 4) {
      const Words words = load_words(in);
      for (unsigned i = 0; i < 4; ++i) quad.value[i] = float_of_bits(words.word[i]);
    } else {
      const auto bits = load(reinterpret_cast<const unsigned long long*>(in));
      for (unsigned i = 0; i < 4; ++i) quad.value[i] = widen(T{static_cast<std::uint16_t>(bits >> 16 * i & 0xffffu)});
    }
    return quad;
  }
  for (unsigned i = 0; i < 4; ++i)
    if (i < count) quad.value[i] = widen(in[i]);
  return quad;
}

/// Element `index` of an array of `type`, widened; not Q8_0.
LSAQ_DEVICE inline float element_at(const void* data, ElementType type, std::size_t index) {
  if (type == ElementType::f32) return static_cast<const float*>(data)[index];
  const std::uint16_t bits = static_cast<const std::uint16_t*>(data)[index];
  return type == ElementType::f16 ? widen(f16{bits}) : widen(bf16{bits});
}

/// Rounds `value` to element `index` of an array of `type`; not Q8_0.
LSAQ_DEVICE inline void set_element(void* data, ElementType type, std::size_t index, float value) {
  if (type == ElementType::f32)
    static_cast<float*>(data)[index] = value;
  else if (type == ElementType::f16)
    narrow(value, static_cast<f16*>(data)[index]);
  else
    narrow(value, static_cast<bf16*>(data)[index]);
}

} // namespace lsaq::inline v0::inline LSAQ_BASELINE::gpu
