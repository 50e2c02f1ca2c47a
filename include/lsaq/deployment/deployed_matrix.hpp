// A linear's weights as they are deployed: packed codes, or 16- or 32-bit floats; streamed from their source a block of rows at a time.
#pragma once

#include <lsaq/deployment/backend.hpp>
#include <lsaq/quantization/quantizer.hpp>

#include <variant>

namespace lsaq::inline v0::inline LSAQ_BASELINE {

/// A matrix of floats that owns its bytes.
struct FloatMatrix {
  AlignedBytes storage;
  MatrixShape shape;
  ElementType type = ElementType::f16;

  MatrixView view() const noexcept {
    MatrixView view(static_cast<const float*>(nullptr), shape.rows, shape.columns);
    view.data = storage.data();
    view.type = type;
    return view;
  }
};

/// How a source's rows become deployed weights.
struct DeployOptions {
  unsigned bits = 16;                         ///< 2 to 8: quantize; 16: keep as `unquantized`
  ElementType unquantized = ElementType::f16; ///< what "not quantized" means: f16, bf16, or f32 for references
  bool round_to_f16_first = false;            ///< the source is itself quantized: its values are rounded to F16 before they are quantized again
  ScaleType scale = ScaleType::f16;
  Grouping grouping = {};
  CodeRange range = CodeRange::symmetric;

  PackedFormat format() const noexcept { return {.bits = bits, .scale = scale, .grouping = grouping, .range = range}; }
};

/// Weights of one linear, ready for products. Move-only.
class DeployedMatrix {
public:
  DeployedMatrix() = default;
  explicit DeployedMatrix(PackedMatrix packed) : weights_(std::move(packed)) {}
  explicit DeployedMatrix(FloatMatrix floats) : weights_(std::move(floats)) {}

  /// Bytes allocated: what the memory model predicts.
  Bytes bytes() const noexcept {
    if (const auto* packed = std::get_if<PackedMatrix>(&weights_)) return packed->bytes();
    return std::get<FloatMatrix>(weights_).storage.size();
  }

  unsigned bits() const noexcept {
    if (const auto* packed = std::get_if<PackedMatrix>(&weights_)) return packed->bits();
    return static_cast<unsigned>(8 * size_of(std::get<FloatMatrix>(weights_).type));
  }

  const PackedMatrix* packed() const noexcept { return std::get_if<PackedMatrix>(&weights_); }
  const FloatMatrix* floats() const noexcept { return std::get_if<FloatMatrix>(&weights_); }

  /// Gives up the floats of a matrix that is not packed.
  FloatMatrix take_floats() && { return std::get<FloatMatrix>(std::move(weights_)); }

