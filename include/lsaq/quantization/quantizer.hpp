// Weights to codes and scales: Quantizer<Granularity, Bits> and its run-time twins.
//
// Per channel (LSAQ, Eq. 4), for every row W_r: s = max|W_r| / Q with Q = 2^(bits-1) - 1, code = round(W / s). What Eq. 4 leaves open is decided so:
//   - elements are widened to FP32, all arithmetic is FP32 with true division, rounding is half to even, codes are clamped to -Q .. Q
//   - the scale is rounded to its stored type first and codes are chosen from the stored scale; a scale that would be subnormal in F16 is rounded up
//   - a zero row has scale +0 and codes 0; NaN, infinity and a scale beyond its type are refused with row and column
// The result does not depend on the number of threads, the instruction set or the host's floating-point mode.
#pragma once

#include <lsaq/executor.hpp>
#include <lsaq/kernels/cpu/select.hpp>
#include <lsaq/quantization/float_environment.hpp>
#include <lsaq/quantization/granularity.hpp>
#include <lsaq/quantization/packed_matrix.hpp>

#include <algorithm>
#include <atomic>

namespace lsaq::inline v0 {

/// Why a row could not be quantized.
struct QuantizationFault {
  enum class Kind : std::uint8_t { none, not_finite, scale_overflow };
  Kind kind = Kind::none;
  std::size_t row = 0;
  std::size_t column = 0; ///< first element that is not finite, or the largest one
  float value = 0;        ///< that element

  explicit operator bool() const noexcept { return kind != Kind::none; }
};

} // namespace lsaq::inline v0

