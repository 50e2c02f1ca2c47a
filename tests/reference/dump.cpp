// lsaq_reference_dump MODEL WINDOWS.json OUTDIR K: what reference.py compares with torch. Weights as stored (a quantized source rounded to F16), keys and values FP32.
//   OUTDIR/hidden_last.f32  windows x (layers + 1) x hidden      last position's state at every boundary
//   OUTDIR/logits_last.f32  windows x vocabulary
//   OUTDIR/top_k.i32        windows x (layers + 1) x K           ids by value, highest first
//   OUTDIR/importance.json  {"jaccard": [...], "cosine": [...]}
//   OUTDIR/nll.json         {"nll": sum, "tokens": scored}
#include <lsaq/lsaq.hpp>
#include <lsaq/models/evaluation.hpp>
#include <lsaq/thread_pool.hpp>

#include <cstdio>
#include <fstream>

namespace {

namespace llama = lsaq::llama;
using Device = lsaq::Backend<lsaq::Cpu, lsaq::Activation<lsaq::Float32>>;

std::ofstream create(const std::string& path) {
  std::ofstream file(path, std::ios::binary);
  if (!file) lsaq::fail<lsaq::IoError>(path + ": can't be written");
  return file;
}

void write(std::ofstream& file, const void* data, std::size_t bytes) { file.write(static_cast<const char*>(data), static_cast<std::streamsize>(bytes)); }

void dump(const std::string& model_path, const std::string& windows_path, const std::string& out, std::size_t k) {
  const lsaq::ModelSource model = lsaq::ModelSource::open(model_path);
  const llama::Config config = llama::read_config(model);
  const auto windows = nlohmann::json::parse(std::ifstream(windows_path)).get<llama::Windows>();
  lsaq::ThreadPool pool;
  const Device device(pool);
  llama::WeightLoader loader(model, config, pool);
  loader.keep_as_stored();

  lsaq::Plan plan;
  plan.bits.assign(config.layers, 16);
  const llama::ModelWeights weights = llama::load_weights(loader, config, plan, device);
  lsaq::ImportanceMetric<lsaq::Jaccard> jaccard(config.layers, {.embedding = weights.outer.embedding.view(), .top_k = k});
  lsaq::ImportanceMetric<lsaq::Cosine> cosine(config.layers);
  std::vector<lsaq::ImportanceWindow> jaccard_windows(windows.size(), jaccard.begin_window()), cosine_windows(windows.size(), cosine.begin_window());
  const std::size_t boundaries = config.layers + 1;
  std::vector<float> hidden(windows.size() * boundaries * config.hidden);
  llama::run_layerwise(
      config, loader, weights.outer, device, windows,
      [&](std::size_t boundary, std::size_t w, lsaq::MatrixView states) {
        const lsaq::MatrixView last = states.slice(states.rows - 1, 1);
        std::memcpy(hidden.data() + (w * boundaries + boundary) * config.hidden, last.data, config.hidden * sizeof(float));
        jaccard_windows[w].observe(boundary, last);
        cosine_windows[w].observe(boundary, last);
      },
      [](std::size_t, const llama::LayerWeights&) {});
  for (auto& window : jaccard_windows) jaccard.end_window(window, device);
  for (auto& window : cosine_windows) cosine.end_window(window, device);

  std::vector<lsaq::ScoredToken> top(windows.size() * boundaries * k);
  device.top_tokens(lsaq::MatrixView(hidden.data(), windows.size() * boundaries, config.hidden), weights.outer.embedding.view(), k, top);
  std::ofstream top_file = create(out + "/top_k.i32");
  for (const lsaq::ScoredToken& token : top) write(top_file, &token.id, sizeof token.id);
  std::ofstream hidden_file = create(out + "/hidden_last.f32");
  write(hidden_file, hidden.data(), hidden.size() * sizeof(float));

  std::ofstream logits_file = create(out + "/logits_last.f32");
  std::vector<float> scratch(llama::logits_block * config.vocabulary);
  llama::Likelihood likelihood;
  for (const std::vector<lsaq::TokenId>& window : windows) {
    llama::Decoder<Device> decoder(config, weights, device, window.size(), lsaq::ElementType::f32);
    const std::span<const float> logits = decoder.forward(window);
    write(logits_file, logits.data(), logits.size_bytes());
    const llama::Likelihood one = llama::window_likelihood(decoder, config, device, window, scratch);
    likelihood.nll += one.nll;
    likelihood.tokens += one.tokens;
  }
  create(out + "/importance.json") << nlohmann::json{{"jaccard", jaccard.importance().scores}, {"cosine", cosine.importance().scores}};
  create(out + "/nll.json") << nlohmann::json{{"nll", likelihood.nll}, {"tokens", likelihood.tokens}};
}

} // namespace

int main(int argc, char** argv) {
  if (argc != 5) {
    std::fprintf(stderr, "usage: lsaq_reference_dump MODEL WINDOWS.json OUTDIR K\n");
    return 2;
  }
  try {
    dump(argv[1], argv[2], argv[3], std::stoul(argv[4]));
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "lsaq_reference_dump: %s\n", error.what());
    return 1;
  }
}
