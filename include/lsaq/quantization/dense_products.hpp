// FP32 matrices in host memory: the products that clustering and decomposition ask a device for, and the check that every weight is finite.
#pragma once

#include <lsaq/error.hpp>
#include <lsaq/executor.hpp>
#include <lsaq/half.hpp>
#include <lsaq/quantization/packed_matrix.hpp>

#include <concepts>
#include <optional>
#include <span>
#include <vector>

namespace lsaq::inline v0::inline LSAQ_BASELINE {

/// A device that multiplies float and packed weights in host memory, and names the executor it spreads them over; Backend<Cpu> is one.
template <class D>
concept product_device = requires(const D& device, MatrixView weights, PackedView packed, MatrixView x, MutableMatrixView y, std::span<std::byte> workspace) {
  { device.executor() } -> std::convertible_to<ExecutorRef>;
  { device.workspace_bytes(weights, std::size_t{1}) }
  noexcept->std::same_as<std::size_t>;
  { device.workspace_bytes(packed, std::size_t{1}) }
  noexcept->std::same_as<std::size_t>;
  { device.matmul(weights, x, y, workspace) }
  noexcept->std::same_as<Status>;
  { device.matmul(packed, x, y, workspace) }
  noexcept->std::same_as<Status>;
};

/// Where a matrix holds infinity or NaN.
struct NotFinite {
  std::size_t row = 0;
  std::size_t column = 0;
  float value = 0;
};

/// The first element that is not finite, row by row. Looks at the bits: compilers told that no NaN exists (-ffast-math) would drop a comparison.
inline std::optional<NotFinite> find_not_finite(MatrixView matrix) {
  for (std::size_t r = 0; r < matrix.rows; ++r)
    for (std::size_t c = 0; c < matrix.columns; ++c) {
      const float value = load_element(matrix.row(r), matrix.type, c);
      if ((std::bit_cast<std::uint32_t>(value) & 0x7fffffffu) >= 0x7f800000u) return NotFinite{r, c, value};
    }
  return std::nullopt;
}

inline std::string text_of(MatrixShape shape) { return std::to_string(shape.rows) + " x " + std::to_string(shape.columns); }

/// Throws InvalidArgument unless `matrix` is FP32 and finite; `what` names it in the sentence.
inline void require_finite_floats(MatrixView matrix, const std::string& what) {
  if (matrix.type != ElementType::f32) fail<InvalidArgument>(what + " is of type " + std::string(name_of(matrix.type)) + ": FP32 is possible");
  if (const auto found = find_not_finite(matrix))
    fail<InvalidArgument>(what + ", row " + std::to_string(found->row) + ", column " + std::to_string(found->column) + ": the value is not finite (" +
                          std::to_string(found->value) + ")");
}

namespace detail {

/// out = a b^T on the device, all FP32: a is m x k, b is n x k, out is m x n. The workspace grows as needed and may be used again.
template <product_device Device>
void multiply_transposed(const Device& device, MatrixView a, MatrixView b, MutableMatrixView out, std::vector<std::byte>& workspace) {
  if (const std::size_t needed = device.workspace_bytes(b, a.rows); workspace.size() < needed) workspace.resize(needed);
  if (const Status status = device.matmul(b, a, out, workspace); status != Status::ok)
    fail<InvalidArgument>(std::string("the device refuses a product of FP32 matrices: ") + message_of(status));
}

} // namespace detail

} // namespace lsaq::inline v0::inline LSAQ_BASELINE
