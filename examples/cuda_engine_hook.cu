// LSAQ inside an engine whose hidden states never leave the device: its stream, its memory, importance from token sets compared there.
#include <lsaq/lsaq.hpp>

#include <lsaq/cuda.cuh>

#include <cstdio>
#include <random>
#include <vector>

using Gpu = lsaq::Backend<lsaq::Cuda>;
using Metric = lsaq::ImportanceMetric<lsaq::Jaccard>;

constexpr std::size_t hidden = 128, vocabulary = 2000, layers = 4, boundaries = layers + 1, k = 50;

/// What stands for an engine: the residual stream of one prompt's last position at every layer boundary.
std::vector<float> states_of(std::size_t prompt) {
  std::mt19937 random(static_cast<unsigned>(prompt));
  std::normal_distribution<float> normal;
  std::vector<float> states(boundaries * hidden);
  for (std::size_t b = 0; b < boundaries; ++b)
    for (std::size_t i = 0; i < hidden; ++i)
      states[b * hidden + i] = (b == 0 ? 0 : states[(b - 1) * hidden + i]) + normal(random) * (b == 0 ? 1.0f : 0.05f * static_cast<float>(b));
  return states;
}

std::vector<lsaq::f16> make_embedding() {
  std::mt19937 random(3);
  std::normal_distribution<float> normal;
  std::vector<lsaq::f16> embedding(vocabulary * hidden);
  for (lsaq::f16& value : embedding) value = lsaq::to_f16(normal(random));
  return embedding;
}

/// The hook: called by the engine after a prompt, with all boundaries' states on the device. Everything is allocated once.
class ImportanceHook {
public:
  ImportanceHook(const Gpu& device, lsaq::MatrixView embedding)
      : device_(device), embedding_(embedding), ids_(device.queue().allocate<lsaq::TokenId>(boundaries * k)),
        values_(device.queue().allocate<float>(boundaries * k)), bad_(device.queue().allocate<unsigned>(1)),
        distances_(device.queue().allocate<double>(layers)) {}

  void operator()(lsaq::MatrixView states, Metric& metric) {
    const auto& queue = device_.queue();
    queue.fill(bad_.data(), 0xff, sizeof(unsigned));
    device_.top_tokens(states, embedding_, k, ids_.data(), values_.data(), bad_.data());
    device_.token_distances(ids_.data(), ids_.data() + k, layers, k, distances_.data());
    std::vector<double> scores(layers);
    unsigned bad = 0;
    queue.copy(distances_.data(), scores.data(), layers * sizeof(double)); // 32 bytes of a prompt come back
    queue.copy(bad_.data(), &bad, sizeof bad);
    device_.synchronize();
    if (bad != ~0u) lsaq::fail<lsaq::InvalidArgument>("the states at boundary " + std::to_string(bad) + " are not finite");
    metric.add_window_scores(scores);
  }

private:
  const Gpu& device_;
  lsaq::MatrixView embedding_;
  lsaq::DeviceArray<lsaq::TokenId> ids_;
  lsaq::DeviceArray<float> values_;
  lsaq::DeviceArray<unsigned> bad_;
  lsaq::DeviceArray<double> distances_;
};

void show(const char* where, const Metric& metric) {
  std::printf("%s:", where);
  for (const double score : metric.importance().scores) std::printf(" %.3f", score);
  std::printf("\n");
}

int main() try {
  const std::vector<lsaq::f16> embedding = make_embedding();
  Metric on_host(layers, {.embedding = {embedding.data(), vocabulary, hidden}, .top_k = k});
  for (std::size_t prompt = 0; prompt < 4; ++prompt) {
    const std::vector<float> states = states_of(prompt);
    auto window = on_host.begin_window();
    for (std::size_t b = 0; b < boundaries; ++b) window.observe(b, lsaq::MatrixView(states.data() + b * hidden, 1, hidden));
    on_host.end_window(window, lsaq::Backend<lsaq::Cpu>{});
  }
  if (const std::string reason = Gpu::unusable(); !reason.empty()) {
    std::printf("%s; the importance is the CPU's", reason.c_str());
    show("", on_host);
    return 0;
  }

  cudaStream_t stream = nullptr; // the engine's
  lsaq::gpu::check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "cudaStreamCreateWithFlags");
  {
    lsaq::gpu::CachedMemory<> memory{lsaq::gpu::StreamMemory(stream)}; // or the engine's allocator
    const Gpu device(stream, memory);
    const auto on_device = device.queue().allocate<lsaq::f16>(embedding.size());
    const auto residual = device.queue().allocate<float>(boundaries * hidden);
    device.queue().copy(embedding.data(), on_device.data(), embedding.size() * sizeof(lsaq::f16));
    ImportanceHook hook(device, lsaq::MatrixView(on_device.data(), vocabulary, hidden));
    Metric metric(layers, on_host.options());
    for (std::size_t prompt = 0; prompt < 4; ++prompt) {
      const std::vector<float> states = states_of(prompt);
      device.queue().copy(states.data(), residual.data(), states.size() * sizeof(float));
      hook(lsaq::MatrixView(residual.data(), boundaries, hidden), metric);
    }
    show("device", metric);
    show("host", on_host);
  }
  lsaq::gpu::check(cudaStreamDestroy(stream), "cudaStreamDestroy");
  return 0;
} catch (const lsaq::Error& error) {
  std::printf("%s\n", error.what());
  return 1;
}
