// What a model loses whose query and key projections have shared channels, beside the same matrices rounded at the same bits: divergence from the unquantized
// model and perplexity, as a table. All other weights stay as they are.
//
//   lsaq_bench_shared_channels_perplexity MODEL TEXT_IDS CALIBRATION_IDS [bits, "2,3,4"] [threads]      ids: JSON arrays of arrays of tokens, each a window
#include "token_ids.hpp"

#include <lsaq/deployment/cpu.hpp>
#include <lsaq/models/evaluation_statistics.hpp>
#include <lsaq/models/llama_rounding.hpp>
#include <lsaq/models/plan_evaluation.hpp>
#include <lsaq/quantization/shared_channels.hpp>
#include <lsaq/thread_pool.hpp>

#include <fmt/format.h>

namespace {

namespace llama = lsaq::llama;
using Device = lsaq::Backend<lsaq::Cpu, lsaq::Activation<lsaq::Float32>>;
using lsaq::MatrixView;

/// How the projections are kept. Plans tell them apart by bits, which mean nothing else here.
enum Way : unsigned { nearest = 2, gptq, shared_halves, shared_codes, shared_by_inputs };
constexpr std::array<std::pair<Way, const char*>, 5> ways = {{{nearest, "RTN, channel"},
                                                              {gptq, "GPTQ, channel"},
                                                              {shared_halves, "SC rows, F16"},
                                                              {shared_codes, "SC rows, 4 bits"},
                                                              {shared_by_inputs, "SC rows, 4 bits, by inputs' second moments"}}};

/// Gives layers with all weights as they are but q and k.
class Loader {
public:
  Loader(llama::WeightLoader weights, const std::vector<llama::LayerStatistics>& statistics, unsigned bits, lsaq::ExecutorRef executor)
      : weights_(std::move(weights)), statistics_(statistics), bits_(bits), device_(executor) {}

  template <lsaq::backend Any, class BitsOf> llama::LayerWeights layer(const Any& device, std::size_t layer, BitsOf&& bits_of) const {
    unsigned way = 16;
    llama::LayerWeights weights = weights_.layer(device, layer, [&](std::string_view linear) {
      way = std::min<unsigned>(way, bits_of(linear));
      return 16u;
    });
    if (way == 16) return weights;
    std::optional<lsaq::InputStatistics> inputs;
    for (const llama::Linear linear : {llama::Linear::q, llama::Linear::k}) {
      if (!inputs)
        inputs = transformed(statistics_[layer][0], nullptr, layer, llama::LinearInput::attention, weights_.gain_of(layer, llama::LinearInput::attention));
      weights.linears[static_cast<std::size_t>(linear)] =
          kept(static_cast<Way>(way), weights_.weights_of(layer, linear), shape_of(weights_.config(), linear), *inputs);
    }
    return weights;
  }

private:
  lsaq::DeployedMatrix kept(Way way, const std::vector<float>& values, lsaq::MatrixShape shape, const lsaq::InputStatistics& inputs) const {
    const MatrixView view(values.data(), shape.rows, shape.columns);
    if (way == nearest) return lsaq::DeployedMatrix(lsaq::quantize(view, lsaq::PackedFormat{.bits = bits_}, device_.executor()));
    if (way == gptq) {
      const lsaq::GptqFactor factor(inputs, {}, device_.executor());
      return lsaq::DeployedMatrix(
          round_guarded(device_, view, inputs, &factor, lsaq::Rounding::gptq, lsaq::PackedFormat{.bits = bits_, .range = lsaq::CodeRange::full}).packed);
    }
    const std::vector<float> moments = way == shared_by_inputs ? inputs.mean_squares() : std::vector<float>();
    const lsaq::SharedChannelFormat codes{.representative_bits = 4, .factor_bits = 4};
    const double budget = 8 * static_cast<double>(lsaq::packed_bytes(shape, bits_, lsaq::ScaleType::f16)) / static_cast<double>(values.size());
    const lsaq::SharedChannelMatrix shared =
        share_channels_within(view, budget, {.format = way == shared_halves ? lsaq::SharedChannelFormat{} : codes, .second_moments = moments}, device_);
    lsaq::FloatMatrix rebuilt{lsaq::AlignedBytes(values.size() * sizeof(float)), shape, lsaq::ElementType::f32};
    reconstruct(shared, {reinterpret_cast<float*>(rebuilt.storage.data()), shape.rows, shape.columns}, device_.executor());
    return lsaq::DeployedMatrix(std::move(rebuilt));
  }

