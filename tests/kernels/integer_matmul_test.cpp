#include <lsaq/deployment/cpu.hpp>
#include <lsaq/quantization/quantizer.hpp>
#include <lsaq/thread_pool.hpp>

#include "kernels/integer_agreement.hpp"
#include "quantization/oracle.hpp"

#include <gmock/gmock.h>

#include <cstring>

// Integer products on every path: codes of tokens by a plain double computation, sums by a plain loop in 64 bits, outputs by the stated formula; all exact.
namespace integer_matmul_test {

using kernel_cases::states;
using lsaq::Isa;
using lsaq::MatrixView;
using lsaq::PackedFormat;
using lsaq::PackedMatrix;
using lsaq::TokenCodes;
using lsaq::TokenLayout;

/// q and the scale of a token by the definition, in double where nothing is rounded on purpose.
struct PlainToken {
  float scale = 0;
  std::vector<long> q;

  explicit PlainToken(std::span<const float> x) {
    std::vector<float> maxima((x.size() + 7) / 8);
    for (std::size_t c = 0; c < x.size(); ++c) maxima[c / 8] = std::max(maxima[c / 8], std::fabs(x[c]));
    std::sort(maxima.begin(), maxima.end(), std::greater<>());
    // One unit of 8 in 16 has two planes, or as many as promise exact sums.
    const std::size_t k = std::min(std::max<std::size_t>(1, x.size() / 128), ((1u << 24) - 1 - 127 * x.size()) / (8 * (16319 - 127)));
    const float limit = k < maxima.size() ? maxima[k] * 1.25f : 0.0f;
    const auto largest = std::find_if(maxima.begin(), maxima.end(), [&](float m) { return m <= limit; });
    const float one_plane = largest == maxima.end() ? 0.0f : *largest;
    scale = std::max({one_plane / 127.0f, maxima[0] / 16319.0f, std::numeric_limits<float>::min()});
    const float inverse = 1.0f / scale;
    for (const float value : x) q.push_back(std::lrint(value * inverse));
  }
};

std::int8_t stored8(const TokenCodes& codes, std::size_t tile, std::size_t lane, std::size_t column) {
  column = codes.layout.position(column);
  const std::size_t run = codes.layout.run;
  return static_cast<std::int8_t>(codes.tile(tile)[(column / run * codes.layout.lanes + lane) * run + column % run]);
}

std::int16_t stored16(const TokenCodes& codes, std::size_t tile, std::size_t lane, std::size_t column) {
  std::int16_t q;
  std::memcpy(&q, codes.tile(tile) + 2 * ((column / 2 * codes.layout.lanes + lane) * 2 + column % 2), sizeof q);
  return q;
}

/// What the high plane has for a column of a token: its block's, or what its tile's runs have together.
long stored_high(const TokenCodes& codes, std::size_t tile, std::size_t lane, std::size_t column) {
  const std::size_t position = codes.layout.position(column), token = codes.first_of(tile) + lane;
  long sum = 0;
  if (codes.layout.runs) {
    for (const lsaq::HighRun& run : codes.runs_of(tile, column / 64 * 64, column / 64 * 64 + 64))
      if (run.lane == lane && run.place == position / 4) sum += run.plane[position % 4];
  } else {
    for (std::size_t slot = token * codes.high_limit; slot < token * codes.high_limit + codes.high_counts[token]; ++slot)
      if (codes.high_blocks[slot] == position / 32) sum += codes.high[slot * 32 + position % 32];
  }
  return sum;
}

/// One plane's share of a run: 16 bits have room for its products with unsigned codes of 8 bits, pair by pair.
void expect_pairs_fit(const std::int8_t* run) {
  for (int pair = 0; pair < 4; pair += 2) {
    const int above = std::max<int>(run[pair], 0) + std::max<int>(run[pair + 1], 0), below = std::min<int>(run[pair], 0) + std::min<int>(run[pair + 1], 0);
    ASSERT_LE(255 * above, 32767);
    ASSERT_GE(255 * below, -32768);
  }
}

void expect_planes_in_limits(const TokenCodes& codes, std::size_t tile) {
  const std::size_t first = codes.first_of(tile), end = codes.first_of(tile + 1), padded = lsaq::padded_columns(codes.columns);
  if (codes.layout.width == 2 || codes.high_limit == 0) return;
  for (std::size_t lane = 0; first + lane < end; ++lane)
    for (std::size_t c = 0; c < padded; ++c) ASSERT_GE(stored8(codes, tile, lane, c), -127);
  if (!codes.layout.runs) {
    for (std::size_t token = first; token < end; ++token) ASSERT_LE(codes.high_counts[token], codes.high_limit);
    return;
  }
  ASSERT_LE(codes.high_counts[tile], codes.layout.lanes * codes.high_limit);
  ASSERT_EQ(codes.runs_of(tile, 0, padded).size(), codes.high_counts[tile]);
  if (!codes.layout.pairs) return;
  for (const lsaq::HighRun& run : codes.runs_of(tile, 0, padded)) expect_pairs_fit(run.plane);
  for (std::size_t lane = 0; first + lane < end; ++lane)
    for (std::size_t c = 0; c < padded; c += 4) expect_pairs_fit(reinterpret_cast<const std::int8_t*>(codes.tile(tile)) + c * codes.layout.lanes + 4 * lane);
}

class IntegerProducts : public testing::TestWithParam<Isa> {
protected:
  void SetUp() override { SKIP_UNLESS_RUNS(GetParam()); }
  const lsaq::CpuKernels& kernels() const { return lsaq::kernels_of(GetParam()); }
  const lsaq::IntegerKernels& integer() const { return *kernels().integer; }

