// What the importance hook costs an engine: copying the last position's state at every boundary, and projecting and scoring them, as shares of a 128-token
// prefill by the reference decoder's layers in FP16. One layer stands for all: it runs once a boundary.
#include <lsaq/importance/metric.hpp>
#include <lsaq/models/llama_layer.hpp>
#include <lsaq/thread_pool.hpp>

#include <fmt/format.h>

#include <chrono>
#include <random>

namespace {

namespace llama = lsaq::llama;
using Device = lsaq::Backend<lsaq::Cpu>;

constexpr std::size_t tokens = 128, rounds = 9;

double seconds(const std::function<void()>& run) {
  const auto start = std::chrono::steady_clock::now();
  run();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

lsaq::FloatMatrix random_matrix(lsaq::MatrixShape shape, std::mt19937& random) {
  lsaq::FloatMatrix matrix{lsaq::AlignedBytes(shape.rows * shape.columns * 2), shape, lsaq::ElementType::f16};
  auto* values = reinterpret_cast<lsaq::f16*>(matrix.storage.data());
  for (std::size_t i = 0; i < shape.rows * shape.columns; ++i) values[i] = lsaq::to_f16((static_cast<float>(random() % 2048) - 1024) / 32768);
  return matrix;
}

struct Times {
  double prefill, copy, score;
};

void report(const char* name, const llama::Config& config, const Device& device) {
  std::mt19937 random(1);
  llama::LayerWeights weights{random_matrix({1, config.hidden}, random), random_matrix({1, config.hidden}, random), {}};
  for (std::size_t i = 0; i < llama::linears_per_layer; ++i)
    weights.linears[i] = lsaq::DeployedMatrix(random_matrix(llama::shape_of(config, static_cast<llama::Linear>(i)), random));
  const lsaq::FloatMatrix embedding = random_matrix({config.vocabulary, config.hidden}, random);
  std::vector<float> memory(llama::LayerWorkspace::floats(config, tokens));
  llama::LayerWorkspace workspace = llama::LayerWorkspace::divide(config, tokens, memory);
  llama::fill_rotation(config, 0, tokens, workspace.rotation);
  llama::KvCache cache(config, 1, tokens);
  std::vector<float> start(tokens * config.hidden);
  for (float& x : start) x = (static_cast<float>(random() % 2048) - 1024) / 1024;

  lsaq::ImportanceMetric<lsaq::Jaccard> metric(config.layers, {.embedding = embedding.view(), .top_k = 50});
  lsaq::ImportanceWindow window = metric.begin_window({.sequences = 1, .positions = 1, .hidden = config.hidden});
  std::vector<Times> times;
  for (std::size_t round = 0; round < rounds + 1; ++round) { // the first one warms up
    Times now{};
    std::copy(start.begin(), start.end(), workspace.x.begin());
    const auto last = [&] { return lsaq::MatrixView(workspace.x.data() + (tokens - 1) * config.hidden, 1, config.hidden); };
    now.copy += seconds([&] { window.observe(0, last()); });
    for (std::size_t l = 0; l < config.layers; ++l) {
      now.prefill += seconds([&] { llama::run_layer(config, weights, device, cache, 0, 0, tokens, workspace); });
      now.copy += seconds([&] { window.observe(l + 1, last()); });
    }
    now.score = seconds([&] { metric.end_window(window, device); });
    if (round != 0) times.push_back(now);
  }
  const auto share = [&](auto&& part) {
    std::vector<double> shares;
    for (const Times& t : times) shares.push_back(part(t) / t.prefill * 100);
    std::sort(shares.begin(), shares.end());
    return std::pair(shares.front(), shares[shares.size() / 2]);
  };
  const auto copy = share([](const Times& t) { return t.copy; });
  const auto all = share([](const Times& t) { return t.copy + t.score; });
  std::vector<double> prefill;
  for (const Times& t : times) prefill.push_back(t.prefill);
  std::sort(prefill.begin(), prefill.end());
  fmt::print("{:<14} prefill of {} tokens {:8.1f} ms; copying {:.4f}% (median {:.4f}%); with projection and scoring {:.2f}% (median {:.2f}%)\n", name, tokens,
             prefill[prefill.size() / 2] * 1e3, copy.first, copy.second, all.first, all.second);
}

} // namespace

int main(int argc, char** argv) {
  const std::size_t threads = argc > 1 ? std::stoul(argv[1]) : 1;
  lsaq::ThreadPool pool(threads);
  const Device device(pool);
  fmt::print("{} thread(s), {} kernels, {} rounds: least share of the prefill, and median\n", threads, name_of(device.isa()), rounds);
  llama::Config smollm;
  smollm.layers = 30, smollm.hidden = 576, smollm.ffn = 1536, smollm.heads = 9, smollm.kv_heads = 3, smollm.head_size = 64, smollm.vocabulary = 49152;
  report("smollm2-135m", smollm, device);
  report("llama-2-7b", *llama::known_config("llama-2-7b"), device);
}
