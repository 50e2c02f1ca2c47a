// Weights to codes and scales by nearest rounding: Quantizer<Granularity, Bits> and its run-time twins.
//
// Per channel (LSAQ, Eq. 4), for every row W_r: s = max|W_r| / Q with Q = 2^(bits-1) - 1, code = round(W / s). Per tensor and per group likewise, over the
// weights that share a scale. What Eq. 4 leaves open is decided so:
//   - elements are widened to FP32, all arithmetic is FP32 with true division, rounding is half to even, codes are clamped to -Q .. Q
//   - the scale is rounded to its stored type first and codes are chosen from the stored scale; a scale that would be subnormal in F16 is rounded up
//   - weights that are all zero have scale +0 and codes 0; NaN, infinity and a scale beyond its type are refused with row and column
//   - with the full range, codes -(Q+1) .. Q, s is the smallest scale that clips no weight
// The result does not depend on the number of threads, the instruction set or the host's floating-point mode.
#pragma once

#include <lsaq/executor.hpp>
#include <lsaq/kernels/cpu/select.hpp>
#include <lsaq/quantization/float_environment.hpp>
#include <lsaq/quantization/quantization_fault.hpp>
#include <lsaq/quantization/scale.hpp>

#include <algorithm>
#include <atomic>
#include <limits>
#include <optional>