  llama::WeightLoader weights_;
  const std::vector<llama::LayerStatistics>& statistics_;
  unsigned bits_;
  Device device_;
};

std::vector<llama::LayerStatistics> calibrate(const llama::Config& config, const llama::WeightLoader& loader, const llama::OuterWeights& outer,
                                              const Device& device, const llama::Windows& windows) {
  llama::LayerwisePass<Device> pass(config, loader, outer, device, windows);
  llama::LayerStatisticsCollector<Device> collector(config, device, windows);
  std::vector<llama::LayerStatistics> all;
  while (!pass.complete()) {
    all.push_back(calibrate_layer(pass, collector, [](std::size_t) {}));
    for (std::size_t i = 1; i < llama::inputs_per_layer; ++i) all.back()[i] = {}; // q and k see the first one only
  }
  return all;
}

void report(const char* path, const llama::Windows& text, const llama::Windows& calibration, const std::string& widths, std::size_t threads) {
  const lsaq::ModelSource model = lsaq::ModelSource::open(path);
  const llama::Config config = llama::read_config(model);
  lsaq::ThreadPool pool(threads);
  const Device device(pool);
  llama::WeightLoader weights(model, config, device.executor());
  const llama::OuterWeights outer = weights.outer(device);
  const std::vector<llama::LayerStatistics> statistics = calibrate(config, weights, outer, device, calibration);
  std::vector<llama::ScoredWindow> windows;
  for (const auto& window : text) windows.push_back({window, 1});
  std::vector<lsaq::Plan> plans;
  for (const auto& [way, name] : ways) {
    lsaq::Plan& plan = plans.emplace_back();
    plan.bits.assign(config.layers, 16);
    for (std::size_t l = 0; l < config.layers; ++l)
      for (const char* linear : {".self_attn.q_proj", ".self_attn.k_proj"}) plan.tensors[std::to_string(l) + linear] = way;
  }
  fmt::print("| bits of q and k | kept as | KL, nats | nll above FP16, nats | perplexity |\n|---|---|---|---|---|\n");
  for (const char digit : widths) {
    if (digit == ',') continue;
    const auto bits = static_cast<unsigned>(digit - '0');
    const Loader loader(weights, statistics, bits, device.executor());
    const llama::PlanScores scores = evaluate_plans(config, loader, outer, device, windows, plans);
    for (std::size_t p = 0; p < plans.size(); ++p) {
      const llama::Estimate kl = kl_of(scores.plans[p]), loss = nll_difference(scores.plans[p], scores.reference), nll = nll_of(scores.plans[p]);
      fmt::print("| {} | {} | {:.4f} ± {:.4f} | {:.4f} ± {:.4f} | {:.2f} |\n", bits, ways[p].second, kl.mean, kl.error, loss.mean, loss.error,
                 std::exp(nll.mean));
      std::fflush(stdout);
    }
    if (digit == widths.back()) fmt::print("\nFP16: perplexity {:.2f}, {} windows\n", std::exp(nll_of(scores.reference).mean), windows.size());
  }
}

} // namespace

int main(int argc, char** argv) {
  if (argc < 4) {
    fmt::print(stderr, "usage: {} MODEL TEXT_IDS CALIBRATION_IDS [bits] [threads]\n", argv[0]);
    return 2;
  }
  try {
    report(argv[1], read_token_ids(argv[2]), read_token_ids(argv[3]), argc > 4 ? argv[4] : "2,3,4", argc > 5 ? std::stoul(argv[5]) : 1);
  } catch (const std::exception& error) {
    fmt::print(stderr, "{}\n", error.what());
    return 1;
  }
}
