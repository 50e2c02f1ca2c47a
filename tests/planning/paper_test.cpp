// Golden values: Table IV and Fig. 4 of the LSAQ paper. A change here is a decision.
#include <lsaq/planning/planner.hpp>

#include "shapes.hpp"

#include <gmock/gmock.h>

#include <cmath>
#include <set>

namespace paper_test {

using lsaq::Bytes;
using lsaq::Importance;
using lsaq::MemoryBudget;
using lsaq::ModelShape;
using lsaq::Plan;
using Planner = lsaq::Planner<lsaq::Budget>;
using namespace lsaq::literals;

/// 32 scores, all different, in no order.
Importance shuffled_importance() {
  Importance importance{.metric = "jaccard"};
  for (int l = 0; l < 32; ++l) importance.scores.push_back((l * 11 + 5) % 32 / 32.0);
  return importance;
}

struct Row {
  Bytes gib;
  std::size_t fp16, int8, int4;
  double average;
};

void PrintTo(const Row& row, std::ostream* out) { *out << row.gib << "G"; }

class TableIV : public testing::TestWithParam<Row> {
protected:
  static void expect_row(const Plan& plan, const Row& row) {
    EXPECT_EQ(plan.layers_at(16), row.fp16);
    EXPECT_EQ(plan.layers_at(8), row.int8);
    EXPECT_EQ(plan.layers_at(4), row.int4);
    EXPECT_DOUBLE_EQ(plan.average_bits, row.average);
    EXPECT_LE(plan.bytes.total, row.gib * 1_GiB);
  }
};

TEST_P(TableIV, Llama2With7BillionWeights) {
  const Row row = GetParam();
  const Importance importance = shuffled_importance();
  const Plan plan = Planner({.memory = row.gib * 1_GiB})(importance, shapes::llama_2_7b());
  expect_row(plan, row);
  const std::vector<std::size_t> order = importance.order();
  std::set<std::size_t> least(order.begin(), order.begin() + static_cast<std::ptrdiff_t>(row.int4)), lowered;
  for (std::size_t l = 0; l < 32; ++l)
    if (plan.bits[l] == 4) lowered.insert(l);
  EXPECT_EQ(lowered, least) << "the least important layers";
}

TEST_P(TableIV, DoesNotHangOnTheExactReserve) {
  for (const double gib : {0.335, 0.36, 0.377, 0.39})
    expect_row(Planner({.memory = GetParam().gib * 1_GiB, .reserve = static_cast<Bytes>(gib * 0x1p30)})(shuffled_importance(), shapes::llama_2_7b()),
               GetParam());
}

INSTANTIATE_TEST_SUITE_P(Paper, TableIV,
                         testing::Values(Row{16, 32, 0, 0, 16}, Row{12, 0, 32, 0, 8}, Row{8, 0, 32, 0, 8}, Row{6, 0, 22, 10, 6.75}, Row{4, 0, 1, 31, 4.125}),
                         [](const auto& row) { return std::to_string(row.param.gib) + "GiB"; });

TEST(TableIVBytes, OfLlama2With7BillionWeights) {
  const ModelShape shape = shapes::llama_2_7b();
  const Bytes weights = 4 * 4096 * 4096 + 3 * 4096 * 11008; // of a layer
  const Bytes scales = 2 * (5 * 4096 + 2 * 11008), norms = 2 * 2 * 4096;
  EXPECT_EQ(weights, 202375168u);
  EXPECT_EQ(shape.layers[0].weights(), weights);
  EXPECT_EQ(lsaq::layer_bytes(shape.layers[0], 16), 2 * weights + norms);
  EXPECT_EQ(lsaq::layer_bytes(shape.layers[0], 8), weights + scales + norms);
  EXPECT_EQ(lsaq::layer_bytes(shape.layers[0], 4), weights / 2 + scales + norms);
  EXPECT_EQ(lsaq::model_bytes(shape, 16), Bytes{2} * 6738415616) << "6.74 billion weights, as published";
  EXPECT_NEAR(static_cast<double>(lsaq::default_reserve(shape)) / 0x1p30, 0.377, 0.001);

  const Plan plan = Planner({.memory = 6_GiB})(shuffled_importance(), shape);
  EXPECT_EQ(plan.bytes.weights, 22 * (weights + scales + norms) + 10 * (weights / 2 + scales + norms) + 2 * 4096);
  EXPECT_EQ(plan.bytes.embedding, Bytes{2} * 2 * 32000 * 4096);
  EXPECT_EQ(plan.bytes.memory, 6_GiB);
}

struct Bar {
  const char* name;
  ModelShape shape;
  double fp16_gib, int4_gib;           // the memory model, to two places
  double paper_fp16_gb, paper_int4_gb; // what the paper reports
};

void PrintTo(const Bar& bar, std::ostream* out) { *out << bar.name; }

class Figure4 : public testing::TestWithParam<Bar> {};

TEST_P(Figure4, MemoryToLoadTheWeights) {
  const auto hundredths = [](Bytes bytes) { return std::round(static_cast<double>(bytes) / 0x1p30 * 100) / 100; };
  const Bar& bar = GetParam();
  EXPECT_DOUBLE_EQ(hundredths(lsaq::model_bytes(bar.shape, 16)), bar.fp16_gib);
  EXPECT_DOUBLE_EQ(hundredths(lsaq::model_bytes(bar.shape, 4)), bar.int4_gib);
  EXPECT_NEAR(bar.fp16_gib / bar.paper_fp16_gb, 1, 0.025);
  EXPECT_NEAR(bar.int4_gib / bar.paper_int4_gb, 1, 0.045);
}

INSTANTIATE_TEST_SUITE_P(Paper, Figure4,
                         testing::Values(Bar{"Llama2_7B", shapes::llama_2_7b(), 12.55, 3.51, 12.82, 3.56},
                                         Bar{"Llama2_13B", shapes::llama_2_13b(), 24.24, 6.52, 24.36, 6.79},
                                         Bar{"Llama3_8B", shapes::llama_3_8b(), 14.96, 5.21, 15.14, 5.18}),
                         [](const auto& bar) { return std::string(bar.param.name); });

} // namespace paper_test
