// Token sets, directions and shared channels on the device's kernels, against the CPU's.
#include "cuda/kernel_cases.hpp"

#include <lsaq/deployment/cpu.hpp>
#include <lsaq/importance/cosine.hpp>
#include <lsaq/kernels/cuda/cosine.cuh>
#include <lsaq/kernels/cuda/shared_channels.cuh>
#include <lsaq/kernels/cuda/token_sets.cuh>
#include <lsaq/quantization/shared_channel_matrix.hpp>

namespace comparisons_test {

using namespace lsaq::gpu;
using namespace test_support;

std::vector<lsaq::TokenId> random_set(unsigned k, std::mt19937& random) {
  std::vector<lsaq::TokenId> ids(3 * k);
  std::iota(ids.begin(), ids.end(), 5u);
  std::shuffle(ids.begin(), ids.end(), random);
  ids.resize(k);
  return ids;
}

struct Sets {
  Guarded<lsaq::TokenId> entering, leaving;
  std::vector<double> distances;

  Sets(unsigned pairs, unsigned k) : entering(pairs * k), leaving(pairs * k) {
    std::mt19937 random(k);
    for (unsigned p = 0; p < pairs; ++p) {
      const std::vector<lsaq::TokenId> a = random_set(k, random), b = random_set(k, random);
      std::vector<lsaq::ScoredToken> as, bs;
      for (unsigned i = 0; i < k; ++i) {
        as.push_back({0, entering[p * k + i] = a[i]});
        bs.push_back({0, leaving[p * k + i] = b[i]});
      }
      distances.push_back(1 - lsaq::jaccard(as, bs));
    }
  }
};

bool equal_distances(HostExecutor& executor, const Sets& sets, unsigned pairs, unsigned k) {
  const Guarded<double> distances(pairs);
  const Guarded<unsigned> shared(pairs);
  executor.launch(CompareTokenSets{sets.entering.data(), sets.leaving.data(), pairs, k, distances.data(), shared.data()});
  return distances.values() == sets.distances;
}

TEST(TokenSets, DistancesHaveTheBitsOfTheCpu) {
  for (const unsigned k : {1u, 2u, 50u, 127u, 128u, 129u, 257u, 700u}) {
    const Sets sets(3, k);
    on_schedules(3, [&](HostExecutor& executor) { EXPECT_TRUE(equal_distances(executor, sets, 3, k)) << k; });
  }
  const Sets sets(2, 300);
  on_schedules(many_schedules, [&](HostExecutor& executor) { EXPECT_TRUE(equal_distances(executor, sets, 2, 300)); });
}

TEST(TokenSets, FaultsMadeOnPurposeShow) {
  const Sets sets(4, 300);
  const auto wrong = [&](HostExecutor& executor) { return !equal_distances(executor, sets, 4, 300); };
  for (const unsigned barrier : {1u, 2u, 3u, 4u}) EXPECT_GE(schedules_that_fail({SeededFault::Kind::barrier_removed, barrier}, wrong), 4u) << barrier;
  for (unsigned shuffle = 0; shuffle < 5; ++shuffle) EXPECT_EQ(schedules_that_fail({SeededFault::Kind::shuffle_mask_changed, shuffle}, wrong), 5u) << shuffle;
}

template <element T> double worst_direction(HostExecutor& executor, unsigned rows, unsigned columns, std::size_t alignment) {
  std::mt19937 random(columns);
  const std::vector<T> a = random_elements<T>(rows * columns, random), b = random_elements<T>(rows * columns, random);
  const Guarded<T> entering(a, alignment), leaving(b, alignment);
  const Guarded<double> distances(rows);
  executor.launch(CompareDirections<T>{entering.data(), leaving.data(), columns, rows, columns, distances.data()});
  double worst = 0;
  for (unsigned r = 0; r < rows; ++r) {
    std::vector<float> x, y;
    for (unsigned c = 0; c < columns; ++c) {
      x.push_back(widen(a[r * columns + c]));
      y.push_back(widen(b[r * columns + c]));
    }
    const double expected = lsaq::Cosine::score({}, {x.data(), 1, columns}, {y.data(), 1, columns});
    const double error = std::fabs(distances[r] - expected) / ((columns + 10) * 0x1p-52);
    worst = error <= worst ? worst : std::isnan(error) ? 1e300 : error;
  }
  return worst;
}

TEST(Directions, DistancesAreThoseOfTheCpu) {
  for (const unsigned columns : {1u, 3u, 4u, 31u, 576u, 1023u, 2050u})
    on_schedules(3, [&](HostExecutor& executor) {
      EXPECT_LE(worst_direction<float>(executor, 3, columns, 16), 1) << columns;
      EXPECT_LE(worst_direction<lsaq::f16>(executor, 2, columns, 16), 1) << columns;
      EXPECT_LE(worst_direction<lsaq::bf16>(executor, 2, columns, 2), 1) << columns;
    });
  on_schedules(many_schedules, [&](HostExecutor& executor) { EXPECT_LE(worst_direction<float>(executor, 1, 1100, 4), 1); });
}

TEST(Directions, ZeroVectorsAreEqual) {
  const Guarded<float> x(std::vector<float>{0, 0, 0, 0, 1, 2}), y(std::vector<float>{0, 0, 1, 2, 0, 0});
  const Guarded<double> distances(3);
  HostExecutor executor;
  executor.launch(CompareDirections<float>{x.data(), y.data(), 2, 3, 2, distances.data()});
  EXPECT_EQ(distances.values(), (std::vector<double>{0, 1, 1}));
}

TEST(Directions, FaultsMadeOnPurposeShow) {
  const auto wrong = [](HostExecutor& executor) { return worst_direction<float>(executor, 2, 1200, 16) > 1; };
  EXPECT_GE(schedules_that_fail({SeededFault::Kind::barrier_removed, 0}, wrong), 4u);
  for (unsigned shuffle = 0; shuffle < 15; ++shuffle) EXPECT_EQ(schedules_that_fail({SeededFault::Kind::shuffle_mask_changed, shuffle}, wrong), 5u) << shuffle;
}

/// Labels of channels, packed, and what they are.
struct Labelled {
  std::vector<std::uint32_t> labels;
  Guarded<std::uint32_t> words;
  unsigned bits;

