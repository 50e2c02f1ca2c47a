// What exports of a Llama-type model have in common: the parts they are written in, the order of query and key rows, and tensors that are copied.
#pragma once

#include <lsaq/models/llama_rounding.hpp>

namespace lsaq::inline v0::llama {

/// Parts of an exported model, in the order they are written: the embedding, each layer, and what follows the layers.
constexpr std::size_t export_parts(const Config& config) noexcept { return config.layers + 2; }
inline constexpr std::size_t embedding_part = 0;
constexpr std::size_t layer_part(std::size_t layer) noexcept { return layer + 1; }
constexpr std::size_t last_part(const Config& config) noexcept { return config.layers + 1; }

/// Where the rows of query and key weights come from when a model changes between the files of Hugging Face, whose rotary pairs are (i, i + head size / 2), and
/// GGUF files, whose pairs are neighbours (2i, 2i + 1). Scales of rows move with them.
class RowOrder {
public:
  enum class Change : std::uint8_t { none, to_gguf, to_hugging_face };

  RowOrder() = default;
  RowOrder(Change change, std::size_t head_size) : change_(change), head_size_(head_size) {}

  /// The order for a linear of a model in a file of the other or the same kind.
  static RowOrder of(const Config& config, Linear linear, bool to_gguf) noexcept {
    const bool rotated = linear == Linear::q || linear == Linear::k;
    if (!rotated || config.interleaved_rope == to_gguf) return {};
    return {to_gguf ? Change::to_gguf : Change::to_hugging_face, config.head_size};
  }

  /// The row of the model at hand that row `row` of the file is.
  std::size_t source(std::size_t row) const noexcept {
    if (change_ == Change::none) return row;
    const std::size_t first = row / head_size_ * head_size_, i = row % head_size_, half = head_size_ / 2;
    return first + (change_ == Change::to_gguf ? i % 2 * half + i / 2 : 2 * (i % half) + i / half);
  }

private:
  Change change_ = Change::none;
  std::size_t head_size_ = 0;
};

} // namespace lsaq::inline v0::llama

namespace lsaq::inline v0::llama::inline LSAQ_BASELINE {

namespace detail {

inline constexpr std::size_t export_buffer = 1 << 20; ///< bytes that are written at once, where a row is not longer

/// Calls fill(row, out) for every row of `bytes` bytes, and write(span) with many rows at a time.
template <class Fill, class Write> void write_rows(std::size_t rows, std::size_t bytes, Fill&& fill, Write&& write) {
  if (bytes == 0) return;
  const std::size_t at_once = std::clamp<std::size_t>(export_buffer / bytes, 1, std::max<std::size_t>(rows, 1));
  std::vector<std::byte> buffer(at_once * bytes);
  for (std::size_t first = 0; first < rows; first += at_once) {
    const std::size_t count = std::min(at_once, rows - first);
    for (std::size_t r = 0; r < count; ++r) fill(first + r, buffer.data() + r * bytes);
    write(std::span<const std::byte>(buffer.data(), count * bytes));
  }
}

/// Writes a tensor of the model as it is stored.
template <class Write> void copy_tensor(const ModelSource& model, const TensorInfo& tensor, Write&& write) {
  const std::span<const std::byte> bytes = model.bytes(tensor);
  for (std::size_t at = 0; at < bytes.size(); at += export_buffer) {
    write(bytes.subspan(at, std::min(export_buffer, bytes.size() - at)));
    if (at % (64 * export_buffer) == 0) model.drop(tensor);
  }
  model.drop(tensor);
}

/// Writes a tensor of the model as F32, F16 or BF16, each value rounded to nearest. Memory: a block of rows. Throws BadInput for values that are not finite
/// then.
template <class Write> void write_tensor(const ModelSource& model, const TensorInfo& tensor, ElementType type, Write&& write) {
  if (element_type_of(tensor.type) == type) return copy_tensor(model, tensor, write);
  const CpuKernels& kernels = select_kernels();
  std::vector<float> values(tensor.columns);
  write_rows(
      tensor.rows, bytes_of(type, tensor.columns),
      [&](std::size_t row, std::byte* out) {
        model.read_rows(tensor, row, 1, values.data());
        if (const std::size_t bad = narrow(values.data(), tensor.columns, type, out, kernels); bad != tensor.columns)
          refuse(model, "tensor " + printable(tensor.name) + ", row " + std::to_string(row) + ", column " + std::to_string(bad) + ": weight " +
                            std::to_string(values[bad]) + " is not finite in " + std::string(name_of(type)));
      },
      [&](std::span<const std::byte> rows) {
        write(rows);
        model.drop(tensor);
      });
}

/// Writes the rows of a linear that is not quantized, in the file's order.
template <class Write> void write_floats(const FloatMatrix& floats, RowOrder order, Write&& write) {
  const MatrixView view = floats.view();
  write_rows(
      view.rows, view.row_bytes(), [&](std::size_t row, std::byte* out) { std::memcpy(out, view.row(order.source(row)), view.row_bytes()); }, write);
}

} // namespace detail

/// Refuses a transformed model whose basis only this library's decoder knows: of the rotations, that of the heads is part of the weights. Throws
/// InvalidArgument.
inline void check_exportable(const TransformOptions& transform) {
  if (transform.residual || transform.ffn)
    fail<InvalidArgument>("the weights of a rotated residual stream or feed-forward input need a decoder that rotates, which only this library's does; exports "
                          "can have their heads rotated (--rotate-heads)");
}

} // namespace lsaq::inline v0::llama::inline LSAQ_BASELINE
