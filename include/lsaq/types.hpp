// The vocabulary of the library as pure data: element types, matrix views, bytes, model shapes.
#pragma once

#include <lsaq/config.hpp>

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace lsaq::inline v0 {

/// Amounts of memory, in bytes.
using Bytes = std::uint64_t;

/// A token: its row in the model's embedding.
using TokenId = std::uint32_t;

inline namespace literals {
constexpr Bytes operator""_KiB(unsigned long long n) noexcept { return n << 10; }
constexpr Bytes operator""_MiB(unsigned long long n) noexcept { return n << 20; }
constexpr Bytes operator""_GiB(unsigned long long n) noexcept { return n << 30; }
} // namespace literals

/// IEEE 754 binary16, stored as its bits; conversions are in half.hpp.
struct f16 {
  std::uint16_t bits = 0;
  friend constexpr bool operator==(f16, f16) = default;
};

/// bfloat16 (the upper half of a binary32), stored as its bits; conversions are in half.hpp.
struct bf16 {
  std::uint16_t bits = 0;
  friend constexpr bool operator==(bf16, bf16) = default;
};

static_assert(sizeof(f16) == 2 && sizeof(bf16) == 2);

/// Element types of matrices the library reads in place. Q8_0 is GGUF's: blocks of 32 elements, an F16 scale before 32 signed bytes; it is only read.
enum class ElementType : std::uint8_t { f32, f16, bf16, q8_0 };

inline constexpr std::size_t q8_0_block = 32;       ///< elements of a Q8_0 block
inline constexpr std::size_t q8_0_block_bytes = 34; ///< its bytes

/// Bytes of an element, or of a block of Q8_0.
constexpr std::size_t size_of(ElementType type) noexcept {
  switch (type) {
  case ElementType::f32: return 4;
  case ElementType::f16:
  case ElementType::bf16: return 2;
  case ElementType::q8_0: return q8_0_block_bytes;
  }
  return 0;
}

/// Bytes of `n` elements in a row; for Q8_0 n is a multiple of 32.
constexpr std::size_t bytes_of(ElementType type, std::size_t n) noexcept { return (type == ElementType::q8_0 ? n / q8_0_block : n) * size_of(type); }

constexpr std::string_view name_of(ElementType type) noexcept {
  switch (type) {
  case ElementType::f32: return "F32";
  case ElementType::f16: return "F16";
  case ElementType::bf16: return "BF16";
  case ElementType::q8_0: return "Q8_0";
  }
  return "unknown";
}

/// A read-only row-major matrix in memory that somebody else owns.
///
/// Row r, column c is at element r * stride + c. Trivially copyable; the pointer need only be aligned for its element type.
struct MatrixView {
  const void* data = nullptr;
  std::size_t rows = 0;
  std::size_t columns = 0;
  std::size_t stride = 0; ///< elements from one row to the next
  ElementType type = ElementType::f32;

  constexpr MatrixView() = default;
  constexpr MatrixView(const float* p, std::size_t r, std::size_t c, std::size_t row_stride = 0) noexcept
      : data(p), rows(r), columns(c), stride(row_stride ? row_stride : c), type(ElementType::f32) {}
  constexpr MatrixView(const f16* p, std::size_t r, std::size_t c, std::size_t row_stride = 0) noexcept
      : data(p), rows(r), columns(c), stride(row_stride ? row_stride : c), type(ElementType::f16) {}
  constexpr MatrixView(const bf16* p, std::size_t r, std::size_t c, std::size_t row_stride = 0) noexcept
      : data(p), rows(r), columns(c), stride(row_stride ? row_stride : c), type(ElementType::bf16) {}

  /// A matrix of Q8_0 blocks as GGUF stores them; columns and stride are multiples of 32.
  static constexpr MatrixView q8_0(const void* p, std::size_t r, std::size_t c, std::size_t row_stride = 0) noexcept {
    MatrixView view;
    view.data = p;
    view.rows = r;
    view.columns = c;
    view.stride = row_stride ? row_stride : c;
    view.type = ElementType::q8_0;
    return view;
  }

  /// Bytes from one row to the next.
  constexpr std::size_t row_bytes() const noexcept { return bytes_of(type, stride); }

  /// Address of row r.
  [[gnu::always_inline]] const std::byte* row(std::size_t r) const noexcept { return static_cast<const std::byte*>(data) + r * row_bytes(); }

  /// The rows [first, first + count) as a view of their own.
  [[gnu::always_inline]] MatrixView slice(std::size_t first, std::size_t count) const noexcept {
    MatrixView part = *this;
    part.data = row(first);
    part.rows = count;
    return part;
  }
};

/// A writable row-major FP32 matrix in memory that somebody else owns.
struct MutableMatrixView {
  float* data = nullptr;
  std::size_t rows = 0;
  std::size_t columns = 0;
  std::size_t stride = 0; ///< elements from one row to the next

  constexpr MutableMatrixView() = default;
  constexpr MutableMatrixView(float* p, std::size_t r, std::size_t c, std::size_t row_stride = 0) noexcept
      : data(p), rows(r), columns(c), stride(row_stride ? row_stride : c) {}

  [[gnu::always_inline]] float* row(std::size_t r) const noexcept { return data + r * stride; }
  constexpr operator MatrixView() const noexcept { return {data, rows, columns, stride}; }
};

/// One linear map of a decoder layer, y = W x with W of rows x columns (outputs x inputs).
struct LinearShape {
  std::string name = {};   ///< as in the checkpoint, without the layer's prefix: "self_attn.q_proj"
  std::size_t rows = 0;    ///< output channels
  std::size_t columns = 0; ///< input channels
  std::size_t count = 1;   ///< equal matrices under this name (experts)
  std::string group = {};  ///< linears of one group share their bits (q/k/v, gate/up); empty: its own
  unsigned pinned = 0;     ///< bits this linear must have (16: never quantized); 0: the planner decides

  [[gnu::always_inline]] std::uint64_t weights() const noexcept { return std::uint64_t{rows} * columns * count; }
};

/// One decoder layer: the linears that may be quantized and the bytes of everything else (norms, biases).
struct LayerShape {
  std::vector<LinearShape> linears = {};
  Bytes fixed_bytes = 0;

  [[gnu::always_inline]] std::uint64_t weights() const noexcept {
    std::uint64_t sum = 0;
    for (const LinearShape& linear : linears) sum += linear.weights();
    return sum;
  }
};

/// What the planner needs to know of a model; built by the engine from its own configuration.
struct ModelShape {
  std::string name = {};
  std::vector<LayerShape> layers = {};
  Bytes embedding_bytes = 0; ///< embedding and output head as stored; a tied pair counts once
  Bytes fixed_bytes = 0;     ///< whatever else lives outside the layers (final norm)
};

} // namespace lsaq::inline v0
