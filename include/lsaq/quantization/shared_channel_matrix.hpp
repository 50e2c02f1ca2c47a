// A matrix whose similar channels share one representative (shared_channel_parts.hpp): products from its parts, and what it stands for.
#pragma once

#include <lsaq/quantization/dense_products.hpp>
#include <lsaq/quantization/quantizer.hpp>
#include <lsaq/quantization/shared_channel_parts.hpp>

#include <Eigen/Core>

#include <array>

namespace lsaq::inline v0::inline LSAQ_BASELINE {

/// shared_channel_bytes() in bits for each weight of the matrix they stand for.
constexpr double shared_channel_bits(MatrixShape shape, std::size_t clusters, std::size_t rank, const SharedChannelFormat& format = {}) noexcept {
  return 8 * static_cast<double>(shared_channel_bytes(shape, clusters, rank, format)) / (static_cast<double>(shape.rows) * static_cast<double>(shape.columns));
}

/// Bytes of the labels of `labels.size()` channels among `clusters`, packed.
inline AlignedBytes pack_labels(std::span<const std::uint32_t> labels, std::size_t clusters) {
  const unsigned bits = label_bits(clusters);
  AlignedBytes packed(static_cast<std::size_t>(label_bytes(labels.size(), clusters)));
  if (packed.size() == 0) return packed;
  std::memset(packed.data(), 0, packed.size());
  for (std::size_t i = 0; i < labels.size(); ++i)
    for (unsigned bit = 0; bit < bits; ++bit)
      if ((labels[i] >> bit & 1u) != 0) packed.data()[(i * bits + bit) / 8] |= static_cast<std::byte>(1u << (i * bits + bit) % 8);
  return packed;
}

/// Writes the labels of channels [first, first + count) to out.
inline void unpack_labels(const SharedChannelMatrix& matrix, std::size_t first, std::size_t count, std::uint32_t* out) noexcept {
  const unsigned bits = label_bits(matrix.clusters());
  const std::uint64_t mask = (std::uint64_t{1} << bits) - 1;
  const std::byte* const labels = matrix.labels();
  const auto byte = [&](std::size_t i) { return std::to_integer<std::uint64_t>(labels[i]); };
  for (std::size_t i = 0; i < count; ++i) {
    const std::size_t begin = (first + i) * bits, last = (begin + bits + 7) / 8; // byte by byte: at most five, and none beyond the last
    std::uint64_t window = 0;
    for (std::size_t b = begin / 8; b < last; ++b) window |= byte(b) << 8 * (b - begin / 8);
    out[i] = static_cast<std::uint32_t>(window >> begin % 8 & mask);
  }
}

/// The cluster of one channel.
inline std::uint32_t label_at(const SharedChannelMatrix& matrix, std::size_t channel) noexcept {
  std::uint32_t label = 0;
  unpack_labels(matrix, channel, 1, &label);
  return label;
}

namespace detail {

inline constexpr std::size_t labels_at_once = 256;
inline constexpr std::size_t tokens_per_sum = 16;

/// The values of a part, widened.
inline std::vector<float> widened(const SharedPart& part) {
  const MatrixShape shape = part.shape();
  std::vector<float> values(shape.rows * shape.columns);
  if (part.bits() != 16)
    dequantize(part.codes(), {values.data(), shape.rows, shape.columns});
  else
    for (std::size_t i = 0; i < values.size(); ++i) values[i] = load_element(part.floats().data, ElementType::f16, i);
  return values;
}

/// Adds to, or writes to, outputs [first, first + count) of every token what their cluster's representative gave.
inline void gather(const SharedChannelMatrix& matrix, std::size_t first, std::size_t count, const float* products, MutableMatrixView y, bool add) noexcept {
  std::uint32_t labels[labels_at_once];
  unpack_labels(matrix, first, count, labels);
  for (std::size_t t = 0; t < y.rows; ++t) {
    const float* given = products + t * matrix.clusters();
    float* out = y.row(t) + first;
    for (std::size_t i = 0; i < count; ++i) out[i] = add ? out[i] + given[labels[i]] : given[labels[i]];
  }
}

/// The sums of tokens [first, first + count) over the inputs of each cluster, in the order of the inputs.
inline void sum_by_cluster(const SharedChannelMatrix& matrix, MatrixView x, std::size_t first, std::size_t count, float* sums) noexcept {
  const std::size_t clusters = matrix.clusters();
  std::uint32_t labels[labels_at_once];
  std::fill_n(sums + first * clusters, count * clusters, 0.0f);
  for (std::size_t c = 0; c < x.columns; c += labels_at_once) {
    const std::size_t inputs = std::min(labels_at_once, x.columns - c);
    unpack_labels(matrix, c, inputs, labels);
    for (std::size_t t = first; t < first + count; ++t) {
      const float* input = reinterpret_cast<const float*>(x.row(t)) + c;
      for (std::size_t i = 0; i < inputs; ++i) sums[t * clusters + labels[i]] += input[i];
    }
  }
}

template <product_device Device>
Status multiply_part(const Device& device, const SharedPart& part, MatrixView x, MutableMatrixView y, std::span<std::byte> workspace) noexcept {
  return part.bits() == 16 ? device.matmul(part.floats(), x, y, workspace) : device.matmul(part.codes(), x, y, workspace);
}

template <product_device Device> std::size_t part_workspace(const Device& device, const SharedPart& part, std::size_t tokens) noexcept {
  return part.bits() == 16 ? device.workspace_bytes(part.floats(), tokens) : device.workspace_bytes(part.codes(), tokens);
}

/// Floats of a product's intermediate results.
inline std::array<std::size_t, 3> product_floats(const SharedChannelMatrix& matrix, std::size_t tokens) noexcept {
  const bool two_products = matrix.format().axis == ChannelAxis::columns && matrix.rank() != 0; // both write whole outputs
  return {tokens * matrix.clusters(), tokens * matrix.rank(), two_products ? tokens * matrix.shape().rows : 0};
}

} // namespace detail

/// Writes the matrix that `matrix` stands for, as stored, to out: rows x columns of the caller.
///
/// Throws InvalidArgument for an output of another shape; std::bad_alloc. Cost: rank x rows x columns multiply-adds; memory: the parts in FP32.
inline void reconstruct(const SharedChannelMatrix& matrix, MutableMatrixView out, ExecutorRef executor = {}) {
  const MatrixShape shape = matrix.shape();
  if (out.rows != shape.rows || out.columns != shape.columns)
    fail<InvalidArgument>("can't reconstruct a " + text_of(shape) + " matrix into " + text_of({out.rows, out.columns}));
  using Row = Eigen::Map<Eigen::ArrayXf, Eigen::Unaligned>;
  using ConstRow = Eigen::Map<const Eigen::ArrayXf, Eigen::Unaligned>;
  const std::vector<float> representatives = detail::widened(matrix.representatives()), left = detail::widened(matrix.left()),
                           right = detail::widened(matrix.right());
  std::vector<std::uint32_t> labels(channels_of(shape, matrix.format().axis));
  unpack_labels(matrix, 0, labels.size(), labels.data());
  const auto width = static_cast<Eigen::Index>(shape.columns);
  executor.parallel_for(shape.rows, [&](std::size_t r) {
    if (matrix.format().axis == ChannelAxis::rows)
      std::copy_n(representatives.data() + labels[r] * shape.columns, shape.columns, out.row(r));
    else
      for (std::size_t c = 0; c < shape.columns; ++c) out.row(r)[c] = representatives[r * matrix.clusters() + labels[c]];
    for (std::size_t k = 0; k < matrix.rank(); ++k) Row(out.row(r), width) += left[r * matrix.rank() + k] * ConstRow(right.data() + k * shape.columns, width);
  });
}

/// Bytes of workspace that a product with `tokens` rows of input needs.
template <product_device Device> std::size_t workspace_bytes(const Device& device, const SharedChannelMatrix& matrix, std::size_t tokens) noexcept {
  const auto [sums, inner, second] = detail::product_floats(matrix, tokens);
  const std::size_t most = std::max(detail::part_workspace(device, matrix.representatives(), tokens),
                                    std::max(detail::part_workspace(device, matrix.left(), tokens), detail::part_workspace(device, matrix.right(), tokens)));
  return (sums + inner + second) * sizeof(float) + (tokens == 0 ? 0 : most);
}

/// y = x W^T straight from representatives, labels and factors: x is tokens x columns (FP32), y is tokens x rows, both the caller's.
///
/// Allocates nothing. Status::workspace_too_small for a workspace smaller than workspace_bytes() or not aligned to four bytes, shape_mismatch for other shapes.
/// The result does not depend on the number of threads. Cost for each token, channels being rows: clusters x columns + rank x (rows + columns) multiply-adds
/// and `rows` additions; being columns: clusters x rows + rank x (rows + columns) and `columns` additions.
template <product_device Device>
Status matmul(const Device& device, const SharedChannelMatrix& matrix, MatrixView x, MutableMatrixView y, std::span<std::byte> workspace) noexcept {
  const MatrixShape shape = matrix.shape();
  const std::size_t tokens = x.rows;
  if (x.type != ElementType::f32 || x.columns != shape.columns || y.columns != shape.rows || y.rows != tokens) return Status::shape_mismatch;
  if (tokens == 0) return Status::ok;
  if (workspace.size() < workspace_bytes(device, matrix, tokens) || reinterpret_cast<std::uintptr_t>(workspace.data()) % alignof(float) != 0)
    return Status::workspace_too_small;

  const auto [sums, inner, second] = detail::product_floats(matrix, tokens);
  auto* const floats = reinterpret_cast<float*>(workspace.data());
  const MutableMatrixView shared(floats, tokens, matrix.clusters()), thin(floats + sums, tokens, matrix.rank());
  const std::span<std::byte> rest = workspace.subspan((sums + inner + second) * sizeof(float));
  const ExecutorRef executor = device.executor();
  Status status = Status::ok;
  if (matrix.rank() != 0) {
    status = detail::multiply_part(device, matrix.right(), x, thin, rest);
    if (status == Status::ok) status = detail::multiply_part(device, matrix.left(), thin, y, rest);
    if (status != Status::ok) return status;
  }
  if (matrix.format().axis == ChannelAxis::rows) {
    status = detail::multiply_part(device, matrix.representatives(), x, shared, rest);
    if (status != Status::ok) return status;
    executor.parallel_for((shape.rows + detail::labels_at_once - 1) / detail::labels_at_once, [&](std::size_t task) {
      const std::size_t first = task * detail::labels_at_once;
      detail::gather(matrix, first, std::min(detail::labels_at_once, shape.rows - first), shared.data, y, matrix.rank() != 0);
    });
    return Status::ok;
  }
  executor.parallel_for((tokens + detail::tokens_per_sum - 1) / detail::tokens_per_sum, [&](std::size_t task) {
    const std::size_t first = task * detail::tokens_per_sum;
    detail::sum_by_cluster(matrix, x, first, std::min(detail::tokens_per_sum, tokens - first), shared.data);
  });
  if (matrix.rank() == 0) return detail::multiply_part(device, matrix.representatives(), shared, y, rest);
  const MutableMatrixView products(floats + sums + inner, tokens, shape.rows);
  status = detail::multiply_part(device, matrix.representatives(), shared, products, rest);
  if (status != Status::ok) return status;
  for (std::size_t t = 0; t < tokens; ++t)
    for (std::size_t r = 0; r < shape.rows; ++r) y.row(t)[r] += products.row(t)[r];
  return Status::ok;
}

} // namespace lsaq::inline v0::inline LSAQ_BASELINE
