// Matrices, executors and plain loops that the tests of shared channels have in common.
#pragma once

#include "core/refusal.hpp"

#include <lsaq/deployment/cpu.hpp>
#include <lsaq/quantization/dense_products.hpp>
#include <lsaq/quantization/shared_channel_matrix.hpp>

#include <gmock/gmock.h>

#include <cmath>
#include <random>
#include <vector>

namespace channel_cases {

using Device = lsaq::Backend<lsaq::Cpu, lsaq::Activation<lsaq::Float32>>;

/// An owned row-major FP32 matrix.
struct Matrix {
  std::size_t rows, columns;
  std::vector<float> values;

  Matrix(std::size_t r, std::size_t c) : rows(r), columns(c), values(r * c) {}
  float& at(std::size_t r, std::size_t c) { return values[r * columns + c]; }
  float at(std::size_t r, std::size_t c) const { return values[r * columns + c]; }
  lsaq::MatrixView view() const { return {values.data(), rows, columns}; }
  lsaq::MutableMatrixView out() { return {values.data(), rows, columns}; }
  lsaq::MatrixShape shape() const { return {rows, columns}; }
};

/// Weights as models have them: each column of its own scale, a few large, some rows alike.
inline Matrix random_matrix(std::size_t rows, std::size_t columns, std::mt19937& random) {
  std::normal_distribution<float> normal;
  Matrix matrix(rows, columns), scales(1, columns);
  for (float& scale : scales.values) scale = 0.02f * std::exp(0.5f * normal(random));
  for (std::size_t r = 0; r < rows; ++r)
    for (std::size_t c = 0; c < columns; ++c)
      matrix.at(r, c) = scales.at(0, c) * normal(random) + (r % 3 == 0 && r != 0 ? 0.7f * matrix.at(r - r % 9, c) : 0.0f);
  return matrix;
}

/// Numbers that F16 holds exactly.
inline Matrix halves(std::size_t rows, std::size_t columns, std::mt19937& random) {
  Matrix matrix(rows, columns);
  for (float& value : matrix.values) value = static_cast<float>(static_cast<int>(random() % 4001) - 2000) / 1024;
  return matrix;
}

inline Matrix transposed(const Matrix& matrix) {
  Matrix turned(matrix.columns, matrix.rows);
  for (std::size_t r = 0; r < matrix.rows; ++r)
    for (std::size_t c = 0; c < matrix.columns; ++c) turned.at(c, r) = matrix.at(r, c);
  return turned;
}

/// Runs backwards, as no thread pool would, and says it has three threads.
struct Backwards {
  std::size_t concurrency() const { return 3; }
  void parallel_for(std::size_t count, lsaq::TaskRef task) const {
    for (std::size_t i = count; i-- > 0;) task(i);
  }
};

inline Matrix restored(const lsaq::SharedChannelMatrix& matrix) {
  Matrix out(matrix.shape().rows, matrix.shape().columns);
  lsaq::reconstruct(matrix, out.out());
  return out;
}

} // namespace channel_cases