namespace lsaq::inline v0::inline LSAQ_BASELINE {

/// One sentence that names the tensor (may be empty), the row and column, and what to do.
inline std::string message_of(const QuantizationFault& fault, std::string_view tensor, ScaleType scale) {
  const std::string where = (tensor.empty() ? std::string("matrix") : "tensor " + std::string(tensor)) + ", row " + std::to_string(fault.row) + ", column " +
                            std::to_string(fault.column) + ": ";
  if (fault.kind == QuantizationFault::Kind::not_finite)
    return where + "the weight is not finite (" + std::to_string(fault.value) + "); repair the checkpoint or leave this layer unquantized";
  return where + "the row's largest weight " + std::to_string(fault.value) + " needs a scale beyond the range of " + std::string(name_of(scale)) +
         "; use F32 scales or leave this layer unquantized";
}

/// The largest code of a symmetric grid: 127 for 8 bits, 7 for 4 bits.
constexpr int code_limit(unsigned bits) noexcept { return (1 << (bits - 1)) - 1; }

/// max|W_r| / Q as it is stored; infinity if beyond the type's range. Runs in the default floating-point environment.
inline float stored_scale(float max_magnitude, unsigned bits, ScaleType type) noexcept {
  const float scale = scalar::divide(max_magnitude, static_cast<float>(code_limit(bits)));
  if (type == ScaleType::f32) return scale;
  if (type == ScaleType::bf16) return to_float(to_bf16(scale));
  constexpr float smallest_normal = 0x1p-14f;
  if (scale >= smallest_normal || scale == 0) return to_float(to_f16(scale));
  // Subnormal: rounded up to the next multiple of 2^-24, so that the row's maximum stays within the codes. Both products are exact.
  const float steps = scale * 0x1p24f;
  const auto whole = static_cast<std::uint32_t>(steps);
  return static_cast<float>(whole + (static_cast<float>(whole) < steps ? 1u : 0u)) * 0x1p-24f;
}

inline void store_scale(float scale, ScaleType type, std::byte* scales, std::size_t index) noexcept {
  if (type == ScaleType::f32) {
    std::memcpy(scales + 4 * index, &scale, sizeof scale);
    return;
  }
  const std::uint16_t bits = type == ScaleType::f16 ? to_f16(scale).bits : to_bf16(scale).bits; // exact: the value was rounded to the type before
  std::memcpy(scales + 2 * index, &bits, sizeof bits);
}

namespace detail {

inline constexpr std::size_t quantize_chunk = 512; // a multiple of 32 columns, so chunks of any bit width end on a whole word

/// Quantizes one row of `view` into row `target_row` of a packed matrix.
inline QuantizationFault quantize_row(const CpuKernels& kernels, MatrixView view, std::size_t row, unsigned bits, ScaleType type, std::byte* codes,
                                      std::byte* scales, std::size_t target_row) noexcept {
  float values[quantize_chunk];
  std::uint8_t unpacked[quantize_chunk];
  const std::byte* source = view.row(row);
  std::uint32_t largest = 0;
  for (std::size_t first = 0; first < view.columns; first += quantize_chunk) {
    const std::size_t count = std::min(quantize_chunk, view.columns - first);
    kernels.widen(source + bytes_of(view.type, first), view.type, count, values);
    largest = std::max(largest, kernels.magnitude_bits(values, count));
  }
  const bool finite = largest < 0x7f800000u;
  const float scale = finite ? stored_scale(std::bit_cast<float>(largest), bits, type) : 0;
  if (!finite || (std::bit_cast<std::uint32_t>(scale) & 0x7fffffffu) >= 0x7f800000u) {
    std::size_t column = 0;
    while ((std::bit_cast<std::uint32_t>(load_element(source, view.type, column)) & 0x7fffffffu) < std::min(largest, 0x7f800000u)) ++column;
    return {finite ? QuantizationFault::Kind::scale_overflow : QuantizationFault::Kind::not_finite, row, column, load_element(source, view.type, column)};
  }
  store_scale(scale, type, scales, target_row);
  const int limit = code_limit(bits), offset = limit + 1;
  for (std::size_t first = 0; first < view.columns; first += quantize_chunk) {
    const std::size_t count = std::min(quantize_chunk, view.columns - first);
    if (scale == 0) {
      std::memset(unpacked, offset, count);
    } else {
      kernels.widen(source + bytes_of(view.type, first), view.type, count, values);
      kernels.quantize(values, count, scale, limit, offset, unpacked);
    }
    pack_codes(unpacked, count, bits, static_cast<std::uint8_t>(offset), codes + first * bits / 8);
  }
  return {};
}

} // namespace detail

/// Quantizes a block of rows into rows [first_row, first_row + block.rows) of a packed matrix of `shape`, so that a matrix can be streamed from its file.
///
/// `packed` holds packed_bytes(shape, bits, scale) bytes and belongs to the caller. Returns the first row (of the block) that can't be quantized, whose bytes
/// are then unspecified. Allocates nothing; two passes over the block.
template <granularity_policy Granularity>
QuantizationFault quantize_rows(MatrixView block, std::size_t first_row, MatrixShape shape, unsigned bits, ScaleType scale, std::span<std::byte> packed,
                                ExecutorRef executor = {}, const CpuKernels& kernels = select_kernels()) {
  if (bits < min_bits || bits > max_bits) fail<InvalidArgument>("can't quantize to " + std::to_string(bits) + " bits: 2 to 8 are possible");
  if (block.columns != shape.columns || first_row + block.rows > shape.rows || packed.size() != packed_bytes(shape, bits, scale))
    fail<InvalidArgument>("quantize: " + std::to_string(block.rows) + " x " + std::to_string(block.columns) + " rows from row " + std::to_string(first_row) +
                          " do not fit a packed matrix of " + std::to_string(shape.rows) + " x " + std::to_string(shape.columns) + " in " +
                          std::to_string(packed.size()) + " bytes");
  std::byte* const codes = packed.data();
  std::byte* const scales = codes + shape.rows * packed_row_bytes(shape.columns, bits);
  constexpr std::size_t rows_per_task = 16;
  std::atomic<std::size_t> bad_row{block.rows};
  executor.parallel_for((block.rows + rows_per_task - 1) / rows_per_task, [&](std::size_t task) {
    const DefaultFloatEnvironment environment;
    const std::size_t end = std::min(block.rows, (task + 1) * rows_per_task);
    for (std::size_t row = task * rows_per_task; row < end; ++row) {
      const std::size_t target = first_row + row;
      if (!detail::quantize_row(kernels, block, row, bits, scale, codes + target * packed_row_bytes(shape.columns, bits), scales, target)) continue;
      std::size_t first_bad = bad_row.load(std::memory_order_relaxed);
      while (row < first_bad && !bad_row.compare_exchange_weak(first_bad, row, std::memory_order_relaxed)) {
      }
      return;
    }
  });
  const std::size_t bad = bad_row.load(std::memory_order_relaxed);
  if (bad == block.rows) return {};
  const DefaultFloatEnvironment environment;
  return detail::quantize_row(kernels, block, bad, bits, scale, codes + (first_row + bad) * packed_row_bytes(shape.columns, bits), scales, first_row + bad);
}

/// Quantizes into memory of the caller: packed_bytes({view.rows, view.columns}, bits, scale) bytes. Throws InvalidArgument; allocates nothing.
template <granularity_policy Granularity>
void quantize_into(MatrixView view, unsigned bits, std::span<std::byte> packed, ScaleType scale = ScaleType::f16, ExecutorRef executor = {}) {
  const MatrixShape shape{view.rows, view.columns};
  if (const QuantizationFault fault = quantize_rows<Granularity>(view, 0, shape, bits, scale, packed, executor))
    fail<InvalidArgument>(message_of(fault, "", scale));
}

/// Quantizes to a bit width known at run time (2 to 8). Throws InvalidArgument, std::bad_alloc.
template <granularity_policy Granularity> PackedMatrix quantize(MatrixView view, unsigned bits, ScaleType scale = ScaleType::f16, ExecutorRef executor = {}) {
  if (bits < min_bits || bits > max_bits) fail<InvalidArgument>("can't quantize to " + std::to_string(bits) + " bits: 2 to 8 are possible");
  PackedMatrix packed({view.rows, view.columns}, bits, scale);
  quantize_into<Granularity>(view, bits, packed.storage(), scale, executor);
  return packed;
}

/// Quantizes weights of any supported element type to Bits bits with one scale per channel, stored as Scale: f16, bf16 or float.
template <class Granularity, unsigned Bits, class Scale = f16>
requires(Bits >= min_bits && Bits <= max_bits) class Quantizer {
  static_assert(granularity_policy<Granularity>, "lsaq: Quantizer<Granularity, Bits>: Granularity must be PerChannel (docs/policies.md)");
  static_assert(scale_storage<Scale>, "lsaq: Quantizer<Granularity, Bits, Scale>: Scale must be lsaq::f16, lsaq::bf16 or float (docs/policies.md)");

public:
  static constexpr unsigned bits = Bits;
  static constexpr ScaleType scale_type = scale_type_of<Scale>;

  /// The packed matrix of `view`. Throws InvalidArgument naming row and column where a weight is not finite or its scale overflows; std::bad_alloc.
  PackedMatrix operator()(MatrixView view, ExecutorRef executor = {}) const { return quantize<Granularity>(view, Bits, scale_type, executor); }

  /// The same without exceptions for weights that can't be quantized.
  Expected<PackedMatrix> try_quantize(MatrixView view, ExecutorRef executor = {}) const {
    PackedMatrix packed({view.rows, view.columns}, Bits, scale_type);
    const QuantizationFault fault = quantize_rows<Granularity>(view, 0, {view.rows, view.columns}, Bits, scale_type, packed.storage(), executor);
    if (fault) return typename Expected<PackedMatrix>::Failure{message_of(fault, "", scale_type)};
    return packed;
  }
};

/// Code of one weight; -(2^(bits-1)) is possible in packed bytes but never made by the symmetric rule.
inline int code_at(PackedView packed, std::size_t row, std::size_t column) noexcept {
  return static_cast<int>(scalar::unpack_code(packed.codes(row), packed.bits, column)) - (1 << (packed.bits - 1));
}

/// Scale of one row, widened to FP32.
inline float scale_at(PackedView packed, std::size_t row) noexcept { return load_scale(packed.scale_data(), packed.scale_type, row); }

/// Writes code x scale as FP32, one row of `out` for each row of `packed`.
inline void dequantize(PackedView packed, MutableMatrixView out) {
  if (out.rows != packed.rows || out.columns != packed.columns) fail<InvalidArgument>("dequantize: the output's shape is not the packed matrix's");
  for (std::size_t r = 0; r < packed.rows; ++r) {
    const float scale = scale_at(packed, r);
    for (std::size_t c = 0; c < packed.columns; ++c) out.row(r)[c] = static_cast<float>(code_at(packed, r, c)) * scale;
  }
}

} // namespace lsaq::inline v0::inline LSAQ_BASELINE