  std::mt19937 random_{77};
};

INSTANTIATE_TEST_SUITE_P(Paths, IntegerProducts, testing::ValuesIn(lsaq::all_isas), [](const auto& param) { return std::string(name_of(param.param)); });

TEST_P(IntegerProducts, SumsAreTheOracles) { integer_agreement::expect_the_oracles_sums(integer()); }
TEST_P(IntegerProducts, SumsAtTheLimitsAreTheOraclesToo) { integer_agreement::expect_exact_sums_at_the_limits(integer()); }

TEST_P(IntegerProducts, CodesOfTokensAreTheDefinitions) {
  for (const std::size_t columns : {1, 3, 31, 32, 33, 63, 64, 65, 100, 576, 1000, 4097})
    for (const std::size_t tokens : {1, 5, 15, 16, 17, 40})
      for (const unsigned bits : {2, 4, 5, 8}) {
        const TokenLayout layout = integer().layout(bits, tokens, lsaq::Scaling::token);
        const std::vector<float> x = states(tokens, columns, random_);
        std::vector<std::byte> memory(TokenCodes::bytes(tokens, columns, layout), std::byte{0x55});
        const TokenCodes codes = TokenCodes::divide(tokens, columns, layout, memory.data());
        std::size_t seen = 0;
        for (std::size_t tile = 0; tile < codes.tiles(); ++tile) {
          lsaq::quantize_tile(integer(), x.data(), columns, codes, tile);
          for (std::size_t lane = 0; codes.first_of(tile) + lane < codes.first_of(tile + 1); ++lane, ++seen) {
            const std::size_t token = codes.first_of(tile) + lane;
            const PlainToken plain({x.data() + token * columns, columns});
            ASSERT_EQ(codes.scales[token], plain.scale);
            ASSERT_EQ(codes.sums[token], std::accumulate(plain.q.begin(), plain.q.end(), 0l));
            for (std::size_t c = 0; c < lsaq::padded_columns(columns); ++c) {
              const long q = c < columns ? plain.q[c] : 0;
              const long stored = layout.width == 2 ? stored16(codes, tile, lane, c) : stored8(codes, tile, lane, c) + 128 * stored_high(codes, tile, lane, c);
              ASSERT_EQ(stored, q) << columns << " columns, token " << token << ", column " << c;
            }
          }
          expect_planes_in_limits(codes, tile);
        }
        ASSERT_EQ(seen, tokens);
      }
}

/// A matrix whose storage ends with its scales, all codes from lowest to highest.
PackedMatrix random_codes(std::size_t rows, std::size_t columns, unsigned bits, std::mt19937& random) {
  std::uniform_real_distribution<float> draw(-1, 1);
  std::vector<float> weights(rows * columns);
  for (float& w : weights) w = draw(random);
  return lsaq::quantize(MatrixView(weights.data(), rows, columns), PackedFormat{.bits = bits, .range = lsaq::CodeRange::full});
}

/// y by the formula: the exact sum, rounded to FP32, times the token's scale, times the row's, each rounded.
float expected(const PackedMatrix& packed, std::size_t row, const PlainToken& token, const std::vector<int>& codes) {
  long sum = 0;
  for (std::size_t c = 0; c < codes.size(); ++c) sum += codes[c] * token.q[c];
  EXPECT_LT(std::abs(sum), 1l << 31);
  const float scaled = static_cast<float>(sum) * token.scale;
  return scaled * static_cast<float>(oracle::scale_of(packed.view(), packed.view().scale_index(row, 0)));
}

TEST_P(IntegerProducts, AreTheFormulasToTheLastBit) {
  for (unsigned bits = lsaq::min_bits; bits <= lsaq::max_bits; ++bits)
    for (const auto& [rows, columns] : {std::pair<std::size_t, std::size_t>(1, 1), {3, 31}, {4, 64}, {33, 65}, {50, 100}, {70, 577}, {9, 1500}, {40, 2111}})
      for (const std::size_t tokens : {1, 2, 3, 4, 7, 15, 16, 17, 19, 25, 64, 200}) {
        const PackedMatrix packed = random_codes(rows, columns, bits, random_);
        const std::vector<float> x = states(tokens, columns, random_);
        std::vector<float> y(tokens * rows);
        const lsaq::Backend<lsaq::Cpu> device({}, GetParam());
        std::vector<std::byte> workspace(tokens % 2 == 0 ? device.workspace_bytes(packed.view(), tokens) : 0);
        ASSERT_EQ(device.matmul(packed, MatrixView(x.data(), tokens, columns), {y.data(), tokens, rows}, workspace), lsaq::Status::ok);
        std::vector<PlainToken> plain;
        const std::size_t step = 1 + tokens / 20;
        for (std::size_t t = 0; t < tokens; t += step) plain.emplace_back(std::span(x).subspan(t * columns, columns));
        for (std::size_t r = 0; r < rows; ++r) {
          const std::vector<int> codes = oracle::codes_of(packed.view(), r);
          for (std::size_t t = 0; t < tokens; t += step)
            ASSERT_EQ(y[t * rows + r], expected(packed, r, plain[t / step], codes))
                << bits << " bits, " << rows << " x " << columns << ", " << tokens << " tokens, row " << r << ", token " << t;
        }
      }
}

/// y by the formula: block after block, the exact sum times both scales, added by a fused multiply-add.
float expected_of_blocks(const PackedMatrix& packed, std::size_t row, std::span<const float> x, const std::vector<int>& codes) {
  float total = 0;
  for (std::size_t first = 0; first < x.size(); first += 32) {
    const std::span<const float> block = x.subspan(first, std::min<std::size_t>(32, x.size() - first));
    float largest = 0;
    for (const float value : block) largest = std::max(largest, std::fabs(value));
    const float scale = std::max(largest / 127.0f, std::numeric_limits<float>::min()), inverse = 1.0f / scale;
    long sum = 0;
    for (std::size_t i = 0; i < block.size(); ++i) sum += codes[first + i] * std::lrint(block[i] * inverse);
    const auto row_scale = static_cast<float>(oracle::scale_of(packed.view(), packed.view().scale_index(row, first)));
    total = std::fma(static_cast<float>(sum), row_scale * scale, total);
  }
  return total;
}

template <class Device> void expect_blocks(const Device& device, const PackedMatrix& packed, std::size_t tokens, std::mt19937& random) {
  const std::size_t rows = packed.rows(), columns = packed.columns();
  const std::vector<float> x = states(tokens, columns, random);
  std::vector<float> y(tokens * rows);
  std::vector<std::byte> workspace(tokens % 2 == 0 ? device.workspace_bytes(packed.view(), tokens) : 0);
  ASSERT_EQ(device.matmul(packed, MatrixView(x.data(), tokens, columns), {y.data(), tokens, rows}, workspace), lsaq::Status::ok);
  for (std::size_t r = 0; r < rows; ++r) {
    const std::vector<int> codes = oracle::codes_of(packed.view(), r);
    for (std::size_t t = 0; t < tokens; t += 1 + tokens / 20)
      ASSERT_EQ(y[t * rows + r], expected_of_blocks(packed, r, {x.data() + t * columns, columns}, codes))
          << packed.bits() << " bits, " << packed.grouping().name() << ", " << rows << " x " << columns << ", " << tokens << " tokens, row " << r << ", token "
          << t;
  }
}

TEST_P(IntegerProducts, OfGroupsAndBlocksAreTheFormulaToo) {
  for (unsigned bits = lsaq::min_bits; bits <= lsaq::max_bits; ++bits)
    for (const auto& [rows, columns] : {std::pair<std::size_t, std::size_t>(1, 1), {3, 31}, {33, 65}, {50, 100}, {20, 577}, {5, 4200}})
      for (const std::size_t tokens : {1, 3, 6, 7, 13, 40}) {
        std::vector<float> weights(rows * columns);
        std::normal_distribution<float> draw;
        for (float& w : weights) w = draw(random_);
        const MatrixView view(weights.data(), rows, columns);
        for (const std::uint32_t group : {32u, 96u, 128u})
          expect_blocks(lsaq::Backend<lsaq::Cpu>({}, GetParam()), lsaq::quantize(view, PackedFormat{.bits = bits, .grouping = {.columns = group}}), tokens,
                        random_);
        expect_blocks(lsaq::Backend<lsaq::Cpu, lsaq::Activation<lsaq::Int8PerBlock>>({}, GetParam()), lsaq::quantize(view, PackedFormat{.bits = bits}), tokens,
                      random_);
        if (HasFatalFailure()) return;
      }
}

TEST_P(IntegerProducts, DoNotDependOnThreadsOrOtherTokens) {
  lsaq::ThreadPool pool(3);
  for (const unsigned bits : {3, 4, 8}) {
    const std::size_t rows = 333, columns = 700, tokens = 21;
    const PackedMatrix packed = random_codes(rows, columns, bits, random_);
    const std::vector<float> x = states(tokens, columns, random_);
    std::vector<float> together(tokens * rows), alone(rows);
    const lsaq::Backend<lsaq::Cpu> device(pool, GetParam());
    ASSERT_EQ(device.matmul(packed, MatrixView(x.data(), tokens, columns), {together.data(), tokens, rows}), lsaq::Status::ok);
    for (std::size_t t = 0; t < tokens; ++t) {
      ASSERT_EQ((lsaq::Backend<lsaq::Cpu>({}, GetParam()).matvec(packed, std::span(x).subspan(t * columns, columns), alone)), lsaq::Status::ok);
      ASSERT_TRUE(std::equal(alone.begin(), alone.end(), together.begin() + t * rows)) << "token " << t;
    }
  }
}

TEST_P(IntegerProducts, LargestSumsFit) {
  for (const std::size_t columns : {4096, 16384, 28672, 65536}) {
    std::vector<float> weights(columns, -1), x(columns, 1.0f), y(1);
    for (std::size_t u = 0; u < lsaq::high_units_of(columns); ++u) std::fill_n(x.begin() + static_cast<std::ptrdiff_t>(8 * u), 8, 128.49f);
    const PackedMatrix packed = lsaq::quantize(MatrixView(weights.data(), 1, columns), PackedFormat{.bits = 8, .range = lsaq::CodeRange::full});
    ASSERT_EQ(oracle::codes_of(packed.view(), 0)[0], -128);
    const lsaq::Backend<lsaq::Cpu> device({}, GetParam());
    std::vector<std::byte> workspace(device.workspace_bytes(packed.view(), 1));
    ASSERT_EQ(device.matmul(packed, MatrixView(x.data(), 1, columns), {y.data(), 1, 1}, workspace), lsaq::Status::ok);
    EXPECT_EQ(y[0], expected(packed, 0, PlainToken(x), oracle::codes_of(packed.view(), 0)));
    EXPECT_NEAR(y[0], -std::accumulate(x.begin(), x.end(), 0.0), 0.01 * static_cast<double>(columns));
  }
}

TEST_P(IntegerProducts, ValuesThatAreNotFiniteSpoilTheirTokenOnly) {
  const std::size_t rows = 40, columns = 96, tokens = 18;
  const PackedMatrix packed = random_codes(rows, columns, 4, random_);
  std::vector<float> x = states(tokens, columns, random_), y(tokens * rows);
  x[2 * columns + 50] = std::numeric_limits<float>::infinity();
  x[3 * columns + 95] = -std::numeric_limits<float>::quiet_NaN();
  std::fill_n(x.begin() + 4 * columns, columns, 0.0f);
  std::fill_n(x.begin() + 5 * columns, columns, 1e-44f);
  x[6 * columns] = std::numeric_limits<float>::max();
  ASSERT_EQ((lsaq::Backend<lsaq::Cpu>({}, GetParam()).matmul(packed, MatrixView(x.data(), tokens, columns), {y.data(), tokens, rows})), lsaq::Status::ok);
  for (std::size_t t = 0; t < tokens; ++t)
    for (std::size_t r = 0; r < rows; ++r) {
      const float value = y[t * rows + r];
      const bool as_expected = t == 2 || t == 3 ? std::isnan(value) : t == 4 || t == 5 ? std::fabs(value) < 1e-30f : t == 6 || std::isfinite(value);
      ASSERT_TRUE(as_expected) << "token " << t << ": " << value;
    }
}

TEST_P(IntegerProducts, RowsTooLongForExactSumsKeepFloats) {
  const std::size_t columns = lsaq::most_integer_columns + 1;
  ASSERT_EQ(lsaq::high_units_of(columns), 0u);
  std::vector<float> weights(columns, 0.5f), x(columns, 0.25f), y(1);
  const PackedMatrix packed = lsaq::quantize(MatrixView(weights.data(), 1, columns), PackedFormat{.bits = 8});
  ASSERT_EQ((lsaq::Backend<lsaq::Cpu>({}, GetParam()).matvec(packed, x, y)), lsaq::Status::ok);
  EXPECT_NEAR(y[0], 0.125 * static_cast<double>(columns), 0.01 * static_cast<double>(columns));
}

TEST(HighUnits, KeepSumsBelowTheirLimit) {
  for (std::size_t columns = 1; columns <= lsaq::most_integer_columns; columns = columns * 9 / 8 + 1)
    EXPECT_LT(columns * 127 + lsaq::high_units_of(columns) * 8 * (16319 - 127), lsaq::sum_limit);
}

} // namespace integer_matmul_test
