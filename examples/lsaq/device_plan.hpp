// Plans for several devices that hold one model together, and how other engines are told about them.
#pragma once

#include "planning.hpp"

#include <lsaq/planning/device_split.hpp>

#include <nlohmann/json.hpp>

namespace command {

/// "NAME=AMOUNT,NAME=AMOUNT", or amounts alone, which are named by their number: devices in the order in which layers pass them. Throws InvalidArgument.
std::vector<lsaq::DeviceMemory> parse_devices(const std::string& text);

/// A plan and where its layers lie.
struct DevicePlan {
  lsaq::PlanFile file;
  std::vector<lsaq::DeviceShare> shares; ///< as many as devices
};

/// The plan by the rule of the options, its layers in contiguous ranges over the devices. The first layer's device also holds the embedding, the last layer's
/// the output head, a copy where it is tied and another device's, and the final norm; working memory is on each, the reserve divided by memory. A device may
/// have no layers, and then has nothing.
///
/// Optimal: the least cost with each device's own budget (lsaq::place). Paper: the best plan for all memory together whose layers can be spread, each device
/// filled to about the same share of its memory (lsaq::split_layers). Throws Infeasible, InvalidArgument.
DevicePlan plan_for_devices(const std::vector<lsaq::DeviceMemory>& devices, const BudgetOptions& options, const lsaq::Importance& importance,
                            const lsaq::llama::Config& config, std::size_t context, lsaq::Grouping grouping);

/// Flags of other engines by name: llama.cpp, vllm.
nlohmann::json engine_flags(const std::vector<lsaq::DeviceShare>& shares);

/// The shares and flags for people, for JSON.
std::string device_table(const DevicePlan& plan);
nlohmann::json devices_json(const DevicePlan& plan);

} // namespace command
