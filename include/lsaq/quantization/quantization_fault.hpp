// Why weights can't be quantized, and the sentence that says so.
#pragma once

#include <lsaq/quantization/packed_matrix.hpp>

#include <string>
#include <string_view>

namespace lsaq::inline v0 {

/// Why a row could not be quantized.
struct QuantizationFault {
  enum class Kind : std::uint8_t { none, not_finite, scale_overflow };
  Kind kind = Kind::none;
  std::size_t row = 0;
  std::size_t column = 0; ///< first element that is not finite, or the one the scale is too large for
  float value = 0;        ///< that element

  explicit operator bool() const noexcept { return kind != Kind::none; }
};

} // namespace lsaq::inline v0

namespace lsaq::inline v0::inline LSAQ_BASELINE {

/// One sentence that names the tensor (may be empty), the row and column, and what to do.
inline std::string message_of(const QuantizationFault& fault, std::string_view tensor, ScaleType scale) {
  const std::string where = (tensor.empty() ? std::string("matrix") : "tensor " + std::string(tensor)) + ", row " + std::to_string(fault.row) + ", column " +
                            std::to_string(fault.column) + ": ";
  if (fault.kind == QuantizationFault::Kind::not_finite)
    return where + "the weight is not finite (" + std::to_string(fault.value) + "); repair the checkpoint or leave this layer unquantized";
  return where + "the row's largest weight " + std::to_string(fault.value) + " needs a scale beyond the range of " + std::string(name_of(scale)) +
         "; use F32 scales or leave this layer unquantized";
}

} // namespace lsaq::inline v0::inline LSAQ_BASELINE
