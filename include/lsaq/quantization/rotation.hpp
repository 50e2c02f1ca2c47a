// Orthogonal changes of basis that spread outliers over many channels, and cost next to nothing to apply.
//
// A vector of n = 2^a m channels (m odd) is multiplied by Q = S (H / sqrt(2^a) (x) O): random signs S, the Hadamard matrix H of order 2^a, and a random
// orthogonal O of order m, drawn uniformly as a product of reflections (G. W. Stewart, SIAM J. Numer. Anal. 17(3), 1980). n may be any size: with m = 1 it is
// the randomized Hadamard transform of QuIP# and QuaRot (arXiv 2402.04396, 2404.00456), with a = 0 a random orthogonal matrix.
#pragma once

#include <lsaq/error.hpp>
#include <lsaq/executor.hpp>
#include <lsaq/types.hpp>

#include <Eigen/Core>

#include <bit>
#include <cmath>
#include <numbers>
#include <random>
#include <span>
#include <vector>

namespace lsaq::inline v0::inline LSAQ_BASELINE {

/// An orthogonal matrix Q of n x n as factors: applying it to a vector takes n (a + 4m) operations, no memory, and is its own inverse up to the order.
///
/// The same seed gives the same matrix on every machine, up to rounding. A value; the empty one changes nothing.
class Rotation {
public:
  Rotation() = default;

  /// Draws a rotation of `size` channels by `seed`. Throws InvalidArgument for size 0, std::bad_alloc.
  Rotation(std::size_t size, std::uint64_t seed) : size_(size) {
    if (size == 0) fail<InvalidArgument>("a rotation of no channels was asked for");
    odd_ = size >> std::countr_zero(size);
    std::mt19937_64 random(seed);
    signs_.resize(size);
    for (float& sign : signs_) sign = random() % 2 == 0 ? 1.0f : -1.0f;
    if (odd_ == 1) return;
    // Normal numbers by Box and Muller: the standard library's differ from one implementation to another.
    const auto uniform = [&] { return (static_cast<double>(random() >> 11) + 0.5) * 0x1p-53; };
    reflections_.resize(odd_ * odd_);
    for (std::size_t k = 0; k + 1 < odd_; ++k) { // reflection k leaves the first k channels alone
      double squares = 0;
      std::vector<double> direction(odd_);
      for (std::size_t i = k; i < odd_; ++i) {
        direction[i] = std::sqrt(-2 * std::log(uniform())) * std::cos(2 * std::numbers::pi * uniform());
        squares += direction[i] * direction[i];
      }
      // The reflection that turns the first axis left into this direction.
      const double length = std::sqrt(squares);
      direction[k] += direction[k] < 0 ? -length : length;
      double norm = 0;
      for (std::size_t i = k; i < odd_; ++i) norm += direction[i] * direction[i];
      for (std::size_t i = k; i < odd_; ++i) reflections_[k * odd_ + i] = static_cast<float>(direction[i] * std::sqrt(2 / norm)); // x - v (v . x)
    }
  }

  bool empty() const noexcept { return size_ == 0; }
  std::size_t size() const noexcept { return size_; }

  /// x <- x Q for a row vector of size() channels, in place. The empty rotation does nothing.
  void apply(float* x) const noexcept {
    if (empty()) return;
    FloatArray(x, index(size_)) *= ConstFloatArray(signs_.data(), index(size_));
    for (std::size_t chunk = 0; odd_ != 1 && chunk < size_; chunk += odd_)
      for (std::size_t k = 0; k + 1 < odd_; ++k) reflect(k, x + chunk);
    hadamard(x);
  }

  /// x <- x Q^T, the inverse of apply().
  void apply_inverse(float* x) const noexcept {
    if (empty()) return;
    hadamard(x);
    for (std::size_t chunk = 0; odd_ != 1 && chunk < size_; chunk += odd_)
      for (std::size_t k = odd_ - 1; k-- > 0;) reflect(k, x + chunk);
    FloatArray(x, index(size_)) *= ConstFloatArray(signs_.data(), index(size_));
  }

private:
  using FloatArray = Eigen::Map<Eigen::ArrayXf, Eigen::Unaligned>;
  using ConstFloatArray = Eigen::Map<const Eigen::ArrayXf, Eigen::Unaligned>;

