// Tensors as model files store them: element types, where a tensor lies or what is to be written, and widening its rows to FP32.
#pragma once

#include <lsaq/half.hpp>
#include <lsaq/types.hpp>

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace lsaq::inline v0 {

/// How a tensor's elements are stored. Those up to q4_1 can be read as FP32; the others are listed with their bytes only. int8 and int4 are codes packed into
/// 32-bit words whose scales are another tensor: their model reads them (compressed_tensors.hpp).
enum class StoredType : std::uint8_t {
  f32,
  f16,
  bf16,
  q8_0,
  q4_0,
  q4_1,
  f64,
  i64,
  u64,
  i32,
  u32,
  i16,
  u16,
  i8,
  u8,
  boolean,
  f8_e4m3,
  f8_e5m2,
  f8_e8m0,
  c64,
  int8,
  int4
};

/// Name and size of a stored type: `block` elements of a row take `block_bytes` bytes.
struct StoredTypeTraits {
  std::string_view name;
  std::size_t block;
  std::size_t block_bytes;
};

inline constexpr std::array<StoredTypeTraits, 22> stored_types = {{
    {"F32", 1, 4},     {"F16", 1, 2},     {"BF16", 1, 2},    {"Q8_0", 32, 34}, {"Q4_0", 32, 18}, {"Q4_1", 32, 20}, {"F64", 1, 8}, {"I64", 1, 8},
    {"U64", 1, 8},     {"I32", 1, 4},     {"U32", 1, 4},     {"I16", 1, 2},    {"U16", 1, 2},    {"I8", 1, 1},     {"U8", 1, 1},  {"BOOL", 1, 1},
    {"F8_E4M3", 1, 1}, {"F8_E5M2", 1, 1}, {"F8_E8M0", 1, 1}, {"C64", 1, 8},    {"INT8", 4, 4},   {"INT4", 8, 4},
}};

constexpr const StoredTypeTraits& traits_of(StoredType type) noexcept { return stored_types[static_cast<std::size_t>(type)]; }
constexpr std::string_view name_of(StoredType type) noexcept { return traits_of(type).name; }

static_assert(name_of(StoredType::q4_1) == "Q4_1" && name_of(StoredType::u8) == "U8" && name_of(StoredType::int4) == "INT4");

/// Whether dequantize_row can widen this type.
constexpr bool is_readable(StoredType type) noexcept { return type <= StoredType::q4_1; }

/// Whether it is packed codes.
constexpr bool is_packed(StoredType type) noexcept { return type == StoredType::int8 || type == StoredType::int4; }

/// Bytes of one row; `columns` is a multiple of the type's block.
constexpr std::size_t row_bytes(StoredType type, std::size_t columns) noexcept { return columns / traits_of(type).block * traits_of(type).block_bytes; }

/// The matrix element type that is stored the same way, if there is one.
constexpr std::optional<ElementType> element_type_of(StoredType type) noexcept {
  if (type == StoredType::f32) return ElementType::f32;
  if (type == StoredType::f16) return ElementType::f16;
  if (type == StoredType::bf16) return ElementType::bf16;
  return std::nullopt;
}

/// How files store a matrix of F32, F16 or BF16.
constexpr StoredType stored_type_of(ElementType type) noexcept {
  return type == ElementType::f32 ? StoredType::f32 : type == ElementType::bf16 ? StoredType::bf16 : StoredType::f16;
}

/// Where a tensor lies. Everything was checked when the file was opened: the range is inside the file, the sizes do not overflow.
struct TensorInfo {
  std::string name;
  std::vector<std::uint64_t> shape; ///< outermost first, as PyTorch prints it; empty for a scalar
  std::size_t rows = 1;             ///< product of all dimensions but the last; 1 for a vector
  std::size_t columns = 1;          ///< the last dimension, contiguous in the file
  StoredType type = StoredType::f32;
  std::uint64_t offset = 0; ///< from the start of its file
  std::uint64_t bytes = 0;
  std::uint32_t file = 0; ///< which file of the model
};

/// A tensor to be written.
struct TensorEntry {
  std::string name;
  StoredType type = StoredType::f32;
  std::vector<std::uint64_t> shape; ///< outermost first

  std::uint64_t bytes() const noexcept {
    std::uint64_t elements = 1;
    for (const std::uint64_t dimension : shape) elements *= dimension;
    return elements / traits_of(type).block * traits_of(type).block_bytes;
  }
};

/// 32 elements, value d * q.
struct Q8_0Block {
  f16 d;
  std::int8_t q[32];
};

/// 32 elements, value d * (q - 8); byte j holds element j in its low and element j + 16 in its high four bits.
struct Q4_0Block {
  f16 d;
  std::uint8_t q[16];
};

/// 32 elements, value d * q + m; nibbles as in Q4_0Block.
struct Q4_1Block {
  f16 d;
  f16 m;
  std::uint8_t q[16];
};

static_assert(sizeof(Q8_0Block) == 34 && sizeof(Q4_0Block) == 18 && sizeof(Q4_1Block) == 20);

} // namespace lsaq::inline v0

