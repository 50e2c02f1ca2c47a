// A matrix whose similar channels share one representative, with a product of low rank that makes up for the difference: its parts and their bytes.
//
//   W  ~  representatives[label of each channel]  +  left x right
//
//   channels are rows:     representatives  clusters x columns     y = gather(x representatives^T) + (x right^T) left^T
//   channels are columns:  representatives  rows x clusters        y = (sums of x by cluster) representatives^T + (x right^T) left^T
//   left  rows x rank, right  rank x columns; labels  ceil(log2 clusters) bits each, first channel in the lowest bits, padded to whole 32-bit words
#pragma once

#include <lsaq/quantization/packed_matrix.hpp>

#include <bit>
#include <string_view>
#include <utility>

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
