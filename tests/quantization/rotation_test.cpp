// Rotations against the dense matrices they stand for.
#include <lsaq/quantization/rotation.hpp>

#include <lsaq/thread_pool.hpp>

#include <gtest/gtest.h>

#include <string>

namespace rotation_test {

using lsaq::MutableMatrixView;
using lsaq::Rotation;

/// Q, row by row: the images of the unit vectors.
std::vector<std::vector<float>> dense(const Rotation& rotation) {
  const std::size_t n = rotation.size();
  std::vector<std::vector<float>> rows(n, std::vector<float>(n));
  for (std::size_t i = 0; i < n; ++i) {
    rows[i][i] = 1;
    rotation.apply(rows[i].data());
  }
  return rows;
}

TEST(Rotation, IsOrthogonalForAnySize) {
  for (const std::size_t n : {1u, 2u, 3u, 4u, 7u, 12u, 33u, 64u, 96u, 576u}) {
    const auto q = dense(Rotation(n, 5));
    for (std::size_t i = 0; i < n; ++i)
      for (std::size_t j = 0; j <= i; ++j) {
        double dot = 0;
        for (std::size_t k = 0; k < n; ++k) dot += double{q[i][k]} * double{q[j][k]};
        ASSERT_NEAR(dot, i == j ? 1 : 0, 2e-6) << n << ": rows " << i << ", " << j;
      }
  }
}

TEST(Rotation, SpreadsEveryChannelEvenlyOverPowersOfTwo) {
  for (const std::size_t n : {8u, 64u, 256u})
    for (const auto& row : dense(Rotation(n, 1)))
      for (const float value : row) ASSERT_NEAR(std::fabs(value), 1 / std::sqrt(static_cast<double>(n)), 1e-6);
  // With an odd factor m, a channel reaches all others too; its largest share is that of a random direction in m dimensions.
  for (const auto& row : dense(Rotation(576, 1)))
    for (const float value : row) ASSERT_LT(std::fabs(value), 0.126) << "of 1/8 at most";
}

TEST(Rotation, InverseUndoes) {
  std::mt19937 random(3);
  for (const std::size_t n : {1u, 5u, 24u, 576u, 1536u}) {
    const Rotation rotation(n, 9);
    std::vector<float> x(n);
    for (float& value : x) value = std::normal_distribution<float>()(random);
    std::vector<float> y = x;
    rotation.apply(y.data());
    EXPECT_TRUE(n == 1 || x != y);
    rotation.apply_inverse(y.data());
    for (std::size_t i = 0; i < n; ++i) EXPECT_NEAR(x[i], y[i], 2e-6) << n;
  }
  std::vector<float> x = {1, 2};
  Rotation().apply(x.data());
  Rotation().apply_inverse(x.data());
  EXPECT_EQ(x, (std::vector<float>{1, 2})) << "the empty one changes nothing";
  EXPECT_TRUE(Rotation().empty());
}

TEST(Rotation, FollowsItsSeed) {
  EXPECT_EQ(dense(Rotation(24, 1)), dense(Rotation(24, 1)));
  EXPECT_NE(dense(Rotation(24, 1)), dense(Rotation(24, 2)));
  EXPECT_THROW(Rotation(0, 1), lsaq::InvalidArgument);
  // The same on every machine: the generator is the standard's, and nothing else is drawn from.
  std::mt19937_64 generator(7);
  const auto q = dense(Rotation(2, 7));
  const float first = generator() % 2 == 0 ? 1.0f : -1.0f, second = generator() % 2 == 0 ? 1.0f : -1.0f, half = 1 / std::sqrt(2.0f);
  EXPECT_EQ(q, (std::vector<std::vector<float>>{{first * half, first * half}, {second * half, -second * half}}));
}

/// (x Q)(W Q)^T = x W^T, and x (Q^T W)^T = (x W^T) Q.
TEST(Rotation, TurnsInputsAndOutputsOfLinears) {
  std::mt19937 random(4);
  const std::size_t rows = 36, columns = 40;
  std::vector<float> weights(rows * columns), x(columns);
  for (std::vector<float>* values : {&weights, &x})
    for (float& value : *values) value = std::normal_distribution<float>()(random);
  const auto product = [&](const std::vector<float>& w, const std::vector<float>& in) {
    std::vector<float> out(rows);
    for (std::size_t r = 0; r < rows; ++r)
      for (std::size_t c = 0; c < columns; ++c) out[r] += w[r * columns + c] * in[c];
    return out;
  };
  const auto expect_near = [](const std::vector<float>& a, const std::vector<float>& b) {
    for (std::size_t i = 0; i < a.size(); ++i) EXPECT_NEAR(a[i], b[i], 2e-5);
  };
  lsaq::ThreadPool pool(3);
  for (const bool threads : {false, true}) {
    const lsaq::ExecutorRef executor = threads ? lsaq::ExecutorRef(pool) : lsaq::ExecutorRef();
    for (const std::size_t size : {columns, columns / 5}) { // the whole row, and blocks alike
      const Rotation rotation(size, 2);
      std::vector<float> turned = weights, input = x;
      rotate_inputs(rotation, {turned.data(), rows, columns}, executor);
      for (std::size_t first = 0; first < columns; first += size) rotation.apply(input.data() + first);
      expect_near(product(turned, input), product(weights, x));
    }
    for (const std::size_t size : {rows, rows / 3}) {
      const Rotation rotation(size, 2);
      std::vector<float> turned = weights, output = product(weights, x);
      rotate_outputs(rotation, {turned.data(), rows, columns}, executor);
      for (std::size_t first = 0; first < rows; first += size) rotation.apply(output.data() + first);
      expect_near(product(turned, x), output);
    }
  }
  std::vector<float> same = weights;
  rotate_inputs(Rotation(), {same.data(), rows, columns});
  rotate_outputs(Rotation(), {same.data(), rows, columns});
  EXPECT_EQ(same, weights);
  EXPECT_THROW(rotate_inputs(Rotation(7, 1), {same.data(), rows, columns}), lsaq::InvalidArgument);
  EXPECT_THROW(rotate_outputs(Rotation(7, 1), {same.data(), rows, columns}), lsaq::InvalidArgument);
}

} // namespace rotation_test
