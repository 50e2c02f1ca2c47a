// What `plan` and `run` share: the options of the budget, and a plan from importance and memory.
#pragma once

#include "detect.hpp"
#include "rounding_options.hpp"

#include <lsaq/formats/plan_file.hpp>
#include <lsaq/planning/optimal.hpp>

namespace command {

/// Options of the byte budget, and of the rule that makes plans within it.
struct BudgetOptions {
  std::string memory;                 ///< --memory; empty: the probe's
  std::string reserve;                ///< --reserve: "3%" or an amount; empty: 3%
  std::vector<std::string> pins;      ///< --pin LAYER=BITS
  std::string importance_file;        ///< --importance
  std::string kv_cache = "f16";       ///< --kv-cache: f16, q8_0 or auto
  std::string planner = "paper";      ///< --planner: paper or optimal
  std::vector<unsigned> widths;       ///< --widths of optimal; empty: all
  std::string costs_file;             ///< --costs of optimal; empty: made of importance
  bool by_linear = false;             ///< --by-linear of optimal
  std::string destination = "packed"; ///< --format: what the bytes are counted for

  bool optimal() const { return planner == "optimal"; }
  /// Whether plans are made from the importance of layers.
  bool needs_importance() const { return !optimal() || costs_file.empty(); }
};

void add_budget_options(CLI::App& verb, BudgetOptions& options);

/// Throws InvalidArgument for options that exclude each other.
void check(const BudgetOptions& options);

/// What --kv-cache says keys and values are kept as; auto is the FP16 it begins with. Throws InvalidArgument if the model's heads are not made for it.
lsaq::ElementType kv_cache_type(const BudgetOptions& options, const lsaq::llama::Config& config);
/// Its bits a value as a plan file has them, scales left out.
unsigned kv_cache_bits(const BudgetOptions& options);

/// Reads an amount of memory given with `option`. Throws InvalidArgument.
lsaq::Bytes bytes_option(const char* option, const std::string& text);

/// The budget for `memory` bytes and scales of `grouping`; context 0 leaves KV cache and activations to the reserve. With --kv-cache auto the cache is one of
/// its choices. Throws InvalidArgument, BadInput from the file of costs.
lsaq::OptimalBudget make_budget(const BudgetOptions& options, const lsaq::llama::Config& config, lsaq::Bytes memory, std::size_t context,
                                lsaq::Grouping grouping = {});

/// What --format, or a plan's "format", stands for; packed for any other word.
lsaq::Destination destination_named(const std::string& name);

/// The model as the planner sees it, stored as the options say.
lsaq::ModelShape shape_of(const BudgetOptions& options, const lsaq::llama::Config& config);

/// Throws Infeasible: `what` needs more bytes than are available, in units people read and to the byte; `remedies` is what would help, if anything.
[[noreturn]] void fail_infeasible(const std::string& what, lsaq::Bytes needed, lsaq::Bytes available, const std::string& remedies = "");

/// The plan by the rule of the options. Throws Infeasible with a sentence in units people read that names what would fit.
lsaq::PlanFile make_plan(const BudgetOptions& options, const lsaq::Importance& importance, const lsaq::llama::Config& config, const lsaq::OptimalBudget& budget,
                         std::size_t context);

/// A plan file and how it says weights are rounded.
struct ReadPlan {
  lsaq::PlanFile file;
  Quantization quantization;
};

/// Checks a plan for a model. Throws BadInput if its layer count or hash is another model's.
ReadPlan checked_plan(const nlohmann::json& json, const std::string& name, const Model& model);
/// Reads a plan file and checks it.
ReadPlan read_plan(const std::filesystem::path& path, const Model& model);
/// The plan of a file; without a file, `bits` for every layer.
ReadPlan plan_of(const std::string& file, unsigned bits, const Model& model);

/// Bytes of weights and embedding by a plan's bits and a grouping of scales, stored for a destination.
lsaq::PlanBytes model_bytes_of(const lsaq::llama::Config& config, const lsaq::Plan& plan, lsaq::Grouping grouping,
                               lsaq::Destination destination = lsaq::Destination::packed);

/// Bits that a weight of the layers takes, scales and padding included, in the plan's format.
double stored_bits_of(const lsaq::llama::Config& config, const lsaq::PlanFile& file, const Quantization& quantization);

/// The context wanted, checked; if none was, the usual one or the model's longest if that is shorter.
std::size_t context_of(const lsaq::llama::Config& config, std::optional<std::size_t> wanted, std::size_t usual);

/// Refuses a context longer than the model's. Throws InvalidArgument.
void check_context(const lsaq::llama::Config& config, std::size_t context);

} // namespace command
