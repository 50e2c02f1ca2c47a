// Clipped, Gptq and the guard: against exhaustive searches, the textbook's GPTQ, and each other.
#include <lsaq/deployment/cpu.hpp>
#include <lsaq/quantization/rounding.hpp>

#include "core/refusal.hpp"

#include <lsaq/thread_pool.hpp>

#include <Eigen/LU>
#include <gmock/gmock.h>

#include <random>

namespace rounding_test {

using Device = lsaq::Backend<lsaq::Cpu, lsaq::Activation<lsaq::Float32>>;
using lsaq::CodeRange;
using lsaq::GptqFactor;
using lsaq::GptqOptions;
using lsaq::InputStatistics;
using lsaq::MatrixView;
using lsaq::PackedFormat;
using lsaq::PackedMatrix;
using lsaq::Rounding;
using test_support::refusal;
using Matrix = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

/// Inputs whose channels are correlated and of very different size, as activations are.
struct Case {
  std::size_t rows, columns;
  std::vector<float> weights = {}, inputs = {}, fresh = {};

  Case(std::size_t rows_, std::size_t columns_, unsigned seed) : rows(rows_), columns(columns_) {
    std::mt19937 random(seed);
    std::normal_distribution<float> normal;
    weights.resize(rows * columns);
    for (float& w : weights) w = normal(random) * 0.05f;
    for (std::size_t r = 0; r < rows; r += 3) weights[r * columns + r % columns] = 0.9f;
    std::vector<float> mixing(columns * columns), size(columns);
    for (float& m : mixing) m = normal(random) / std::sqrt(static_cast<float>(columns));
    for (std::size_t c = 0; c < columns; ++c) size[c] = std::exp(normal(random));
    for (std::vector<float>* x : {&inputs, &fresh}) {
      const std::size_t count = x == &inputs ? 4 * columns : columns;
      x->resize(count * columns);
      for (std::size_t t = 0; t < count; ++t) {
        std::vector<float> source(columns);
        for (float& value : source) value = normal(random);
        for (std::size_t c = 0; c < columns; ++c) {
          float mixed = 0;
          for (std::size_t k = 0; k < columns; ++k) mixed += mixing[c * columns + k] * source[k];
          (*x)[t * columns + c] = (mixed + 0.3f * source[c]) * size[c];
        }
      }
    }
  }

  MatrixView view() const { return {weights.data(), rows, columns}; }

  InputStatistics statistics(bool hold_back = true) const {
    InputStatistics found(columns);
    found.add(Device(), MatrixView(inputs.data(), inputs.size() / columns, columns));
    if (hold_back) found.hold_back(MatrixView(fresh.data(), fresh.size() / columns, columns));
    found.finish();
    return found;
  }

  Matrix difference(const PackedMatrix& packed) const {
    Matrix left(static_cast<Eigen::Index>(rows), static_cast<Eigen::Index>(columns));
    for (std::size_t r = 0; r < rows; ++r)
      for (std::size_t c = 0; c < columns; ++c)
        left.data()[r * columns + c] = double{weights[r * columns + c]} - code_at(packed.view(), r, c) * double{scale_at(packed.view(), r, c)};
    return left;
  }

