#include <lsaq/quantization/low_rank.hpp>

#include "quantization/channel_cases.hpp"

#include <lsaq/thread_pool.hpp>

#include <Eigen/SVD>

namespace low_rank_test {

using channel_cases::Device;
using channel_cases::Matrix;
using lsaq::LowRankMatrix;
using lsaq::LowRankOptions;
using lsaq::SvdMethod;
using test_support::refusal;

Eigen::MatrixXd eigen(const Matrix& matrix) {
  Eigen::MatrixXd out(static_cast<Eigen::Index>(matrix.rows), static_cast<Eigen::Index>(matrix.columns));
  for (std::size_t r = 0; r < matrix.rows; ++r)
    for (std::size_t c = 0; c < matrix.columns; ++c) out(static_cast<Eigen::Index>(r), static_cast<Eigen::Index>(c)) = matrix.at(r, c);
  return out;
}

/// |matrix - left x right| in the Frobenius norm, by plain loops.
double distance(const Matrix& matrix, const LowRankMatrix& found) {
  double sum = 0;
  for (std::size_t r = 0; r < matrix.rows; ++r)
    for (std::size_t c = 0; c < matrix.columns; ++c) {
      double rest = matrix.at(r, c);
      for (std::size_t k = 0; k < found.rank; ++k) rest -= double{found.left[r * found.rank + k]} * double{found.right[k * matrix.columns + c]};
      sum += rest * rest;
    }
  return std::sqrt(sum);
}

/// The least error any matrix of this rank can have, by Eigen's other algorithm.
double least_distance(const Matrix& matrix, std::size_t rank) {
  const Eigen::VectorXd values = Eigen::JacobiSVD<Eigen::MatrixXd>(eigen(matrix)).singularValues();
  return values.tail(values.size() - static_cast<Eigen::Index>(rank)).norm();
}

TEST(TruncatedSvd, TheExactWayLeavesWhatTheWholeDecompositionSays) {
  std::mt19937 random(1);
  for (const auto& [rows, columns] : {std::pair<std::size_t, std::size_t>(40, 40), {70, 25}, {25, 70}, {1, 9}, {9, 1}})
    for (const std::size_t rank : {std::size_t{1}, std::min(rows, columns) / 3, std::min(rows, columns) - 1}) {
      if (rank == 0) continue;
      const Matrix matrix = channel_cases::random_matrix(rows, columns, random);
      const LowRankMatrix found = lsaq::truncated_svd(matrix.view(), {.rank = rank}, Device());
      const double least = least_distance(matrix, rank), norm = eigen(matrix).norm();
      EXPECT_NEAR(found.residual, least, 1e-5 * least + 1e-12 * norm);
      EXPECT_NEAR(distance(matrix, found), least, 1e-5 * least + 1e-6 * norm);
      EXPECT_TRUE(std::is_sorted(found.singular_values.rbegin(), found.singular_values.rend()));
    }
}

TEST(TruncatedSvd, EachFactorHasTheRootOfTheSingularValues) {
  std::mt19937 random(2);
  const Matrix matrix = channel_cases::random_matrix(30, 20, random);
  const LowRankMatrix found = lsaq::truncated_svd(matrix.view(), {.rank = 4}, Device());
  for (std::size_t k = 0; k < 4; ++k) {
    double left = 0, right = 0;
    for (std::size_t r = 0; r < 30; ++r) left += double{found.left[r * 4 + k]} * double{found.left[r * 4 + k]};
    for (std::size_t c = 0; c < 20; ++c) right += double{found.right[k * 20 + c]} * double{found.right[k * 20 + c]};
    EXPECT_NEAR(left, found.singular_values[k], 1e-5 * found.singular_values[k]);
    EXPECT_NEAR(right, found.singular_values[k], 1e-5 * found.singular_values[k]);
  }
}

TEST(TruncatedSvd, TheRandomizedWayIsCloseToTheBest) {
  std::mt19937 random(3);
  for (const auto& [rows, columns] : {std::pair<std::size_t, std::size_t>(150, 150), {90, 200}, {200, 90}})
    for (const std::size_t rank : {1, 8, 40}) {
      const Matrix matrix = channel_cases::random_matrix(rows, columns, random);
      const LowRankMatrix found = lsaq::truncated_svd(matrix.view(), {.rank = rank, .method = SvdMethod::randomized, .seed = random()}, Device());
      const double least = least_distance(matrix, rank);
      EXPECT_LE(distance(matrix, found), least * 1.02) << rows << " x " << columns << ", rank " << rank;
      EXPECT_NEAR(found.residual, distance(matrix, found), 1e-4 * least);
    }
}

TEST(TruncatedSvd, AMatrixOfLowRankIsReproduced) {
  std::mt19937 random(4);
  const Matrix a = channel_cases::random_matrix(120, 5, random), b = channel_cases::random_matrix(5, 80, random);
  Matrix matrix(120, 80);
  for (std::size_t r = 0; r < 120; ++r)
    for (std::size_t c = 0; c < 80; ++c)
      for (std::size_t k = 0; k < 5; ++k) matrix.at(r, c) += a.at(r, k) * b.at(k, c);
  for (const SvdMethod method : {SvdMethod::exact, SvdMethod::randomized})
    for (const std::size_t rank : {5, 9})
      EXPECT_LE(distance(matrix, lsaq::truncated_svd(matrix.view(), {.rank = rank, .method = method}, Device())), 1e-6 * eigen(matrix).norm());
}

TEST(TruncatedSvd, TakesAnyUnitAndZero) {
  std::mt19937 random(5);
  const Matrix matrix = channel_cases::random_matrix(60, 50, random);
  for (const SvdMethod method : {SvdMethod::exact, SvdMethod::randomized}) {
    const LowRankOptions options{.rank = 6, .method = method};
    const LowRankMatrix expected = lsaq::truncated_svd(matrix.view(), options, Device());
    for (const int exponent : {-80, 80}) {
      Matrix scaled = matrix;
      for (float& value : scaled.values) value = std::ldexp(value, exponent);
      const LowRankMatrix found = lsaq::truncated_svd(scaled.view(), options, Device());
      EXPECT_NEAR(std::ldexp(found.residual, -exponent), expected.residual, 1e-9 * expected.residual);
      EXPECT_NEAR(std::ldexp(found.singular_values[5], -exponent), expected.singular_values[5], 1e-9 * expected.singular_values[5]);
    }
    const LowRankMatrix none = lsaq::truncated_svd(Matrix(60, 50).view(), options, Device());
    EXPECT_EQ(none.residual, 0.0);
    EXPECT_THAT(none.left, testing::Each(0.0f));
    EXPECT_THAT(none.right, testing::Each(0.0f));
  }
  EXPECT_NEAR(lsaq::truncated_svd(matrix.view(), {.rank = 0}, Device()).residual, eigen(matrix).norm(), 1e-9);
}

TEST(TruncatedSvd, IsTheSameForAnyNumberOfThreads) {
  std::mt19937 random(6);
  const Matrix matrix = channel_cases::random_matrix(130, 140, random);
  lsaq::ThreadPool pool(3);
  for (const SvdMethod method : {SvdMethod::exact, SvdMethod::randomized}) {
    const LowRankOptions options{.rank = 12, .method = method, .seed = 3};
    const LowRankMatrix serial = lsaq::truncated_svd(matrix.view(), options, Device()), threads = lsaq::truncated_svd(matrix.view(), options, Device(pool));
    EXPECT_EQ(serial.left, threads.left);
    EXPECT_EQ(serial.right, threads.right);
  }
}

TEST(TruncatedSvd, LargeMatricesAreDecomposedByTheirRange) {
  std::mt19937 random(7);
  const Matrix matrix = channel_cases::random_matrix(520, 530, random);
  const LowRankMatrix by_size = lsaq::truncated_svd(matrix.view(), {.rank = 3}, Device());
  const LowRankMatrix randomized = lsaq::truncated_svd(matrix.view(), {.rank = 3, .method = SvdMethod::randomized}, Device());
  EXPECT_EQ(by_size.left, randomized.left);
}

TEST(TruncatedSvd, RefusalsSayValueAndLimit) {
  Matrix matrix(5, 3);
  EXPECT_EQ(refusal([&] { lsaq::truncated_svd(matrix.view(), {.rank = 4}, Device()); }), "can't keep rank 4 of a 5 x 3 matrix: 0 to 3 are possible");
  matrix.at(2, 1) = std::nanf("");
  EXPECT_THAT(refusal([&] { lsaq::truncated_svd(matrix.view(), {.rank = 1}, Device()); }),
              testing::StartsWith("matrix, row 2, column 1: the value is not finite ("));
}

} // namespace low_rank_test
