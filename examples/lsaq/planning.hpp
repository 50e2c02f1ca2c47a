// What `plan` and `run` share: the options of the budget, and a plan from importance and memory.
#pragma once

#include "detect.hpp"
#include "rounding_options.hpp"

#include <lsaq/formats/plan_file.hpp>
#include <lsaq/planning/planner.hpp>

namespace command {

/// Options of the byte budget.
struct BudgetOptions {
  std::string memory;            ///< --memory; empty: the probe's
  std::string reserve;           ///< --reserve: "3%" or an amount; empty: 3%
  std::vector<std::string> pins; ///< --pin LAYER=BITS
  std::string importance_file;   ///< --importance
  std::string kv_cache = "f16";  ///< --kv-cache: f16 or q8_0
};

void add_budget_options(CLI::App& verb, BudgetOptions& options);

/// What --kv-cache says keys and values are kept as. Throws InvalidArgument if the model's heads are not made for it.
lsaq::ElementType kv_cache_type(const BudgetOptions& options, const lsaq::llama::Config& config);
/// Its bits a value as a plan file has them, scales left out.
unsigned kv_cache_bits(const BudgetOptions& options);

/// Reads an amount of memory given with `option`. Throws InvalidArgument.
lsaq::Bytes bytes_option(const char* option, const std::string& text);

/// The budget for `memory` bytes and scales of `grouping`; context 0 leaves KV cache and activations to the reserve.
lsaq::MemoryBudget make_budget(const BudgetOptions& options, const lsaq::llama::Config& config, lsaq::Bytes memory, std::size_t context,
                               lsaq::Grouping grouping = {});

/// Throws Infeasible: `what` needs more bytes than are available, in units people read and to the byte.
[[noreturn]] void fail_infeasible(const std::string& what, lsaq::Bytes needed, lsaq::Bytes available);

/// The plan by the paper's rule. Throws Infeasible with a sentence in units people read.
lsaq::PlanFile make_plan(const lsaq::Importance& importance, const lsaq::llama::Config& config, const lsaq::MemoryBudget& budget, std::size_t context);

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

/// Bytes of weights and embedding by a plan's bits and a grouping of scales.
lsaq::PlanBytes model_bytes_of(const lsaq::llama::Config& config, const lsaq::Plan& plan, lsaq::Grouping grouping);

/// The context wanted, checked; if none was, the usual one or the model's longest if that is shorter.
std::size_t context_of(const lsaq::llama::Config& config, std::optional<std::size_t> wanted, std::size_t usual);

/// Refuses a context longer than the model's. Throws InvalidArgument.
void check_context(const lsaq::llama::Config& config, std::size_t context);

} // namespace command
