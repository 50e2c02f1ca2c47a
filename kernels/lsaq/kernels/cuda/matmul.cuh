// Matrix products on the device: packed codes or floats by FP32, FP16 or BF16 activations, for one token or a few.
#pragma once

#include <lsaq/kernels/cuda/row_products.cuh>

namespace lsaq::inline v0::inline LSAQ_BASELINE::gpu {

/// y = x W^T for Tokens tokens at a time, each reading all weights: 1 for a matrix times a vector, 4 for small batches.
///
/// Bytes: the weights once for every Tokens tokens, x once for every rows_at_once rows (from the second-level cache), y once. The sum of a row, bounded as in
/// RowProducts, is multiplied by the row's scale in FP32, added to y if wanted, and rounded to y's type.
template <class Format, unsigned Tokens> struct Product {
  DeviceRows weights;
  TokenRows x;
  void* y;
  std::size_t y_stride; ///< elements from one token to the next
  ElementType y_type = ElementType::f32;
  bool add = false; ///< to what is in y

  using Rows = RowProducts<Format, Tokens, (Tokens == 1 ? 4 : 2)>;
  using Shared = typename Rows::Shared;
  static constexpr unsigned threads = Rows::threads, least_blocks = Tokens == 1 ? 4 : 3; // 64 registers, or 80: with 64 some would spill

  std::size_t blocks() const { return std::size_t{row_blocks()} * ((x.count + Tokens - 1) / Tokens); }
  unsigned dynamic_bytes() const { return 0; }

  template <class Group> LSAQ_DEVICE void operator()(const Group& group, Shared& shared) const {
    const unsigned tile = group.block() / row_blocks() * Tokens, first_row = group.block() % row_blocks() * Rows::rows_at_once;
    const unsigned count = x.count - tile < Tokens ? x.count - tile : Tokens;
    constexpr unsigned per_warp = Rows::rows_at_once / (threads / warp_size);
    float sums[per_warp][Tokens];
    Rows::multiply(group, shared, weights, first_row, x.slice(tile, count), sums);
    LSAQ_UNROLL
    for (unsigned r = 0; r < per_warp; ++r) {
      const unsigned row = first_row + group.thread() / warp_size * per_warp + r;
      if (row >= weights.rows) continue;
      const bool scaled = weights.scales != nullptr && weights.group_columns == 0;
      const float scale = scaled ? element_at(weights.scales, weights.scale_type, std::size_t{row} * weights.scale_step) : 1.0f;
      LSAQ_UNROLL
      for (unsigned t = 0; t < Tokens; ++t)
        if (t < count && group.thread() % warp_size == t) {
          const std::size_t out = (tile + t) * y_stride + row;
          set_element(y, y_type, out, add ? multiply_add(sums[r][t], scale, element_at(y, y_type, out)) : sums[r][t] * scale);
        }
    }
  }

private:
  LSAQ_DEVICE_AND_HOST unsigned row_blocks() const { return (weights.rows + Rows::rows_at_once - 1) / Rows::rows_at_once; }
};

} // namespace lsaq::inline v0::inline LSAQ_BASELINE::gpu
