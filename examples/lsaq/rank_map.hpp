// A picture of several orders of a model's layers, drawn as those of plot.hpp are.
#pragma once

#include <lsaq/report.hpp>

#include <filesystem>
#include <string>
#include <vector>

namespace command {

/// Ranks of a model's layers by several metrics, a row each, the least important quarter marked; beside them the matrix of rank correlations between the rows
/// (NaN where there is none). Throws InvalidArgument unless all orders are permutations of the same layers and the matrix fits; otherwise as check_picture().
void draw_rank_map(const std::filesystem::path& path, const std::string& title, const std::vector<lsaq::NamedOrder>& orders,
                   const std::vector<std::vector<double>>& correlations);

} // namespace command
