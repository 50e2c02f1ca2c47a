// Shared weights for similar channels (SWSC, arXiv 2501.08631): SharedChannels<K, Rank> and its run-time twins.
//
// The channels of a matrix are clustered by K-Means and each is replaced by the mean of its cluster; a singular value decomposition of what that leaves over
// gives back its largest part. Decided where the abstract is silent:
//   - channels are rows unless the format says columns; representatives and factors are F16 unless it says 2 to 8 bits
//   - the error that is decomposed is the one against the representatives as stored, so that their rounding is made up for too; rounding of the factors is not
//   - each factor gets the root of every singular value
//   - with second moments E[x_j^2] of the inputs, everything minimizes sum_ij E[x_j^2] (W_ij - W'_ij)^2, the expected squared error of outputs as far as inputs
//   are
//     uncorrelated: columns are multiplied by the roots for clustering (or, where they are the channels, count by the moments) and for the decomposition
#pragma once

#include <lsaq/quantization/channel_clusters.hpp>
#include <lsaq/quantization/low_rank.hpp>
#include <lsaq/quantization/shared_channel_matrix.hpp>

namespace lsaq::inline v0 {

/// How a matrix is brought to shared channels.
struct SharedChannelOptions {
  std::size_t clusters = 1; ///< K: 1 to the number of channels
  std::size_t rank = 0;     ///< singular values kept: 0 to the matrix's smaller side
  SharedChannelFormat format = {};
  std::span<const float> second_moments = {}; ///< E[x_j^2] of each input (one a column, >= 0), the caller's; empty: all inputs count the same
  std::uint64_t seed = 0;
  std::size_t iterations = 50; ///< of K-Means, at most
};

/// A number of representatives, and the largest rank that a budget allows beside them.
struct SharedChannelChoice {
  std::size_t clusters = 1;
  std::size_t rank = 0;
  friend constexpr bool operator==(SharedChannelChoice, SharedChannelChoice) = default;
};

} // namespace lsaq::inline v0