  /// tr(E H E^T) with the moments of the inputs.
  double loss(const PackedMatrix& packed, const InputStatistics& found) const {
    const Matrix left = difference(packed);
    const Matrix moments = Eigen::Map<const Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>>(
                               static_cast<const float*>(found.moments().data), static_cast<Eigen::Index>(columns), static_cast<Eigen::Index>(columns))
                               .cast<double>();
    return (left * moments * left.transpose()).trace();
  }
};

std::vector<std::byte> bytes_of(const PackedMatrix& packed) { return {packed.view().data, packed.view().data + packed.bytes()}; }

TEST(Cholesky, IsThatOfEigenForAnySizeAndAnyThreads) {
  lsaq::ThreadPool pool(3);
  for (const Eigen::Index n : {1, 5, 128, 129, 300}) {
    const Matrix half = Matrix::Random(n, n);
    const Matrix a = half * half.transpose() + 0.1 * Matrix::Identity(n, n);
    Matrix serial = a, threads = a;
    ASSERT_TRUE(lsaq::cholesky(serial));
    ASSERT_TRUE(lsaq::cholesky(threads, pool));
    const Matrix lower = serial.triangularView<Eigen::Lower>();
    EXPECT_LT((lower * lower.transpose() - a).norm(), 1e-12 * a.norm());
    EXPECT_EQ(lower, Matrix(threads.triangularView<Eigen::Lower>()));
  }
  Matrix indefinite = -Matrix::Identity(200, 200);
  EXPECT_FALSE(lsaq::cholesky(indefinite));
}

TEST(Clipped, FindsTheBestScaleOfAnExhaustiveSearch) {
  std::mt19937 random(1);
  for (const unsigned bits : {2u, 3u, 4u, 6u, 8u})
    for (const CodeRange range : {CodeRange::symmetric, CodeRange::full})
      for (int round = 0; round < 5; ++round) {
        const PackedFormat format{.bits = bits, .scale = lsaq::ScaleType::f32, .range = range};
        std::vector<float> weights(200), importance(200);
        for (float& w : weights) w = std::normal_distribution<float>()(random);
        for (float& m : importance) m = std::exp(std::normal_distribution<float>()(random));
        const auto error = [&](float s) {
          double sum = 0;
          for (std::size_t i = 0; i < weights.size(); ++i) {
            const double code = std::clamp(std::nearbyint(double{weights[i]} / double{s}), double(format.lowest_code()), double(format.highest_code()));
            const double left = double{weights[i]} - double{s} * code;
            sum += double{importance[i]} * left * left;
          }
          return sum;
        };
        const float largest = *std::max_element(weights.begin(), weights.end(), [](float a, float b) { return std::fabs(a) < std::fabs(b); });
        double least = std::numeric_limits<double>::infinity();
        for (int i = 1; i <= 3000; ++i)
          least = std::min(least, error(std::fabs(largest) / static_cast<float>(format.highest_code()) * static_cast<float>(i) / 3000));
        for (const lsaq::Isa isa : {lsaq::Isa::scalar, lsaq::Isa::avx2, lsaq::Isa::avx512, lsaq::Isa::neon}) {
          if (!lsaq::cpu_runs(isa)) continue;
          const float found = lsaq::clipped_scale(lsaq::kernels_of(isa), weights.data(), importance.data(), weights.size(), format);
          EXPECT_LT(error(found), 1.03 * least) << bits << " bits, " << name_of(isa);
        }
      }
}

TEST(Clipped, TakesEdgeCasesAsNearestDoes) {
  const std::vector<float> zeros(40), ones(40, 1.0f);
  const PackedFormat format{.bits = 4};
  EXPECT_EQ(lsaq::clipped_scale(lsaq::select_kernels(), zeros.data(), ones.data(), 40, format), 0.0f);
  EXPECT_EQ(lsaq::clipped_scale(lsaq::select_kernels(), ones.data(), zeros.data(), 40, format), lsaq::stored_scale(1.0f, 4, lsaq::ScaleType::f16))
      << "nothing counts";
  const std::vector<float> huge(40, 1e6f);
  EXPECT_TRUE(std::isinf(lsaq::clipped_scale(lsaq::select_kernels(), huge.data(), ones.data(), 40, format)));
  EXPECT_THAT(refusal([&] { lsaq::quantize_clipped(MatrixView(ones.data(), 4, 10), std::vector<float>(9, 1.0f), format); }), testing::HasSubstr("9 inputs"));
  EXPECT_THAT(refusal([&] { lsaq::quantize_clipped(MatrixView(huge.data(), 4, 10), std::vector<float>(10, 1.0f), format); }), testing::HasSubstr("row 0"));
}

TEST(Clipped, CodesAreTheNearestOnesOfItsScales) {
  const Case c(37, 96, 2);
  lsaq::ThreadPool pool(3);
  const std::vector<float> importance = c.statistics().mean_squares();
  for (const std::uint32_t group : {0u, 32u, 64u})
    for (const unsigned bits : {3u, 4u, 8u}) {
      const PackedFormat format{.bits = bits, .grouping = {.columns = group}, .range = CodeRange::full};
      const PackedMatrix packed = lsaq::quantize_clipped(c.view(), importance, format);
      EXPECT_EQ(bytes_of(packed), bytes_of(lsaq::quantize_clipped(c.view(), importance, format, pool)));
      const PackedMatrix nearest = lsaq::quantize(c.view(), format);
      for (std::size_t r = 0; r < c.rows; ++r)
        for (std::size_t col = 0; col < c.columns; ++col) {
          const float s = scale_at(packed.view(), r, col);
          ASSERT_LE(s, scale_at(nearest.view(), r, col));
          const auto code = static_cast<int>(std::nearbyint(c.weights[r * c.columns + col] / s));
          ASSERT_EQ(code_at(packed.view(), r, col), std::clamp(code, format.lowest_code(), format.highest_code()));
        }
    }
}

/// GPTQ as its paper writes it: column by column with the inverse Hessian's Cholesky factor, in the given order, with given scales.
std::vector<int> textbook_gptq(const Case& c, const GptqFactor& factor, const std::vector<float>& scales, const PackedFormat& format) {
  const auto n = static_cast<Eigen::Index>(c.columns);
  const auto* moments = static_cast<const float*>(factor.inputs().moments().data);
  Matrix h(n, n);
  for (Eigen::Index i = 0; i < n; ++i)
    for (Eigen::Index j = 0; j < n; ++j) {
      const std::size_t a = factor.order()[static_cast<std::size_t>(i)], b = factor.order()[static_cast<std::size_t>(j)];
      h(i, j) = double{moments[a * c.columns + b]} + (a == b ? double{factor.damping()[a]} : 0);
    }
  const Matrix upper = Eigen::LLT<Matrix>(h.inverse()).matrixU();
  std::vector<int> codes(c.rows * c.columns);
  for (std::size_t r = 0; r < c.rows; ++r) {
    std::vector<double> w(c.columns);
    for (std::size_t j = 0; j < c.columns; ++j) w[j] = double{c.weights[r * c.columns + factor.order()[j]]};
    for (std::size_t j = 0; j < c.columns; ++j) {
      const double s = double{scales[r]};
      const double code = std::clamp(std::nearbyint(w[j] / s), double(format.lowest_code()), double(format.highest_code()));
      codes[r * c.columns + factor.order()[j]] = static_cast<int>(code);
      const auto row = static_cast<Eigen::Index>(j);
      const double error = (w[j] - s * code) / upper(row, row);
      for (std::size_t k = j; k < c.columns; ++k) w[k] -= error * upper(row, static_cast<Eigen::Index>(k));
    }
  }
  return codes;
}

TEST(Gptq, RoundsAsThePaperSays) {
  for (const std::size_t columns : {20u, 150u, 300u}) { // one block of columns, and several
    const Case c(25, columns, 3);
    const InputStatistics inputs = c.statistics();
    const GptqFactor factor(inputs, {.damping = 0.05, .refinements = 0});
    const PackedFormat format{.bits = 4, .range = CodeRange::full};
    const PackedMatrix packed = lsaq::quantize_gptq(Device(), c.view(), factor, format);
    std::vector<float> scales;
    for (std::size_t r = 0; r < c.rows; ++r) scales.push_back(scale_at(packed.view(), r));
    const std::vector<int> wanted = textbook_gptq(c, factor, scales, format);
    std::size_t differing = 0;
    for (std::size_t i = 0; i < wanted.size(); ++i) differing += wanted[i] != code_at(packed.view(), i / columns, i % columns);
    EXPECT_LT(differing, wanted.size() / 200) << "a tie in FP32 sends a row another way from there on";
  }
}

TEST(Gptq, OrderIsThatOfTheMeanSquares) {
  const Case c(4, 50, 4);
  const InputStatistics inputs = c.statistics();
  const GptqFactor factor(inputs);
  const std::vector<float> squares = inputs.mean_squares();
  for (std::size_t j = 1; j < 50; ++j) EXPECT_GE(squares[factor.order()[j - 1]], squares[factor.order()[j]]);
}

TEST(Gptq, BeatsClippedAndRefinementsLowerTheLoss) {
  for (const std::uint32_t group : {0u, 32u, 96u, 192u})
    for (const unsigned bits : {2u, 3u, 4u, 8u}) {
      const Case c(40, 250, 5);
      const InputStatistics inputs = c.statistics();
      const PackedFormat format{.bits = bits, .grouping = {.columns = group}, .range = CodeRange::full};
      std::vector<double> losses = {c.loss(lsaq::quantize_clipped(c.view(), inputs.mean_squares(), format), inputs)};
      for (const unsigned refinements : {0u, 1u, 3u}) {
        const GptqFactor factor(inputs, {.refinements = refinements});
        losses.push_back(c.loss(lsaq::quantize_gptq(Device(), c.view(), factor, format), inputs));
      }
      EXPECT_LT(losses[1], losses[0]);
      EXPECT_LT(losses[2], losses[1]) << bits << " bits, groups of " << group;
      EXPECT_LT(losses[3], losses[2] * 1.0001);
    }
}

TEST(Gptq, DoesNotDependOnThreads) {
  const Case c(600, 130, 6); // more than a block of rows
  const InputStatistics inputs = c.statistics();
  lsaq::ThreadPool pool(4);
  for (const lsaq::Grouping grouping : {lsaq::PerChannel::grouping, lsaq::PerTensor::grouping, lsaq::PerGroup<32>::grouping}) {
    const PackedFormat format{.bits = 3, .grouping = grouping};
    const PackedMatrix serial = lsaq::quantize_gptq(Device(), c.view(), GptqFactor(inputs), format);
    const PackedMatrix threads = lsaq::quantize_gptq(Device(pool), c.view(), GptqFactor(inputs, {}, pool), format);
    EXPECT_EQ(bytes_of(serial), bytes_of(threads));
    for (std::size_t r = 0; r < c.rows; ++r)
      for (std::size_t col = 0; col < c.columns; ++col) ASSERT_LE(std::abs(code_at(serial.view(), r, col)), 3) << "symmetric codes";
  }
}

TEST(Gptq, TakesInputsThatAreZeroOrDependent) {
  Case c(12, 64, 7);
  for (std::size_t t = 0; t < c.inputs.size() / 64; ++t) {
    c.inputs[t * 64 + 5] = 0;                    // a dead channel
    c.inputs[t * 64 + 9] = c.inputs[t * 64 + 8]; // the same twice
    c.inputs[t * 64 + 20] = 3e4f * (t == 0);     // one massive activation
    c.inputs[t * 64 + 21] = -2e4f * (t == 0);    // and another in proportion
  }
  const InputStatistics inputs = c.statistics();
  const PackedFormat format{.bits = 4};
  const PackedMatrix packed = lsaq::quantize_gptq(Device(), c.view(), GptqFactor(inputs), format);
  EXPECT_LT(c.loss(packed, inputs), c.loss(lsaq::quantize(c.view(), format), inputs));

  InputStatistics nothing(64);
  nothing.finish();
  const PackedMatrix blind = lsaq::quantize_gptq(Device(), c.view(), GptqFactor(nothing), format);
  for (std::size_t i = 0; i < c.weights.size(); ++i) {
    const float s = scale_at(blind.view(), i / 64);
    ASSERT_LT(std::fabs(c.weights[i] - s * static_cast<float>(code_at(blind.view(), i / 64, i % 64))), 0.9f) << "weights are rounded all the same";
  }
}

TEST(Gptq, RefusesWhatDoesNotFit) {
  Case c(4, 10, 8);
  const InputStatistics inputs = c.statistics();
  const GptqFactor factor(inputs);
  EXPECT_THAT(refusal([&] { lsaq::quantize_gptq(Device(), MatrixView(c.weights.data(), 5, 8), factor, {.bits = 4}); }), testing::HasSubstr("8 columns"));
  c.weights[13] = std::nanf("");
  EXPECT_THAT(refusal([&] { lsaq::quantize_gptq(Device(), c.view(), factor, {.bits = 4}); }), testing::HasSubstr("row 1, column 3"));
  c.inputs[3] = std::numeric_limits<float>::infinity();
  const InputStatistics infinite = c.statistics();
  EXPECT_THAT(refusal([&] { GptqFactor{infinite}; }), testing::HasSubstr("not finite"));
}

TEST(RoundGuarded, KeepsTheBestOnHeldBackInputs) {
  const Case c(48, 128, 9);
  const InputStatistics inputs = c.statistics();
  const GptqFactor factor(inputs);
  const PackedFormat format{.bits = 3};
  const lsaq::RoundedMatrix best = lsaq::round_guarded(Device(), c.view(), inputs, &factor, Rounding::gptq, format);
  EXPECT_EQ(best.rounding, Rounding::gptq);
  EXPECT_LT(best.errors[2], best.errors[1]);
  EXPECT_LT(best.errors[1], best.errors[0]);
  EXPECT_GT(best.relative_error(), 0);
  EXPECT_LT(best.relative_error(), 1);
  const Matrix left = c.difference(best.packed);
  double wanted = 0;
  for (std::size_t t = 0; t < c.fresh.size() / c.columns; ++t) {
    const Eigen::Map<const Eigen::VectorXf> x(c.fresh.data() + t * c.columns, static_cast<Eigen::Index>(c.columns));
    wanted += (left * x.cast<double>()).squaredNorm();
  }
  EXPECT_NEAR(best.errors[2], wanted / static_cast<double>(c.fresh.size() / c.columns), 1e-4 * best.errors[2]);

  const lsaq::RoundedMatrix clipped = lsaq::round_guarded(Device(), c.view(), inputs, nullptr, Rounding::clip, format);
  EXPECT_EQ(clipped.rounding, Rounding::clip);
  EXPECT_EQ(bytes_of(clipped.packed), bytes_of(lsaq::quantize_clipped(c.view(), inputs.mean_squares(), format)));
  EXPECT_EQ(clipped.errors[2], 0);
  const lsaq::RoundedMatrix nearest = lsaq::round_guarded(Device(), c.view(), inputs, nullptr, Rounding::nearest, format);
  EXPECT_EQ(bytes_of(nearest.packed), bytes_of(lsaq::quantize(c.view(), format)));
}

/// Calibration on inputs that say nothing of the real ones: the guard sees it.
TEST(RoundGuarded, NeverLosesToNearest) {
  Case c(32, 64, 10);
  std::mt19937 random(11);
  for (std::size_t i = 0; i < c.inputs.size(); ++i) c.inputs[i] = i % 64 < 3 ? std::normal_distribution<float>(0, 100)(random) : 0.0f;
  for (std::size_t i = 0; i < c.fresh.size(); ++i) c.fresh[i] = i % 64 < 3 ? 0.0f : 1.0f - 2.0f * static_cast<float>(random() % 2);
  const InputStatistics inputs = c.statistics();
  const GptqFactor factor(inputs);
  const lsaq::RoundedMatrix best = lsaq::round_guarded(Device(), c.view(), inputs, &factor, Rounding::gptq, {.bits = 4});
  EXPECT_EQ(best.rounding, Rounding::nearest);
  EXPECT_LT(best.errors[0], best.errors[2]);
  const lsaq::RoundedMatrix trusting = lsaq::round_guarded(Device(), c.view(), c.statistics(false), &factor, Rounding::gptq, {.bits = 4});
  EXPECT_EQ(trusting.rounding, Rounding::gptq) << "nothing to judge by";
}

} // namespace rounding_test
