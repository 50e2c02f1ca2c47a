// The products by Eigen, compiled with the consumer's own flags: the path of machines for which there are no kernels of our own.
#pragma once

#include <lsaq/kernels/cpu/scalar_integer.hpp>

#include <Eigen/Core>

namespace lsaq::inline v0::inline LSAQ_BASELINE::eigen {

using ConstVector = Eigen::Map<const Eigen::VectorXf, Eigen::Unaligned>;

inline Eigen::Index index(std::size_t n) noexcept { return static_cast<Eigen::Index>(n); }

/// One row of weights at a time through a stack buffer of panel_columns floats.
inline void dot_rows(const WeightRows& weights, std::size_t rows, std::size_t columns, const float* x, float* y) noexcept {
  float row[panel_columns];
  for (std::size_t r = 0; r < rows; ++r) {
    float sum = 0;
    for (std::size_t first = 0; first < columns; first += panel_columns) {
      const std::size_t count = std::min(panel_columns, columns - first);
      for (std::size_t c = 0; c < count; ++c) row[c] = scalar::weight_at(weights.row(r), weights.format, first + c);
      sum += ConstVector(row, index(count)).dot(ConstVector(x + first, index(count)));
    }
    y[r] = sum;
  }
}

/// A panel's 16 lanes as one array: every lane takes the same instructions. Eigen's own products would treat lanes differently by their number and address, so
/// that a sum would be fused here and not there, and its blocked ones allocate.
inline void product(const Panels& panels, std::size_t depth, const float* x, std::size_t x_stride, std::size_t rows, float* y, std::size_t y_stride,
                    bool accumulate, const Ahead&) noexcept {
  using Lanes = Eigen::Array<float, panel_rows, 1>;
  for (std::size_t i = 0; i < rows; ++i)
    for (std::size_t lane = 0; lane < panels.lanes; lane += panel_rows) {
      const float* panel = panels.data + lane / panel_rows * panels.panel_stride;
      Lanes sum = Lanes::Zero();
      for (std::size_t k = 0; k < depth; ++k) sum += x[i * x_stride + k] * Eigen::Map<const Lanes>(panel + k * panels.step);
      float* out = y + i * y_stride + lane;
      const std::size_t lanes = std::min(panel_rows, panels.lanes - lane);
      for (std::size_t l = 0; l < lanes; ++l) out[l] = accumulate ? out[l] + sum[index(l)] : sum[index(l)];
    }
}

inline constexpr CpuKernels kernels{Isa::eigen,       scalar::widen,    scalar::widen_codes,     scalar::narrow_f16, scalar::magnitude_bits,
                                    scalar::quantize, scalar::extremes, scalar::quantize_packed, dot_rows,           scalar::unpack,
                                    product,          scalar::above,    &scalar::integer_kernels,    &scalar::decoder_kernels};

} // namespace lsaq::inline v0::inline LSAQ_BASELINE::eigen
