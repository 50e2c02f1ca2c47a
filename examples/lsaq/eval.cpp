// lsaq eval: perplexity of a model deployed by a plan, or with all layers at the same bits; and how far it is from the unquantized model.
#include "deployed_model.hpp"
#include "evaluation_windows.hpp"
#include "planning.hpp"

#include <lsaq/models/evaluation_statistics.hpp>
#include <lsaq/models/plan_evaluation.hpp>
#include <lsaq/report.hpp>
#include <lsaq/thread_pool.hpp>

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include <memory>

namespace command {

namespace {

namespace llama = lsaq::llama;

struct EvalOptions {
  std::string model;
  std::string plan_file;
  std::string quantized_file;
  unsigned bits = 16;
  RoundingOptions rounding;
  EvaluationText text;
  std::string protocol = "every";
  bool divergence = false;
  std::string activations = "float32";
};

/// Bits, rounding and where the layers come from: a file of quantized layers, or the plan's where there is one, options first.
QuantizedFile wanted(const EvalOptions& options, const Model& model, const Device& device) {
  if (!options.quantized_file.empty()) return open_quantized(options.quantized_file, model, device);
  ReadPlan read = plan_of(options.plan_file, options.bits, model);
  const Quantization quantization = quantization_of(options.rounding, read.quantization);
  return {std::move(read.file), quantization, LayerSource(rounding_loader(model, quantization, options.rounding, device))};
}

/// Likelihoods by the decoder that would be deployed.
std::vector<llama::WindowScore> score_deployed(const Model& model, const lsaq::Plan& plan, const LayerSource& source, const Device& device,
                                               const EvaluationWindows& text, Activations activations) {
  DeployedModel deployed(model, plan, source, device, text.longest, activations);
  std::vector<llama::WindowScore> scores;
  Progress progress("perplexity: window", text.windows.size());
  for (const llama::ScoredWindow& window : text.windows) {
    check_interrupt();
    const llama::Likelihood one = deployed.likelihood(window);
    scores.push_back({.nll = one.nll, .tokens = one.tokens});
    progress.set(scores.size());
  }
  return scores;
}

/// The plan beside the unquantized model, layer by layer.
template <class AnyDevice>
llama::PlanScores score_beside_reference(const Model& model, const lsaq::Plan& plan, const LayerSource& source, const AnyDevice& device,
                                         const EvaluationWindows& text) {
  const llama::OuterWeights outer = source.outer(device);
  std::optional<Progress> progress;
  return llama::evaluate_plans(
      model.config, source, outer, device, text.windows, std::span(&plan, 1), {}, [](std::size_t, const llama::PlanScores&) {},
      [&](std::size_t done, std::size_t steps) {
        check_interrupt();
        if (!progress) progress.emplace("perplexity and divergence: step", steps);
        progress->set(done);
      });
}

std::string with_error(const llama::Estimate& estimate, int digits) {
  return std::isnan(estimate.error) ? fmt::format("{:.{}f}", estimate.mean, digits)
                                    : fmt::format("{:.{}f} +- {:.{}f}", estimate.mean, digits, estimate.error, digits);
}

void evaluate(EvalOptions options, const Global& global) {
  if (options.text.text_file.empty() == options.text.token_ids_file.empty())
    lsaq::fail<lsaq::InvalidArgument>("eval needs either --perplexity FILE (a text) or --token-ids FILE (a JSON array of arrays of ids)");
  if (options.bits != 16 && (options.bits < lsaq::min_bits || options.bits > lsaq::max_bits))
    lsaq::fail<lsaq::InvalidArgument>(fmt::format("--bits {}: 16 and 2 to 8 are possible", options.bits));
  options.text.protocol = *protocol_named(options.protocol);
  if (options.text.stride && options.text.protocol != llama::Protocol::strided) lsaq::fail<lsaq::InvalidArgument>("--stride belongs to --protocol strided");
  const Model model(options.model);
  const EvaluationWindows text = evaluation_windows(model, options.text);

  lsaq::ThreadPool pool(global.threads);
  const Device device(pool);
  const auto [file, quantization, source] = wanted(options, model, device);
  const lsaq::Plan& plan = file.plan;
  const Stopwatch watch;
  llama::PlanScores beside;
  const Activations activations = activations_named(options.activations);
  if (options.divergence && activations == Activations::float32) beside = score_beside_reference(model, plan, source, device, text);
  if (options.divergence && activations == Activations::int8) beside = score_beside_reference(model, plan, source, FastDevice(pool), text);
  const std::vector<llama::WindowScore> scores = options.divergence ? beside.plans[0] : score_deployed(model, plan, source, device, text, activations);
  const double seconds = watch.seconds();
  const llama::Estimate nll = llama::nll_of(scores);
  const lsaq::Bytes bytes = model_bytes_of(model.config, plan, quantization.rounding.grouping).total;
  if (global.json) {
    nlohmann::json json{{"schema", "lsaq.eval/1"},
                        {"model", model.config.name},
                        {"protocol", options.protocol},
                        {"perplexity", std::exp(nll.mean)},
                        {"nll", nll.mean},
                        {"nll_se", nll.error},
                        {"tokens", text.targets},
                        {"windows", text.windows.size()},
                        {"context", text.longest},
                        {"average_bits", plan.average_bits},
                        {"rounding", quantization.describe()},
                        {"activations", options.activations},
                        {"bytes_weights", bytes},
                        {"seconds", seconds}};
    if (text.stride != 0) json["stride"] = text.stride;
    if (options.divergence) {
      const auto put = [&](const std::string& key, const llama::Estimate& estimate) {
        json[key] = estimate.mean;
        json[key + "_se"] = estimate.error;
      };
      put("kl", llama::kl_of(scores));
      put("top1", llama::agreement_of(scores));
      put("delta_nll", llama::nll_difference(scores, beside.reference));
      json["perplexity_fp16"] = std::exp(llama::nll_of(beside.reference).mean);
      nlohmann::json& sums = json["window_sums"] = nlohmann::json::array(); // what runs over the same windows are compared by
      for (const llama::WindowScore& score : scores)
        sums.push_back({{"tokens", score.tokens}, {"nll", score.nll}, {"kl", score.kl}, {"agreements", score.agreements}});
    }
    return print_json(json);
  }
  const double perplexity = std::exp(nll.mean);
  std::string report = fmt::format("perplexity {} ({} nats a token) over {} tokens\n",
                                   perplexity < 1e6 ? fmt::format("{:.4f}", perplexity) : fmt::format("{:.4g}", perplexity), with_error(nll, 6), text.targets);
  if (options.divergence) {
    const llama::Estimate agreement = llama::agreement_of(scores);
    report += fmt::format("{} nats a token above FP16\n", with_error(llama::nll_difference(scores, beside.reference), 6));
    report += fmt::format("KL divergence from FP16 {} nats a token\n", with_error(llama::kl_of(scores), 6));
    report += fmt::format("same likeliest token as FP16 {}%\n", with_error({100 * agreement.mean, 100 * agreement.error}, 2));
  }
  report += fmt::format("{} windows of at most {} tokens, {}\naverage {:.4g} bits a weight, {}, {} activations\nmodel {} ({} bytes), {:.1f} s\n",
                        text.windows.size(), text.longest, describe(options.text.protocol, text.stride), plan.average_bits, quantization.describe(),
                        options.activations, lsaq::format_bytes(bytes), bytes, seconds);
  print_text(report);
}

} // namespace

void add_eval(CLI::App& app, Global& global) {
  auto options = std::make_shared<EvalOptions>();
  CLI::App* verb = app.add_subcommand("eval", "Measure perplexity, and the distance from FP16, at given bits or by a plan");
  verb->add_option("MODEL", options->model, "GGUF file or Hugging Face folder")->required();
  CLI::Option* bits = verb->add_option("--bits", options->bits, "Bits of every layer: 16, or 2 to 8")->capture_default_str();
  verb->add_option("--plan", options->plan_file, "Bits by this plan")->excludes(bits);
  verb->add_option("--quantized", options->quantized_file, "Layers from this file of lsaq quantize")->excludes(bits)->excludes("--plan");
  add_rounding_options(*verb, options->rounding);
  add_rounding_calibration_options(*verb, options->rounding);
  verb->add_option("--perplexity", options->text.text_file, "Text to score, in windows of --context tokens");
  verb->add_option("--token-ids", options->text.token_ids_file, "Token ids to score: a JSON array of arrays, each a window");
  verb->add_option("--context", options->text.context, "Tokens of a window of text (default: 512)")->check(CLI::Range(2, 1 << 30));
  verb->add_option("--windows", options->text.windows, "Score only the first windows")->check(CLI::Range(1, 1 << 30));
  verb->add_option("--protocol", options->protocol, "Tokens scored: every one of a window but its first; second-half, as llama.cpp; strided windows")
      ->capture_default_str()
      ->check(CLI::IsMember({"every", "second-half", "strided"}));
  verb->add_option("--stride", options->text.stride, "Tokens from one strided window to the next (default: half the context)")->check(CLI::Range(1, 1 << 30));
  verb->add_flag("--divergence", options->divergence, "Compare with FP16: KL divergence, same likeliest token, paired difference");
  verb->add_option("--activations", options->activations, "Activations beside packed weights: float32 measures the weights alone, int8 is how run deploys")
      ->capture_default_str()
      ->check(CLI::IsMember({"float32", "int8"}));
  add_global_options(*verb, global);
  verb->callback([options, &global] { evaluate(*options, global); });
}

} // namespace command
