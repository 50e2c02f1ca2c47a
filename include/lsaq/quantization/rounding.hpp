// How weights become codes: rounding policies, and the guard that no policy loses to the nearest code.
//
//   Nearest   the largest weight decides the scale, each weight takes the nearest code (LSAQ, Eq. 4); needs no calibration
//   Clipped   the scale minimizes the squared error weighted by the inputs' mean squares, then the nearest code; clipping.hpp
//   Gptq      that scale, and codes that make up for each other's errors on the inputs; gptq.hpp
#pragma once

#include <lsaq/quantization/gptq.hpp>

#include <optional>

namespace lsaq::inline v0 {

/// Rounding policies as data.
enum class Rounding : std::uint8_t { nearest, clip, gptq };

constexpr std::string_view name_of(Rounding rounding) noexcept {
  return rounding == Rounding::nearest ? "nearest" : rounding == Rounding::clip ? "clip" : "gptq";
}

} // namespace lsaq::inline v0

namespace lsaq::inline v0::inline LSAQ_BASELINE {

/// Rounds to the nearest code of the scale that clips nothing.
struct Nearest {
  static constexpr Rounding rounding = Rounding::nearest;
};

/// Rounds to the nearest code of the scale with the least weighted error.
struct Clipped {
  static constexpr Rounding rounding = Rounding::clip;
};

/// Rounds so that errors make up for each other on the calibration inputs.
struct Gptq {
  static constexpr Rounding rounding = Rounding::gptq;
};

/// A rounding policy: one of those above.
template <class P>
concept rounding_policy = requires {
  { P::rounding } -> std::convertible_to<Rounding>;
};

static_assert(rounding_policy<Nearest> && rounding_policy<Clipped> && rounding_policy<Gptq>);

/// Scales by clipped_scale(), one for each row or group, then nearest codes. `importance` has a value for each column: the inputs' mean squares.
///
/// With a single scale for the matrix, which has no inputs of its own, this is Nearest. Throws InvalidArgument as quantize(), and for another number of
/// columns; std::bad_alloc. Cost: some 70 passes over the weights in cache.
inline PackedMatrix quantize_clipped(MatrixView weights, std::span<const float> importance, const PackedFormat& format, ExecutorRef executor = {},
                                     const CpuKernels& kernels = select_kernels()) {
  if (importance.size() != weights.columns)
    fail<InvalidArgument>("clipping " + std::to_string(weights.columns) + " columns by the mean squares of " + std::to_string(importance.size()) + " inputs");
  PackedMatrix packed = quantize(weights, format, executor); // refuses what can't be quantized
  if (format.grouping.whole_matrix) return packed;
  std::byte* const codes = packed.storage().data();
  const std::size_t row_bytes = packed.view().row_bytes(), groups = format.grouping.scales_per_row(weights.columns);
  std::byte* const scales = codes + weights.rows * row_bytes;
  const std::size_t width = groups == 1 ? weights.columns : format.grouping.columns;
  const std::size_t tasks = std::min(weights.rows, executor.concurrency() * 4);
  std::vector<float> memory(tasks * (width + groups));
  const CodeBounds bounds{format.lowest_code(), format.highest_code(), code_limit(format.bits) + 1};
  executor.parallel_for(tasks, [&](std::size_t task) {
    const DefaultFloatEnvironment environment;
    float* const values = memory.data() + task * (width + groups);
    float* const found = values + width;
    for (std::size_t r = weights.rows * task / tasks; r < weights.rows * (task + 1) / tasks; ++r) {
      for (std::size_t g = 0; g < groups; ++g) {
        const std::size_t first = g * width, count = std::min(width, weights.columns - first);
        kernels.widen(weights.row(r) + bytes_of(weights.type, first), weights.type, count, values);
        found[g] = clipped_scale(kernels, values, importance.data() + first, count, format);
        store_scale(found[g], format.scale, scales, r * groups + g);
      }
      kernels.quantize_packed(detail::elements_of(weights, r, 0, weights.columns), width, found, bounds, codes + r * row_bytes, weights.row(r));
    }
  });
  return packed;
}

/// Codes and scales by GPTQ. `weights` are FP32; `factor` is that of their inputs.
///
/// Throws InvalidArgument as quantize(), and for other types or another number of columns; std::bad_alloc: some 512 rows of 5 floats a weight. Cost: rows x n^2
/// multiplications for the rounding, and twice as many for each refinement.
template <product_device Device> PackedMatrix quantize_gptq(const Device& device, MatrixView weights, const GptqFactor& factor, const PackedFormat& format) {
  if (weights.columns != factor.channels() || weights.type != ElementType::f32)
    fail<InvalidArgument>("GPTQ of " + std::to_string(weights.columns) + " columns (" + std::string(name_of(weights.type)) + ") by the moments of " +
                          std::to_string(factor.channels()) + " inputs: FP32 weights with one column for each input are wanted");
  PackedMatrix packed = quantize(weights, format, device.executor()); // refuses what can't be quantized
  std::byte* const codes = packed.storage().data();
  const std::size_t row_bytes = packed.view().row_bytes(), groups = format.grouping.scales_per_row(weights.columns);
  std::byte* const scales = codes + weights.rows * row_bytes;
  const float tensor_scale = format.grouping.whole_matrix && weights.rows != 0 ? load_scale(scales, format.scale, 0) : 0;
  detail::GptqBlock<Device> block(device, factor, format);
  const int offset = code_limit(format.bits) + 1;
  for (std::size_t first = 0; first < weights.rows; first += detail::gptq_rows) {
    const std::size_t count = std::min(detail::gptq_rows, weights.rows - first);
    block.round(weights.slice(first, count), tensor_scale);
    device.executor().parallel_for(count, [&](std::size_t r) {
      std::uint8_t unsigned_codes[512];
      for (std::size_t c = 0; c < weights.columns; c += sizeof unsigned_codes) {
        const std::size_t part = std::min(sizeof unsigned_codes, weights.columns - c);
        for (std::size_t i = 0; i < part; ++i) unsigned_codes[i] = static_cast<std::uint8_t>(block.codes(r)[c + i] + offset);
        pack_codes(unsigned_codes, part, format.bits, static_cast<std::uint8_t>(offset), codes + (first + r) * row_bytes + c * format.bits / 8);
      }
    });
    for (std::size_t s = 0; s < count * groups && !format.grouping.whole_matrix; ++s) store_scale(block.scales()[s], format.scale, scales, first * groups + s);
  }
  return packed;
}

/// A matrix rounded by whichever policy has the least output error on held-back inputs.
struct RoundedMatrix {
  PackedMatrix packed;
  Rounding rounding = Rounding::nearest; ///< the one that was kept
  double output = 0;                     ///< mean |X W^T|^2 over the held-back inputs X, summed over the outputs
  double errors[3] = {};                 ///< by Rounding: mean |X (W - W')^T|^2; 0 where it was not tried
  double weight_error = 0;               ///< |W - W'|^2 of what was kept

