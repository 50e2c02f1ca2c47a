// Compiled once per instruction set, each time as a function named after it: measures importance, plans, quantizes and multiplies. Returns how far the products
// are from a plain loop, as a share of what is allowed; a wrong plan counts as infinitely far.
#include <lsaq/lsaq.hpp>

#include <algorithm>
#include <cmath>
#include <span>
#include <vector>

namespace {

constexpr std::size_t layers = 4, rows = 33, columns = 160;

template <class Metric> lsaq::Importance measure(Metric metric, const std::vector<float>& states) {
  auto window = metric.begin_window();
  for (std::size_t b = 0; b <= layers; ++b) window.observe(b, lsaq::MatrixView(states.data() + b * columns, 1, columns));
  metric.end_window(window, lsaq::Backend<lsaq::Cpu>{});
  return metric.importance();
}

bool plans_agree(const std::vector<float>& weights, const std::vector<float>& states) {
  const lsaq::MatrixView embedding(weights.data(), rows, columns);
  const lsaq::Importance by_tokens = measure(lsaq::ImportanceMetric<lsaq::Jaccard>(layers, {.embedding = embedding, .top_k = 5}), states);
  const lsaq::Importance by_angle = measure(lsaq::ImportanceMetric<lsaq::Cosine>(layers), states);
  lsaq::ImportanceMetric<lsaq::WeightOutliers> outliers(layers);
  for (std::size_t l = 0; l < layers; ++l) outliers.observe_weights(l, embedding);

  lsaq::ModelShape shape;
  shape.layers.assign(layers, {.linears = {{.name = "linear", .rows = 64, .columns = 64}}});
  const lsaq::Planner<lsaq::Budget> planner({.memory = 17000});
  const lsaq::Plan plan = planner(by_tokens, shape);
  return plan.bytes.total <= 17000 && planner(by_angle, shape).bits.size() == layers &&
         planner(outliers.importance(), shape).bits == std::vector<unsigned>{4, 8, 8, 8};
}

} // namespace

double UNIT() {
  std::vector<float> weights(rows * columns), x(columns), y(rows), states((layers + 1) * columns);
  for (std::size_t i = 0; i < weights.size(); ++i) weights[i] = std::sin(0.37f * static_cast<float>(i));
  for (std::size_t i = 0; i < states.size(); ++i) states[i] = std::sin(0.0131f * static_cast<float>(i * (1 + i / columns)));
  for (std::size_t i = 0; i < columns; ++i) x[i] = std::cos(0.11f * static_cast<float>(i));

  double worst = plans_agree(weights, states) ? 0 : HUGE_VAL;
  const auto check = [&](const lsaq::PackedMatrix& packed, double allowed) {
    if (lsaq::Backend<lsaq::Cpu>{}.matvec(packed, std::span<const float>(x), std::span<float>(y)) != lsaq::Status::ok) worst = HUGE_VAL;
    for (std::size_t r = 0; r < rows; ++r) {
      double exact = 0, magnitude = 0;
      for (std::size_t c = 0; c < columns; ++c) {
        exact += double{weights[r * columns + c]} * x[c];
        magnitude += std::fabs(double{weights[r * columns + c]} * x[c]);
      }
      worst = std::max(worst, std::fabs(y[r] - exact) / (allowed * magnitude));
    }
  };
  const lsaq::MatrixView view(weights.data(), rows, columns);
  check(lsaq::Quantizer<lsaq::PerChannel, 8>{}(view), 0.02);
  check(lsaq::Quantizer<lsaq::PerChannel, 4>{}(view), 0.2);
  return worst;
}