  Labelled(unsigned channels, unsigned clusters, std::mt19937& random)
      : labels(channels), words(lsaq::label_bytes(channels, clusters) / 4), bits(lsaq::label_bits(clusters)) {
    for (std::uint32_t& label : labels) label = static_cast<std::uint32_t>(random() % clusters);
    const lsaq::AlignedBytes packed = lsaq::pack_labels(labels, clusters);
    if (packed.size() != 0) std::memcpy(words.data(), packed.data(), packed.size());
  }
};

TEST(SharedChannels, OutputsAreThoseOfTheirCluster) {
  std::mt19937 random(3);
  for (const auto& [channels, clusters] : {std::pair{1u, 1u}, {5u, 3u}, {257u, 16u}, {700u, 300u}, {64u, 2u}}) {
    const Labelled labelled(channels, clusters, random);
    const Guarded<float> products(random_elements<float>(2 * clusters, random)), y(std::vector<float>(2 * channels, 0.5f));
    const Guarded<lsaq::f16> halves(std::vector<lsaq::f16>(2 * channels));
    const Labels labels{labelled.words.data(), labelled.bits};
    on_schedules(3, [&](HostExecutor& executor) {
      for (const bool add : {false, true}) {
        executor.launch(GatherChannels{labels, products.data(), clusters, channels, 2, y.data(), channels, lsaq::ElementType::f32, add});
        executor.launch(GatherChannels{labels, products.data(), clusters, channels, 2, halves.data(), channels, lsaq::ElementType::f16, add});
        for (unsigned i = 0; i < 2 * channels; ++i) {
          const float given = products[i / channels * clusters + labelled.labels[i % channels]], half = widen(lsaq::to_f16(given));
          EXPECT_EQ(y[i], add ? given + given : given);
          EXPECT_EQ(halves[i].bits, lsaq::to_f16(add ? half + given : given).bits);
        }
      }
    });
  }
}

bool equal_sums(HostExecutor& executor, unsigned channels, unsigned clusters, unsigned tokens) {
  std::mt19937 random(channels);
  const Labelled labelled(channels, clusters, random);
  const std::vector<lsaq::bf16> x = random_elements<lsaq::bf16>(tokens * channels, random);
  const Guarded<lsaq::bf16> in(x);
  const Guarded<float> sums(tokens * clusters);
  const TokenRows rows{in.data(), channels, tokens, lsaq::ElementType::bf16};
  executor.launch(SumByCluster{{labelled.words.data(), labelled.bits}, rows, channels, clusters, sums.data()});
  std::vector<float> expected(tokens * clusters, 0.0f);
  for (unsigned t = 0; t < tokens; ++t)
    for (unsigned c = 0; c < channels; ++c) expected[t * clusters + labelled.labels[c]] += widen(x[t * channels + c]);
  return sums.values() == expected;
}

TEST(SharedChannels, SumsOfInputsHaveTheBitsOfTheCpu) {
  for (const auto& [channels, clusters] : {std::pair{1u, 1u}, {5u, 3u}, {257u, 16u}, {700u, 300u}, {512u, 256u}})
    on_schedules(3, [&](HostExecutor& executor) { EXPECT_TRUE(equal_sums(executor, channels, clusters, 2)) << channels; });
  on_schedules(many_schedules, [&](HostExecutor& executor) { EXPECT_TRUE(equal_sums(executor, 300, 20, 1)); });
}

TEST(SharedChannels, FaultsMadeOnPurposeShow) {
  const auto wrong = [](HostExecutor& executor) { return !equal_sums(executor, 700, 20, 1); };
  for (const unsigned barrier : {1u, 2u, 3u, 4u, 5u}) EXPECT_GE(schedules_that_fail({SeededFault::Kind::barrier_removed, barrier}, wrong), 4u) << barrier;
}

TEST(ComparisonsDeathTest, OneTooManyEndsTheProgram) {
  const Sets sets(2, 20);
  const Guarded<double> distances(3);
  const Guarded<float> x(80), y(80), sums(3);
  const Guarded<std::uint32_t> words(1);
  const Labels labels{words.data(), 1};
  HostExecutor executor;
  EXPECT_DEATH(executor.launch(CompareTokenSets{sets.entering.data(), sets.leaving.data(), 3, 20, distances.data(), nullptr}), ""); // pairs
  EXPECT_DEATH(executor.launch(CompareTokenSets{sets.entering.data(), sets.leaving.data(), 2, 21, distances.data(), nullptr}), ""); // tokens
  EXPECT_DEATH(executor.launch(CompareDirections<float>{x.data(), y.data(), 40, 2, 41, distances.data()}), "");                     // columns
  EXPECT_DEATH(executor.launch(SumByCluster{labels, {x.data(), 81, 1}, 81, 2, sums.data()}), "");                                   // channels
  EXPECT_DEATH(executor.launch(GatherChannels{labels, sums.data(), 2, 81, 1, y.data(), 81, lsaq::ElementType::f32, false}), "");
}

} // namespace comparisons_test
