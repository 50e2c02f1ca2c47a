// The library's CUDA side as nvcc compiled it, Thrust included: results against the CPU's. On the stand-in and, where there is one, on a device.
#include "cuda_device/device_environment.hpp"
#include "cuda_device/path_cases.hpp"

#include "core/refusal.hpp"

#include <lsaq/deployment/cpu.hpp>
#include <lsaq/importance/cosine.hpp>
#include <lsaq/quantization/shared_channels.hpp>

#include <gtest/gtest.h>

namespace results_test {

using namespace path_cases;

/// Runs where there is a device, or something that stands in for one; the environment looks at what is left of it.
class CudaResults : public testing::Test {
protected:
  void SetUp() override {
    if (const std::string reason = device_environment::begin(); !reason.empty()) GTEST_SKIP() << reason;
  }
  void TearDown() override { EXPECT_EQ(device_environment::end(), ""); }
};

template <class T> void compare_quantization(std::size_t rows, std::size_t columns) {
  const std::vector<T> weights = random_values<T>(rows * columns, static_cast<unsigned>(rows + columns));
  const MatrixView view(weights.data(), rows, columns);
  for (const unsigned bits : {4u, 8u})
    for (const ScaleType scale : {ScaleType::f16, ScaleType::bf16, ScaleType::f32})
      EXPECT_TRUE(equal_bytes(device_calls::quantize(view, bits, scale), lsaq::quantize<PerChannel>(view, bits, scale)))
          << rows << " x " << columns << ", " << bits << " bits";
}

TEST_F(CudaResults, CodesAndScalesAreTheCpusBytes) {
  for (const auto& [rows, columns] : {std::pair<std::size_t, std::size_t>{1, 1}, {3, 33}, {2, 64}, {5, 1030}}) {
    compare_quantization<float>(rows, columns);
    compare_quantization<f16>(rows, columns);
    compare_quantization<bf16>(rows, columns);
  }
}

/// The scales of zero rows, of subnormal FP16 scales, and the largest code's clamp.
TEST_F(CudaResults, EdgesOfQuantization) {
  std::vector<float> weights = random_values<float>(6 * 40, 4);
  for (std::size_t i = 0; i < 40; ++i) {
    weights[i] = -0.0f;
    weights[40 + i] *= 1e-5f;
    weights[80 + i] = 9.6e-6f * (i % 2 == 0 ? 1.0f : -0.5f);
    weights[120 + i] *= 1e-42f;
    weights[160 + i] = 0.125f;
  }
  for (const unsigned bits : {4u, 8u})
    EXPECT_TRUE(equal_bytes(device_calls::quantize({weights.data(), 6, 40}, bits, ScaleType::f16), lsaq::quantize<PerChannel>({weights.data(), 6, 40}, bits)));
}

TEST_F(CudaResults, RefusalsAreTheCpus) {
  std::vector<float> weights = random_values<float>(5 * 40, 5);
  weights[3 * 40 + 7] = std::numeric_limits<float>::infinity();
  EXPECT_EQ(device_calls::try_quantize({weights.data(), 5, 40}, 8, ScaleType::f16).error, test_support::refusal([&] {
              lsaq::quantize<PerChannel>({weights.data(), 5, 40}, 8);
            }));
  weights[3 * 40 + 7] = -1e9f;
  EXPECT_EQ(device_calls::try_quantize({weights.data(), 5, 40}, 4, ScaleType::f16).error, test_support::refusal([&] {
              lsaq::quantize<PerChannel>({weights.data(), 5, 40}, 4);
            }));
  EXPECT_EQ(device_calls::try_quantize({weights.data(), 5, 40}, 5, ScaleType::f16).error, "CUDA quantizes to 4 or 8 bits, not to 5");
}

/// The largest error of y = x W^T in units of what RowProducts allows, with the rounding of x's type.
double worst_product(const std::vector<float>& y, MatrixView weights, MatrixView x, double columns_of_unit) {
  const double unit = x.type == ElementType::f32 ? 0x1p-24 : x.type == ElementType::f16 ? 0x1p-11 : 0x1p-8;
  const double terms = std::ceil(static_cast<double>(weights.columns) / 32 / columns_of_unit) * columns_of_unit + 8;
  double worst = 0;
  for (std::size_t t = 0; t < x.rows; ++t)
    for (std::size_t r = 0; r < weights.rows; ++r) {
      double exact = 0, magnitude = 0;
      for (std::size_t c = 0; c < weights.columns; ++c) {
        const double product = double{load_element(weights.row(r), weights.type, c)} * load_element(x.row(t), x.type, c);
        exact += product;
        magnitude += std::fabs(product);
      }
      const double error = std::fabs(y[t * weights.rows + r] - exact) / (terms * 0x1p-24 * magnitude + unit * std::fabs(exact) + 0x1p-25);
      worst = error <= worst ? worst : std::isnan(error) ? 1e300 : error;
    }
  return worst;
}

template <class X> void compare_products(std::size_t rows, std::size_t columns, std::size_t tokens) {
  const std::vector<float> weights = random_values<float>(rows * columns, 8);
  const std::vector<X> x = random_values<X>(tokens * columns, 9);
  for (const unsigned bits : {4u, 8u})
    for (const Grouping grouping : {Grouping{}, Grouping{.columns = 32}, PerTensor::grouping}) {
      const PackedMatrix packed = lsaq::quantize({weights.data(), rows, columns}, {.bits = bits, .grouping = grouping});
      std::vector<float> values(rows * columns);
      dequantize(packed.view(), {values.data(), rows, columns});
      const MatrixView in(x.data(), tokens, columns);
      EXPECT_LE(worst_product(device_calls::multiply(packed.view(), in), {values.data(), rows, columns}, in, 128.0 / bits), 1)
          << rows << " x " << columns << ", " << bits << " bits, " << grouping.name() << ", " << tokens << " tokens";
    }
}

TEST_F(CudaResults, ProductsOfCodes) {
  compare_products<float>(5, 7, 1);
  compare_products<float>(35, 100, 5);
  compare_products<float>(9, 1056, 1);
  compare_products<f16>(33, 64, 3);
  compare_products<bf16>(4, 160, 1);
}

TEST_F(CudaResults, ProductsOfFloats) {
  const std::vector<f16> halves = random_values<f16>(33 * 70, 1);
  const std::vector<bf16> brains = random_values<bf16>(33 * 64, 2);
  const std::vector<float> floats = random_values<float>(33 * 64, 3), x = random_values<float>(5 * 70, 4);
  for (const MatrixView weights : {MatrixView(halves.data(), 33, 70), MatrixView(brains.data(), 33, 64), MatrixView(floats.data(), 33, 64)})
    for (const std::size_t tokens : {1, 5}) {
      const MatrixView in(x.data(), tokens, weights.columns);
      EXPECT_LE(worst_product(device_calls::multiply(weights, in), weights, in, 8), 1);
    }
  const MatrixView same(halves.data(), 2, 70); // activations of the weights' type
  EXPECT_LE(worst_product(device_calls::multiply(MatrixView(halves.data(), 33, 70), same), {halves.data(), 33, 70}, same, 8), 1);
}

/// A grid of 2^56 blocks is refused, not cut off.
TEST_F(CudaResults, MoreBlocksThanAGridHas) {
  EXPECT_EQ(device_calls::multiply_shape(0x7fffffff, 0x7fffffff), (std::pair{Status::device_error, 9})); // cudaErrorInvalidConfiguration
  EXPECT_EQ(device_calls::multiply_shape(std::size_t{1} << 31, 1), (std::pair{Status::unsupported, 0}));
}

TEST_F(CudaResults, SharedChannels) {
  const Backend<Cpu, Activation<Float32>> host;
  const std::vector<float> weights = random_values<float>(40 * 48, 5), x = random_values<float>(3 * 48, 6);
  std::vector<f16> halves;
  for (const float value : x) halves.push_back(to_f16(value));
  for (const ChannelAxis axis : {ChannelAxis::rows, ChannelAxis::columns})
    for (const unsigned bits : {16u, 8u})
      for (const std::size_t rank : {std::size_t{0}, std::size_t{4}}) {
        SharedChannelOptions options{.clusters = 12, .rank = rank};
        options.format = {.axis = axis, .representative_bits = bits};
        const SharedChannelMatrix matrix = share_channels({weights.data(), 40, 48}, options, host);
        std::vector<float> y(3 * 40);
        std::vector<std::byte> workspace(workspace_bytes(host, matrix, 3));
        ASSERT_EQ(matmul(host, matrix, {x.data(), 3, 48}, {y.data(), 3, 40}, workspace), Status::ok);
        const std::vector<float> found = device_calls::multiply(matrix, {x.data(), 3, 48}), half = device_calls::multiply(matrix, {halves.data(), 3, 48});
        for (std::size_t i = 0; i < y.size(); ++i) {
          EXPECT_NEAR(found[i], y[i], 1e-5) << name_of(axis) << " " << bits << " " << rank;
          EXPECT_NEAR(half[i], y[i], 0.02 + 0x1p-9 * std::fabs(y[i])) << name_of(axis) << " " << bits << " " << rank; // x and y are rounded
        }
      }
}

TEST_F(CudaResults, TokenSetsAreTheCpus) {
  const device_calls::ToyModel model;
  const MatrixView embedding(model.embedding.data(), model.vocabulary, model.hidden), states(model.embedding.data(), 9, model.hidden);
  for (const std::size_t k : {std::size_t{1}, std::size_t{50}, std::size_t{200}}) {
    const std::vector<ScoredToken> found = device_calls::top_tokens(states, embedding, k);
    std::vector<ScoredToken> expected(9 * k);
    top_tokens(states, embedding, k, expected, select_kernels());
    for (std::size_t i = 0; i < expected.size(); ++i) {
      EXPECT_EQ(found[i].id, expected[i].id);
      EXPECT_EQ(found[i].value, expected[i].value);
    }
  }
  EXPECT_EQ(device_calls::try_top_tokens(states, embedding, 201).error, "top_k is 201; it must be 1 to 200, the size of the vocabulary");
  std::vector<float> bad(model.embedding.begin(), model.embedding.begin() + 3 * 64);
  bad[2 * 64] = std::numeric_limits<float>::quiet_NaN();
  EXPECT_NE(device_calls::try_top_tokens({bad.data(), 3, 64}, embedding, 5).error.find("hidden state 2 is not finite"), std::string::npos);
}

TEST_F(CudaResults, DistancesOnTheDevice) {
  const device_calls::ToyModel model;
  const MatrixView embedding(model.embedding.data(), model.vocabulary, model.hidden), states(model.embedding.data(), 6, model.hidden);
  std::vector<f16> halves; // the same numbers: quarters
  for (std::size_t i = 0; i < 6 * model.hidden; ++i) halves.push_back(to_f16(model.embedding[i]));
  std::vector<ScoredToken> tokens(6 * 30);
  top_tokens(states, embedding, 30, tokens, select_kernels());
  for (const MatrixView given : {states, MatrixView(halves.data(), 6, model.hidden)}) {
    const device_calls::Distances found = device_calls::distances(given, embedding, 30);
    for (std::size_t b = 0; b < 5; ++b) {
      EXPECT_EQ(found.tokens[b], 1 - jaccard(std::span(tokens).subspan(b * 30, 30), std::span(tokens).subspan((b + 1) * 30, 30)));
      EXPECT_NEAR(found.directions[b], Cosine::score({}, states.slice(b, 1), states.slice(b + 1, 1)), 1e-13);
    }
  }
}

/// Hidden states -> importance -> plan -> quantize -> product.
TEST_F(CudaResults, TheWholePathGivesThePlanOfTheCpu) {
  const device_calls::Deployed found = device_calls::deploy();
  const device_calls::ToyModel model;
  constexpr std::size_t hidden = device_calls::ToyModel::hidden;
  const Backend<Cpu, Activation<Float32>> host;
  device_calls::Deployed expected =
      plan_for(model, {model.embedding.data(), model.vocabulary, hidden}, host, [&](std::size_t l, const std::vector<float>& x, std::vector<float>& y) {
        ASSERT_EQ(host.matmul(MatrixView(model.weights[l].data(), hidden, hidden), {x.data(), 1, hidden}, {y.data(), 1, hidden}), Status::ok);
      });
  std::vector<PackedMatrix> packed;
  for (std::size_t l = 0; l < model.layers; ++l) packed.push_back(lsaq::quantize<PerChannel>({model.weights[l].data(), hidden, hidden}, expected.bits[l]));
  expected.output = model.run(99, [&](std::size_t l, const auto& x, auto& y) { ASSERT_EQ(host.matvec(packed[l], x, y), Status::ok); }).back();
  EXPECT_EQ(found.scores, expected.scores);
  EXPECT_EQ(found.bits, expected.bits);
  EXPECT_TRUE(std::count(found.bits.begin(), found.bits.end(), 4u) != 0 && std::count(found.bits.begin(), found.bits.end(), 8u) != 0);
  ASSERT_EQ(found.output.size(), expected.output.size());
  for (std::size_t i = 0; i < hidden; ++i) EXPECT_NEAR(found.output[i], expected.output[i], 1e-4);
}

TEST_F(CudaResults, NothingIsAllocatedInSteadyState) {
  const device_calls::ToyModel model;
  EXPECT_EQ(device_calls::allocations_in_steady_state({model.embedding.data(), 4, 64}, {model.embedding.data(), 200, 64}, 20), 0u);
}

} // namespace results_test
