// Scales that give up the largest weights for a finer grid: rounding policy Clipped.
//
// For weights w_j that share a scale s, and inputs x_j: minimize over s the error sum_j m_j (w_j - s q_j)^2 with m_j = E[x_j^2] and q_j the nearest code. This
// is the expected squared output error if inputs were uncorrelated. Without the m_j it would clip the few weights that multiply the channels with massive
// activations, and be worse than not clipping at all (docs/quantization.md).
#pragma once

#include <lsaq/kernels/cpu/rounding_error.hpp>
#include <lsaq/quantization/quantizer.hpp>

#include <cmath>

namespace lsaq::inline v0::inline LSAQ_BASELINE {

/// The stored scale for `weights` (n values, finite) with the least error weighted by `importance` (n values >= 0), among the scale that clips nothing, a grid
/// of smaller ones, and the least-squares scale of the best one's codes. 0 for zeros; infinity where every scale is beyond the type's range.
///
/// Cost: some 70 passes over the weights.
inline float clipped_scale(const CpuKernels& kernels, const float* weights, const float* importance, std::size_t n, const PackedFormat& format) noexcept {
  const CodeBounds bounds{format.lowest_code(), format.highest_code(), 0};
  WeightRange range;
  for (std::size_t i = 0; i < n; ++i) range = {std::min(range.lowest, weights[i]), std::max(range.highest, weights[i])};
  const float largest = stored_scale(range, format);
  if (largest == 0 || (std::bit_cast<std::uint32_t>(largest) & 0x7fffffffu) >= 0x7f800000u) return largest;
  float best = largest, least = std::numeric_limits<float>::infinity();
  RoundingSums at_best;
  const auto consider = [&](float wanted) {
    const float scale = round_scale(wanted, format.scale);
    if (!(scale > 0) || scale > largest) return;
    const RoundingSums sums = rounding_sums(kernels.isa, weights, importance, n, scale, bounds);
    if (!(sums.error < least)) return; // of equal ones the larger scale, which was asked first
    least = sums.error;
    best = scale;
    at_best = sums;
  };
  consider(largest);
  // Two bits want about a third of the largest weight, eight bits nearly all of it: 64 steps down to this share.
  constexpr float smallest[max_bits + 1] = {0, 0, 0.15f, 0.2f, 0.3f, 0.4f, 0.5f, 0.6f, 0.7f};
  const float step = std::pow(smallest[format.bits], 1.0f / 64);
  for (float share = step; share > smallest[format.bits]; share *= step) consider(largest * share);
  const float coarse = best, half_step = std::sqrt(step);
  for (const float share : {1 / half_step, half_step}) consider(coarse * share);
  for (int i = 0; i < 2 && at_best.code_squared > 0; ++i) consider(at_best.weight_code / at_best.code_squared);
  return best;
}

} // namespace lsaq::inline v0::inline LSAQ_BASELINE
