// A toy model of residual layers, and the way from its hidden states to a plan: what the host and the device both walk.
#pragma once

#include <lsaq/importance/metric.hpp>
#include <lsaq/planning/planner.hpp>

#include <cmath>
#include <random>

namespace device_calls {

/// Weights and embedding of small multiples of powers of two: projections are exact in any order.
struct ToyModel {
  static constexpr std::size_t hidden = 64, vocabulary = 200, layers = 4;
  std::vector<float> embedding = std::vector<float>(vocabulary * hidden);
  std::vector<std::vector<float>> weights{layers, std::vector<float>(hidden* hidden)};

  ToyModel() {
    std::mt19937 random(7);
    for (float& value : embedding) value = static_cast<float>(static_cast<int>(random() % 9) - 4) / 4;
    for (std::size_t l = 0; l < layers; ++l)
      for (float& value : weights[l]) value = static_cast<float>(static_cast<int>(random() % 65) - 32) / 512 * static_cast<float>(l + 1);
  }

  lsaq::ModelShape shape() const {
    lsaq::ModelShape model{.name = "toy"};
    for (std::size_t l = 0; l < layers; ++l) model.layers.push_back({.linears = {{.name = "mix", .rows = hidden, .columns = hidden}}});
    return model;
  }

  /// The residual stream at every boundary, for one token; multiply(layer, x, y) gives y = W x.
  template <class Multiply> std::vector<std::vector<float>> run(std::size_t token, Multiply&& multiply) const {
    const float* const first = embedding.data() + token * hidden;
    std::vector<std::vector<float>> boundaries{{first, first + hidden}};
    std::vector<float> y(hidden);
    for (std::size_t l = 0; l < layers; ++l) {
      std::vector<float> x = boundaries.back();
      multiply(l, x, y);
      for (std::size_t i = 0; i < hidden; ++i) x[i] += std::round(std::tanh(y[i]) * 16) / 16; // rounded: states are the same everywhere
      boundaries.push_back(std::move(x));
    }
    return boundaries;
  }
};

/// What became of the model: importance and bits of each layer, and its last state for one token.
struct Deployed {
  std::vector<double> scores;
  std::vector<unsigned> bits;
  std::vector<float> output;
};

/// Importance of the layers, found on `device` with products of the whole weights, and the plan for a budget that forces a choice.
template <class Device, class Multiply> Deployed plan_for(const ToyModel& model, lsaq::MatrixView embedding, const Device& device, Multiply&& multiply) {
  lsaq::ImportanceMetric<lsaq::Jaccard> metric(ToyModel::layers, {.embedding = embedding, .top_k = 20});
  for (std::size_t token = 0; token < 3; ++token) {
    auto window = metric.begin_window();
    const auto boundaries = model.run(token, multiply);
    for (std::size_t b = 0; b < boundaries.size(); ++b) window.observe(b, lsaq::MatrixView(boundaries[b].data(), 1, ToyModel::hidden));
    metric.end_window(window, device);
  }
  const lsaq::Importance importance = metric.importance();
  return {importance.scores, lsaq::Planner<lsaq::Budget>({.memory = 12 * 1024, .reserve = 0})(importance, model.shape()).bits, {}};
}

} // namespace device_calls
