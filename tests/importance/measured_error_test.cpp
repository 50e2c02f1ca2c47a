// Measured error: the numbers of the caller's function, layer by layer, become windows.
#include <lsaq/importance/measured_error.hpp>

#include <lsaq/importance/metric.hpp>

#include <formats/make_files.hpp>

namespace measured_error_test {

using lsaq::Importance;
using lsaq::ImportanceMetric;
using lsaq::InvalidArgument;
using lsaq::MeasuredError;
using make_files::expect_mentions;
using make_files::message_of;
using testing::DoubleNear;
using testing::ElementsAre;

TEST(MeasuredErrorPolicy, AsksForEveryLayerInTurn) {
  std::vector<std::size_t> asked;
  ImportanceMetric<MeasuredError> metric(4, {.damage = [&](std::size_t layer) {
                                           asked.push_back(layer);
                                           return std::vector<double>{0.5};
                                         }});
  EXPECT_TRUE(asked.empty()) << "not before it is told to";
  metric.measure();
  EXPECT_THAT(asked, ElementsAre(0, 1, 2, 3));
}

TEST(MeasuredErrorPolicy, AveragesOverWindows) {
  const std::vector<std::vector<double>> damage{{0.5, 0.25, 0.75}, {-1, 0, 4}}; // layer by layer; rounding may also help
  ImportanceMetric<MeasuredError> metric(2, {.damage = [&](std::size_t layer) { return damage[layer]; }});
  metric.measure();
  const Importance found = metric.importance();
  EXPECT_EQ(found.metric, "error");
  EXPECT_EQ(found.windows, 3u);
  EXPECT_THAT(found.scores, ElementsAre(0.5, 1.0));
  EXPECT_THAT(found.window_scores, ElementsAre(0.5, -1.0, 0.25, 0.0, 0.75, 4.0));                                          // windows x layers
  EXPECT_THAT(found.spread, ElementsAre(DoubleNear(0.25 / std::sqrt(3.0), 1e-15), DoubleNear(std::sqrt(7.0 / 3), 1e-15))); // deviations 0.25, sqrt(7)
}

TEST(MeasuredErrorPolicy, FurtherMeasurementsAndDetectorsAddWindows) {
  std::size_t round = 0;
  const MeasuredError::Options options{.damage = [&](std::size_t layer) { return std::vector<double>(round, static_cast<double>(10 * round + layer)); }};
  ImportanceMetric<MeasuredError> metric(2, options), other(2, options);
  round = 2;
  metric.measure();
  round = 1;
  metric.measure();
  round = 3;
  other.measure();
  metric.merge(other);
  EXPECT_EQ(metric.importance().windows, 6u);
  EXPECT_THAT(metric.importance().window_scores, ElementsAre(20, 21, 20, 21, 10, 11, 30, 31, 30, 31, 30, 31));
}

TEST(MeasuredErrorRefusals, NoFunction) {
  ImportanceMetric<MeasuredError> metric(2);
  expect_mentions(message_of<InvalidArgument>([&] { metric.measure(); }), {"MeasuredError needs Options::damage"});
}

TEST(MeasuredErrorRefusals, OtherNumbersOfWindows) {
  for (const std::size_t of_layer_1 : {0u, 1u, 3u}) {
    ImportanceMetric<MeasuredError> metric(3, {.damage = [&](std::size_t layer) { return std::vector<double>(layer == 1 ? of_layer_1 : 2, 0.5); }});
    expect_mentions(message_of<InvalidArgument>([&] { metric.measure(); }),
                    {"layer 1 was measured in " + std::to_string(of_layer_1) + " windows, layer 0 in 2"});
    EXPECT_THROW(metric.importance(), InvalidArgument) << "no window was counted";
  }
}

TEST(MeasuredErrorRefusals, NoWindowsAtAll) {
  ImportanceMetric<MeasuredError> metric(2, {.damage = [](std::size_t) { return std::vector<double>(); }});
  metric.measure();
  expect_mentions(message_of<InvalidArgument>([&] { metric.importance(); }), {"no window was observed"});
}

TEST(MeasuredErrorRefusals, DamageThatIsNotFinite) {
  for (const double bad : {std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity()}) {
    ImportanceMetric<MeasuredError> metric(3, {.damage = [&](std::size_t layer) { return std::vector<double>{0.5, layer == 1 ? bad : 1}; }});
    expect_mentions(message_of<InvalidArgument>([&] { metric.measure(); }), {"score of layer 1 is not finite"});
    EXPECT_THROW(metric.importance(), InvalidArgument) << "no window was counted";
  }
}

TEST(MeasuredErrorRefusals, WhatTheFunctionThrowsIsPassedOn) {
  bool fails = true;
  ImportanceMetric<MeasuredError> metric(2, {.damage = [&](std::size_t layer) {
                                           if (fails && layer == 1) throw std::runtime_error("interrupted");
                                           return std::vector<double>{1};
                                         }});
  EXPECT_THROW(metric.measure(), std::runtime_error);
  EXPECT_THROW(metric.importance(), InvalidArgument) << "no window was counted";
  fails = false;
  metric.measure();
  EXPECT_EQ(metric.importance().windows, 1u);
}

} // namespace measured_error_test