namespace lsaq::inline v0::inline LSAQ_BASELINE {

// A scale has 11 significant bits and a code at most 8, so d * q is exact in FP32 and the only rounding is that of the sum in Q4_1. A compiler that contracts
// d * q + m into one fused operation therefore gives the same bits: no pragma or flag is needed.
inline void dequantize(const Q8_0Block& block, float* out) noexcept {
  const float d = to_float(block.d);
  for (int j = 0; j < 32; ++j) out[j] = d * static_cast<float>(block.q[j]);
}

inline void dequantize(const Q4_0Block& block, float* out) noexcept {
  const float d = to_float(block.d);
  for (int j = 0; j < 16; ++j) out[j] = d * static_cast<float>((block.q[j] & 15) - 8);
  for (int j = 0; j < 16; ++j) out[j + 16] = d * static_cast<float>((block.q[j] >> 4) - 8);
}

inline void dequantize(const Q4_1Block& block, float* out) noexcept {
  const float d = to_float(block.d);
  const float m = to_float(block.m);
  for (int j = 0; j < 16; ++j) out[j] = d * static_cast<float>(block.q[j] & 15) + m;
  for (int j = 0; j < 16; ++j) out[j + 16] = d * static_cast<float>(block.q[j] >> 4) + m;
}

template <class Block> void dequantize_blocks(const std::byte* row, std::size_t count, float* out) noexcept {
  for (std::size_t i = 0; i < count; ++i) {
    Block block; // copied: the file gives no alignment, and the compiler learns that `out` does not overlap it
    std::memcpy(&block, row + i * sizeof block, sizeof block);
    dequantize(block, out + i * 32);
  }
}

template <class Half> void widen_row(const std::byte* row, std::size_t columns, float* out) noexcept {
  for (std::size_t i = 0; i < columns; ++i) {
    Half value;
    std::memcpy(&value, row + i * sizeof value, sizeof value);
    out[i] = to_float(value);
  }
}

/// Widens one stored row to FP32: out[0] .. out[columns - 1], the values that ggml and gguf-py compute, bit for bit.
///
/// `row` may have any alignment and must hold row_bytes(type, columns) bytes; the type must be readable, `columns` a multiple of its block. Does not allocate
/// or throw. Infinite and NaN scales give infinities and NaN.
inline void dequantize_row(const std::byte* row, StoredType type, std::size_t columns, float* out) noexcept {
  LSAQ_ASSERT(is_readable(type) && columns % traits_of(type).block == 0);
  switch (type) {
  case StoredType::f32: std::memcpy(out, row, columns * sizeof(float)); break;
  case StoredType::f16: widen_row<f16>(row, columns, out); break;
  case StoredType::bf16: widen_row<bf16>(row, columns, out); break;
  case StoredType::q8_0: dequantize_blocks<Q8_0Block>(row, columns / 32, out); break;
  case StoredType::q4_0: dequantize_blocks<Q4_0Block>(row, columns / 32, out); break;
  case StoredType::q4_1: dequantize_blocks<Q4_1Block>(row, columns / 32, out); break;
  default: break;
  }
}

} // namespace lsaq::inline v0::inline LSAQ_BASELINE
