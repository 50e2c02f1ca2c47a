// An importance metric of your own: how far a layer moves the residual stream, relative to its length.
#include <lsaq/lsaq.hpp>

#include <cmath>
#include <cstdio>
#include <vector>

/// I = |output - input| / |input|, averaged over positions.
struct RelativeStep {
  static constexpr std::string_view name = "relative_step";

  struct Options {};

  /// The states before and after a layer: FP32, one row for each position of a calibration text.
  static double score(const Options&, lsaq::MatrixView entering, lsaq::MatrixView leaving) {
    double sum = 0;
    for (std::size_t p = 0; p < entering.rows; ++p) {
      const auto* in = reinterpret_cast<const float*>(entering.row(p));
      const auto* out = reinterpret_cast<const float*>(leaving.row(p));
      double step = 0, length = 0;
      for (std::size_t i = 0; i < entering.columns; ++i) {
        step += std::pow(double{out[i]} - in[i], 2);
        length += std::pow(double{in[i]}, 2);
      }
      sum += std::sqrt(step / length);
    }
    return sum / static_cast<double>(entering.rows);
  }
};

static_assert(lsaq::scores_hidden_states<RelativeStep>);

int main() {
  const lsaq::Backend<lsaq::Cpu> device;
  lsaq::ImportanceMetric<RelativeStep> metric(2);
  auto window = metric.begin_window();
  const std::vector<std::vector<float>> states{{3, 4}, {3, 5}, {9, 5}}; // entering layer 0, between the layers, leaving layer 1
  for (std::size_t boundary = 0; boundary < states.size(); ++boundary) window.observe(boundary, lsaq::MatrixView(states[boundary].data(), 1, 2));
  metric.end_window(window, device);
  const lsaq::Importance importance = metric.importance();
  std::printf("%s: %.3f %.3f, least important: layer %zu\n", importance.metric.c_str(), importance.scores[0], importance.scores[1], importance.order()[0]);
  return importance.order()[0] == 0 ? 0 : 1;
}
