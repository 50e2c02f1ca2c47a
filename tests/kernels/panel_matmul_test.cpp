#include <lsaq/kernels/cpu/panel_matmul.hpp>

#include "kernels/kernel_cases.hpp"

#include <lsaq/thread_pool.hpp>

namespace panel_matmul_test {

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

  /// Weights that can be read in place: whole floats between the rows.
  Weights weights_of(WeightFormat format, std::size_t rows, std::size_t columns, Numbers numbers, std::size_t gap = 0) {
    const bool floats = !format.packed() && format.element == ElementType::f32;
    return {format, rows, columns, numbers, random_, floats ? 4 * gap : gap, floats ? 0 : gap % 4};
  }

  /// Tokens as panels; the memory ends with the last panel.
  Exact<float> packed_of(const Rows& x, std::size_t first, std::size_t tokens, std::size_t columns) const {
    Exact<float> packed(lsaq::packed_tokens_floats(tokens, columns), sizeof(float));
    std::fill(packed.begin(), packed.end(), std::nanf(""));
    for (std::size_t panel = (tokens + lsaq::panel_rows - 1) / lsaq::panel_rows; panel-- > 0;)
      lsaq::pack_token_panel(lsaq::kernels_of(GetParam()), x.data() + first * x.stride(), x.stride(), tokens, columns, panel, packed.data());
    return packed;
  }

  void multiply_packed(const Weights& weights, std::size_t first, std::size_t rows, const Exact<float>& packed, std::size_t tokens, const Rows& y) const {
    const WeightRows all = weights.rows();
    lsaq::multiply_packed_tokens(lsaq::kernels_of(GetParam()), {all.row(first), all.row_bytes, all.format}, rows, weights.columns(), packed.data(), tokens,
                                 y.data() + first, y.stride());
  }

