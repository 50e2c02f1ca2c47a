#include <lsaq/quantization/shared_channels.hpp>

#include "quantization/channel_cases.hpp"

#include <lsaq/thread_pool.hpp>

#include <limits>

namespace shared_channels_test {

using channel_cases::Device;
using channel_cases::Matrix;
using channel_cases::restored;
using lsaq::ChannelAxis;
using lsaq::MatrixView;
using lsaq::SharedChannelChoice;
using lsaq::SharedChannelFormat;
using lsaq::SharedChannelMatrix;
using lsaq::SharedChannelOptions;
using test_support::refusal;
using testing::HasSubstr;

/// Every byte of a matrix of shared channels.
std::vector<std::byte> bytes_of(const SharedChannelMatrix& matrix) {
  std::vector<std::byte> all;
  for (const lsaq::SharedPart* part : {&matrix.representatives(), &matrix.left(), &matrix.right()}) {
    const auto* data = part->bits() == 16 ? static_cast<const std::byte*>(part->floats().data) : part->codes().data;
    all.insert(all.end(), data, data + part->bytes());
  }
  const std::size_t labels = lsaq::label_bytes(lsaq::channels_of(matrix.shape(), matrix.format().axis), matrix.clusters());
  all.insert(all.end(), matrix.labels(), matrix.labels() + labels);
  return all;
}

double frobenius(const Matrix& matrix, const Matrix& other, const std::vector<float>& weights = {}) {
  double sum = 0;
  for (std::size_t r = 0; r < matrix.rows; ++r)
    for (std::size_t c = 0; c < matrix.columns; ++c) {
      const double difference = double{matrix.at(r, c)} - double{other.at(r, c)};
      sum += difference * difference * (weights.empty() ? 1.0 : double{weights[c]});
    }
  return std::sqrt(sum);
}

TEST(SharedChannels, AsManyDistinctChannelsAsRepresentativesAreReproducedExactly) {
  std::mt19937 random(1);
  const Matrix originals = channel_cases::halves(7, 40, random);
  Matrix rows(90, 40);
  for (std::size_t r = 0; r < 90; ++r)
    for (std::size_t c = 0; c < 40; ++c) rows.at(r, c) = originals.at(r < 7 ? r : r * r % 7, c);
  EXPECT_EQ(restored(lsaq::share_channels(rows.view(), {.clusters = 7}, Device())).values, rows.values);
  const Matrix columns = channel_cases::transposed(rows);
  EXPECT_EQ(restored(lsaq::share_channels(columns.view(), {.clusters = 7, .format = {.axis = ChannelAxis::columns}}, Device())).values, columns.values);
  std::vector<float> moments(90);
  for (float& moment : moments) moment = static_cast<float>(random() % 100);
  EXPECT_EQ(
      restored(lsaq::share_channels(columns.view(), {.clusters = 7, .format = {.axis = ChannelAxis::columns}, .second_moments = moments}, Device())).values,
      columns.values);
}

TEST(SharedChannels, ARepresentativeForEachChannelIsTheMatrixInF16) {
  std::mt19937 random(2);
  const Matrix matrix = channel_cases::random_matrix(20, 30, random);
  for (const ChannelAxis axis : {ChannelAxis::rows, ChannelAxis::columns}) {
    const Matrix found = restored(lsaq::share_channels(matrix.view(), {.clusters = axis == ChannelAxis::rows ? 20u : 30u, .format = {.axis = axis}}, Device()));
    for (std::size_t i = 0; i < matrix.values.size(); ++i) ASSERT_EQ(found.values[i], lsaq::to_float(lsaq::to_f16(matrix.values[i])));
  }
}

TEST(SharedChannels, CompensationCoversTheRoundingOfTheRepresentatives) {
  std::mt19937 random(3);
  const Matrix matrix = channel_cases::random_matrix(30, 24, random);
  for (const ChannelAxis axis : {ChannelAxis::rows, ChannelAxis::columns}) {
    const SharedChannelFormat format{.axis = axis, .representative_bits = 2};
    const SharedChannelMatrix rough = lsaq::share_channels(matrix.view(), {.clusters = 6, .format = format}, Device());
    EXPECT_GT(lsaq::relative_error(matrix.view(), rough), 0.3);
    const SharedChannelMatrix whole = lsaq::share_channels(matrix.view(), {.clusters = 6, .rank = 24, .format = format}, Device());
    EXPECT_LT(lsaq::relative_error(matrix.view(), whole), 2e-3) << "with every singular value nothing is left but the rounding of the factors";
  }
}

TEST(SharedChannels, TheErrorIsThatOfTheSingularValuesLeftOut) {
  std::mt19937 random(4);
  const Matrix matrix = channel_cases::random_matrix(50, 60, random);
  const SharedChannelMatrix none = lsaq::share_channels(matrix.view(), {.clusters = 9}, Device());
  Matrix error = restored(none);
  for (std::size_t i = 0; i < error.values.size(); ++i) error.values[i] = matrix.values[i] - error.values[i];
  for (const std::size_t rank : {1, 5, 20}) {
    const double expected = lsaq::truncated_svd(error.view(), {.rank = rank}, Device()).residual / frobenius(matrix, Matrix(50, 60));
    const SharedChannelMatrix shared = lsaq::share_channels(matrix.view(), {.clusters = 9, .rank = rank}, Device());
    EXPECT_NEAR(lsaq::relative_error(matrix.view(), shared), expected, 1e-3 * expected); // the factors are F16
  }
}

TEST(SharedChannels, BytesAreTheSameForAnyNumberOfThreadsAndFromAnyElementType) {
  std::mt19937 random(5);
  const Matrix matrix = channel_cases::halves(120, 70, random);
  std::vector<lsaq::f16> halves;
  for (const float value : matrix.values) halves.push_back(lsaq::to_f16(value));
  lsaq::ThreadPool pool(3);
  channel_cases::Backwards backwards;
  for (const ChannelAxis axis : {ChannelAxis::rows, ChannelAxis::columns}) {
    const SharedChannelOptions options{.clusters = 11, .rank = 6, .format = {.axis = axis, .representative_bits = 8, .factor_bits = 4}, .seed = 5};
    const std::vector<std::byte> serial = bytes_of(lsaq::share_channels(matrix.view(), options, Device()));
    EXPECT_EQ(bytes_of(lsaq::share_channels(matrix.view(), options, Device(pool))), serial);
    EXPECT_EQ(bytes_of(lsaq::share_channels(matrix.view(), options, Device(backwards))), serial);
    EXPECT_EQ(bytes_of(lsaq::share_channels({halves.data(), 120, 70}, options, Device())), serial);
  }
}

TEST(SharedChannels, SecondMomentsTradeErrorWhereInputsAreSmallForErrorWhereTheyAreLarge) {
  std::mt19937 random(6);
  const Matrix matrix = channel_cases::random_matrix(80, 60, random);
  std::vector<float> moments(60);
  for (float& moment : moments) moment = std::exp(static_cast<float>(random() % 1000) / 125 - 4); // over three decades
  moments[7] = 0;
  for (const ChannelAxis axis : {ChannelAxis::rows, ChannelAxis::columns}) {
    SharedChannelOptions options{.clusters = 8, .rank = 5, .format = {.axis = axis}};
    const SharedChannelMatrix plain = lsaq::share_channels(matrix.view(), options, Device());
    options.second_moments = moments;
    const SharedChannelMatrix weighted = lsaq::share_channels(matrix.view(), options, Device());
    EXPECT_LT(lsaq::relative_error(matrix.view(), weighted, moments), 0.9 * lsaq::relative_error(matrix.view(), plain, moments));
    EXPECT_GT(lsaq::relative_error(matrix.view(), weighted), lsaq::relative_error(matrix.view(), plain));
    const double expected = frobenius(matrix, restored(weighted), moments) / frobenius(matrix, Matrix(80, 60), moments);
    EXPECT_NEAR(lsaq::relative_error(matrix.view(), weighted, moments), expected, 1e-4 * expected);
  }
}

TEST(SharedChannels, MomentsThatAreAllTheSameChangeNothing) {
  std::mt19937 random(7);
  const Matrix matrix = channel_cases::random_matrix(40, 30, random);
  const std::vector<float> moments(30, 5.0f);
  for (const ChannelAxis axis : {ChannelAxis::rows, ChannelAxis::columns}) {
    SharedChannelOptions options{.clusters = 8, .rank = 5, .format = {.axis = axis}};
    const std::vector<std::byte> plain = bytes_of(lsaq::share_channels(matrix.view(), options, Device()));
    options.second_moments = moments;
    EXPECT_EQ(bytes_of(lsaq::share_channels(matrix.view(), options, Device())), plain);
  }
}

TEST(SharedChannels, TheFrontDoorIsItsRunTimeTwin) {
  std::mt19937 random(8);
  const Matrix matrix = channel_cases::random_matrix(40, 30, random);
  constexpr SharedChannelFormat format{.axis = ChannelAxis::columns, .representative_bits = 8};
  using Sharing = lsaq::SharedChannels<5, 3, format>;
  static_assert(Sharing::clusters == 5 && Sharing::rank == 3 && Sharing::format == format);
  static_assert(Sharing::bytes({40, 30}) == lsaq::shared_channel_bytes({40, 30}, 5, 3, format));
  const SharedChannelMatrix found = Sharing{}(matrix.view(), Device());
  EXPECT_EQ(bytes_of(found), bytes_of(lsaq::share_channels(matrix.view(), {.clusters = 5, .rank = 3, .format = format}, Device())));
  EXPECT_EQ(found.bytes(), Sharing::bytes({40, 30}));
  EXPECT_DOUBLE_EQ(Sharing::bits_per_weight({40, 30}), 8.0 * static_cast<double>(found.bytes()) / 1200);
  EXPECT_TRUE((lsaq::SharedChannels<40, 0>{}.try_share(matrix.view(), Device()).has_value()));
  EXPECT_EQ((lsaq::SharedChannels<41, 0>{}.try_share(matrix.view(), Device()).error().message),
            "can't share 41 representatives among the rows of a 40 x 30 matrix: 1 to 40 are possible");
}

TEST(SharedChannelChoices, ArePowersOfTwoAndTheirHalvesWithAllTheRankThatFits) {
  const lsaq::MatrixShape shape{100, 50};
  const lsaq::Bytes budget = 4000;
  const std::vector<SharedChannelChoice> choices = lsaq::shared_channel_choices(shape, budget);
  std::vector<std::size_t> clusters;
  for (const SharedChannelChoice& choice : choices) {
    clusters.push_back(choice.clusters);
    EXPECT_LE(lsaq::shared_channel_bytes(shape, choice.clusters, choice.rank), budget);
    EXPECT_GT(lsaq::shared_channel_bytes(shape, choice.clusters, choice.rank + 1), budget);
  }
  EXPECT_THAT(clusters, testing::ElementsAre(1, 2, 3, 4, 6, 8, 12, 16, 24, 32));
  EXPECT_THAT(lsaq::shared_channel_choices({5, 50}, 100000),
              testing::ElementsAre(SharedChannelChoice{1, 5}, SharedChannelChoice{2, 5}, SharedChannelChoice{3, 5}, SharedChannelChoice{4, 5}));
  EXPECT_TRUE(lsaq::shared_channel_choices(shape, 99).empty());
}

TEST(ShareChannelsWithin, KeepsTheBudgetAndIsNotWorseThanItsNeighbours) {
  std::mt19937 random(9);
  const Matrix matrix = channel_cases::random_matrix(96, 80, random);
  std::vector<float> moments(80);
  for (float& moment : moments) moment = 0.1f + static_cast<float>(random() % 100);
  for (const SharedChannelFormat& format :
       {SharedChannelFormat{}, SharedChannelFormat{.axis = ChannelAxis::columns, .representative_bits = 8, .factor_bits = 8}})
    for (const bool weighted : {false, true})
      for (const double budget : {0.8, 2.0, 4.5}) {
        SharedChannelOptions options{.format = format};
        if (weighted) options.second_moments = moments;
        const SharedChannelMatrix best = lsaq::share_channels_within(matrix.view(), budget, options, Device());
        EXPECT_LE(lsaq::shared_channel_bits(matrix.shape(), best.clusters(), best.rank(), format), budget);
        EXPECT_EQ(best.bytes(), lsaq::shared_channel_bytes(matrix.shape(), best.clusters(), best.rank(), format));
        const double error = lsaq::relative_error(matrix.view(), best, options.second_moments);
        for (const SharedChannelChoice& other : lsaq::shared_channel_choices(matrix.shape(), static_cast<lsaq::Bytes>(budget / 8 * 96 * 80), format)) {
          options.clusters = other.clusters;
          for (const std::size_t rank : {other.rank, other.rank / 2}) {
            options.rank = rank;
            EXPECT_LE(error, lsaq::relative_error(matrix.view(), lsaq::share_channels(matrix.view(), options, Device()), options.second_moments) * (1 + 1e-9))
                << "K = " << other.clusters << ", rank " << rank;
          }
        }
      }
}

TEST(SharedChannels, RefusalsSayValueAndLimit) {
  Matrix matrix(6, 4);
  matrix.at(0, 0) = 1;
  const auto with = [&](const SharedChannelOptions& options) { return refusal([&] { lsaq::share_channels(matrix.view(), options, Device()); }); };
  EXPECT_EQ(with({.clusters = 0}), "can't share 0 representatives among the rows of a 6 x 4 matrix: 1 to 6 are possible");
  EXPECT_EQ(with({.clusters = 7}), "can't share 7 representatives among the rows of a 6 x 4 matrix: 1 to 6 are possible");
  EXPECT_EQ(with({.clusters = 5, .format = {.axis = ChannelAxis::columns}}),
            "can't share 5 representatives among the columns of a 6 x 4 matrix: 1 to 4 are possible");
  EXPECT_EQ(with({.rank = 5}), "can't keep rank 5 of a 6 x 4 matrix: 0 to 4 are possible");
  EXPECT_EQ(with({.format = {.representative_bits = 9}}), "can't store representatives in 9 bits: 16 (F16) and 2 to 8 are possible");
  EXPECT_EQ(with({.format = {.factor_bits = 1}}), "can't store factors in 1 bits: 16 (F16) and 2 to 8 are possible");
  EXPECT_EQ(with({.iterations = 0}), "clustering needs at least 1 iteration, not 0");
  std::vector<float> moments = {1, 2, -3, 4};
  EXPECT_EQ(with({.second_moments = std::span(moments).first(3)}), "3 second moments were given for 4 input channels");
  EXPECT_EQ(with({.second_moments = moments}), "the second moment of input channel 2 is -3.000000: it must be finite and not negative");
  moments = {0, 0, 0, 0};
  EXPECT_EQ(with({.second_moments = moments}), "the second moments of all 4 input channels are zero");
  matrix.at(3, 2) = 70000;
  EXPECT_EQ(with({}), "row 3, column 2: the weight 70000.000000 is beyond 65504.000000, the largest that representatives can store");
  EXPECT_EQ(with({.format = {.representative_bits = 8}}), "accepted");
  matrix.at(3, 2) = std::numeric_limits<float>::infinity();
  EXPECT_EQ(with({}), "row 3, column 2: the weight is not finite (inf); repair the checkpoint or leave this matrix as it is");
  EXPECT_EQ(refusal([] { lsaq::share_channels(MatrixView(static_cast<const float*>(nullptr), 0, 4), {}, Device()); }),
            "a 0 x 4 matrix has no channels to share");
}

TEST(ShareChannelsWithin, RefusalsSayValueAndLimit) {
  const Matrix matrix(6, 40);
  const auto within = [&](double bits) { lsaq::share_channels_within(matrix.view(), bits, {}, Device()); };
  EXPECT_EQ(refusal<lsaq::Infeasible>([&] { within(2); }),
            "a 6 x 40 matrix of shared channels takes 80 bytes at least, the budget of 2.000000 bits per weight is 60");
  try {
    within(2);
  } catch (const lsaq::Infeasible& error) {
    EXPECT_EQ(error.missing, 20u);
  }
  EXPECT_THAT(refusal([&] { within(0); }), HasSubstr("it must be positive and at most 64"));
  EXPECT_THAT(refusal([&] { within(std::numeric_limits<double>::quiet_NaN()); }), HasSubstr("it must be positive and at most 64"));
  EXPECT_EQ(lsaq::relative_error(matrix.view(), lsaq::share_channels_within(matrix.view(), 8, {}, Device())), 0.0);
  EXPECT_EQ(refusal([&] {
              static_cast<void>(lsaq::relative_error({matrix.values.data(), 6, 39}, lsaq::share_channels(matrix.view(), {}, Device())));
            }),
            "a 6 x 39 matrix was given to compare with one of 6 x 40");
}

} // namespace shared_channels_test
