// A matrix whose similar channels share one representative, with a product of low rank that makes up for the difference: its bytes, and products from them.
//
//   W  ~  representatives[label of each channel]  +  left x right
//
//   channels are rows:     representatives  clusters x columns     y = gather(x representatives^T) + (x right^T) left^T
//   channels are columns:  representatives  rows x clusters        y = (sums of x by cluster) representatives^T + (x right^T) left^T
//   left  rows x rank, right  rank x columns; labels  ceil(log2 clusters) bits each, first channel in the lowest bits, padded to whole 32-bit words
#pragma once

#include <lsaq/quantization/dense_products.hpp>
#include <lsaq/quantization/quantizer.hpp>

#include <Eigen/Core>

#include <array>
#include <bit>

namespace lsaq::inline v0 {

/// What a channel is: a row (all weights of an output) or a column (all weights of an input).
enum class ChannelAxis : std::uint8_t { rows, columns };

constexpr std::string_view name_of(ChannelAxis axis) noexcept { return axis == ChannelAxis::rows ? "rows" : "columns"; }

/// How the parts of a matrix of shared channels are stored.
struct SharedChannelFormat {
  ChannelAxis axis = ChannelAxis::rows;
  unsigned representative_bits = 16; ///< 16: F16; 2 to 8: codes with one scale for each row of the representatives
  unsigned factor_bits = 16;         ///< likewise for both factors
  ScaleType scale = ScaleType::f16;  ///< of the rows that are stored as codes

  friend constexpr bool operator==(const SharedChannelFormat&, const SharedChannelFormat&) = default;
};

/// Whether a part can be stored in so many bits: F16, or a packed width.
constexpr bool is_part_width(unsigned bits) noexcept { return bits == 16 || (bits >= min_bits && bits <= max_bits); }

constexpr std::size_t channels_of(MatrixShape shape, ChannelAxis axis) noexcept { return axis == ChannelAxis::rows ? shape.rows : shape.columns; }

/// The representatives as they are stored: always weights that a product reads row by row.
constexpr MatrixShape representatives_shape(MatrixShape shape, std::size_t clusters, ChannelAxis axis) noexcept {
  return axis == ChannelAxis::rows ? MatrixShape{clusters, shape.columns} : MatrixShape{shape.rows, clusters};
}

/// Bits of a label: ceil(log2 clusters), none for a single cluster.
constexpr unsigned label_bits(std::size_t clusters) noexcept { return clusters <= 1 ? 0u : static_cast<unsigned>(std::bit_width(clusters - 1)); }

/// Bytes of all labels, padded to whole 32-bit words.
constexpr Bytes label_bytes(std::size_t channels, std::size_t clusters) noexcept { return (Bytes{channels} * label_bits(clusters) + 31) / 32 * 4; }

/// Bytes of one part.
constexpr Bytes part_bytes(MatrixShape shape, unsigned bits, ScaleType scale) noexcept {
  return bits == 16 ? Bytes{shape.rows} * shape.columns * 2 : packed_bytes(shape, bits, scale);
}

/// Bytes of a matrix of shared channels: representatives, labels and both factors.
constexpr Bytes shared_channel_bytes(MatrixShape shape, std::size_t clusters, std::size_t rank, const SharedChannelFormat& format = {}) noexcept {
  return part_bytes(representatives_shape(shape, clusters, format.axis), format.representative_bits, format.scale) +
         label_bytes(channels_of(shape, format.axis), clusters) +
         (rank == 0 ? 0
                    : part_bytes({shape.rows, rank}, format.factor_bits, format.scale) + part_bytes({rank, shape.columns}, format.factor_bits, format.scale));
}

static_assert(shared_channel_bytes({64, 32}, 16, 0) == 16 * 32 * 2 + 64 * 4 / 8);

/// A part of a matrix of shared channels that owns its bytes: F16 values or a packed matrix. Move-only.
class SharedPart {
public:
  SharedPart() = default;

  /// Room for F16 values, not initialized.
  explicit SharedPart(MatrixShape shape) : halves_(shape.rows * shape.columns * sizeof(f16)), shape_(shape) {}

  explicit SharedPart(PackedMatrix packed) : shape_{packed.rows(), packed.columns()}, bits_(packed.bits()) { packed_ = std::move(packed); }

  [[gnu::always_inline]] MatrixShape shape() const noexcept { return shape_; }
  [[gnu::always_inline]] unsigned bits() const noexcept { return bits_; }
  [[gnu::always_inline]] Bytes bytes() const noexcept { return bits_ == 16 ? halves_.size() : packed_.bytes(); }
  [[gnu::always_inline]] f16* halves() noexcept { return reinterpret_cast<f16*>(halves_.data()); }
  /// The values of a part of 16 bits.
  [[gnu::always_inline]] MatrixView floats() const noexcept { return {reinterpret_cast<const f16*>(halves_.data()), shape_.rows, shape_.columns}; }
  /// The codes and scales of a part of fewer bits.
  [[gnu::always_inline]] PackedView codes() const noexcept { return packed_.view(); }

private:
  AlignedBytes halves_;
  PackedMatrix packed_;
  MatrixShape shape_;
  unsigned bits_ = 16;
};

/// A matrix of shared channels in memory, read-only; made by share_channels(). Move-only.
class SharedChannelMatrix {
public:
  SharedChannelMatrix() = default;
  SharedChannelMatrix(MatrixShape shape, const SharedChannelFormat& format, std::size_t clusters, SharedPart representatives, AlignedBytes labels,
                      std::size_t rank, SharedPart left, SharedPart right)
      : shape_(shape), format_(format), clusters_(clusters), rank_(rank), representatives_(std::move(representatives)), left_(std::move(left)),
        right_(std::move(right)), labels_(std::move(labels)) {}

  [[gnu::always_inline]] MatrixShape shape() const noexcept { return shape_; } ///< of the matrix it stands for
  [[gnu::always_inline]] const SharedChannelFormat& format() const noexcept { return format_; }
  [[gnu::always_inline]] std::size_t clusters() const noexcept { return clusters_; }
  [[gnu::always_inline]] std::size_t rank() const noexcept { return rank_; }
  [[gnu::always_inline]] const SharedPart& representatives() const noexcept { return representatives_; }
  [[gnu::always_inline]] const SharedPart& left() const noexcept { return left_; }   ///< rows x rank; nothing for rank 0
  [[gnu::always_inline]] const SharedPart& right() const noexcept { return right_; } ///< rank x columns; nothing for rank 0
  [[gnu::always_inline]] const std::byte* labels() const noexcept { return labels_.data(); }
  /// Bytes allocated: shared_channel_bytes().
  [[gnu::always_inline]] Bytes bytes() const noexcept { return representatives_.bytes() + left_.bytes() + right_.bytes() + labels_.size(); }

private:
  MatrixShape shape_;
  SharedChannelFormat format_;
  std::size_t clusters_ = 0;
  std::size_t rank_ = 0;
  SharedPart representatives_, left_, right_;
  AlignedBytes labels_;
};

} // namespace lsaq::inline v0

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
