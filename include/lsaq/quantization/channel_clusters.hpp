// K-Means over the channels of a matrix: k-means++ seeds, then Lloyd's iterations, the same for any number of threads and any instruction set's products.
//
// A device's products give the distance of every channel to every mean up to rounding. Whichever means could be the nearest within that rounding are compared
// again by the plain sum of squared differences in double, so labels are those of the definition: ties go to the lower cluster, equal channels stay together.
#pragma once

#include <lsaq/quantization/dense_products.hpp>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <random>

namespace lsaq::inline v0 {

/// Which channel belongs to which cluster.
struct ChannelClusters {
  std::vector<std::uint32_t> labels = {}; ///< one cluster for each channel; no cluster is empty
  std::vector<double> inertia = {};       ///< sum of (weighted) squared distances to the means at each assignment; never rises
  bool converged = false;                 ///< the last assignment changed no label
};

/// How channels are clustered.
struct ClusterOptions {
  std::size_t clusters = 1;
  std::uint64_t seed = 0;
  std::size_t iterations = 50;                  ///< at most so many assignments
  std::span<const double> channel_weights = {}; ///< how much each channel counts, > 0, the caller's; empty: all the same
};

} // namespace lsaq::inline v0

namespace lsaq::inline v0::inline LSAQ_BASELINE {

namespace detail {

inline constexpr std::size_t channels_per_task = 16;
inline constexpr std::size_t mean_columns_per_task = 256;

/// |a - b|^2 in double. Four chains of additions, or each would wait for the one before.
inline double squared_distance(const float* a, const float* b, std::size_t n) noexcept {
  double sums[4] = {};
  std::size_t i = 0;
  for (; i + 4 <= n; i += 4)
    for (std::size_t chain = 0; chain < 4; ++chain) {
      const double difference = double{a[i + chain]} - double{b[i + chain]};
      sums[chain] += difference * difference;
    }
  for (; i < n; ++i) sums[0] += (double{a[i]} - double{b[i]}) * (double{a[i]} - double{b[i]});
  return (sums[0] + sums[1]) + (sums[2] + sums[3]);
}

inline const float* float_row(MatrixView matrix, std::size_t row) noexcept { return reinterpret_cast<const float*>(matrix.row(row)); }

inline double weight_of(std::span<const double> weights, std::size_t channel) noexcept { return weights.empty() ? 1 : weights[channel]; }

/// The Euclidean length of every row.
inline void row_lengths(MatrixView matrix, ExecutorRef executor, std::vector<double>& lengths) {
  lengths.resize(matrix.rows);
  const std::vector<float> zero(matrix.columns);
  executor.parallel_for((matrix.rows + channels_per_task - 1) / channels_per_task, [&](std::size_t task) {
    const std::size_t end = std::min(matrix.rows, (task + 1) * channels_per_task);
    for (std::size_t r = task * channels_per_task; r < end; ++r) lengths[r] = std::sqrt(squared_distance(float_row(matrix, r), zero.data(), matrix.columns));
  });
}

/// An index with a chance proportional to its weight; the first one not `taken` where all weights are zero. The bits of std::mt19937_64 are fixed by the
/// standard, those of its distributions are not.
inline std::size_t draw(std::mt19937_64& random, std::span<const double> weights, const std::vector<bool>& taken) {
  const double target = std::accumulate(weights.begin(), weights.end(), 0.0) * (static_cast<double>(random() >> 11) * 0x1p-53);
  double sum = 0;
  std::size_t last = weights.size();
  for (std::size_t i = 0; i < weights.size(); ++i) {
    if (!(weights[i] > 0)) continue;
    last = i;
    if ((sum += weights[i]) > target) return i;
  }
  if (last != weights.size()) return last;
  return static_cast<std::size_t>(std::find(taken.begin(), taken.end(), false) - taken.begin());
}

/// Gives each empty cluster the channel that is furthest from its mean among those that do not stand alone.
inline void repair_empty_clusters(std::size_t clusters, std::span<const double> weights, std::span<std::uint32_t> labels, std::span<double> distances) {
  std::vector<std::size_t> members(clusters);
  for (const std::uint32_t label : labels) ++members[label];
  for (std::size_t k = 0; k < clusters; ++k) {
    if (members[k] != 0) continue;
    std::size_t furthest = labels.size();
    double longest = -1;
    for (std::size_t i = 0; i < labels.size(); ++i)
      if (const double cost = weight_of(weights, i) * distances[i]; members[labels[i]] > 1 && cost > longest) furthest = i, longest = cost;
    --members[labels[furthest]];
    labels[furthest] = static_cast<std::uint32_t>(k);
    distances[furthest] = 0;
    members[k] = 1;
  }
}

/// Means of one round and what is needed to find the nearest one.
struct MeanDistances {
  MatrixView means;
  std::span<const double> lengths; ///< of the means

