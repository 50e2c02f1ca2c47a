// Clusters against plain loops from the definitions of k-means++ and Lloyd's iterations.
#include <lsaq/quantization/channel_clusters.hpp>

#include "quantization/channel_cases.hpp"

#include <lsaq/thread_pool.hpp>

#include <limits>
#include <set>

namespace channel_clusters_test {

using channel_cases::Device;
using channel_cases::Matrix;
using lsaq::ChannelClusters;
using lsaq::ClusterOptions;
using test_support::refusal;
using testing::ElementsAre;

double distance(const Matrix& matrix, std::size_t row, const std::vector<double>& mean) {
  double sum = 0;
  for (std::size_t c = 0; c < matrix.columns; ++c) sum += (double{matrix.at(row, c)} - mean[c]) * (double{matrix.at(row, c)} - mean[c]);
  return sum;
}

std::vector<double> row_of(const Matrix& matrix, std::size_t row) {
  return {matrix.values.begin() + static_cast<std::ptrdiff_t>(row * matrix.columns),
          matrix.values.begin() + static_cast<std::ptrdiff_t>((row + 1) * matrix.columns)};
}

/// k-means++ as its paper has it, one row after another.
std::vector<std::size_t> plain_seeds(const Matrix& matrix, const ClusterOptions& options) {
  std::mt19937_64 random(options.seed);
  std::vector<std::size_t> seeds;
  while (seeds.size() < options.clusters) {
    std::vector<double> chances;
    for (std::size_t i = 0; i < matrix.rows; ++i) {
      double nearest = seeds.empty() ? 1 : std::numeric_limits<double>::max();
      for (const std::size_t seed : seeds) nearest = std::min(nearest, distance(matrix, i, row_of(matrix, seed)));
      chances.push_back(nearest * (options.channel_weights.empty() ? 1 : options.channel_weights[i]));
    }
    double all = 0, sum = 0;
    for (const double chance : chances) all += chance;
    const double target = all * (static_cast<double>(random() >> 11) * 0x1p-53);
    std::size_t chosen = 0;
    while ((sum += chances[chosen]) <= target) ++chosen;
    seeds.push_back(chosen);
  }
  return seeds;
}

/// Lloyd's iterations in double; none of the cases here has an empty cluster.
std::vector<std::uint32_t> plain_labels(const Matrix& matrix, const ClusterOptions& options) {
  std::vector<std::vector<double>> means;
  for (const std::size_t seed : plain_seeds(matrix, options)) means.push_back(row_of(matrix, seed));
  std::vector<std::uint32_t> labels;
  for (std::size_t iteration = 0; iteration < options.iterations; ++iteration) {
    std::vector<std::uint32_t> next(matrix.rows);
    for (std::size_t i = 0; i < matrix.rows; ++i)
      for (std::uint32_t k = 1; k < means.size(); ++k)
        if (distance(matrix, i, means[k]) < distance(matrix, i, means[next[i]])) next[i] = k;
    if (next == labels) break;
    labels = next;
    for (std::uint32_t k = 0; k < means.size(); ++k) {
      std::vector<double> sums(matrix.columns);
      double total = 0;
      for (std::size_t i = 0; i < matrix.rows; ++i) {
        if (labels[i] != k) continue;
        const double weight = options.channel_weights.empty() ? 1 : options.channel_weights[i];
        for (std::size_t c = 0; c < matrix.columns; ++c) sums[c] += weight * double{matrix.at(i, c)};
        total += weight;
      }
      EXPECT_GT(total, 0) << "an empty cluster: choose another case";
      for (std::size_t c = 0; c < matrix.columns; ++c) means[k][c] = static_cast<float>(sums[c] / total);
    }
  }
  return labels;
}

TEST(ChannelClusters, SeedsAndLabelsAreThoseOfTheDefinition) {
  std::mt19937 random(2);
  for (const auto& [rows, columns, clusters] :
       {std::tuple<std::size_t, std::size_t, std::size_t>(60, 7, 5), {200, 33, 16}, {97, 64, 31}, {50, 300, 3}, {9, 5, 1}}) {
    const Matrix matrix = channel_cases::random_matrix(rows, columns, random);
    std::vector<double> weights(rows);
    for (double& weight : weights) weight = 0.1 + static_cast<double>(random() % 1000) / 100;
    for (const bool weighted : {false, true}) {
      ClusterOptions options{.clusters = clusters, .seed = random()};
      if (weighted) options.channel_weights = weights;
      ASSERT_EQ(lsaq::seed_channels(matrix.view(), options), plain_seeds(matrix, options));
      const ChannelClusters found = lsaq::cluster_channels(matrix.view(), options, Device());
      ASSERT_EQ(found.labels, plain_labels(matrix, options)) << rows << " x " << columns << ", " << clusters << " clusters";
    }
  }
}

TEST(ChannelClusters, InertiaIsWhatItSaysAndNeverRises) {
  std::mt19937 random(3);
  const Matrix matrix = channel_cases::random_matrix(300, 40, random);
  const ChannelClusters found = lsaq::cluster_channels(matrix.view(), {.clusters = 20}, Device());
  EXPECT_TRUE(found.converged);
  ASSERT_GT(found.inertia.size(), 2u);
  for (std::size_t i = 1; i < found.inertia.size(); ++i) EXPECT_LE(found.inertia[i], found.inertia[i - 1] * (1 + 1e-12));
  std::vector<float> means(20 * 40);
  lsaq::cluster_means(matrix.view(), found.labels, 20, {}, means.data());
  double inertia = 0;
  for (std::size_t i = 0; i < 300; ++i) {
    const float* mean = means.data() + found.labels[i] * 40;
    inertia += distance(matrix, i, std::vector<double>(mean, mean + 40));
  }
  EXPECT_NEAR(inertia, found.inertia.back(), 1e-9 * inertia);
}

TEST(ChannelClusters, AreTheSameForAnyNumberOfThreadsAndAnyKernels) {
  std::mt19937 random(4);
  const Matrix matrix = channel_cases::random_matrix(500, 65, random);
  const ClusterOptions options{.clusters = 37, .seed = 9};
  const ChannelClusters serial = lsaq::cluster_channels(matrix.view(), options, Device());
  lsaq::ThreadPool pool(3);
  channel_cases::Backwards backwards;
  for (const Device& device : {Device(pool), Device(backwards), Device(pool, lsaq::Isa::scalar)}) {
    const ChannelClusters other = lsaq::cluster_channels(matrix.view(), options, device);
    EXPECT_EQ(other.labels, serial.labels);
    EXPECT_EQ(other.inertia, serial.inertia);
  }
}

TEST(ChannelClusters, DistinctRowsAreFoundExactly) {
  std::mt19937 random(5);
  const Matrix originals = channel_cases::halves(12, 30, random);
  Matrix matrix(200, 30);
  std::vector<std::size_t> original(200);
  for (std::size_t r = 0; r < 200; ++r) {
    original[r] = r < 12 ? r : random() % 12;
    for (std::size_t c = 0; c < 30; ++c) matrix.at(r, c) = originals.at(original[r], c);
  }
  matrix.at(7, 3) = std::nextafter(matrix.at(7, 3), 9.0f); // nearly another row: FP32 products could not tell them apart
  const ChannelClusters found = lsaq::cluster_channels(matrix.view(), {.clusters = 13}, Device());
  EXPECT_EQ(found.inertia.back(), 0.0);
  for (std::size_t a = 0; a < 200; ++a)
    for (std::size_t b = 0; b < 200; ++b) ASSERT_EQ(found.labels[a] == found.labels[b], original[a] == original[b] && (a == 7) == (b == 7)) << a << ", " << b;
}

TEST(ChannelClusters, NoClusterStaysEmptyWhereFewerRowsDiffer) {
  Matrix matrix(10, 4);
  for (std::size_t c = 0; c < 4; ++c) matrix.at(6, c) = 1;
  for (const std::size_t clusters : {1, 2, 5, 10}) {
    const ChannelClusters found = lsaq::cluster_channels(matrix.view(), {.clusters = clusters}, Device());
    EXPECT_TRUE(found.converged);
    EXPECT_EQ(std::set(found.labels.begin(), found.labels.end()).size(), clusters);
    EXPECT_EQ(found.inertia.back() > 0, clusters == 1);
  }
}

TEST(ChannelClusters, WeightsBeyondTheRangeOfProductsAreComparedExactly) {
  for (const float unit : {1e-30f, 1e30f}) {
    Matrix matrix(6, 2);
    for (std::size_t r = 0; r < 6; ++r) matrix.at(r, 0) = unit * (r < 3 ? 1.0f : 2.0f) * (1 + 1e-3f * static_cast<float>(r));
    const ChannelClusters found = lsaq::cluster_channels(matrix.view(), {.clusters = 2}, Device());
    const std::uint32_t first = found.labels[0];
    EXPECT_THAT(found.labels, ElementsAre(first, first, first, 1 - first, 1 - first, 1 - first));
  }
}

TEST(ChannelClusters, RefusalsSayValueAndLimit) {
  Matrix matrix(5, 3);
  const auto with = [&](const ClusterOptions& options) { return refusal([&] { lsaq::cluster_channels(matrix.view(), options, Device()); }); };
  EXPECT_EQ(with({.clusters = 0}), "can't make 0 clusters of 5 channels: 1 to 5 are possible");
  EXPECT_EQ(with({.clusters = 6}), "can't make 6 clusters of 5 channels: 1 to 5 are possible");
  EXPECT_EQ(with({.clusters = 2, .iterations = 0}), "clustering needs at least 1 iteration, not 0");
  const std::vector<double> weights = {1, 2, 0, 4, 5};
  EXPECT_EQ(with({.channel_weights = std::span(weights).first(4)}), "4 weights were given for 5 channels");
  EXPECT_EQ(with({.channel_weights = weights}), "the weight of channel 2 is 0.000000: it must be positive and finite");
  matrix.at(4, 1) = std::numeric_limits<float>::infinity();
  EXPECT_EQ(with({}), "channels, row 4, column 1: the value is not finite (inf)");
}

} // namespace channel_clusters_test
