// Quantized weights in memory: codes and scales of one matrix in one block, the same type for every bit width.
//
// Canonical layout, also the layout of files (docs/formats.md):
//
//   rows x row_bytes   codes: code + 2^(bits-1) as an unsigned number of `bits` bits, first column in the lowest bits, little-endian;
//                      each row padded to a multiple of 4 bytes with code 0
//   scales             F16, BF16 or F32: one a row; or rows x groups of columns, row by row; or a single one
//
//   bits = 8:  byte c = code of column c + 128
//   bits = 4:  byte c = (code of column 2c + 8) | (code of column 2c+1 + 8) << 4
#pragma once

#include <lsaq/error.hpp>
#include <lsaq/half.hpp>
#include <lsaq/kernels/cpu/pack_codes.hpp>
#include <lsaq/quantization/granularity.hpp>
#include <lsaq/types.hpp>

#include <concepts>
#include <cstring>
#include <limits>
#include <new>
#include <span>
#include <string>
#include <utility>

namespace lsaq::inline v0 {

/// Type of a stored scale.
enum class ScaleType : std::uint8_t { f16, bf16, f32 };

constexpr std::size_t size_of(ScaleType type) noexcept { return type == ScaleType::f32 ? 4 : 2; }

constexpr std::string_view name_of(ScaleType type) noexcept { return type == ScaleType::f32 ? "F32" : type == ScaleType::f16 ? "F16" : "BF16"; }

/// Types a scale may be stored as.
template <class S>
concept scale_storage = std::same_as<S, f16> || std::same_as<S, bf16> || std::same_as<S, float>;

template <scale_storage S>
inline constexpr ScaleType scale_type_of = std::same_as<S, f16>    ? ScaleType::f16
                                           : std::same_as<S, bf16> ? ScaleType::bf16
                                                                   : ScaleType::f32;

inline constexpr unsigned min_bits = 2;
inline constexpr unsigned max_bits = 8;

/// Which codes rounding may choose; the bytes are laid out the same.
enum class CodeRange : std::uint8_t {
  symmetric, ///< -Q .. Q with Q = 2^(bits-1) - 1 (LSAQ, Eq. 4)
  full       ///< -(Q+1) .. Q: one code more
};

constexpr std::string_view name_of(CodeRange range) noexcept { return range == CodeRange::full ? "full" : "symmetric"; }

/// The largest code: 127 for 8 bits, 7 for 4 bits.
constexpr int code_limit(unsigned bits) noexcept { return (1 << (bits - 1)) - 1; }

/// How a matrix is quantized: the width of its codes, what a scale is stored as, which codes share one, and which codes there are.
struct PackedFormat {
  unsigned bits = 0; ///< 2 .. 8
  ScaleType scale = ScaleType::f16;
  Grouping grouping = {};
  CodeRange range = CodeRange::symmetric;

  constexpr int lowest_code() const noexcept { return -code_limit(bits) - (range == CodeRange::full ? 1 : 0); }
  constexpr int highest_code() const noexcept { return code_limit(bits); }

  friend constexpr bool operator==(const PackedFormat&, const PackedFormat&) = default;
};

/// Bytes of one packed row: the codes' bits, rounded up to whole 32-bit words.
constexpr std::size_t packed_row_bytes(std::size_t columns, unsigned bits) noexcept { return (columns * bits + 31) / 32 * 4; }

/// Rows and columns of a matrix without its data.
struct MatrixShape {
  std::size_t rows = 0;
  std::size_t columns = 0;
  friend constexpr bool operator==(MatrixShape, MatrixShape) = default;
};

/// Bytes of a packed matrix: codes, row padding and scales.
constexpr Bytes packed_bytes(MatrixShape shape, unsigned bits, ScaleType scale = ScaleType::f16, Grouping grouping = {}) noexcept {
  return Bytes{shape.rows} * packed_row_bytes(shape.columns, bits) + Bytes{grouping.scales(shape.rows, shape.columns)} * size_of(scale);
}
constexpr Bytes packed_bytes(MatrixShape shape, const PackedFormat& format) noexcept { return packed_bytes(shape, format.bits, format.scale, format.grouping); }

/// A packed matrix in memory that somebody else owns; trivially copyable.
struct PackedView {
  const std::byte* data = nullptr; ///< codes, then scales
  std::size_t rows = 0;
  std::size_t columns = 0;
  unsigned bits = 0;
  ScaleType scale_type = ScaleType::f16;
  Grouping grouping = {};