namespace lsaq::inline v0::inline LSAQ_BASELINE {

/// Refuses widths and groups that no packed matrix has. Throws InvalidArgument.
inline void check_format(const PackedFormat& format) {
  if (format.bits < min_bits || format.bits > max_bits)
    fail<InvalidArgument>("can't quantize to " + std::to_string(format.bits) + " bits: 2 to 8 are possible");
  if (format.grouping.columns % group_multiple != 0)
    fail<InvalidArgument>("can't quantize in groups of " + std::to_string(format.grouping.columns) + " columns: multiples of 32 are possible");
}

namespace detail {

/// What decides a scale: the range of weights, or that one of them is not finite.
struct ScaledRange {
  WeightRange range = {};
  bool finite = true;
};

inline ScaledRange range_of(Extremes extremes) noexcept {
  if (std::max(extremes.positive, extremes.negative) >= 0x7f800000u) return {{}, false};
  return {{-std::bit_cast<float>(extremes.negative), std::bit_cast<float>(extremes.positive)}, true};
}

/// Columns [first, end) of a row, as the kernels take them.
inline Elements elements_of(MatrixView view, std::size_t row, std::size_t first, std::size_t end) noexcept {
  return {view.row(row) + bytes_of(view.type, first), view.type, end - first};
}

/// Whether a scale is beyond its type.
inline bool overflows(float scale) noexcept { return (std::bit_cast<std::uint32_t>(scale) & 0x7fffffffu) >= 0x7f800000u; }

/// The end or ends of a range that its scale is for, the other one moved out of reach: with the full range the smaller magnitude may need the larger scale.
inline WeightRange decisive_ends(WeightRange range, const PackedFormat& format) noexcept {
  constexpr float out_of_reach = std::numeric_limits<float>::infinity();
  const float largest = std::max(range.highest, -range.lowest);
  if (format.range == CodeRange::symmetric) return {-largest, largest};
  const float upwards = scalar::divide(range.highest, static_cast<float>(format.highest_code()));
  const float downwards = scalar::divide(range.lowest, static_cast<float>(format.lowest_code()));
  return upwards >= downwards ? WeightRange{-out_of_reach, range.highest} : WeightRange{range.lowest, out_of_reach};
}

/// The fault of a range that can't be scaled: the first element of columns [first, end) that is not finite, or that the scale is too large for.
inline QuantizationFault fault_of(MatrixView view, std::size_t row, std::size_t first, std::size_t end, const ScaledRange& scaled,
                                  const PackedFormat& format) noexcept {
  const WeightRange ends = decisive_ends(scaled.range, format);
  for (std::size_t column = first; column < end; ++column) {
    const float value = load_element(view.row(row), view.type, column);
    const bool infinite = (std::bit_cast<std::uint32_t>(value) & 0x7fffffffu) >= 0x7f800000u;
    const bool extreme = value <= ends.lowest || value >= ends.highest;
    if (scaled.finite ? extreme : infinite)
      return {scaled.finite ? QuantizationFault::Kind::scale_overflow : QuantizationFault::Kind::not_finite, row, column, value};
  }
  return {};
}

/// Quantizes one row of `view` into row `target_row` of a packed matrix. `tensor_scale` is the scale of a matrix that has only one.
///
/// Two passes over as many groups as stay in the first-level cache; what follows in memory is fetched during the second.
inline QuantizationFault quantize_row(const CpuKernels& kernels, MatrixView view, std::size_t row, const PackedFormat& format, float tensor_scale,
                                      std::byte* codes, std::byte* scales, std::size_t target_row) noexcept {
  const CodeBounds bounds{format.lowest_code(), format.highest_code(), code_limit(format.bits) + 1};
  const std::byte* const next_row = view.row(row + 1);
  if (format.grouping.whole_matrix) {
    if (target_row == 0) store_scale(tensor_scale, format.scale, scales, 0);
    kernels.quantize_packed(elements_of(view, row, 0, view.columns), view.columns, &tensor_scale, bounds, codes, next_row);
    return {};
  }
  constexpr std::size_t most_columns = 4096;
  const std::size_t groups = format.grouping.scales_per_row(view.columns);
  const std::size_t width = groups == 1 ? view.columns : format.grouping.columns;
  const std::size_t at_once = groups == 1 ? 1 : std::clamp<std::size_t>(most_columns / width, 1, most_scales);
  for (std::size_t g = 0; g < groups; g += at_once) {
    const std::size_t count = std::min(at_once, groups - g), first = g * width, end = std::min(first + count * width, view.columns);
    const Elements elements = elements_of(view, row, first, end);
    Extremes extremes[most_scales];
    extremes[0] = {}; // of no columns
    float found[most_scales];
    kernels.extremes(elements, width, format.range == CodeRange::full, extremes);
    if (!store_scales(extremes, count, format, kernels, found, scales + (target_row * groups + g) * size_of(format.scale)))
      for (std::size_t i = 0; i < count; ++i) {
        const ScaledRange scaled = range_of(extremes[i]);
        if (!scaled.finite || overflows(stored_scale(scaled.range, format)))
          return fault_of(view, row, first + i * width, std::min(first + (i + 1) * width, end), scaled, format);
      }
    const std::byte* const next = end < view.columns ? view.row(row) + bytes_of(view.type, end) : next_row;
    kernels.quantize_packed(elements, width, found, bounds, codes + first * format.bits / 8, next);
  }
  return {};
}

/// Calls act(row) -> whether it is bad for every row, 16 rows a task, in the default floating-point environment; the first bad row, or `rows`.
template <class Act> std::size_t first_bad_row(std::size_t rows, ExecutorRef executor, Act&& act) {
  constexpr std::size_t rows_per_task = 16;
  std::atomic<std::size_t> bad_row{rows};
  executor.parallel_for((rows + rows_per_task - 1) / rows_per_task, [&](std::size_t task) {
    const DefaultFloatEnvironment environment;
    const std::size_t end = std::min(rows, (task + 1) * rows_per_task);
    for (std::size_t row = task * rows_per_task; row < end; ++row) {
      if (!act(row)) continue;
      std::size_t first_bad = bad_row.load(std::memory_order_relaxed);
      while (row < first_bad && !bad_row.compare_exchange_weak(first_bad, row, std::memory_order_relaxed)) {
      }
      return;
    }
  });
  return bad_row.load(std::memory_order_relaxed);
}

} // namespace detail

/// The range of all weights of a matrix, as PerTensor needs it, or why there is none. Allocates nothing.
inline QuantizationFault find_range(MatrixView view, WeightRange& range, const CpuKernels& kernels = select_kernels()) noexcept {
  const DefaultFloatEnvironment environment;
  for (std::size_t row = 0; row < view.rows; ++row) {
    Extremes extremes = {};
    kernels.extremes(detail::elements_of(view, row, 0, view.columns), view.columns, true, &extremes);
    const detail::ScaledRange scaled = detail::range_of(extremes);
    if (!scaled.finite) return detail::fault_of(view, row, 0, view.columns, scaled, {.bits = max_bits});
    range = {std::min(range.lowest, scaled.range.lowest), std::max(range.highest, scaled.range.highest)};
  }
  return {};
}

/// Quantizes a block of rows into rows [first_row, first_row + block.rows) of a packed matrix of `shape`, so that a matrix can be streamed from its file.
///
/// `packed` holds packed_bytes(shape, format) bytes and belongs to the caller. With one scale for the whole matrix, `range` is find_range() of all its blocks;
/// of a block that is the whole matrix it is found here. Returns the first row (of the block) that can't be quantized, whose bytes are then unspecified.
/// Allocates nothing; two passes over the block. Throws InvalidArgument.
inline QuantizationFault quantize_rows(MatrixView block, std::size_t first_row, MatrixShape shape, const PackedFormat& format, std::span<std::byte> packed,
                                       ExecutorRef executor = {}, const CpuKernels& kernels = select_kernels(), std::optional<WeightRange> range = {}) {
  check_format(format);
  if (block.columns != shape.columns || first_row + block.rows > shape.rows || packed.size() != packed_bytes(shape, format))
    fail<InvalidArgument>("quantize: " + std::to_string(block.rows) + " x " + std::to_string(block.columns) + " rows from row " + std::to_string(first_row) +
                          " do not fit a packed matrix of " + std::to_string(shape.rows) + " x " + std::to_string(shape.columns) + " in " +
                          std::to_string(packed.size()) + " bytes");
  float tensor_scale = 0;
  if (format.grouping.whole_matrix) {
    if (!range) {
      if (block.rows != shape.rows) fail<InvalidArgument>("quantize: a part of a matrix with a single scale needs the range of the whole matrix");
      if (const QuantizationFault fault = find_range(block, range.emplace(), kernels)) return fault;
    }
    const DefaultFloatEnvironment environment;
    tensor_scale = stored_scale(*range, format);
    if (detail::overflows(tensor_scale)) {
      for (std::size_t row = 0; row < block.rows; ++row)
        if (const QuantizationFault fault = detail::fault_of(block, row, 0, block.columns, {*range, true}, format)) return fault;
      return {QuantizationFault::Kind::scale_overflow, 0, 0, std::max(-range->lowest, range->highest)}; // in another block
    }
  }
  std::byte* const codes = packed.data();
  const std::size_t row_bytes = packed_row_bytes(shape.columns, format.bits);
  std::byte* const scales = codes + shape.rows * row_bytes;
  const auto quantize = [&](std::size_t row) {
    return detail::quantize_row(kernels, block, row, format, tensor_scale, codes + (first_row + row) * row_bytes, scales, first_row + row);
  };
  const std::size_t bad = detail::first_bad_row(block.rows, executor, [&](std::size_t row) { return static_cast<bool>(quantize(row)); });
  if (bad == block.rows) return {};
  const DefaultFloatEnvironment environment;
  return quantize(bad);
}

template <granularity_policy Granularity>
QuantizationFault quantize_rows(MatrixView block, std::size_t first_row, MatrixShape shape, unsigned bits, ScaleType scale, std::span<std::byte> packed,
                                ExecutorRef executor = {}, const CpuKernels& kernels = select_kernels()) {
  return quantize_rows(block, first_row, shape, {.bits = bits, .scale = scale, .grouping = Granularity::grouping}, packed, executor, kernels);
}

/// Quantizes into memory of the caller: packed_bytes({view.rows, view.columns}, format) bytes. Throws InvalidArgument; allocates nothing.
inline void quantize_into(MatrixView view, const PackedFormat& format, std::span<std::byte> packed, ExecutorRef executor = {}) {
  if (const QuantizationFault fault = quantize_rows(view, 0, {view.rows, view.columns}, format, packed, executor))
    fail<InvalidArgument>(message_of(fault, "", format.scale));
}

template <granularity_policy Granularity>
void quantize_into(MatrixView view, unsigned bits, std::span<std::byte> packed, ScaleType scale = ScaleType::f16, ExecutorRef executor = {}) {
  quantize_into(view, {.bits = bits, .scale = scale, .grouping = Granularity::grouping}, packed, executor);
}

/// Quantizes to a format known at run time. Throws InvalidArgument, std::bad_alloc.
inline PackedMatrix quantize(MatrixView view, const PackedFormat& format, ExecutorRef executor = {}) {
  check_format(format);
  PackedMatrix packed({view.rows, view.columns}, format);
  quantize_into(view, format, packed.storage(), executor);
  return packed;
}

/// Quantizes to a bit width known at run time (2 to 8). Throws InvalidArgument, std::bad_alloc.
template <granularity_policy Granularity> PackedMatrix quantize(MatrixView view, unsigned bits, ScaleType scale = ScaleType::f16, ExecutorRef executor = {}) {
  return quantize(view, {.bits = bits, .scale = scale, .grouping = Granularity::grouping}, executor);
}

/// Quantizes weights of any supported element type to Bits bits; scales are stored as Scale: f16, bf16 or float; codes are those of Range.
template <class Granularity, unsigned Bits, class Scale = f16, CodeRange Range = CodeRange::symmetric>
requires(Bits >= min_bits && Bits <= max_bits) class Quantizer {
  static_assert(granularity_policy<Granularity>,
                "lsaq: Quantizer<Granularity, Bits>: Granularity must be PerTensor, PerChannel or PerGroup<N> (docs/policies.md)");
  static_assert(scale_storage<Scale>, "lsaq: Quantizer<Granularity, Bits, Scale>: Scale must be lsaq::f16, lsaq::bf16 or float (docs/policies.md)");

public:
  static constexpr unsigned bits = Bits;
  static constexpr ScaleType scale_type = scale_type_of<Scale>;
  static constexpr PackedFormat format{.bits = Bits, .scale = scale_type, .grouping = Granularity::grouping, .range = Range};

  /// The packed matrix of `view`. Throws InvalidArgument naming row and column where a weight is not finite or its scale overflows; std::bad_alloc.
  PackedMatrix operator()(MatrixView view, ExecutorRef executor = {}) const { return quantize(view, format, executor); }

  /// The same without exceptions for weights that can't be quantized.
  Expected<PackedMatrix> try_quantize(MatrixView view, ExecutorRef executor = {}) const {
    PackedMatrix packed({view.rows, view.columns}, format);
    if (const QuantizationFault fault = quantize_rows(view, 0, {view.rows, view.columns}, format, packed.storage(), executor))
      return typename Expected<PackedMatrix>::Failure{message_of(fault, "", scale_type)};
    return packed;
  }
};

/// Code of one weight; -(2^(bits-1)) is possible in packed bytes but never made by the symmetric rule.
inline int code_at(PackedView packed, std::size_t row, std::size_t column) noexcept {
  return static_cast<int>(scalar::unpack_code(packed.codes(row), packed.bits, column)) - (1 << (packed.bits - 1));
}

/// Writes code x scale as FP32, one row of `out` for each row of `packed`. Throws InvalidArgument if the shapes differ.
inline void dequantize(PackedView packed, MutableMatrixView out, ExecutorRef executor = {}) {
  if (out.rows != packed.rows || out.columns != packed.columns) fail<InvalidArgument>("dequantize: the output's shape is not the packed matrix's");
  executor.parallel_for(packed.rows, [&](std::size_t r) {
    for (std::size_t c = 0; c < packed.columns; ++c) out.row(r)[c] = static_cast<float>(code_at(packed, r, c)) * scale_at(packed, r, c);
  });
}

} // namespace lsaq::inline v0::inline LSAQ_BASELINE
