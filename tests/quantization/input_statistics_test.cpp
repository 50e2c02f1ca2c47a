// Statistics of inputs against sums in double precision, and in other bases.
#include <lsaq/deployment/cpu.hpp>
#include <lsaq/quantization/input_statistics.hpp>

#include "core/refusal.hpp"

#include <lsaq/thread_pool.hpp>

#include <gmock/gmock.h>

#include <random>

namespace input_statistics_test {

using Device = lsaq::Backend<lsaq::Cpu, lsaq::Activation<lsaq::Float32>>;
using lsaq::InputStatistics;
using lsaq::MatrixView;
using test_support::refusal;

std::vector<float> inputs_of(std::size_t rows, std::size_t channels, unsigned seed) {
  std::mt19937 random(seed);
  std::vector<float> x(rows * channels);
  for (std::size_t i = 0; i < x.size(); ++i) x[i] = std::normal_distribution<float>()(random) * (i % channels == 2 ? 50.0f : 1.0f);
  return x;
}

double moment(const std::vector<float>& x, std::size_t channels, std::size_t i, std::size_t j) {
  double sum = 0;
  for (std::size_t r = 0; r < x.size() / channels; ++r) sum += double{x[r * channels + i]} * double{x[r * channels + j]};
  return sum / (static_cast<double>(x.size()) / static_cast<double>(channels));
}

float at(const InputStatistics& statistics, std::size_t i, std::size_t j) {
  return static_cast<const float*>(statistics.moments().data)[i * statistics.channels() + j];
}

void expect_moments(const InputStatistics& statistics, const std::vector<float>& x) {
  const std::size_t n = statistics.channels();
  for (std::size_t i = 0; i < n; ++i)
    for (std::size_t j = 0; j < n; ++j) {
      const double scale = std::sqrt(moment(x, n, i, i) * moment(x, n, j, j));
      ASSERT_NEAR(at(statistics, i, j), moment(x, n, i, j), 2e-6 * scale) << i << ", " << j;
      ASSERT_EQ(at(statistics, i, j), at(statistics, j, i));
    }
  const std::vector<float> squares = statistics.mean_squares();
  for (std::size_t i = 0; i < n; ++i) EXPECT_EQ(squares[i], at(statistics, i, i));
}

TEST(InputStatistics, AreMeansOfProducts) {
  for (const std::size_t channels : {1u, 5u, 64u, 300u})
    for (const std::size_t rows : {1u, 7u, 256u, 700u}) {
      const std::vector<float> x = inputs_of(rows, channels, 1);
      InputStatistics statistics(channels);
      statistics.add(Device(), MatrixView(x.data(), rows, channels));
      statistics.finish();
      EXPECT_EQ(statistics.inputs(), rows);
      expect_moments(statistics, x);
    }
}

TEST(InputStatistics, AddUpAndDoNotDependOnThreads) {
  const std::size_t channels = 70, rows = 600;
  const std::vector<float> x = inputs_of(rows, channels, 2);
  lsaq::ThreadPool pool(3);
  InputStatistics parts(channels), threads(channels);
  for (std::size_t first = 0; first < rows; first += 100) {
    parts.add(Device(), MatrixView(x.data() + first * channels, 100, channels));
    threads.add(Device(pool), MatrixView(x.data() + first * channels, 100, channels));
  }
  parts.finish();
  threads.finish();
  expect_moments(parts, x);
  for (std::size_t i = 0; i < channels; ++i)
    for (std::size_t j = 0; j < channels; ++j) ASSERT_EQ(at(parts, i, j), at(threads, i, j));
}

TEST(InputStatistics, FollowAChangeOfBasis) {
  const std::size_t channels = 24, rows = 90;
  std::vector<float> x = inputs_of(rows, channels, 3);
  InputStatistics statistics(channels);
  statistics.add(Device(), MatrixView(x.data(), rows, channels));
  statistics.hold_back(MatrixView(x.data(), 3, channels));
  statistics.finish();
  std::vector<float> factors(channels);
  for (std::size_t c = 0; c < channels; ++c) factors[c] = 0.5f + static_cast<float>(c % 4);
  const lsaq::Rotation whole(channels, 4), head(8, 5);
  statistics.multiply(factors);
  statistics.rotate(whole);
  statistics.rotate(head);
  for (std::size_t r = 0; r < rows; ++r) {
    for (std::size_t c = 0; c < channels; ++c) x[r * channels + c] *= factors[c];
    whole.apply(x.data() + r * channels);
    for (std::size_t c = 0; c < channels; c += 8) head.apply(x.data() + r * channels + c);
  }
  double trace = 0; // what single precision is relative to, in a new basis
  for (std::size_t i = 0; i < channels; ++i) trace += moment(x, channels, i, i);
  for (std::size_t i = 0; i < channels; ++i)
    for (std::size_t j = 0; j < channels; ++j) EXPECT_NEAR(at(statistics, i, j), moment(x, channels, i, j), 5e-7 * trace);
  ASSERT_EQ(statistics.held_back().rows, 3u);
  for (std::size_t i = 0; i < 3 * channels; ++i) EXPECT_NEAR(static_cast<const float*>(statistics.held_back().data)[i], x[i], 1e-4);
}

TEST(InputStatistics, HeldBackInputsAreNotAdded) {
  const std::vector<float> x = inputs_of(10, 6, 4);
  InputStatistics statistics(6);
  statistics.add(Device(), MatrixView(x.data(), 8, 6));
  statistics.hold_back(MatrixView(x.data() + 48, 2, 6));
  statistics.finish();
  EXPECT_EQ(statistics.inputs(), 8u);
  expect_moments(statistics, std::vector<float>(x.begin(), x.begin() + 48));
  EXPECT_EQ(statistics.held_back().rows, 2u);
  EXPECT_TRUE(std::equal(x.begin() + 48, x.end(), static_cast<const float*>(statistics.held_back().data)));
}

TEST(InputStatistics, RefuseWhatDoesNotFit) {
  const std::vector<float> x(12);
  InputStatistics statistics(6);
  EXPECT_THAT(refusal([&] { statistics.add(Device(), MatrixView(x.data(), 3, 4)); }), testing::HasSubstr("4 channels"));
  EXPECT_THAT(refusal([&] { statistics.hold_back(MatrixView(x.data(), 4, 3)); }), testing::HasSubstr("3 channels"));
  EXPECT_THAT(refusal([&] { statistics.multiply(std::vector<float>(5)); }), testing::HasSubstr("5 factors"));
  EXPECT_THAT(refusal([&] { statistics.rotate(lsaq::Rotation(4, 1)); }), testing::HasSubstr("4 channels does not fit"));
  EXPECT_THAT(refusal([&] { InputStatistics(3, 1, std::vector<float>(8), {}); }), testing::HasSubstr("8 moments"));
  EXPECT_THAT(refusal([&] { InputStatistics(3, 1, std::vector<float>(9), std::vector<float>(4)); }), testing::HasSubstr("4 held-back"));
}

TEST(OutputError, IsTheMeanSquareOfProducts) {
  const std::size_t channels = 9, rows = 130, outputs = 4;
  const std::vector<float> x = inputs_of(rows, channels, 5), w = inputs_of(outputs, channels, 6);
  double wanted = 0;
  for (std::size_t r = 0; r < rows; ++r)
    for (std::size_t o = 0; o < outputs; ++o) {
      double dot = 0;
      for (std::size_t c = 0; c < channels; ++c) dot += double{x[r * channels + c]} * double{w[o * channels + c]};
      wanted += dot * dot / static_cast<double>(rows);
    }
  EXPECT_NEAR(lsaq::output_error(Device(), MatrixView(x.data(), rows, channels), MatrixView(w.data(), outputs, channels)), wanted, 1e-5 * wanted);
  EXPECT_EQ(lsaq::output_error(Device(), MatrixView(x.data(), 0, channels), MatrixView(w.data(), outputs, channels)), 0);
}

} // namespace input_statistics_test
