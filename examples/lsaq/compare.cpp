// lsaq compare: policies against each other. Orders of layers times average bits, evaluated together, reported in tables, JSON and pictures.
#include "comparison_report.hpp"

#include <lsaq/formats/atomic_file.hpp>
#include <lsaq/thread_pool.hpp>

#include <CLI/CLI.hpp>
#include <fmt/format.h>

#include <memory>

namespace command {

namespace {

struct CompareOptions {
  std::string model;
  std::string grid;
  std::string output;
  bool dry_run = false;
};

void make_folder(const std::filesystem::path& folder) {
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  if (!std::filesystem::is_directory(folder)) lsaq::fail<lsaq::IoError>(lsaq::printable_path(folder) + ": the folder can't be made: " + error.message());
}

void compare(const CompareOptions& options, const Global& global) {
  Grid grid = options.grid.empty() ? default_grid() : read_grid(options.grid);
  const Model model(options.model);
  lsaq::ThreadPool pool(global.threads);
  const Device device(pool);
  const Stopwatch watch;
  if (grid.text.text_file.empty() && grid.text.token_ids_file.empty())
    note("note: the built-in text is also the one importance is measured on by default; evaluate another, by [evaluate] text in a grid, for results to report");
  if (!options.output.empty() && !options.dry_run) make_folder(options.output);
  Comparison comparison = prepare_comparison(model, std::move(grid), device);
  const std::filesystem::path folder = options.output;
  KeptScores kept(options.output.empty() ? "" : folder / "checkpoint.json", comparison, device);
  if (options.dry_run) {
    const RemainingWork work = remaining_work(model, comparison, kept);
    if (global.json) return print_json(outline_json(comparison, work));
    return print_text(comparison_outline(comparison, work));
  }
  evaluate_comparison(model, comparison, device, kept);

  nlohmann::json json = comparison_json(comparison);
  if (!options.output.empty()) {
    const std::vector<std::string> pictures = draw_comparison(comparison, folder);
    json["pictures"] = pictures;
    lsaq::AtomicFile report(folder / "report.md");
    report.write(comparison_markdown(comparison, pictures));
    report.commit();
  }
  json["seconds"] = watch.seconds();
  json["scores_reused"] = comparison.reused;
  if (!options.output.empty()) write_json(folder / "results.json", json);
  if (global.json) return print_json(json);
  print_text(comparison_text(comparison));
  note(fmt::format("{} plans on {} windows in {:.1f} s{}{}", comparison.plans.size(), comparison.text.windows.size(), watch.seconds(),
                   comparison.reused != 0
                       ? fmt::format(", {} of {} scores from an earlier run", comparison.reused, comparison.plans.size() * comparison.text.windows.size())
                       : "",
                   options.output.empty() ? "" : "; report in " + lsaq::printable_path(folder / "report.md")));
}

} // namespace

void add_compare(CLI::App& app, Global& global) {
  auto options = std::make_shared<CompareOptions>();
  CLI::App* verb = app.add_subcommand("compare", "Compare orders of layers: accuracy of their plans at several average bits");
  verb->add_option("MODEL", options->model, "GGUF file or Hugging Face folder")->required();
  verb->add_option("--grid", options->grid, "TOML file that says what to compare (default: the usual orders at 7, 6 and 5 bits)");
  verb->add_option("-o,--output", options->output, "Folder for the report, results.json, pictures, and the checkpoint an interrupted run resumes from");
  verb->add_flag("--dry-run", options->dry_run, "Show the orders, their plans and the work, and stop");
  add_global_options(*verb, global);
  verb->callback([options, &global] { compare(*options, global); });
}

} // namespace command