  /// The mean nearest to a channel, by `products` with all means in FP32 where these are sure, exactly where they are not.
  std::pair<std::uint32_t, double> nearest(const float* channel, double length, const float* products) const noexcept {
    const std::size_t n = means.columns;
    // A sum of n products in FP32 is off by less than n 2^-23 |a| |b|, underflow by a little more; where it could overflow nothing is known.
    const double unit = static_cast<double>(n) * 0x1p-23, underflow = static_cast<double>(n) * 0x1p-125;
    const auto slack = [&](std::size_t k) {
      const double reach = length * lengths[k];
      return reach < 0x1p126 ? 2 * (reach * unit + underflow) : std::numeric_limits<double>::max();
    };
    const auto estimate = [&](std::size_t k) { return length * lengths[k] < 0x1p126 ? lengths[k] * lengths[k] - 2 * double{products[k]} : 0; };
    double bound = std::numeric_limits<double>::max();
    for (std::size_t k = 0; k < means.rows; ++k) bound = std::min(bound, estimate(k) + slack(k));
    std::pair<std::uint32_t, double> best{0, std::numeric_limits<double>::max()};
    for (std::size_t k = 0; k < means.rows; ++k) {
      if (estimate(k) - slack(k) > bound) continue;
      if (const double distance = squared_distance(channel, float_row(means, k), n); distance < best.second) best = {static_cast<std::uint32_t>(k), distance};
    }
    return best;
  }
};

} // namespace detail

/// Draws the channels that clustering begins with: each next one with a chance proportional to its squared distance from those before (k-means++; Arthur and
/// Vassilvitskii 2007), times its weight.
///
/// `channels` is FP32, one channel a row; options.clusters is 1 to channels.rows (not checked). Returns that many different rows, also where fewer rows differ.
/// Cost: clusters x channels x columns multiply-adds.
inline std::vector<std::size_t> seed_channels(MatrixView channels, const ClusterOptions& options, ExecutorRef executor = {}) {
  std::mt19937_64 random(options.seed);
  std::vector<std::size_t> seeds;
  std::vector<bool> taken(channels.rows);
  std::vector<double> distances(channels.rows, std::numeric_limits<double>::max()), chances(channels.rows, 1);
  for (std::size_t i = 0; i < channels.rows; ++i) chances[i] = detail::weight_of(options.channel_weights, i);
  while (true) {
    const std::size_t seed = detail::draw(random, chances, taken);
    taken[seed] = true;
    seeds.push_back(seed);
    if (seeds.size() == options.clusters) return seeds;
    const float* chosen = detail::float_row(channels, seed);
    executor.parallel_for((channels.rows + detail::channels_per_task - 1) / detail::channels_per_task, [&](std::size_t task) {
      const std::size_t end = std::min(channels.rows, (task + 1) * detail::channels_per_task);
      for (std::size_t i = task * detail::channels_per_task; i < end; ++i) {
        distances[i] = std::min(distances[i], detail::squared_distance(detail::float_row(channels, i), chosen, channels.columns));
        chances[i] = detail::weight_of(options.channel_weights, i) * distances[i];
      }
    });
  }
}

/// Writes the mean of each cluster's channels to means: clusters x channels.columns, sums in double in the order of the channels. A cluster without channels
/// gets zeros.
inline void cluster_means(MatrixView channels, std::span<const std::uint32_t> labels, std::size_t clusters, std::span<const double> weights, float* means,
                          ExecutorRef executor = {}) {
  std::vector<std::size_t> first(clusters + 1), members(channels.rows); // members sorted by cluster, those of cluster k from first[k] on
  for (const std::uint32_t label : labels) ++first[label + 1];
  std::partial_sum(first.begin(), first.end(), first.begin());
  std::vector<std::size_t> next(first.begin(), first.end() - 1);
  for (std::size_t i = 0; i < channels.rows; ++i) members[next[labels[i]]++] = i;
  const std::size_t parts = (channels.columns + detail::mean_columns_per_task - 1) / detail::mean_columns_per_task;
  executor.parallel_for(clusters * parts, [&](std::size_t task) {
    const std::size_t cluster = task / parts, column = task % parts * detail::mean_columns_per_task;
    const std::size_t count = std::min(detail::mean_columns_per_task, channels.columns - column);
    double sums[detail::mean_columns_per_task] = {}, total = 0;
    for (std::size_t m = first[cluster]; m < first[cluster + 1]; ++m) {
      const double weight = detail::weight_of(weights, members[m]);
      const float* channel = detail::float_row(channels, members[m]) + column;
      for (std::size_t c = 0; c < count; ++c) sums[c] += weight * double{channel[c]};
      total += weight;
    }
    float* out = means + cluster * channels.columns + column;
    for (std::size_t c = 0; c < count; ++c) out[c] = total > 0 ? static_cast<float>(sums[c] / total) : 0;
  });
}

/// Clusters the rows of `channels` around means so that the sum of their (weighted) squared distances is small: Lloyd's iterations from k-means++ seeds.
///
/// `channels` is FP32 and finite, one channel a row, and stays the caller's. Stops when no label changes or after options.iterations assignments. The result
/// depends on the seed, not on the number of threads. Throws InvalidArgument for 0 or more clusters than channels, no iterations, weights that are not one
/// positive number a channel, or values that are not finite; std::bad_alloc. Cost: clusters x channels x columns multiply-adds an assignment and as many for
/// the seeds; memory: the means and at most 4 MiB (or 16 channels' worth) of products.
template <product_device Device> ChannelClusters cluster_channels(MatrixView channels, const ClusterOptions& options, const Device& device) {
  const std::size_t clusters = options.clusters;
  if (clusters == 0 || clusters > channels.rows || clusters > std::numeric_limits<std::uint32_t>::max())
    fail<InvalidArgument>("can't make " + std::to_string(clusters) + " clusters of " + std::to_string(channels.rows) + " channels: 1 to " +
                          std::to_string(channels.rows) + " are possible");
  if (options.iterations == 0) fail<InvalidArgument>("clustering needs at least 1 iteration, not 0");
  if (!options.channel_weights.empty() && options.channel_weights.size() != channels.rows)
    fail<InvalidArgument>(std::to_string(options.channel_weights.size()) + " weights were given for " + std::to_string(channels.rows) + " channels");
  for (std::size_t i = 0; i < options.channel_weights.size(); ++i)
    if (const double weight = options.channel_weights[i]; !(weight > 0 && weight <= std::numeric_limits<double>::max()))
      fail<InvalidArgument>("the weight of channel " + std::to_string(i) + " is " + std::to_string(weight) + ": it must be positive and finite");
  require_finite_floats(channels, "channels");

  const ExecutorRef executor = device.executor();
  const std::size_t block_rows =
      std::clamp<std::size_t>((std::size_t{1} << 20) / clusters, detail::channels_per_task, channels.rows + detail::channels_per_task);
  std::vector<float> means(clusters * channels.columns), products(std::min(block_rows, channels.rows) * clusters);
  std::vector<double> lengths, mean_lengths, distances(channels.rows);
  std::vector<std::byte> workspace;
  detail::row_lengths(channels, executor, lengths);
  const std::vector<std::size_t> seeds = seed_channels(channels, options, executor);
  for (std::size_t k = 0; k < clusters; ++k) std::copy_n(detail::float_row(channels, seeds[k]), channels.columns, means.data() + k * channels.columns);

  ChannelClusters found;
  std::vector<std::uint32_t> labels(channels.rows);
  for (std::size_t iteration = 0; iteration < options.iterations && !found.converged; ++iteration) {
    detail::row_lengths({means.data(), clusters, channels.columns}, executor, mean_lengths);
    const detail::MeanDistances current{{means.data(), clusters, channels.columns}, mean_lengths};
    for (std::size_t block = 0; block < channels.rows; block += block_rows) {
      const std::size_t count = std::min(block_rows, channels.rows - block);
      detail::multiply_transposed(device, channels.slice(block, count), current.means, {products.data(), count, clusters}, workspace);
      executor.parallel_for((count + detail::channels_per_task - 1) / detail::channels_per_task, [&](std::size_t task) {
        const std::size_t end = std::min(count, (task + 1) * detail::channels_per_task);
        for (std::size_t i = task * detail::channels_per_task; i < end; ++i) {
          const std::size_t channel = block + i;
          const auto [label, distance] = current.nearest(detail::float_row(channels, channel), lengths[channel], products.data() + i * clusters);
          labels[channel] = label;
          distances[channel] = distance;
        }
      });
    }
    detail::repair_empty_clusters(clusters, options.channel_weights, labels, distances);
    double inertia = 0;
    for (std::size_t i = 0; i < channels.rows; ++i) inertia += detail::weight_of(options.channel_weights, i) * distances[i];
    found.inertia.push_back(inertia);
    found.converged = labels == found.labels;
    found.labels = labels;
    if (!found.converged) cluster_means(channels, labels, clusters, options.channel_weights, means.data(), executor);
  }
  return found;
}

} // namespace lsaq::inline v0::inline LSAQ_BASELINE
