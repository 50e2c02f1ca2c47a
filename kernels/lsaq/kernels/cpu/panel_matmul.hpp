// The matrix product of the CPU backend, one panel of 16 weight rows at a time; the unit that is spread over threads.
#pragma once

#include <lsaq/kernels/cpu/kernel_table.hpp>

#include <algorithm>

namespace lsaq::inline v0::inline LSAQ_BASELINE {

/// Below this many tokens a row-by-row dot product beats unpacking a panel.
inline constexpr std::size_t panel_min_tokens = 4;

/// y[t * y_stride + r] = sum over columns of weight(first_row + r, c) * x[t * x_stride + c], for `rows` rows; codes without their scale.
///
/// Uses 16 KiB of stack, allocates nothing. The result depends on `tokens` only through panel_min_tokens, and not on how rows are divided between calls as long
/// as first_row is a multiple of 16.
inline void multiply_rows(const CpuKernels& kernels, const WeightRows& weights, std::size_t first_row, std::size_t rows, std::size_t columns, const float* x,
                          std::size_t x_stride, std::size_t tokens, float* y, std::size_t y_stride) noexcept {
  const WeightRows part{weights.row(first_row), weights.row_bytes, weights.format};
  if (tokens < panel_min_tokens || columns == 0) {
    for (std::size_t t = 0; t < tokens; ++t) kernels.dot_rows(part, rows, columns, x + t * x_stride, y + t * y_stride);
    return;
  }
  alignas(64) float panel[panel_columns * panel_rows];
  for (std::size_t row = 0; row < rows; row += panel_rows) {
    const std::size_t count = std::min(panel_rows, rows - row);
    const WeightRows panel_source{part.row(row), part.row_bytes, part.format};
    for (std::size_t first = 0; first < columns; first += panel_columns) {
      const std::size_t depth = std::min(panel_columns, columns - first);
      kernels.unpack(panel_source, count, first, depth, panel);
      kernels.product(panel, panel_rows, depth, x + first, x_stride, tokens, y + row, y_stride, count, first != 0);
    }
  }
}

} // namespace lsaq::inline v0::inline LSAQ_BASELINE
