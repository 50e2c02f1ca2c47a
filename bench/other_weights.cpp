// How far the layers of other checkpoints of a model are from the model's own: divergence, loss and perplexity as a table. Embedding, final norm and head are
// the model's, so that nothing but the layers differs. For what other programs have rounded (bench/peers/rounded_models.py), beside lsaq compare.
//
//   lsaq_bench_other_weights MODEL TEXT_IDS OTHER...      up to 7 of the same kind and shape as MODEL; TEXT_IDS: a JSON array of arrays of tokens
#include "token_ids.hpp"

#include <lsaq/deployment/cpu.hpp>
#include <lsaq/models/evaluation_statistics.hpp>
#include <lsaq/models/layerwise.hpp>
#include <lsaq/models/plan_evaluation.hpp>
#include <lsaq/thread_pool.hpp>

#include <fmt/format.h>

#include <deque>
#include <thread>

namespace {

namespace llama = lsaq::llama;
using Device = lsaq::Backend<lsaq::Cpu, lsaq::Activation<lsaq::Float32>>;

/// A checkpoint whose layers are taken.
struct Checkpoint {
  lsaq::ModelSource source;
  llama::Config config;
  llama::WeightLoader loader;

  Checkpoint(const char* path, lsaq::ExecutorRef executor)
      : source(lsaq::ModelSource::open(path)), config(llama::read_config(source)), loader(source, config, executor) {
    loader.keep_as(lsaq::ElementType::f32);
  }
  Checkpoint(const Checkpoint&) = delete;
  Checkpoint& operator=(const Checkpoint&) = delete;
};

/// Layers of the model for 16 bits, of the others for 2, 3, ...: plans tell them apart by bits, which mean nothing else here.
struct Loader {
  const std::deque<Checkpoint>& checkpoints;

  template <class BitsOf> llama::LayerWeights layer(const Device& device, std::size_t layer, BitsOf&& bits_of) const {
    unsigned bits = 0;
    for (std::size_t i = 0; i < llama::linears_per_layer; ++i) bits = bits_of(name_of(static_cast<llama::Linear>(i)));
    return checkpoints[bits == 16 ? 0 : bits - lsaq::min_bits + 1].loader.layer(device, layer, [](std::string_view) { return 16u; });
  }
};

void report(const llama::Windows& text, std::span<char*> paths) {
  lsaq::ThreadPool pool(std::thread::hardware_concurrency());
  const Device device(pool);
  std::deque<Checkpoint> checkpoints;
  for (const char* path : paths) {
    checkpoints.emplace_back(path, device.executor());
    const llama::Config &one = checkpoints.back().config, &model = checkpoints[0].config;
    if (one.hidden != model.hidden || one.layers != model.layers || one.ffn != model.ffn || one.heads != model.heads || one.kv_heads != model.kv_heads ||
        checkpoints.back().source.is_gguf() != checkpoints[0].source.is_gguf())
      lsaq::fail<lsaq::BadInput>(std::string(path) + ": not of the same kind and shape as " + paths[0]);
  }
  const llama::Config& config = checkpoints[0].config;
  const llama::OuterWeights outer = checkpoints[0].loader.outer(device);
  std::vector<llama::ScoredWindow> windows;
  for (const auto& window : text) windows.push_back({window, 1});
  std::vector<lsaq::Plan> plans(checkpoints.size() - 1);
  for (std::size_t p = 0; p < plans.size(); ++p) plans[p].bits.assign(config.layers, lsaq::min_bits + static_cast<unsigned>(p));
  const llama::PlanScores scores = evaluate_plans(config, Loader{checkpoints}, outer, device, windows, plans);
  fmt::print("| layers of | KL, nats | nll above the model's, nats | perplexity |\n|---|---|---|---|\n| {} | 0 | 0 | {:.2f} |\n", paths[0],
             std::exp(nll_of(scores.reference).mean));
  for (std::size_t p = 0; p < plans.size(); ++p) {
    const llama::Estimate kl = kl_of(scores.plans[p]), loss = nll_difference(scores.plans[p], scores.reference);
    fmt::print("| {} | {:.4f} ± {:.4f} | {:.4f} ± {:.4f} | {:.2f} |\n", paths[p + 1], kl.mean, kl.error, loss.mean, loss.error,
               std::exp(nll_of(scores.plans[p]).mean));
  }
}

} // namespace

int main(int argc, char** argv) {
  if (argc < 4 || argc > 10) {
    fmt::print(stderr, "usage: {} MODEL TEXT_IDS OTHER... (up to 7)\n", argv[0]);
    return 2;
  }
  try {
    const llama::Windows text = read_token_ids(argv[2]);
    argv[2] = argv[1]; // the model, then the others
    report(text, std::span(argv + 2, static_cast<std::size_t>(argc - 2)));
  } catch (const std::exception& error) {
    fmt::print(stderr, "{}\n", error.what());
    return 1;
  }
}
