// Products, storage and labels of matrices of shared channels, against the matrix they stand for and plain loops.
#include <lsaq/quantization/shared_channel_matrix.hpp>

#include "deployment/count_allocations.hpp"
#include "quantization/channel_cases.hpp"

#include <lsaq/quantization/shared_channels.hpp>
#include <lsaq/thread_pool.hpp>

namespace shared_channel_matrix_test {

using channel_cases::Device;
using channel_cases::Matrix;
using channel_cases::restored;
using lsaq::ChannelAxis;
using lsaq::MatrixShape;
using lsaq::MatrixView;
using lsaq::SharedChannelFormat;
using lsaq::SharedChannelMatrix;
using lsaq::Status;
using test_support::refusal;

std::vector<SharedChannelFormat> formats() {
  std::vector<SharedChannelFormat> all;
  for (const ChannelAxis axis : {ChannelAxis::rows, ChannelAxis::columns})
    for (const auto& [representatives, factors] : {std::pair(16u, 16u), {8u, 16u}, {16u, 4u}, {3u, 2u}})
      all.push_back({.axis = axis, .representative_bits = representatives, .factor_bits = factors});
  return all;
}

std::string text_of(const SharedChannelFormat& format) {
  return std::string(name_of(format.axis)) + ", " + std::to_string(format.representative_bits) + " and " + std::to_string(format.factor_bits) + " bits";
}

TEST(SharedChannelBytes, AreCountedToTheLastOne) {
  using lsaq::shared_channel_bytes;
  static_assert(lsaq::label_bits(1) == 0 && lsaq::label_bits(2) == 1 && lsaq::label_bits(3) == 2 && lsaq::label_bits(4) == 2 && lsaq::label_bits(5) == 3);
  static_assert(lsaq::label_bytes(100, 1) == 0 && lsaq::label_bytes(33, 2) == 8 && lsaq::label_bytes(576, 64) == 432);
  static_assert(shared_channel_bytes({576, 576}, 64, 8) == 64 * 576 * 2 + 432 + 2 * 8 * 576 * 2);
  static_assert(shared_channel_bytes({100, 36}, 4, 0, {.axis = ChannelAxis::columns}) == 100 * 4 * 2 + 12);
  static_assert(shared_channel_bytes({100, 36}, 4, 2, {.representative_bits = 4, .factor_bits = 8}) == 4 * (20 + 2) + 28 + 100 * (4 + 2) + 2 * (36 + 2));
  EXPECT_DOUBLE_EQ(lsaq::shared_channel_bits({576, 576}, 64, 8), 8.0 * (64 * 576 * 2 + 432 + 2 * 8 * 576 * 2) / (576 * 576));
}

TEST(SharedChannelMatrix, HoldsTheBytesThatArePredicted) {
  std::mt19937 random(1);
  const Matrix weights = channel_cases::random_matrix(40, 50, random);
  for (const SharedChannelFormat& format : formats())
    for (const std::size_t clusters : {1, 2, 5, 16, 33, 40})
      for (const std::size_t rank : {0, 1, 7}) {
        const SharedChannelMatrix shared = lsaq::share_channels(weights.view(), {.clusters = clusters, .rank = rank, .format = format}, Device());
        EXPECT_EQ(shared.bytes(), lsaq::shared_channel_bytes(weights.shape(), clusters, rank, format)) << text_of(format);
        EXPECT_EQ(shared.clusters(), clusters);
        EXPECT_EQ(shared.rank(), rank);
      }
}

TEST(Labels, ReturnFromEveryPlaceAndWidth) {
  std::mt19937 random(2);
  for (const std::size_t clusters : {1u, 2u, 3u, 8u, 100u, 1000u, 70000u, 0xffffffffu})
    for (const std::size_t channels : {1, 31, 32, 100}) {
      std::vector<std::uint32_t> labels(channels);
      for (std::uint32_t& label : labels) label = static_cast<std::uint32_t>(random() % clusters);
      lsaq::AlignedBytes packed = lsaq::pack_labels(labels, clusters);
      ASSERT_EQ(packed.size(), lsaq::label_bytes(channels, clusters));
      const SharedChannelMatrix matrix({channels, 1}, {}, clusters, {}, std::move(packed), 0, {}, {});
      std::vector<std::uint32_t> found(channels);
      lsaq::unpack_labels(matrix, 0, channels, found.data());
      EXPECT_EQ(found, labels);
      for (std::size_t i = 0; i < channels; ++i) ASSERT_EQ(lsaq::label_at(matrix, i), labels[i]);
    }
}

TEST(SharedChannelProducts, AreThoseOfTheReconstructedMatrix) {
  std::mt19937 random(3);
  lsaq::ThreadPool pool(3);
  const Device serial, threads(pool);
  const Matrix weights = channel_cases::random_matrix(300, 270, random); // more channels than labels are read at once
  for (const SharedChannelFormat& format : formats())
    for (const std::size_t rank : {0, 5}) {
      const SharedChannelMatrix shared = lsaq::share_channels(weights.view(), {.clusters = 21, .rank = rank, .format = format, .iterations = 5}, threads);
      const Matrix matrix = restored(shared);
      for (const std::size_t tokens : {1, 3, 64}) {
        const Matrix x = channel_cases::random_matrix(tokens, 270, random);
        Matrix y(tokens, 300), other(tokens, 300);
        std::vector<std::byte> workspace(lsaq::workspace_bytes(serial, shared, tokens));
        const std::size_t before = count_allocations();
        ASSERT_EQ(lsaq::matmul(serial, shared, x.view(), y.out(), workspace), Status::ok);
        EXPECT_EQ(count_allocations(), before);
        ASSERT_EQ(lsaq::matmul(threads, shared, x.view(), other.out(), workspace), Status::ok);
        EXPECT_EQ(y.values, other.values) << "threads changed the product";
        for (std::size_t t = 0; t < tokens; ++t)
          for (std::size_t r = 0; r < 300; ++r) {
            double sum = 0, magnitude = 0;
            for (std::size_t c = 0; c < 270; ++c) {
              sum += double{x.at(t, c)} * double{matrix.at(r, c)};
              magnitude += std::abs(double{x.at(t, c)} * double{matrix.at(r, c)});
            }
            ASSERT_NEAR(y.at(t, r), sum, 2e-5 * magnitude + 1e-9) << text_of(format) << ", rank " << rank << ", " << tokens << " tokens";
          }
      }
    }
}

TEST(SharedChannelProducts, TakeStridedInputAndOutput) {
  std::mt19937 random(4);
  const Matrix weights = channel_cases::random_matrix(20, 12, random), x = channel_cases::random_matrix(5, 15, random);
  for (const ChannelAxis axis : {ChannelAxis::rows, ChannelAxis::columns}) {
    const SharedChannelMatrix shared = lsaq::share_channels(weights.view(), {.clusters = 4, .rank = 2, .format = {.axis = axis}}, Device());
    Matrix dense_x(5, 12), y(5, 20), wide(5, 23);
    for (std::size_t t = 0; t < 5; ++t)
      for (std::size_t c = 0; c < 12; ++c) dense_x.at(t, c) = x.at(t, c);
    std::vector<std::byte> workspace(lsaq::workspace_bytes(Device(), shared, 5));
    ASSERT_EQ(lsaq::matmul(Device(), shared, dense_x.view(), y.out(), workspace), Status::ok);
    ASSERT_EQ(lsaq::matmul(Device(), shared, {x.values.data(), 5, 12, 15}, {wide.values.data(), 5, 20, 23}, workspace), Status::ok);
    for (std::size_t t = 0; t < 5; ++t)
      for (std::size_t r = 0; r < 23; ++r) EXPECT_EQ(wide.at(t, r), r < 20 ? y.at(t, r) : 0.0f);
  }
}

TEST(SharedChannelProducts, SayWhatIsWrong) {
  std::mt19937 random(5);
  const Matrix weights = channel_cases::random_matrix(20, 12, random);
  const SharedChannelMatrix shared = lsaq::share_channels(weights.view(), {.clusters = 4, .rank = 2}, Device());
  Matrix x(3, 12), y(3, 20);
  std::vector<std::byte> workspace(lsaq::workspace_bytes(Device(), shared, 3));
  const auto product = [&](MatrixView in, lsaq::MutableMatrixView out, std::span<std::byte> memory) { return lsaq::matmul(Device(), shared, in, out, memory); };
  EXPECT_EQ(product(x.view(), y.out(), workspace), Status::ok);
  EXPECT_EQ(product({x.values.data(), 3, 11}, y.out(), workspace), Status::shape_mismatch);
  EXPECT_EQ(product(x.view(), {y.values.data(), 3, 19}, workspace), Status::shape_mismatch);
  EXPECT_EQ(product(x.view(), {y.values.data(), 2, 20}, workspace), Status::shape_mismatch);
  EXPECT_EQ(product(x.view(), y.out(), std::span(workspace).first(workspace.size() - 1)), Status::workspace_too_small);
  std::vector<std::byte> larger(workspace.size() + 1);
  EXPECT_EQ(product(x.view(), y.out(), std::span(larger).subspan(1)), Status::workspace_too_small) << "not aligned";
  EXPECT_EQ(product({x.values.data(), 0, 12}, {y.values.data(), 0, 20}, {}), Status::ok);
  EXPECT_EQ(refusal([&] { lsaq::reconstruct(shared, {y.values.data(), 3, 20}); }), "can't reconstruct a 20 x 12 matrix into 3 x 20");
}

} // namespace shared_channel_matrix_test
