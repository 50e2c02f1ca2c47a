// Token sets of the device's projection: those of the CPU.
#include "cuda/projection_cases.hpp"

namespace projection_test {

using namespace lsaq::gpu;
using namespace test_support;

template <element T> void select(HostExecutor& executor, const Vocabulary<T>& vocabulary, unsigned k, unsigned wanted_blocks, const Selected& out) {
  const ProjectionParts parts = ProjectionParts::of(vocabulary.tokens, vocabulary.count, k, wanted_blocks);
  const Guarded<Candidate> candidates(parts.candidates(vocabulary.count));
  executor.launch(Project<Floats<T>>{vocabulary.rows(), vocabulary.state_rows(), k, parts, candidates.data(), out.first_bad_state.data()});
  std::sort(candidates.data(), candidates.data() + candidates.size(), Better{});
  executor.launch(EmitTokens{candidates.data(), std::size_t{parts.parts} * parts.slots, vocabulary.count, k, out.ids.data(), out.values.data(),
                             out.first_bad_state.data()});
}

template <element T> void compare(unsigned tokens, unsigned hidden, unsigned states, unsigned k, unsigned wanted_blocks, unsigned seeds) {
  SCOPED_TRACE(std::to_string(tokens) + " tokens, " + std::to_string(hidden) + " columns, " + std::to_string(states) + " states, k " + std::to_string(k));
  const Vocabulary<T> vocabulary(tokens, hidden, states, false, tokens + hidden + k);
  const std::vector<lsaq::ScoredToken> expected = vocabulary.highest(k);
  on_schedules(seeds, [&](HostExecutor& executor) {
    const Selected found(states, k);
    select(executor, vocabulary, k, wanted_blocks, found);
    EXPECT_TRUE(found.equals(expected));
    EXPECT_EQ(found.first_bad_state[0], ~0u);
  });
}

TEST(Projection, SetsAreThoseOfTheCpu) {
  compare<float>(1, 1, 1, 1, 1, 3);
  compare<float>(33, 7, 5, 33, 4, 3);
  compare<float>(300, 129, 3, 50, 2, 3);
  compare<lsaq::f16>(1000, 40, 4, 50, 1, 3); // pruned again and again
  compare<lsaq::f16>(501, 257, 2, 10, 7, 3);
  compare<lsaq::bf16>(777, 33, 6, 100, 3, 3);
}

TEST(Projection, MoreTokensThanABlockKeeps) {
  compare<lsaq::f16>(2500, 8, 2, 513, 1, 3);
  compare<lsaq::f16>(2500, 8, 1, 512, 1, 3);
  compare<float>(1500, 4, 1, 1500, 1, 3);
}

TEST(Projection, StatesOfSixteenBits) {
  const Vocabulary<lsaq::f16> vocabulary(300, 70, 5, false, 12);
  const std::vector<lsaq::ScoredToken> expected = vocabulary.highest(30);
  Guarded<lsaq::bf16> states(vocabulary.states.size(), 2);
  for (std::size_t i = 0; i < states.size(); ++i) states[i] = lsaq::to_bf16(vocabulary.states[i]); // exact: small whole numbers
  const ProjectionParts parts = ProjectionParts::of(300, 5, 30, 4);
  on_schedules(3, [&](HostExecutor& executor) {
    const Selected found(5, 30);
    const Guarded<Candidate> candidates(parts.candidates(5));
    const TokenRows rows{states.data(), 70, 5, lsaq::ElementType::bf16};
    executor.launch(Project<Floats<lsaq::f16>>{vocabulary.rows(), rows, 30, parts, candidates.data(), found.first_bad_state.data()});
    std::sort(candidates.data(), candidates.data() + candidates.size(), Better{});
    executor.launch(
        EmitTokens{candidates.data(), std::size_t{parts.parts} * parts.slots, 5, 30, found.ids.data(), found.values.data(), found.first_bad_state.data()});
    EXPECT_TRUE(found.equals(expected));
  });
}

TEST(Projection, ResultsDoNotDependOnTheSchedule) { compare<lsaq::f16>(200, 16, 2, 20, 2, many_schedules); }

TEST(Projection, PartsCoverTheVocabularyAndFitSharedMemory) {
  for (const unsigned vocabulary : {1u, 31u, 32000u, 128256u})
    for (const unsigned states : {1u, 4u, 33u, 1024u})
      for (const unsigned k : {1u, 50u, 512u, 513u, 1000u}) {
        const ProjectionParts parts = ProjectionParts::of(vocabulary, states, std::min(k, vocabulary), 216);
        EXPECT_GE(parts.parts * parts.part_rows, vocabulary);
        EXPECT_LT((parts.parts - 1) * parts.part_rows, vocabulary);
        EXPECT_LE(parts.capacity, ProjectionParts::most_kept);
        EXPECT_EQ(parts.capacity & (parts.capacity - 1), 0u);
        EXPECT_LE(parts.slots, parts.capacity);
        EXPECT_GE(parts.parts * parts.slots, std::min(k, vocabulary));
      }
}

/// Where values are rounded, sets may differ from the exact ones only as far as the stated bound goes.
TEST(Projection, ValuesAreWithinTheBound) {
  const unsigned tokens = 400, hidden = 300, states = 3, k = 25;
  const Vocabulary<lsaq::bf16> vocabulary(tokens, hidden, states, true, 9);
  const double terms = (hidden + 255) / 256 * 8 + 7; // of a lane, and the additions of lanes
  HostExecutor executor(1);
  const Selected found(states, k);
  select(executor, vocabulary, k, 3, found);
  for (unsigned s = 0; s < states; ++s) {
    std::vector<double> exact(tokens), bound(tokens);
    for (unsigned t = 0; t < tokens; ++t)
      for (unsigned c = 0; c < hidden; ++c) {
        const double product = double{widen(vocabulary.embedding[t * hidden + c])} * vocabulary.states[s * hidden + c];
        exact[t] += product;
        bound[t] += std::fabs(product) * terms * 0x1p-24;
      }
    std::vector<double> sorted = exact;
    std::sort(sorted.rbegin(), sorted.rend());
    for (unsigned i = 0; i < k; ++i) {
      const lsaq::TokenId id = found.ids[s * k + i];
      EXPECT_LE(std::fabs(found.values[s * k + i] - exact[id]), bound[id]);
      EXPECT_GE(exact[id], sorted[k - 1] - 2 * *std::max_element(bound.begin(), bound.end()));
    }
  }
}

TEST(Projection, StatesThatAreNotFiniteAreReported) {
  const Vocabulary<float> vocabulary(100, 12, 6, false, 4);
  vocabulary.states[4 * 12 + 5] = std::numeric_limits<float>::infinity();
  vocabulary.states[3 * 12] = std::numeric_limits<float>::quiet_NaN();
  on_schedules(3, [&](HostExecutor& executor) {
    const Selected found(6, 5);
    select(executor, vocabulary, 5, 4, found);
    EXPECT_EQ(found.first_bad_state[0], 3u);
  });
}

TEST(Projection, KeysSortAsValuesDo) {
  const std::vector<float> ascending = {-3e38f, -1.0f, -1e-40f, 0.0f, 1e-40f, 1.0f, 3e38f};
  for (std::size_t i = 0; i < ascending.size(); ++i) {
    EXPECT_EQ(value_of(key_of(ascending[i], 7)), ascending[i]);
    EXPECT_EQ(id_of(key_of(ascending[i], 7)), 7u);
    EXPECT_GT(key_of(ascending[i], 7), key_of(ascending[i], 8)); // ties: the lower id first
    if (i != 0) {
      EXPECT_GT(key_of(ascending[i], 8), key_of(ascending[i - 1], 7));
    }
  }
  EXPECT_EQ(key_of(-0.0f, 1), key_of(0.0f, 1));
}

TEST(Projection, FaultsMadeOnPurposeShow) {
  const Vocabulary<float> vocabulary(256, 140, 4, false, 11); // two chunks of columns; pruned
  const std::vector<lsaq::ScoredToken> expected = vocabulary.highest(20);
  const auto wrong = [&](HostExecutor& executor) {
    const Selected found(4, 20);
    select(executor, vocabulary, 20, 1, found);
    return !found.equals(expected);
  };
  HostExecutor intact(1);
  EXPECT_FALSE(wrong(intact));
  // Of 32 rows: four barriers of the product (the very first separates it from nothing), then the values', then the candidates', of which there are too many
  // after the second 32.
  for (const unsigned barrier : {1u, 2u, 3u, 4u, 11u}) EXPECT_GE(schedules_that_fail({SeededFault::Kind::barrier_removed, barrier}, wrong), 3u) << barrier;
  for (unsigned shuffle = 0; shuffle < 5; ++shuffle) EXPECT_GE(schedules_that_fail({SeededFault::Kind::shuffle_mask_changed, shuffle}, wrong), 4u) << shuffle;
}

TEST(ProjectionDeathTest, ATokenTooManyEndsTheProgram) {
  Vocabulary<float> vocabulary(64, 16, 1, false, 1);
  vocabulary.tokens = 65;
  HostExecutor executor;
  EXPECT_DEATH(select(executor, vocabulary, 5, 1, Selected(1, 5)), "");
}

} // namespace projection_test
