#include <lsaq/kernels/cpu/panel_matmul.hpp>

#include "kernels/kernel_cases.hpp"

#include <lsaq/thread_pool.hpp>

namespace {

using namespace kernel_cases;

class PanelMatmul : public testing::TestWithParam<Isa> {
protected:
  void SetUp() override { SKIP_UNLESS_RUNS(GetParam()); }

  void multiply(const Weights& weights, std::size_t first, std::size_t rows, const Rows& x, std::size_t tokens, const Rows& y) const {
    lsaq::multiply_rows(lsaq::kernels_of(GetParam()), weights.rows(), first, rows, weights.columns(), x.data(), x.stride(), tokens, y.data() + first,
                        y.stride());
  }

  /// One product against the double loops.
  void check(WeightFormat format, std::size_t rows, std::size_t columns, std::size_t tokens, std::size_t gap, Numbers numbers) {
    const Weights weights(format, rows, columns, numbers, random_, gap, gap % 4);
    const Rows x(tokens, columns, columns + gap, numbers, random_), y(tokens, rows, rows + gap);
    multiply(weights, 0, rows, x, tokens, y);
    for (std::size_t t = 0; t < tokens; ++t)
      for (std::size_t r = 0; r < rows; ++r) {
        expect_sum(y.at(t, r), product_of(weights, r, x, t), numbers);
        ASSERT_FALSE(HasFatalFailure()) << name_of(format) << ", token " << t << " of " << tokens << ", row " << r << " of " << rows << ", " << columns
                                        << " columns";
      }
    expect_gaps_untouched(y, tokens, rows);
  }

  std::mt19937 random_{11};
};

INSTANTIATE_TEST_SUITE_P(Paths, PanelMatmul, testing::Values(Isa::scalar, Isa::eigen, Isa::avx2),
                         [](const auto& param) { return std::string(name_of(param.param)); });

TEST_P(PanelMatmul, EveryTailOfColumns) {
  for (const WeightFormat format : all_formats())
    for (const std::size_t columns : all_columns())
      for (const std::size_t rows : {1, 16, 19})
        for (const std::size_t tokens : {1, 3, 4, 7}) {
          check(format, rows, columns, tokens, (rows + tokens) % 3, Numbers::whole);
          if (HasFatalFailure()) return;
        }
}

TEST_P(PanelMatmul, EveryTailOfRows) {
  for (const WeightFormat format : all_formats())
    for (std::size_t rows = 1; rows <= 35; ++rows)
      for (const std::size_t columns : {1, 33, 257})
        for (const std::size_t tokens : {2, 4, 5}) {
          check(format, rows, columns, tokens, rows % 5, Numbers::whole);
          if (HasFatalFailure()) return;
        }
}

TEST_P(PanelMatmul, EveryNumberOfTokens) {
  for (const WeightFormat format : all_formats())
    for (std::size_t tokens = 1; tokens <= 13; ++tokens)
      for (const std::size_t rows : {17, 35})
        for (const std::size_t columns : {9, 64, 300}) {
          check(format, rows, columns, tokens, tokens % 4, Numbers::whole);
          if (HasFatalFailure()) return;
        }
}

TEST_P(PanelMatmul, StaysWithinTheBoundOfItsSummationLength) {
  for (const WeightFormat format : all_formats())
    for (const std::size_t columns : {1, 8, 37, 70, 255, 258, 511, 513, 1100})
      for (const std::size_t tokens : {1, 3, 4, 6, 11}) {
        check(format, 21, columns, tokens, 3, Numbers::any);
        if (HasFatalFailure()) return;
      }
}

TEST_P(PanelMatmul, NoColumnsGiveZero) {
  for (const std::size_t tokens : {1, 5}) {
    const Weights weights({.element = ElementType::f16, .bits = 0}, 18, 0, Numbers::whole, random_);
    const Rows x(tokens, 0, 0), y(tokens, 18, 20);
    multiply(weights, 0, 18, x, tokens, y);
    for (std::size_t t = 0; t < tokens; ++t)
      for (std::size_t r = 0; r < 18; ++r) EXPECT_EQ(y.at(t, r), 0.0f);
    expect_gaps_untouched(y, tokens, 18);
  }
}

TEST_P(PanelMatmul, NoTokensOrRowsWriteNothing) {
  const Weights weights({.element = ElementType::f32, .bits = 4}, 18, 40, Numbers::any, random_);
  const Rows x(5, 40, 40, Numbers::any, random_), y(5, 18, 18);
  multiply(weights, 0, 18, x, 0, y);
  multiply(weights, 0, 0, x, 5, y);
  for (const float value : y.all()) EXPECT_TRUE(std::isnan(value));
}

/// Rounded sums this time: only the same order of additions gives the same bits.
TEST_P(PanelMatmul, DoesNotDependOnHowRowsAreDivided) {
  for (const WeightFormat format : all_formats())
    for (const std::size_t tokens : {1, 3, 4, 9}) {
      constexpr std::size_t rows = 75, columns = 333;
      const Weights weights(format, rows, columns, Numbers::any, random_);
      const Rows x(tokens, columns, columns + 1, Numbers::any, random_), whole(tokens, rows, rows + 2);
      multiply(weights, 0, rows, x, tokens, whole);
      for (std::size_t threads = 1; threads <= 4; ++threads) {
        lsaq::ThreadPool pool(threads);
        const Rows parts(tokens, rows, rows + 2);
        const std::size_t part_rows = threads * lsaq::panel_rows;
        pool.parallel_for((rows + part_rows - 1) / part_rows,
                          [&](std::size_t i) { multiply(weights, i * part_rows, std::min(part_rows, rows - i * part_rows), x, tokens, parts); });
        ASSERT_EQ(std::memcmp(parts.data(), whole.data(), whole.all().size() * sizeof(float)), 0) << name_of(format) << ", " << threads << " threads";
      }
    }
}

TEST_P(PanelMatmul, ATokenGetsTheSameResultInAnyBatchOfItsKind) {
  constexpr std::size_t rows = 37, columns = 300, tokens = 13;
  for (const WeightFormat format : all_formats()) {
    const Weights weights(format, rows, columns, Numbers::any, random_);
    const Rows x(tokens, columns, columns, Numbers::any, random_), all(tokens, rows, rows);
    multiply(weights, 0, rows, x, tokens, all);
    for (const auto& [first, count] : {std::pair<std::size_t, std::size_t>(0, 4), {1, 5}, {6, 7}, {9, 4}}) {
      const Rows part(count, rows, rows);
      lsaq::multiply_rows(lsaq::kernels_of(GetParam()), weights.rows(), 0, rows, columns, &x.at(first, 0), x.stride(), count, part.data(), part.stride());
      ASSERT_EQ(std::memcmp(part.data(), &all.at(first, 0), count * rows * sizeof(float)), 0) << name_of(format) << ", tokens from " << first;
    }
  }
}

} // namespace
