// LSAQ inside an engine: a toy engine of residual layers measures importance, plans bits for a budget, packs its weights and runs on them.
#include <lsaq/lsaq.hpp>

#include <cmath>
#include <cstdio>
#include <random>
#include <vector>

using namespace lsaq::literals;
using Metric = lsaq::ImportanceMetric<lsaq::Jaccard>; // or <lsaq::Cosine>, or a policy of your own (own_policy.cpp)
using Planner = lsaq::Planner<lsaq::Budget>;
using Device = lsaq::Backend<lsaq::Cpu>;

constexpr std::size_t hidden = 256, vocabulary = 1000, layers = 8;

/// What an engine has before LSAQ: FP32 weights, and a forward pass that adds tanh(W x) to its residual stream.
struct Engine {
  std::vector<float> embedding = std::vector<float>(vocabulary * hidden);
  std::vector<std::vector<float>> weights{layers, std::vector<float>(hidden* hidden)};
  std::vector<lsaq::PackedMatrix> packed = std::vector<lsaq::PackedMatrix>(layers); ///< what it deploys instead, once there is a plan

  Engine() {
    std::mt19937 random(7);
    std::normal_distribution<float> normal;
    for (float& value : embedding) value = normal(random);
    for (std::size_t l = 0; l < layers; ++l)
      for (float& value : weights[l]) value = normal(random) * 0.01f * static_cast<float>(l + 1);
  }

  lsaq::ModelShape shape() const {
    lsaq::ModelShape model{.name = "toy"};
    for (std::size_t l = 0; l < layers; ++l) model.layers.push_back({.linears = {{.name = "mix", .rows = hidden, .columns = hidden}}});
    model.embedding_bytes = 2 * vocabulary * hidden;
    return model;
  }

  /// on_boundary(0) sees what enters the first layer, on_boundary(layers) what leaves the last.
  template <class OnBoundary> std::vector<float> forward(const Device& device, std::size_t token, OnBoundary&& on_boundary) const {
    std::vector<float> x(embedding.begin() + static_cast<std::ptrdiff_t>(token * hidden),
                         embedding.begin() + static_cast<std::ptrdiff_t>((token + 1) * hidden));
    std::vector<float> y(hidden);
    for (std::size_t l = 0; l <= layers; ++l) {
      on_boundary(l, lsaq::MatrixView(x.data(), 1, hidden));
      if (l == layers) return x;
      const lsaq::Status status = packed[l].bits() != 0
                                      ? device.matvec(packed[l], x, y)
                                      : device.matmul(lsaq::MatrixView(weights[l].data(), hidden, hidden), {x.data(), 1, hidden}, {y.data(), 1, hidden});
      if (status != lsaq::Status::ok) std::printf("%s\n", message_of(status));
      for (std::size_t i = 0; i < hidden; ++i) x[i] += std::tanh(y[i]);
    }
    return x;
  }
};

int main() {
  const Device device; // Device{executor} spreads products over the engine's own threads
  Engine engine;

  // 1. Importance: watch the residual stream of calibration prompts.
  Metric metric(layers, {.embedding = {engine.embedding.data(), vocabulary, hidden}, .top_k = 50});
  for (std::size_t token = 0; token < 16; ++token) {
    auto window = metric.begin_window();
    engine.forward(device, token, [&](std::size_t boundary, lsaq::MatrixView state) { window.observe(boundary, state); });
    metric.end_window(window, device);
  }

  // 2. Memory and plan. A real engine passes choose_device<Device>().free_bytes; this one has a budget that forces a choice.
  std::printf("free: %llu bytes\n", static_cast<unsigned long long>(lsaq::choose_device<Device>().free_bytes));
  const lsaq::Plan plan = Planner({.memory = 1000_KiB, .reserve = 0})(metric.importance(), engine.shape());
  for (std::size_t l = 0; l < layers; ++l) std::printf("layer %zu: importance %.3f, %u bits\n", l, metric.importance().scores[l], plan.bits[l]);
  std::printf("%.2f bits a weight, %llu of %llu bytes\n", plan.average_bits, static_cast<unsigned long long>(plan.bytes.total),
              static_cast<unsigned long long>(plan.bytes.memory));

  // 3. Quantize, deploy, run; compare with the FP32 engine.
  const std::vector<float> before = engine.forward(device, 99, [](std::size_t, lsaq::MatrixView) {});
  for (std::size_t l = 0; l < layers; ++l)
    if (const unsigned bits = plan.bits_of(l, "mix"); bits < 16)
      engine.packed[l] = device.prepare(lsaq::quantize<lsaq::PerChannel>({engine.weights[l].data(), hidden, hidden}, bits));
  const std::vector<float> after = engine.forward(device, 99, [](std::size_t, lsaq::MatrixView) {});
  double error = 0, norm = 0;
  for (std::size_t i = 0; i < hidden; ++i) {
    error += std::pow(double{after[i]} - before[i], 2);
    norm += std::pow(double{before[i]}, 2);
  }
  std::printf("relative error of the output: %.4f\n", std::sqrt(error / norm));
  return std::sqrt(error / norm) < 0.1 && plan.bytes.total <= plan.bytes.memory ? 0 : 1;
}
