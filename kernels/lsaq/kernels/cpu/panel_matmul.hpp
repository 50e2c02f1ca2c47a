// The matrix product of the CPU backend in blocks of weight rows, the unit that is spread over threads.
//
// Few tokens: 16 weight rows at a time are transposed into a panel, tokens are the plain rows. Many tokens: tokens are transposed once into panels, weights
// stay plain rows, widened on the way: no shuffling of weights, and the next rows are fetched while these are multiplied.
#pragma once

#include <lsaq/half.hpp>
#include <lsaq/kernels/cpu/kernel_table.hpp>

#include <algorithm>

namespace lsaq::inline v0::inline LSAQ_BASELINE {

/// Below this many tokens a row-by-row dot product beats unpacking a panel.
inline constexpr std::size_t panel_min_tokens = 4;
/// From this many tokens on, the tokens are the panels.
inline constexpr std::size_t token_panels_min = 12;
/// Tokens multiplied at once when tokens are the panels.
inline constexpr std::size_t token_block = panel_rows * panels_at_once;

/// Columns multiplied at once: at most panel_columns, evened out, and a multiple of 32 so that packed codes and Q8_0 blocks are not divided.
constexpr std::size_t column_chunk(std::size_t columns) noexcept {
  const std::size_t chunks = std::max<std::size_t>(1, (columns + panel_columns - 1) / panel_columns);
  return ((columns + chunks - 1) / chunks + 31) / 32 * 32;
}

/// Bits of a column of weights in memory.
constexpr std::size_t column_bits(WeightFormat format) noexcept { return format.packed() ? format.bits : 8 * bytes_of(format.element, 32) / 32; }

/// Writes `columns` weights of a row as FP32, from first_column on, a multiple of 32: codes of groups times their scale, other codes without.
inline void widen_row(const CpuKernels& kernels, const WeightRows& weights, std::size_t row, std::size_t first_column, std::size_t columns,
                      float* out) noexcept {
  if (!weights.format.packed()) {
    kernels.widen(weights.row(row) + bytes_of(weights.format.element, first_column), weights.format.element, columns, out);
    return;
  }
  kernels.widen_codes(weights.row(row), weights.format.bits, first_column, columns, out);
  if (weights.groups.data == nullptr) return;
  for (std::size_t column = 0; column < columns;) {
    const std::size_t group = (first_column + column) / weights.groups.columns;
    const std::size_t end = std::min(columns, (group + 1) * weights.groups.columns - first_column);
    const float scale = load_element(weights.groups.data, weights.groups.type, row * weights.groups.per_row + group);
    for (; column < end; ++column) out[column] *= scale;
  }
}

/// y[r * y_stride + lane] (+)= sum over columns [first_column, first_column + depth) of weight(r, c) * lane, for `rows` rows; codes without their scale.
///
/// first_column is a multiple of 32, depth at most panel_columns. Rows are widened through 13 KiB of stack, FP32 weights are read in place.
inline void multiply_panels(const CpuKernels& kernels, const WeightRows& weights, std::size_t rows, std::size_t first_column, std::size_t depth,
                            const Panels& panels, float* y, std::size_t y_stride, bool accumulate) noexcept {
  constexpr std::size_t rows_at_once = 12;
  constexpr std::size_t widened_stride = panel_columns + 16; // rows a power of two apart would share cache sets
  alignas(64) float widened[rows_at_once * widened_stride];
  const std::size_t bits = column_bits(weights.format);
  const auto address = [&](std::size_t r) { return weights.row(r) + first_column * bits / 8; };
  for (std::size_t r = 0; r < rows; r += rows_at_once) {
    const std::size_t count = std::min(rows_at_once, rows - r);
    const bool in_place = !weights.format.packed() && weights.format.element == ElementType::f32;
    const Ahead ahead{r + rows_at_once < rows ? address(r + rows_at_once) : nullptr, weights.row_bytes, bits};
    const float* source = widened;
    if (in_place) {
      source = reinterpret_cast<const float*>(address(r));
    } else {
      for (std::size_t i = 0; i < count; ++i) widen_row(kernels, weights, r + i, first_column, depth, widened + i * widened_stride);
    }
    kernels.product(panels, depth, source, in_place ? weights.row_bytes / sizeof(float) : widened_stride, count, y + r * y_stride, y_stride, accumulate, ahead);
  }
}

/// Floats that pack_tokens writes.
constexpr std::size_t packed_tokens_floats(std::size_t tokens, std::size_t columns) noexcept {
  return (tokens + panel_rows - 1) / panel_rows * panel_rows * columns;
}

/// The panels of one block of tokens and one range of columns within memory that pack_token_panel filled.
inline Panels token_panels(const float* packed, std::size_t first_token, std::size_t tokens, std::size_t columns, std::size_t first_column,
                           std::size_t depth) noexcept {
  const std::size_t block = first_token / token_block * token_block;
  const std::size_t lanes = std::min(token_block, tokens - block);
  const std::size_t panels = (lanes + panel_rows - 1) / panel_rows;
  return {packed + block * columns + panels * panel_rows * first_column, lanes, depth * panel_rows};
}

/// Transposes tokens [panel * 16, panel * 16 + 16) of x into `packed`: blocks of 64 tokens, within them chunks of columns, within them panels.
inline void pack_token_panel(const CpuKernels& kernels, const float* x, std::size_t x_stride, std::size_t tokens, std::size_t columns, std::size_t panel,
                             float* packed) noexcept {
  const std::size_t first = panel * panel_rows;
  const WeightRows rows{reinterpret_cast<const std::byte*>(x + first * x_stride), x_stride * sizeof(float), {.element = ElementType::f32}};
  const std::size_t chunk = column_chunk(columns);
  for (std::size_t column = 0; column < columns; column += chunk) {
    const std::size_t depth = std::min(chunk, columns - column);
    const Panels panels = token_panels(packed, first, tokens, columns, column, depth);
    float* target = packed + (panels.data - packed) + first % token_block / panel_rows * panels.panel_stride;
    kernels.unpack(rows, std::min(panel_rows, tokens - first), column, depth, target);
  }
}

/// y[t * y_stride + r] = sum over columns of weight(r, c) * token t, for `rows` rows; `packed` holds the tokens as panels. Uses 42 KiB of stack.
inline void multiply_packed_tokens(const CpuKernels& kernels, const WeightRows& weights, std::size_t rows, std::size_t columns, const float* packed,
                                   std::size_t tokens, float* y, std::size_t y_stride) noexcept {
  constexpr std::size_t block_rows = 96;
  alignas(64) float block[block_rows * token_block]; // rows x tokens
  alignas(64) float turned[panel_rows * token_block];
  const std::size_t chunk = column_chunk(columns);
  for (std::size_t row = 0; row < rows; row += block_rows) {
    const std::size_t count = std::min(block_rows, rows - row);
    const WeightRows part = weights.from(row);
    for (std::size_t token = 0; token < tokens; token += token_block) {
      const std::size_t lanes = std::min(token_block, tokens - token);
      for (std::size_t first = 0; first < columns; first += chunk) {
        const std::size_t depth = std::min(chunk, columns - first);
        multiply_panels(kernels, part, count, first, depth, token_panels(packed, token, tokens, columns, first, depth), block, token_block, first != 0);
      }
      for (std::size_t r = 0; r < count; r += panel_rows) {
        const std::size_t width = std::min(panel_rows, count - r);
        const WeightRows products{reinterpret_cast<const std::byte*>(block + r * token_block), token_block * sizeof(float), {.element = ElementType::f32}};
        kernels.unpack(products, width, 0, lanes, turned);
        for (std::size_t t = 0; t < lanes; ++t) std::copy_n(turned + t * panel_rows, width, y + (token + t) * y_stride + row + r);
      }
    }
  }
}

/// multiply_rows() of codes with scales for groups of columns: 16 rows at a time are widened with their scales first.
inline void multiply_grouped_rows(const CpuKernels& kernels, const WeightRows& weights, std::size_t rows, std::size_t columns, const float* x,
                                  std::size_t x_stride, std::size_t tokens, float* y, std::size_t y_stride) noexcept {
  alignas(64) float widened[panel_rows * panel_columns];
  alignas(64) float panel[panel_rows * panel_columns];
  const WeightRows floats{reinterpret_cast<const std::byte*>(widened), panel_columns * sizeof(float), {.element = ElementType::f32}};
  for (std::size_t row = 0; row < rows; row += panel_rows) {
    const std::size_t count = std::min(panel_rows, rows - row);
    for (std::size_t first = 0; first < columns; first += panel_columns) {
      const std::size_t depth = std::min(panel_columns, columns - first);
      for (std::size_t r = 0; r < count; ++r) widen_row(kernels, weights, row + r, first, depth, widened + r * panel_columns);
      if (tokens >= panel_min_tokens) {
        kernels.unpack(floats, count, 0, depth, panel);
        kernels.product({panel, count}, depth, x + first, x_stride, tokens, y + row, y_stride, first != 0, {});
        continue;
      }
      float sums[panel_rows];
      for (std::size_t t = 0; t < tokens; ++t) {
        kernels.dot_rows(floats, count, depth, x + t * x_stride + first, sums);
        float* const out = y + t * y_stride + row;
        for (std::size_t r = 0; r < count; ++r) out[r] = first == 0 ? sums[r] : out[r] + sums[r];
      }
    }
  }
}

/// y[t * y_stride + r] = sum over columns of weight(first_row + r, c) * x[t * x_stride + c], for `rows` rows; codes without their scale, unless it is that of
/// a group. For few tokens.
///
/// Uses 32 KiB of stack, allocates nothing. The result depends on `tokens` only through panel_min_tokens, and not on how rows are divided between calls as long
/// as first_row is a multiple of 16.
inline void multiply_rows(const CpuKernels& kernels, const WeightRows& weights, std::size_t first_row, std::size_t rows, std::size_t columns, const float* x,
                          std::size_t x_stride, std::size_t tokens, float* y, std::size_t y_stride) noexcept {
  const WeightRows part = weights.from(first_row);
  if (columns != 0 && part.groups.data != nullptr) return multiply_grouped_rows(kernels, part, rows, columns, x, x_stride, tokens, y, y_stride);
  if (tokens < panel_min_tokens || columns == 0) {
    for (std::size_t t = 0; t < tokens; ++t) kernels.dot_rows(part, rows, columns, x + t * x_stride, y + t * y_stride);
    return;
  }
  alignas(64) float panel[panel_columns * panel_rows];
  for (std::size_t row = 0; row < rows; row += panel_rows) {
    const std::size_t count = std::min(panel_rows, rows - row);
    const WeightRows panel_source = part.from(row);
    for (std::size_t first = 0; first < columns; first += panel_columns) {
      const std::size_t depth = std::min(panel_columns, columns - first);
      kernels.unpack(panel_source, count, first, depth, panel);
      kernels.product({panel, count}, depth, x + first, x_stride, tokens, y + row, y_stride, first != 0, {});
    }
  }
}

} // namespace lsaq::inline v0::inline LSAQ_BASELINE
