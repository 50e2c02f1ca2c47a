// Matrices as kernels take them, from the library's views.
#pragma once

#include <lsaq/kernels/cuda/row_products.cuh>
#include <lsaq/quantization/packed_matrix.hpp>

namespace lsaq::inline v0::inline LSAQ_BASELINE::gpu {

/// The most rows, columns and tokens of a matrix on the device.
inline constexpr std::size_t most_rows = 0x7fffffff;

constexpr ElementType element_type_of_scale(ScaleType type) noexcept {
  return type == ScaleType::f32 ? ElementType::f32 : type == ScaleType::f16 ? ElementType::f16 : ElementType::bf16;
}

/// Packed weights in device memory.
inline DeviceRows rows_of(PackedView packed) noexcept {
  DeviceRows rows;
  rows.data = packed.data;
  rows.row_bytes = packed.row_bytes();
  rows.rows = static_cast<unsigned>(packed.rows);
  rows.columns = static_cast<unsigned>(packed.columns);
  rows.scales = packed.scale_data();
  rows.scale_type = element_type_of_scale(packed.scale_type);
  rows.scale_step = packed.grouping.whole_matrix ? 0 : 1;
  rows.group_columns = packed.grouping.columns;
  rows.groups = static_cast<unsigned>(packed.grouping.scales_per_row(packed.columns));
  return rows;
}

/// Activations in device memory; not Q8_0.
inline TokenRows tokens_of(MatrixView floats) noexcept { return {floats.data, floats.stride, static_cast<unsigned>(floats.rows), floats.type}; }

/// Weights in device memory that are floats; not Q8_0.
inline DeviceRows rows_of(MatrixView floats) noexcept {
  DeviceRows rows;
  rows.data = static_cast<const std::byte*>(floats.data);
  rows.row_bytes = floats.row_bytes();
  rows.rows = static_cast<unsigned>(floats.rows);
  rows.columns = static_cast<unsigned>(floats.columns);
  return rows;
}

} // namespace lsaq::inline v0::inline LSAQ_BASELINE::gpu
