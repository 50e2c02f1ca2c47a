// lsaq eval: perplexity of a model deployed by a plan, or with all layers at the same bits.
#include "deployed_model.hpp"
#include "planning.hpp"
#include "tokens.hpp"

#include <lsaq/report.hpp>
#include <lsaq/thread_pool.hpp>

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include <memory>

namespace command {

namespace {

struct Options {
  std::string model;
  std::string plan_file;
  unsigned bits = 16;
  std::string text_file;
  std::string token_ids_file;
  std::optional<std::size_t> context;
  std::size_t windows = 0;
};

/// Consecutive windows of `context` tokens; a rest that fills no window is left out, unless there is nothing else.
Windows evaluation_windows(const Model& model, const Options& options) {
  Windows windows;
  if (!options.token_ids_file.empty()) {
    windows = read_token_ids(options.token_ids_file, model.config);
  } else {
    const std::vector<lsaq::TokenId> tokens = Tokens(model.source).plain(read_file(options.text_file));
    if (tokens.size() < 2) lsaq::fail<lsaq::BadInput>(lsaq::printable(options.text_file) + ": a text of at least two tokens is wanted");
    windows = cut_windows(tokens, std::min(context_of(model.config, options.context, 512), tokens.size()), tokens.size());
  }
  if (options.windows != 0 && windows.size() > options.windows) windows.resize(options.windows);
  return windows;
}

void evaluate(const Options& options, const Global& global) {
  if (options.text_file.empty() == options.token_ids_file.empty())
    lsaq::fail<lsaq::InvalidArgument>("eval needs either --perplexity FILE (a text) or --token-ids FILE (a JSON array of arrays of ids)");
  if (options.bits != 16 && (options.bits < lsaq::min_bits || options.bits > lsaq::max_bits))
    lsaq::fail<lsaq::InvalidArgument>(fmt::format("--bits {}: 16 and 2 to 8 are possible", options.bits));
  const Model model(options.model);
  if (options.context) check_context(model.config, *options.context);
  lsaq::Plan plan;
  if (options.plan_file.empty()) {
    plan.bits.assign(model.config.layers, options.bits);
    plan.average_bits = options.bits;
  } else {
    plan = read_plan(options.plan_file, model).plan;
  }
  const Windows windows = evaluation_windows(model, options);
  std::size_t longest = 0;
  for (const auto& window : windows) longest = std::max(longest, window.size());
  if (longest < 2) lsaq::fail<lsaq::BadInput>(lsaq::printable_path(options.token_ids_file) + ": no window has two tokens: there is nothing to score");
  if (longest > model.config.longest_context)
    lsaq::fail<lsaq::BadInput>(fmt::format("{}: a window has {} tokens, the model was made for at most {}", lsaq::printable_path(options.token_ids_file),
                                           longest, model.config.longest_context));

  lsaq::ThreadPool pool(global.threads);
  const Device device(pool);
  const Stopwatch watch;
  DeployedModel deployed(model, plan, device, longest);
  lsaq::llama::Likelihood total;
  {
    Progress progress("perplexity: window", windows.size());
    for (std::size_t w = 0; w < windows.size(); ++w) {
      check_interrupt();
      const lsaq::llama::Likelihood one = deployed.likelihood(windows[w]);
      total.nll += one.nll;
      total.tokens += one.tokens;
      progress.set(w + 1);
    }
  }
  const double seconds = watch.seconds();
  const lsaq::Bytes bytes = deployed.allocated().weights + deployed.allocated().embedding;
  if (global.json)
    return print_json({{"schema", "lsaq.eval/1"},
                       {"model", model.config.name},
                       {"perplexity", total.perplexity()},
                       {"nll", total.nll / static_cast<double>(total.tokens)},
                       {"tokens", total.tokens},
                       {"windows", windows.size()},
                       {"context", longest},
                       {"average_bits", plan.average_bits},
                       {"bytes_weights", bytes},
                       {"seconds", seconds}});
  print_text(fmt::format("perplexity {:.4f} ({:.6f} nats a token) over {} tokens\n"
                         "{} windows of at most {} tokens, the first of each not scored\n"
                         "average {:.4g} bits a weight, model {} ({} bytes), {:.1f} s\n",
                         total.perplexity(), total.nll / static_cast<double>(total.tokens), total.tokens, windows.size(), longest, plan.average_bits,
                         lsaq::format_bytes(bytes), bytes, seconds));
}

} // namespace

void add_eval(CLI::App& app, Global& global) {
  auto options = std::make_shared<Options>();
  CLI::App* verb = app.add_subcommand("eval", "Measure perplexity at given bits or by a plan");
  verb->add_option("MODEL", options->model, "GGUF file or Hugging Face folder")->required();
  CLI::Option* bits = verb->add_option("--bits", options->bits, "Bits of every layer: 16, or 2 to 8")->capture_default_str();
  verb->add_option("--plan", options->plan_file, "Bits by this plan")->excludes(bits);
  verb->add_option("--perplexity", options->text_file, "Text to score, in windows of --context tokens");
  verb->add_option("--token-ids", options->token_ids_file, "Token ids to score: a JSON array of arrays, each a window");
  verb->add_option("--context", options->context, "Tokens of a window of text (default: 512)")->check(CLI::Range(2, 1 << 30));
  verb->add_option("--windows", options->windows, "Score only the first windows")->check(CLI::Range(1, 1 << 30));
  add_global_options(*verb, global);
  verb->callback([options, &global] { evaluate(*options, global); });
}

} // namespace command
