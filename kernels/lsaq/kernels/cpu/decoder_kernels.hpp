// What a decoder computes between its matrix products, as one table of functions for each instruction set: softmax, gating, norms, rotations, and attention of
// single queries over rows of cached keys and values.
#pragma once

#include <lsaq/types.hpp>

#include <limits>

namespace lsaq::inline v0 {

/// Rows of keys or of values as the cache stores them, at any alignment; `columns` of Q8_0 is a multiple of 32.
struct CacheRows {
  const std::byte* data = nullptr;
  std::size_t row_bytes = 0; ///< from one row to the next
  ElementType type = ElementType::f16;
  std::size_t columns = 0;

  [[gnu::always_inline]] const std::byte* row(std::size_t r) const noexcept { return data + r * row_bytes; }

  /// The rows from r on.
  [[gnu::always_inline]] CacheRows from(std::size_t r) const noexcept { return {row(r), row_bytes, type, columns}; }
};

/// A softmax that sees its scores in pieces. Source: Milakov and Gimelshein, arXiv 1805.02867.
struct RunningSoftmax {
  float highest = std::numeric_limits<float>::lowest(); ///< of the scaled scores so far; finite, so that -ffast-math has no infinity to ignore
  float total = 0;                                      ///< sum of exp(score - highest)
};

/// A norm's gain, read in place.
struct Gain {
  const std::byte* data = nullptr;
  ElementType type = ElementType::f16;
};

/// The functions of one instruction-set path. All are noexcept, allocate nothing and read nothing outside the ranges named; results depend on their arguments
/// only. Exponentials are within 2 units in the last place, 0 for -infinity; NaN stays NaN, unless a consumer's -ffast-math says there is none.
struct DecoderKernels {
  /// One piece of a softmax: scores[i] becomes exp(scores[i] * scale - highest), `highest` and `total` take the piece in. Returns what sums weighted with
  /// earlier pieces are to be multiplied by. scale > 0, n > 0.
  float (*softmax_step)(float* scores, std::size_t n, float scale, RunningSoftmax& softmax) noexcept;

  /// gate[i] = silu(gate[i]) * up[i], with silu(x) = x / (1 + exp(-x)).
  void (*gate)(float* gate, const float* up, std::size_t n) noexcept;

  /// out[i] = x[i] / sqrt(mean of x^2 + epsilon) * gain[i], n > 0; out may be x.
  void (*rms_norm)(const float* x, const Gain& gain, std::size_t n, float epsilon, float* out) noexcept;

  /// Rotates the pairs of `heads` heads of 2 * half floats in place: neighbours if `interleaved`, else i and i + half. (a, b) becomes (a cos - b sin, b cos + a
  /// sin).
  void (*rotate)(float* x, std::size_t heads, std::size_t half, const float* cosines, const float* sines, bool interleaved) noexcept;

  /// x[i] += y[i].
  void (*add)(float* x, const float* y, std::size_t n) noexcept;

  /// x[i] *= factor.
  void (*scale)(float* x, std::size_t n, float factor) noexcept;

  /// out[i] = in[i] rounded to FP16, half to even; what is beyond its range becomes the largest finite value.
  void (*narrow_finite_f16)(const float* in, std::size_t n, f16* out) noexcept;

  /// scores[h * stride + k] = sum over the columns of q[h * columns + c] * key(k, c), for `heads` queries that share `count` keys.
  void (*score)(const CacheRows& keys, std::size_t count, const float* q, std::size_t heads, float* scores, std::size_t stride) noexcept;

  /// out[h * columns + c] += sum over k of weights[h * stride + k] * value(k, c), for `heads` outputs that share `count` values.
  void (*weigh)(const CacheRows& values, std::size_t count, const float* weights, std::size_t stride, std::size_t heads, float* out) noexcept;
};

} // namespace lsaq::inline v0
