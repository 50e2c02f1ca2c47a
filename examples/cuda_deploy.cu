// Plans and deploys a small stack of layers on the CUDA device, quantized there; without a usable one, on the CPU.
#include <lsaq/lsaq.hpp>

#include <lsaq/cuda.cuh>

#include <cmath>
#include <cstdio>
#include <random>
#include <vector>

using namespace lsaq::literals;
using Gpu = lsaq::Backend<lsaq::Cuda>;
using Host = lsaq::Backend<lsaq::Cpu>;

constexpr std::size_t hidden = 256, layers = 6;

/// Layers of an engine: their weights in host memory, as FP16.
struct Engine {
  std::vector<std::vector<lsaq::f16>> weights{layers, std::vector<lsaq::f16>(hidden* hidden)};

  Engine() {
    std::mt19937 random(7);
    std::normal_distribution<float> normal;
    for (auto& layer : weights)
      for (lsaq::f16& weight : layer) weight = lsaq::to_f16(normal(random) * 0.05f);
  }

  lsaq::MatrixView layer(std::size_t l) const { return {weights[l].data(), hidden, hidden}; }

  lsaq::ModelShape shape() const {
    lsaq::ModelShape model{.name = "stack"};
    for (std::size_t l = 0; l < layers; ++l) model.layers.push_back({.linears = {{.name = "mix", .rows = hidden, .columns = hidden}}});
    return model;
  }
};

std::vector<float> run_on_host(const Engine& engine, const lsaq::Plan& plan, std::vector<float> x) {
  const Host device;
  std::vector<float> y(hidden);
  for (std::size_t l = 0; l < layers; ++l) {
    const auto packed = device.prepare(lsaq::quantize<lsaq::PerChannel>(engine.layer(l), plan.bits_of(l, "mix")));
    if (device.matvec(packed, x, y) != lsaq::Status::ok) std::abort();
    x = y;
  }
  return x;
}

std::vector<float> run_on_device(const Engine& engine, const lsaq::Plan& plan, std::vector<float> x) {
  const Gpu device; // Gpu{stream, memory} queues on the engine's stream and allocates from its allocator
  const auto& queue = device.queue();
  const auto weights = queue.allocate<lsaq::f16>(hidden * hidden);
  auto in = queue.allocate<float>(hidden), out = queue.allocate<float>(hidden);
  queue.copy(x.data(), in.data(), hidden * sizeof(float));
  std::vector<lsaq::CudaPackedMatrix> packed;
  for (std::size_t l = 0; l < layers; ++l) { // one layer's FP16 weights on the device at a time
    queue.copy(engine.weights[l].data(), weights.data(), hidden * hidden * sizeof(lsaq::f16));
    packed.push_back(device.quantize(lsaq::MatrixView(weights.data(), hidden, hidden), plan.bits_of(l, "mix")));
    if (device.matvec(packed[l], {in.data(), hidden}, {out.data(), hidden}) != lsaq::Status::ok) std::abort();
    std::swap(in, out);
  }
  queue.copy(in.data(), x.data(), hidden * sizeof(float));
  device.synchronize();
  return x;
}

int main() try {
  const Engine engine;
  const lsaq::Importance importance{.metric = "given", .scores = {0.5, 0.2, 0.3, 0.1, 0.4, 0.6}, .spread = std::vector<double>(layers)};
  const auto plan = lsaq::Planner<lsaq::Budget>({.memory = 300_KiB, .reserve = 0})(importance, engine.shape());
  const std::vector<float> x(hidden, 0.1f), on_host = run_on_host(engine, plan, x);

  if (const std::string reason = Gpu::unusable(); !reason.empty()) {
    std::printf("%s; the result is the CPU's, y[0] = %.6f\n", reason.c_str(), on_host[0]);
    return 0;
  }
  const lsaq::Device chosen = lsaq::choose_device<Gpu>();
  std::printf("%s (%s), %llu bytes free, %.2f bits a weight\n", chosen.id.c_str(), chosen.name.c_str(), static_cast<unsigned long long>(chosen.free_bytes),
              plan.average_bits);
  const std::vector<float> on_device = run_on_device(engine, plan, x);
  double difference = 0, norm = 0;
  for (std::size_t i = 0; i < hidden; ++i) {
    difference += std::pow(double{on_device[i]} - on_host[i], 2);
    norm += std::pow(double{on_host[i]}, 2);
  }
  std::printf("y[0] = %.6f; difference from the CPU, relative: %.2e\n", on_device[0], std::sqrt(difference / norm));
  return std::sqrt(difference / norm) < 0.02 ? 0 : 1; // the CPU's activations are INT8
} catch (const lsaq::Error& error) {
  std::printf("%s\n", error.what());
  return 1;
}