  /// y = x W^T on the backend.
  template <backend Device> Status matmul(const Device& device, MatrixView x, MutableMatrixView y, std::span<std::byte> workspace = {}) const noexcept {
    if (const auto* packed = std::get_if<PackedMatrix>(&weights_)) return device.matmul(packed->view(), x, y, workspace);
    return device.matmul(std::get<FloatMatrix>(weights_).view(), x, y, workspace);
  }

private:
  std::variant<FloatMatrix, PackedMatrix> weights_;
};

/// Narrows FP32 values to `type`; returns the index of the first value that is not finite in it, or n.
inline std::size_t narrow(const float* in, std::size_t n, ElementType type, std::byte* out, const CpuKernels& kernels) noexcept {
  std::size_t first_bad = n;
  if (type == ElementType::f32) {
    if (n != 0) std::memcpy(out, in, n * sizeof(float));
    if (kernels.magnitude_bits(in, n) < 0x7f800000u) return n;
    for (first_bad = 0; (std::bit_cast<std::uint32_t>(in[first_bad]) & 0x7fffffffu) < 0x7f800000u;) ++first_bad;
  } else if (type == ElementType::f16) {
    auto* halves = reinterpret_cast<f16*>(out);
    kernels.narrow_f16(in, n, halves);
    if (kernels.magnitude_bits(in, n) < 0x477ff000u) return n; // 65520: the first value that rounds to infinity
    for (first_bad = 0; (halves[first_bad].bits & 0x7fffu) < 0x7c00u;) ++first_bad;
  } else {
    auto* halves = reinterpret_cast<bf16*>(out);
    for (std::size_t i = 0; i < n; ++i) {
      halves[i] = to_bf16(in[i]);
      if ((halves[i].bits & 0x7fffu) >= 0x7f80u && first_bad == n) first_bad = i;
    }
  }
  return first_bad;
}

/// Throws InvalidArgument naming `tensor` for bits that nothing has.
inline void check_deployable(const std::string& tensor, unsigned bits) {
  if (bits != 16 && (bits < min_bits || bits > max_bits))
    fail<InvalidArgument>("tensor " + tensor + " can't be deployed at " + std::to_string(bits) + " bits: 16 and 2 to 8 are possible");
}

/// Rows of a matrix that deploy_matrix() holds as FP32 at once.
constexpr std::size_t deploy_block_rows(MatrixShape shape) noexcept {
  return std::min(shape.rows, std::max<std::size_t>(64, (std::size_t{1} << 18) / std::max<std::size_t>(1, shape.columns)));
}

/// Reads a matrix in blocks of rows and deploys it: `read(first_row, count, float* out)` gives FP32 rows of shape.columns values.
///
/// Extra memory while it runs: at most some 2 MiB, or 64 rows where those are larger. Throws BadInput naming `tensor` and row where a weight is not finite or
/// does not fit its type, InvalidArgument for other bits than 2 to 8 and 16, std::bad_alloc, and what `read` throws.
template <backend Device, class ReadRows>
DeployedMatrix deploy_matrix(const Device& device, const std::string& tensor, MatrixShape shape, const DeployOptions& options, ReadRows&& read,
                             ExecutorRef executor = {}) {
  const CpuKernels& kernels = select_kernels();
  check_deployable(tensor, options.bits);
  if (options.unquantized == ElementType::q8_0) fail<InvalidArgument>("tensor " + tensor + ": unquantized weights are F16, BF16 or F32, not Q8_0");
  const bool quantized = options.bits != 16;
  const std::size_t block_rows = deploy_block_rows(shape);
  std::vector<float> block(block_rows * shape.columns);
  std::vector<f16> halves(quantized && options.round_to_f16_first ? block.size() : 0);
  PackedMatrix packed;
  FloatMatrix floats;
  if (quantized)
    packed = PackedMatrix(shape, options.format());
  else
    floats = {AlignedBytes(shape.rows * shape.columns * size_of(options.unquantized)), shape, options.unquantized};

  const auto refuse = [&](QuantizationFault fault, std::size_t first) {
    fault.row += first;
    fail<BadInput>(message_of(fault, tensor, options.scale));
  };
  const bool to_halves = quantized && options.round_to_f16_first;
  const auto each_block = [&](auto&& act) { // act(first row, rows as they are quantized)
    for (std::size_t first = 0; first < shape.rows; first += block_rows) {
      const std::size_t count = std::min(block_rows, shape.rows - first);
      const std::size_t values = count * shape.columns;
      read(first, count, block.data());
      if (to_halves || !quantized) {
        std::byte* out = to_halves ? reinterpret_cast<std::byte*>(halves.data()) : floats.storage.data() + first * shape.columns * size_of(floats.type);
        const ElementType type = to_halves ? ElementType::f16 : floats.type;
        if (const std::size_t bad = narrow(block.data(), values, type, out, kernels); bad != values)
          fail<BadInput>("tensor " + tensor + ", row " + std::to_string(first + bad / shape.columns) + ", column " + std::to_string(bad % shape.columns) +
                         ": weight " + std::to_string(block[bad]) + " is not finite in " + std::string(name_of(type)));
      }
      act(first, to_halves ? MatrixView(halves.data(), count, shape.columns) : MatrixView(block.data(), count, shape.columns));
    }
  };
  std::optional<WeightRange> range;
  if (quantized && options.grouping.whole_matrix) { // its scale is known after all blocks were seen
    range.emplace();
    each_block([&](std::size_t first, MatrixView source) {
      if (const QuantizationFault fault = find_range(source, *range, kernels)) refuse(fault, first);
    });
  }
  each_block([&](std::size_t first, MatrixView source) {
    if (!quantized) return;
    if (const QuantizationFault fault = quantize_rows(source, first, shape, options.format(), packed.storage(), executor, kernels, range)) refuse(fault, first);
  });
  if (quantized) return DeployedMatrix(device.prepare(std::move(packed)));
  return DeployedMatrix(std::move(floats));
}

} // namespace lsaq::inline v0::inline LSAQ_BASELINE