  [[gnu::always_inline]] constexpr std::size_t row_bytes() const noexcept { return packed_row_bytes(columns, bits); }
  [[gnu::always_inline]] constexpr Bytes bytes() const noexcept { return packed_bytes({rows, columns}, bits, scale_type, grouping); }
  [[gnu::always_inline]] const std::byte* codes(std::size_t row) const noexcept { return data + row * row_bytes(); }
  [[gnu::always_inline]] const std::byte* scale_data() const noexcept { return data + rows * row_bytes(); }
  /// Number of the scale of a code in scale_data().
  [[gnu::always_inline]] constexpr std::size_t scale_index(std::size_t row, std::size_t column) const noexcept {
    if (grouping.whole_matrix) return 0;
    return grouping.columns == 0 ? row : row * grouping.scales_per_row(columns) + column / grouping.columns;
  }
};

/// An owned block of bytes, aligned for vector loads, not initialized. Move-only; its size is exactly what was asked for.
class AlignedBytes {
public:
  static constexpr std::size_t alignment = 64;

  AlignedBytes() = default;
  explicit AlignedBytes(std::size_t size) : data_(size ? static_cast<std::byte*>(::operator new (size, std::align_val_t{alignment})) : nullptr), size_(size) {}
  AlignedBytes(AlignedBytes&& other) noexcept : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}
  AlignedBytes& operator=(AlignedBytes&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    return *this;
  }
  ~AlignedBytes() { ::operator delete (data_, std::align_val_t{alignment}); }

  [[gnu::always_inline]] std::byte* data() noexcept { return data_; }
  [[gnu::always_inline]] const std::byte* data() const noexcept { return data_; }
  [[gnu::always_inline]] std::size_t size() const noexcept { return size_; }
  [[gnu::always_inline]] std::span<std::byte> span() noexcept { return {data_, size_}; }

private:
  std::byte* data_ = nullptr;
  std::size_t size_ = 0;
};

/// A quantized matrix that owns its bytes; move-only. Bits, scale type and grouping are data, so engines need no templates to hold one.
class PackedMatrix {
public:
  PackedMatrix() = default;

  /// Room for rows x columns codes of `bits` bits, not initialized. Throws std::bad_alloc.
  PackedMatrix(MatrixShape shape, unsigned bits, ScaleType scale_type, Grouping grouping = {})
      : storage_(static_cast<std::size_t>(packed_bytes(shape, bits, scale_type, grouping))), shape_(shape), bits_(bits), scale_type_(scale_type),
        grouping_(grouping) {}
  PackedMatrix(MatrixShape shape, const PackedFormat& format) : PackedMatrix(shape, format.bits, format.scale, format.grouping) {}

  [[gnu::always_inline]] std::size_t rows() const noexcept { return shape_.rows; }
  [[gnu::always_inline]] std::size_t columns() const noexcept { return shape_.columns; }
  [[gnu::always_inline]] unsigned bits() const noexcept { return bits_; }
  [[gnu::always_inline]] ScaleType scale_type() const noexcept { return scale_type_; }
  [[gnu::always_inline]] Grouping grouping() const noexcept { return grouping_; }
  [[gnu::always_inline]] Bytes bytes() const noexcept { return storage_.size(); }
  [[gnu::always_inline]] std::span<std::byte> storage() noexcept { return storage_.span(); }
  [[gnu::always_inline]] PackedView view() const noexcept { return {storage_.data(), shape_.rows, shape_.columns, bits_, scale_type_, grouping_}; }

private:
  AlignedBytes storage_;
  MatrixShape shape_;
  unsigned bits_ = 0;
  ScaleType scale_type_ = ScaleType::f16;
  Grouping grouping_ = {};
};

} // namespace lsaq::inline v0