  static Eigen::Index index(std::size_t n) noexcept { return static_cast<Eigen::Index>(n); }

  void reflect(std::size_t k, float* chunk) const noexcept {
    const ConstFloatArray v(reflections_.data() + k * odd_ + k, index(odd_ - k));
    FloatArray part(chunk + k, index(odd_ - k));
    part -= v * (v * part).sum();
  }

  /// The fast Walsh-Hadamard transform over the power of two, normalized; it is symmetric.
  void hadamard(float* x) const noexcept {
    const std::size_t order = size_ / odd_;
    for (std::size_t step = odd_; step < size_; step *= 2)
      for (std::size_t first = 0; first < size_; first += 2 * step) {
        if (step < 4) { // too short for vectors
          for (std::size_t i = first; i < first + step; ++i) {
            const float a = x[i], b = x[i + step];
            x[i] = a + b;
            x[i + step] = a - b;
          }
          continue;
        }
        FloatArray a(x + first, index(step)), b(x + first + step, index(step));
        b = a - b;
        a = 2.0f * a - b; // a + b, without a third array; exact up to one rounding more
      }
    FloatArray(x, index(size_)) *= 1.0f / std::sqrt(static_cast<float>(order));
  }

  std::size_t size_ = 0;
  std::size_t odd_ = 1;            ///< m
  std::vector<float> signs_;       ///< n
  std::vector<float> reflections_; ///< m x m, row k from column k on
};

/// W <- W Q, every row of W in place: what a linear needs whose input was rotated by Q. W.columns is a multiple of the rotation's size: blocks are rotated
/// alike. Throws InvalidArgument.
inline void rotate_inputs(const Rotation& rotation, MutableMatrixView weights, ExecutorRef executor = {}) {
  if (rotation.empty()) return;
  if (weights.columns % rotation.size() != 0)
    fail<InvalidArgument>("a rotation of " + std::to_string(rotation.size()) + " channels does not fit " + std::to_string(weights.columns) + " columns");
  executor.parallel_for(weights.rows, [&](std::size_t row) {
    for (std::size_t column = 0; column < weights.columns; column += rotation.size()) rotation.apply(weights.row(row) + column);
  });
}

/// W <- Q^T W, every column in place: what a linear needs whose output is to be rotated by Q. W.rows is a multiple of the rotation's size. Throws
/// InvalidArgument, std::bad_alloc: rows x 16 floats a task.
inline void rotate_outputs(const Rotation& rotation, MutableMatrixView weights, ExecutorRef executor = {}) {
  if (rotation.empty()) return;
  if (weights.rows % rotation.size() != 0)
    fail<InvalidArgument>("a rotation of " + std::to_string(rotation.size()) + " channels does not fit " + std::to_string(weights.rows) + " rows");
  constexpr std::size_t strip = 16; // columns transposed at a time
  const std::size_t strips = (weights.columns + strip - 1) / strip;
  const std::size_t tasks = std::min(strips, executor.concurrency() * 4);
  std::vector<float> turned(tasks * strip * weights.rows);
  executor.parallel_for(tasks, [&](std::size_t task) {
    float* const memory = turned.data() + task * strip * weights.rows;
    for (std::size_t s = strips * task / tasks; s < strips * (task + 1) / tasks; ++s) {
      const std::size_t first = s * strip, count = std::min(strip, weights.columns - first);
      for (std::size_t r = 0; r < weights.rows; ++r)
        for (std::size_t c = 0; c < count; ++c) memory[c * weights.rows + r] = weights.row(r)[first + c];
      for (std::size_t c = 0; c < count; ++c)
        for (std::size_t row = 0; row < weights.rows; row += rotation.size()) rotation.apply(memory + c * weights.rows + row);
      for (std::size_t r = 0; r < weights.rows; ++r)
        for (std::size_t c = 0; c < count; ++c) weights.row(r)[first + c] = memory[c * weights.rows + r];
    }
  });
}

} // namespace lsaq::inline v0::inline LSAQ_BASELINE