namespace lsaq::inline v0::inline LSAQ_BASELINE {

/// K = 1, 2, 3, 4, 6, 8, 12, ...: powers of two and what is half-way between them, each with the largest rank within `budget` bytes; those that do not fit are
/// left out.
inline std::vector<SharedChannelChoice> shared_channel_choices(MatrixShape shape, Bytes budget, const SharedChannelFormat& format = {}) {
  std::vector<SharedChannelChoice> choices;
  const std::size_t channels = channels_of(shape, format.axis);
  for (std::size_t clusters = 1; clusters <= channels; clusters += std::max<std::size_t>(1, std::bit_floor(clusters) / 2)) {
    if (shared_channel_bytes(shape, clusters, 0, format) > budget) break;
    std::size_t fits = 0, beyond = std::min(shape.rows, shape.columns) + 1;
    while (beyond - fits > 1) {
      const std::size_t middle = fits + (beyond - fits) / 2;
      (shared_channel_bytes(shape, clusters, middle, format) <= budget ? fits : beyond) = middle;
    }
    choices.push_back({clusters, fits});
  }
  return choices;
}

namespace detail {

/// The largest magnitude that can be stored in a part.
inline float largest_storable(unsigned bits, ScaleType scale) noexcept {
  constexpr float largest_half = 65504;
  if (bits == 16) return largest_half;
  return scale == ScaleType::f16 ? largest_half * static_cast<float>(code_limit(bits)) : std::numeric_limits<float>::max();
}

inline bool is_finite(float value) noexcept { return (std::bit_cast<std::uint32_t>(value) & 0x7fffffffu) < 0x7f800000u; }

/// The sentence that refuses a format; empty if there is nothing to refuse.
inline std::string refusal_of(const SharedChannelFormat& format) {
  for (const auto& [part, bits] : {std::pair("representatives", format.representative_bits), std::pair("factors", format.factor_bits)})
    if (!is_part_width(bits)) return "can't store " + std::string(part) + " in " + std::to_string(bits) + " bits: 16 (F16) and 2 to 8 are possible";
  return "";
}

/// The sentence that refuses second moments; empty if they can be used.
inline std::string refusal_of(std::span<const float> second_moments, std::size_t columns) {
  if (second_moments.empty()) return "";
  if (second_moments.size() != columns)
    return std::to_string(second_moments.size()) + " second moments were given for " + std::to_string(columns) + " input channels";
  double sum = 0;
  for (std::size_t c = 0; c < columns; ++c) {
    if (!is_finite(second_moments[c]) || second_moments[c] < 0)
      return "the second moment of input channel " + std::to_string(c) + " is " + std::to_string(second_moments[c]) + ": it must be finite and not negative";
    sum += double{second_moments[c]};
  }
  return sum > 0 ? "" : "the second moments of all " + std::to_string(columns) + " input channels are zero";
}

/// The sentence that refuses weights; empty if all can be stored.
inline std::string refusal_of(MatrixView weights, const SharedChannelFormat& format) {
  if (weights.rows == 0 || weights.columns == 0) return "a " + text_of({weights.rows, weights.columns}) + " matrix has no channels to share";
  const float limit = largest_storable(format.representative_bits, format.scale);
  for (std::size_t r = 0; r < weights.rows; ++r)
    for (std::size_t c = 0; c < weights.columns; ++c) {
      const float value = load_element(weights.row(r), weights.type, c);
      const auto at = [&] { return "row " + std::to_string(r) + ", column " + std::to_string(c) + ": the weight "; };
      if (!is_finite(value)) return at() + "is not finite (" + std::to_string(value) + "); repair the checkpoint or leave this matrix as it is";
      if (std::abs(value) > limit) return at() + std::to_string(value) + " is beyond " + std::to_string(limit) + ", the largest that representatives can store";
    }
  return "";
}

inline std::string refusal_of(MatrixView weights, const SharedChannelOptions& options) {
  const MatrixShape shape{weights.rows, weights.columns};
  if (std::string refusal = refusal_of(options.format); !refusal.empty()) return refusal;
  const std::size_t channels = channels_of(shape, options.format.axis), smaller = std::min(shape.rows, shape.columns);
  if (channels != 0 && (options.clusters == 0 || options.clusters > channels))
    return "can't share " + std::to_string(options.clusters) + " representatives among the " + std::string(name_of(options.format.axis)) + " of a " +
           text_of(shape) + " matrix: 1 to " + std::to_string(channels) + " are possible";
  if (options.rank > smaller)
    return "can't keep rank " + std::to_string(options.rank) + " of a " + text_of(shape) + " matrix: 0 to " + std::to_string(smaller) + " are possible";
  if (options.iterations == 0) return "clustering needs at least 1 iteration, not 0";
  if (std::string refusal = refusal_of(options.second_moments, shape.columns); !refusal.empty()) return refusal;
  return refusal_of(weights, options.format);
}

/// Roots of the second moments relative to their mean. Inputs that hardly ever differ from zero count as 2^-20 of the mean, so that they can be divided by.
inline std::vector<float> input_scales(std::span<const float> second_moments, std::size_t columns) {
  std::vector<float> scales(columns, 1.0f);
  if (second_moments.empty()) return scales;
  const double mean = std::accumulate(second_moments.begin(), second_moments.end(), 0.0) / static_cast<double>(columns);
  for (std::size_t c = 0; c < columns; ++c) scales[c] = static_cast<float>(std::sqrt(std::max(double{second_moments[c]} / mean, 0x1p-20)));
  return scales;
}

inline std::vector<float> transposed(const std::vector<float>& values, MatrixShape shape) {
  std::vector<float> turned(values.size());
  for (std::size_t r = 0; r < shape.rows; ++r)
    for (std::size_t c = 0; c < shape.columns; ++c) turned[c * shape.rows + r] = values[r * shape.columns + c];
  return turned;
}

/// FP32 values as a part of the format; they are known to fit.
inline SharedPart stored_part(const std::vector<float>& values, MatrixShape shape, unsigned bits, ScaleType scale, ExecutorRef executor) {
  if (bits != 16) return SharedPart(quantize<PerChannel>({values.data(), shape.rows, shape.columns}, bits, scale, executor));
  SharedPart part(shape);
  for (std::size_t i = 0; i < values.size(); ++i) part.halves()[i] = to_f16(values[i]);
  return part;
}

/// Labels of the channels, and the representatives in the shape they are stored in.
struct Representatives {
  std::vector<std::uint32_t> labels;
  std::vector<float> values;
};

template <product_device Device>
Representatives find_representatives(const std::vector<float>& weights, MatrixShape shape, const SharedChannelOptions& options,
                                     const std::vector<float>& input_scales, const Device& device) {
  ClusterOptions cluster{.clusters = options.clusters, .seed = options.seed, .iterations = options.iterations};
  Representatives found;
  if (options.format.axis == ChannelAxis::rows) {
    std::vector<float> scaled = weights; // means are those of the weights themselves: dividing by the scales again would round them
    for (std::size_t i = 0; i < scaled.size(); ++i) scaled[i] *= input_scales[i % shape.columns];
    found.labels = cluster_channels({scaled.data(), shape.rows, shape.columns}, cluster, device).labels;
    found.values.resize(options.clusters * shape.columns);
    cluster_means({weights.data(), shape.rows, shape.columns}, found.labels, options.clusters, {}, found.values.data(), device.executor());
    return found;
  }
  const std::vector<float> turned = transposed(weights, shape);
  std::vector<double> channel_weights(shape.columns);
  for (std::size_t c = 0; c < shape.columns; ++c) channel_weights[c] = double{input_scales[c]} * double{input_scales[c]};
  cluster.channel_weights = channel_weights;
  const MatrixView channels(turned.data(), shape.columns, shape.rows);
  found.labels = cluster_channels(channels, cluster, device).labels;
  std::vector<float> means(options.clusters * shape.rows);
  cluster_means(channels, found.labels, options.clusters, channel_weights, means.data(), device.executor());
  found.values = transposed(means, {options.clusters, shape.rows});
  return found;
}

} // namespace detail

/// Brings a matrix to shared channels, or says why it can't be; see share_channels().
template <product_device Device>
Expected<SharedChannelMatrix> try_share_channels(MatrixView weights, const SharedChannelOptions& options, const Device& device) {
  using Failure = typename Expected<SharedChannelMatrix>::Failure;
  if (std::string refusal = detail::refusal_of(weights, options); !refusal.empty()) return Failure{std::move(refusal)};
  const MatrixShape shape{weights.rows, weights.columns};
  const SharedChannelFormat& format = options.format;
  const ExecutorRef executor = device.executor();
  std::vector<float> error(shape.rows * shape.columns); // the weights, until the representatives are taken off
  for (std::size_t r = 0; r < shape.rows; ++r)
    for (std::size_t c = 0; c < shape.columns; ++c) error[r * shape.columns + c] = load_element(weights.row(r), weights.type, c);
  const std::vector<float> scales = detail::input_scales(options.second_moments, shape.columns);

  const detail::Representatives found = detail::find_representatives(error, shape, options, scales, device);
  SharedPart representatives =
      detail::stored_part(found.values, representatives_shape(shape, options.clusters, format.axis), format.representative_bits, format.scale, executor);
  SharedPart left, right;
  if (options.rank != 0) {
    const std::vector<float> stored = detail::widened(representatives);
    for (std::size_t r = 0; r < shape.rows; ++r)
      for (std::size_t c = 0; c < shape.columns; ++c) {
        const float representative =
            format.axis == ChannelAxis::rows ? stored[found.labels[r] * shape.columns + c] : stored[r * options.clusters + found.labels[c]];
        error[r * shape.columns + c] = (error[r * shape.columns + c] - representative) * scales[c];
      }
    LowRankMatrix low_rank = truncated_svd({error.data(), shape.rows, shape.columns}, {.rank = options.rank, .seed = options.seed}, device);
    for (std::size_t i = 0; i < low_rank.right.size(); ++i) low_rank.right[i] /= scales[i % shape.columns];
    const float limit = detail::largest_storable(format.factor_bits, format.scale);
    for (const std::vector<float>* factor : {&low_rank.left, &low_rank.right})
      for (const float value : *factor)
        if (!(std::abs(value) <= limit))
          return Failure{"a factor's value " + std::to_string(value) + " is beyond " + std::to_string(limit) + ", the largest that factors can store"};
    left = detail::stored_part(low_rank.left, {shape.rows, options.rank}, format.factor_bits, format.scale, executor);
    right = detail::stored_part(low_rank.right, {options.rank, shape.columns}, format.factor_bits, format.scale, executor);
  }
  return SharedChannelMatrix(shape, format, options.clusters, std::move(representatives), pack_labels(found.labels, options.clusters), options.rank,
                             std::move(left), std::move(right));
}

/// Brings a matrix of any supported element type to shared channels: options.clusters representatives, labels, and factors of rank options.rank.
///
/// The weights stay the caller's. The same weights, options and device give the same bytes, whatever the number of threads. Throws InvalidArgument for a number
/// of clusters, a rank or bits that are not possible, for weights that are not finite or too large to be stored (naming row and column) and for second moments
/// that are not one number >= 0 a column; std::bad_alloc. Cost: that of cluster_channels() and truncated_svd(); memory: five copies of the matrix in FP32
/// (where it is decomposed as a whole, in double). Source: SWSC, arXiv 2501.08631.
template <product_device Device> SharedChannelMatrix share_channels(MatrixView weights, const SharedChannelOptions& options, const Device& device) {
  Expected<SharedChannelMatrix> shared = try_share_channels(weights, options, device);
  if (!shared) fail<InvalidArgument>(shared.error().message);
  return std::move(shared.value());
}

/// |W - W'| / |W| in the Frobenius norm, columns weighted by the second moments where given; 0 for weights that are all zero.
///
/// Throws InvalidArgument if the shapes differ or the moments can't be used; std::bad_alloc. Cost: that of reconstruct(); memory: one copy of the matrix in
/// FP32.
inline double relative_error(MatrixView weights, const SharedChannelMatrix& matrix, std::span<const float> second_moments = {}, ExecutorRef executor = {}) {
  if (weights.rows != matrix.shape().rows || weights.columns != matrix.shape().columns)
    fail<InvalidArgument>("a " + text_of({weights.rows, weights.columns}) + " matrix was given to compare with one of " + text_of(matrix.shape()));
  if (const std::string refusal = detail::refusal_of(second_moments, weights.columns); !refusal.empty()) fail<InvalidArgument>(refusal);
  std::vector<float> restored(weights.rows * weights.columns);
  reconstruct(matrix, {restored.data(), weights.rows, weights.columns}, executor);
  const std::vector<float> scales = detail::input_scales(second_moments, weights.columns);
  std::vector<double> errors(weights.rows), squares(weights.rows);
  executor.parallel_for(weights.rows, [&](std::size_t r) {
    for (std::size_t c = 0; c < weights.columns; ++c) {
      const double scale = scales[c], weight = load_element(weights.row(r), weights.type, c);
      const double error = scale * (weight - restored[r * weights.columns + c]);
      errors[r] += error * error;
      squares[r] += scale * weight * scale * weight;
    }
  });
  const double all = std::accumulate(squares.begin(), squares.end(), 0.0);
  return all > 0 ? std::sqrt(std::accumulate(errors.begin(), errors.end(), 0.0) / all) : 0;
}

/// The matrix of shared channels with the smallest relative error (as weighted) within `bits_per_weight`: every K of shared_channel_choices() with the largest
/// rank beside it is made and measured; options.clusters and options.rank are ignored.
///
/// Throws Infeasible with the missing bytes if a single representative is too much; otherwise as share_channels(). Cost: some 2 log2(channels) times that of
/// share_channels().
template <product_device Device>
SharedChannelMatrix share_channels_within(MatrixView weights, double bits_per_weight, SharedChannelOptions options, const Device& device) {
  const MatrixShape shape{weights.rows, weights.columns};
  options.clusters = 1;
  options.rank = 0;
  if (const std::string refusal = detail::refusal_of(weights, options); !refusal.empty()) fail<InvalidArgument>(refusal);
  if (!(bits_per_weight > 0 && bits_per_weight <= 64))
    fail<InvalidArgument>("a budget of " + std::to_string(bits_per_weight) + " bits per weight can't be used: it must be positive and at most 64");
  const auto budget = static_cast<Bytes>(bits_per_weight / 8 * static_cast<double>(shape.rows) * static_cast<double>(shape.columns));
  if (const Bytes least = shared_channel_bytes(shape, 1, 0, options.format); least > budget)
    fail<Infeasible>("a " + text_of(shape) + " matrix of shared channels takes " + std::to_string(least) + " bytes at least, the budget of " +
                         std::to_string(bits_per_weight) + " bits per weight is " + std::to_string(budget),
                     least - budget);
  SharedChannelMatrix best;
  double least_error = std::numeric_limits<double>::max();
  for (const SharedChannelChoice choice : shared_channel_choices(shape, budget, options.format)) {
    options.clusters = choice.clusters;
    options.rank = choice.rank;
    SharedChannelMatrix shared = share_channels(weights, options, device);
    if (const double error = relative_error(weights, shared, options.second_moments, device.executor()); error < least_error) {
      least_error = error;
      best = std::move(shared);
    }
  }
  return best;
}

/// Brings matrices to K shared channels with compensation of rank Rank, both known at compile time; parts are stored as Format says.
template <std::size_t K, std::size_t Rank, SharedChannelFormat Format = SharedChannelFormat{}> class SharedChannels {
  static_assert(K >= 1, "lsaq: SharedChannels<K, Rank>: K, the number of representatives, must be at least 1 (docs/shared-channels.md)");
  static_assert(is_part_width(Format.representative_bits) && is_part_width(Format.factor_bits),
                "lsaq: SharedChannels<K, Rank, Format>: representatives and factors have 16 bits (F16) or 2 to 8 (docs/shared-channels.md)");

public:
  static constexpr std::size_t clusters = K;
  static constexpr std::size_t rank = Rank;
  static constexpr SharedChannelFormat format = Format;

  /// Bytes of a matrix of this shape.
  static constexpr Bytes bytes(MatrixShape shape) noexcept { return shared_channel_bytes(shape, K, Rank, Format); }

  /// The same in bits for each of its weights.
  static constexpr double bits_per_weight(MatrixShape shape) noexcept { return shared_channel_bits(shape, K, Rank, Format); }

  /// The matrix of shared channels of `weights`; clusters, rank and format of the options are this type's. Throws as share_channels().
  template <product_device Device> SharedChannelMatrix operator()(MatrixView weights, const Device& device, const SharedChannelOptions& options = {}) const {
    return share_channels(weights, own(options), device);
  }

  /// The same without exceptions for weights or shapes that can't be used.
  template <product_device Device>
  Expected<SharedChannelMatrix> try_share(MatrixView weights, const Device& device, const SharedChannelOptions& options = {}) const {
    return try_share_channels(weights, own(options), device);
  }

private:
  static SharedChannelOptions own(SharedChannelOptions options) {
    options.clusters = K;
    options.rank = Rank;
    options.format = Format;
    return options;
  }
};

} // namespace lsaq::inline v0::inline LSAQ_BASELINE