  /// One product with packed tokens against the double loops.
  void check_packed(WeightFormat format, std::size_t rows, std::size_t columns, std::size_t tokens, std::size_t gap, Numbers numbers) {
    const Weights weights = weights_of(format, rows, columns, numbers, gap);
    const Rows x(tokens, columns, columns + gap, numbers, random_), y(tokens, rows, rows + gap);
    multiply_packed(weights, 0, rows, packed_of(x, 0, tokens, columns), tokens, y);
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

INSTANTIATE_TEST_SUITE_P(Paths, PanelMatmul, testing::ValuesIn(family_paths()), [](const auto& param) { return std::string(name_of(param.param)); });

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
    const Weights weights({.element = ElementType::f16}, 18, 0, Numbers::whole, random_);
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

TEST(ColumnChunk, DividesEvenlyInWholeBlocks) {
  static_assert(lsaq::column_chunk(0) == 0 && lsaq::column_chunk(1) == 32 && lsaq::column_chunk(256) == 256);
  for (std::size_t columns = 1; columns <= 5000; ++columns) {
    const std::size_t chunk = lsaq::column_chunk(columns), chunks = (columns + chunk - 1) / chunk;
    ASSERT_TRUE(chunk % 32 == 0 && chunk <= lsaq::panel_columns) << columns;
    ASSERT_EQ(chunks, (columns + lsaq::panel_columns - 1) / lsaq::panel_columns) << columns << ": no more chunks than needed";
  }
}

TEST(PackedTokensFloats, CountsWholePanels) {
  static_assert(lsaq::packed_tokens_floats(0, 7) == 0 && lsaq::packed_tokens_floats(1, 7) == 112 && lsaq::packed_tokens_floats(16, 7) == 112);
  static_assert(lsaq::packed_tokens_floats(17, 7) == 224 && lsaq::packed_tokens_floats(65, 3) == 240);
}

/// Every float of the panels is written, and each token is where token_panels says.
TEST_P(PanelMatmul, PacksEveryToken) {
  for (const std::size_t tokens : {1, 15, 16, 17, 63, 64, 65, 79, 128, 130})
    for (const std::size_t columns : {1, 31, 256, 300, 600}) {
      const Rows x(tokens, columns, columns + 3, Numbers::any, random_);
      const Exact<float> packed = packed_of(x, 0, tokens, columns);
      for (std::size_t first = 0; first < columns; first += lsaq::column_chunk(columns)) {
        const std::size_t depth = std::min(lsaq::column_chunk(columns), columns - first);
        for (std::size_t token = 0; token < tokens; token += lsaq::token_block) {
          const lsaq::Panels panels = lsaq::token_panels(packed.data(), token, tokens, columns, first, depth);
          ASSERT_EQ(panels.lanes, std::min(lsaq::token_block, tokens - token));
          for (std::size_t lane = 0; lane < panels.lanes; ++lane)
            for (std::size_t k = 0; k < depth; ++k)
              ASSERT_EQ(panels.data[lane / 16 * panels.panel_stride + k * panels.step + lane % 16], x.at(token + lane, first + k))
                  << "token " << token + lane << " of " << tokens << ", column " << first + k << " of " << columns;
        }
      }
    }
}

TEST_P(PanelMatmul, PackedTokensEveryNumber) {
  std::size_t turn = 0;
  for (const WeightFormat format : all_formats())
    for (std::size_t tokens = 12; tokens <= 70; ++tokens) {
      constexpr std::size_t columns[] = {1, 33, 64, 300}, rows[] = {1, 13, 17};
      ++turn;
      check_packed(format, rows[turn % 3], columns[turn % 4], tokens, turn % 5, Numbers::whole);
      if (HasFatalFailure()) return;
    }
}

TEST_P(PanelMatmul, PackedTokensEveryTail) {
  std::size_t turn = 0;
  for (const WeightFormat format : all_formats())
    for (const std::size_t columns : {1, 33, 255, 256, 257, 300, 513, 576})
      for (const Numbers numbers : {Numbers::whole, Numbers::any}) {
        constexpr std::size_t tokens[] = {12, 16, 33, 65, 130}, rows[] = {1, 12, 23, 96, 97, 110, 16};
        ++turn;
        check_packed(format, rows[turn % 7], columns, tokens[turn % 5], turn % 4, numbers);
        if (HasFatalFailure()) return;
      }
}

/// Rounded sums: only the same order of additions gives the same bits, however rows and tokens are divided.
TEST_P(PanelMatmul, PackedTokensGiveTheSameInAnyCompany) {
  constexpr std::size_t rows = 115, tokens = 90;
  for (const WeightFormat format : all_formats())
    for (const std::size_t columns : {96, 333}) {
      const Weights weights = weights_of(format, rows, columns, Numbers::any);
      const Rows x(tokens, columns, columns + 1, Numbers::any, random_), whole(tokens, rows, rows + 2), parts(tokens, rows, rows + 2);
      const Exact<float> packed = packed_of(x, 0, tokens, columns);
      multiply_packed(weights, 0, rows, packed, tokens, whole);
      for (std::size_t first = 0, count = 1; first < rows; first += count, count += 7)
        multiply_packed(weights, first, std::min(count, rows - first), packed, tokens, parts);
      ASSERT_EQ(std::memcmp(parts.data(), whole.data(), whole.all().size() * sizeof(float)), 0) << name_of(format) << ", " << columns << " columns";
      for (const auto& [first, count] : {std::pair<std::size_t, std::size_t>(0, 1), {1, 12}, {13, 66}, {79, 11}}) {
        const Rows some(count, rows, rows + 2);
        multiply_packed(weights, 0, rows, packed_of(x, first, count, columns), count, some);
        ASSERT_EQ(std::memcmp(some.data(), &whole.at(first, 0), some.all().size() * sizeof(float)), 0) << name_of(format) << ", tokens from " << first;
      }
    }
}

/// Lanes anywhere in memory, rows by the row, sums added to what is there.
TEST_P(PanelMatmul, MultipliesPanelsOfTheCallers) {
  for (const WeightFormat format : all_formats())
    for (const std::size_t first : {0, 32, 256})
      for (const std::size_t depth : {1, 40, 256})
        for (const std::size_t rows : {0, 1, 11, 12, 13, 30}) {
          const std::size_t lanes = 1 + (rows * 5 + depth) % 64;
          const Weights weights = weights_of(format, rows, first + depth, Numbers::whole, depth % 3);
          const Rows x(lanes, depth, depth, Numbers::whole, random_), before(rows, lanes, lanes + 3, Numbers::whole, random_), y(rows, lanes, lanes + 3);
          constexpr std::size_t step = 64;
          std::vector<float> side_by_side(depth * step, std::nanf(""));
          for (std::size_t k = 0; k < depth; ++k)
            for (std::size_t l = 0; l < lanes; ++l) side_by_side[k * step + l] = x.at(l, k);
          for (const bool accumulate : {false, true}) {
            if (accumulate) std::copy(before.all().begin(), before.all().end(), y.data());
            lsaq::multiply_panels(lsaq::kernels_of(GetParam()), weights.rows(), rows, first, depth, {side_by_side.data(), lanes, lsaq::panel_rows, step},
                                  y.data(), y.stride(), accumulate);
            for (std::size_t r = 0; r < rows; ++r)
              for (std::size_t l = 0; l < lanes; ++l) {
                double expected = accumulate ? before.at(r, l) : 0;
                for (std::size_t k = 0; k < depth; ++k) expected += weights.at(r, first + k) * x.at(l, k);
                ASSERT_EQ(static_cast<double>(y.at(r, l)), expected)
                    << name_of(format) << ", row " << r << " of " << rows << ", columns " << first << " + " << depth;
              }
            expect_gaps_untouched(y, rows, lanes);
          }
        }
}

} // namespace panel_matmul_test
