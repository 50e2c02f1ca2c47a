// An importance metric of your own: how far a layer moves the residual stream, relative to its length.
#include <lsaq/lsaq.hpp>

#include <cmath>
#include <cstdio>
#include <vector>

/// I = |output - input| / |input|, averaged over positions.
struct RelativeStep {
  static constexpr std::string_view name = "relative_step";

  struct Options {};

  template <class Device> static void score(const Options&, const lsaq::WindowStates& window, const Device&, std::span<double> scores) {
    for (std::size_t layer = 0; layer < window.layers; ++layer) {
      scores[layer] = 0;
      for (std::size_t p = 0; p < window.positions; ++p) {
        const float* in = window.at(layer, p);
        const float* out = window.at(layer + 1, p);
        double step = 0, length = 0;
        for (std::size_t i = 0; i < window.states.columns; ++i) {
          step += std::pow(double{out[i]} - in[i], 2);
          length += std::pow(double{in[i]}, 2);
        }
        scores[layer] += std::sqrt(step / length) / static_cast<double>(window.positions);
      }
    }
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
