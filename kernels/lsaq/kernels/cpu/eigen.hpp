// The products by Eigen, compiled with the consumer's own flags: the path of machines for which there are no kernels of our own.
#pragma once

#include <lsaq/kernels/cpu/scalar.hpp>

#include <Eigen/Core>

namespace lsaq::inline v0::inline LSAQ_BASELINE::eigen {

using RowMajor = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
using Strided = Eigen::Map<RowMajor, Eigen::Unaligned, Eigen::OuterStride<>>;
using ConstStrided = Eigen::Map<const RowMajor, Eigen::Unaligned, Eigen::OuterStride<>>;
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

/// Coefficient-wise (lazy) products: Eigen's blocked ones allocate, and these run inside noexcept calls.
inline void product(const Panels& panels, std::size_t depth, const float* x, std::size_t x_stride, std::size_t rows, float* y, std::size_t y_stride,
                    bool accumulate, const Ahead&) noexcept {
  for (std::size_t lane = 0; lane < panels.lanes; lane += panel_rows) {
    const std::size_t lanes = panels.lanes - lane < panel_rows ? panels.lanes - lane : panel_rows;
    const ConstStrided panel(panels.data + lane / panel_rows * panels.panel_stride, index(depth), index(lanes), Eigen::OuterStride<>(index(panels.step)));
    const ConstStrided inputs(x, index(rows), index(depth), Eigen::OuterStride<>(index(x_stride)));
    Strided outputs(y + lane, index(rows), index(lanes), Eigen::OuterStride<>(index(y_stride)));
    if (accumulate)
      outputs.noalias() += inputs.lazyProduct(panel);
    else
      outputs.noalias() = inputs.lazyProduct(panel);
  }
}

inline constexpr CpuKernels kernels{Isa::eigen,     scalar::widen, scalar::widen_codes, scalar::narrow_f16, scalar::magnitude_bits, scalar::quantize, dot_rows,
                                    scalar::unpack, product,       scalar::above};

} // namespace lsaq::inline v0::inline LSAQ_BASELINE::eigen