  /// Relative squared output error of what was kept.
  double relative_error() const noexcept { return output > 0 ? errors[static_cast<std::size_t>(rounding)] / output : 0; }
};

/// Sum of the squares of a matrix's elements.
inline double sum_of_squares(MatrixView matrix) noexcept {
  double sum = 0;
  for (std::size_t r = 0; r < matrix.rows; ++r)
    for (std::size_t c = 0; c < matrix.columns; ++c) {
      const double value = double{load_element(matrix.row(r), matrix.type, c)};
      sum += value * value;
    }
  return sum;
}

/// W' - W of a packed matrix and the FP32 weights it was made from. Throws InvalidArgument if the shapes differ.
inline void rounding_difference(PackedView packed, MatrixView weights, MutableMatrixView out, ExecutorRef executor = {}) {
  dequantize(packed, out, executor);
  executor.parallel_for(weights.rows, [&](std::size_t r) {
    const auto* row = reinterpret_cast<const float*>(weights.row(r));
    for (std::size_t c = 0; c < weights.columns; ++c) out.row(r)[c] -= row[c];
  });
}

/// Rounds by the cheapest policies up to `most` and keeps the one with the least error on the inputs that were held back: never worse than Nearest there.
///
/// `weights` are FP32. Without held-back inputs `most` is taken on trust. `factor` may be null unless `most` is gptq. Throws as the policies do.
template <product_device Device>
RoundedMatrix round_guarded(const Device& device, MatrixView weights, const InputStatistics& inputs, const GptqFactor* factor, Rounding most,
                            const PackedFormat& format) {
  RoundedMatrix result;
  const MatrixView held_back = inputs.held_back();
  std::vector<float> difference(weights.rows * weights.columns);
  const MutableMatrixView left(difference.data(), weights.rows, weights.columns);
  if (held_back.rows != 0) result.output = output_error(device, held_back, weights);
  double least = std::numeric_limits<double>::infinity();
  const auto consider = [&](Rounding rounding, PackedMatrix packed) {
    rounding_difference(packed.view(), weights, left, device.executor());
    const double error = output_error(device, held_back, left);
    result.errors[static_cast<std::size_t>(rounding)] = error;
    if (held_back.rows != 0 && !(error < least)) return;
    least = error;
    result.rounding = rounding;
    result.weight_error = sum_of_squares(left);
    result.packed = std::move(packed);
  };
  consider(Rounding::nearest, quantize(weights, format, device.executor()));
  if (most >= Rounding::clip) consider(Rounding::clip, quantize_clipped(weights, inputs.mean_squares(), format, device.executor()));
  if (most == Rounding::gptq) consider(Rounding::gptq, quantize_gptq(device, weights, *factor, format));
  return result;
}

} // namespace lsaq::inline v0::inline LSAQ_BASELINE
