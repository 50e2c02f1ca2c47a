// What a comparison found, for people and for programs: tables for the terminal and as Markdown, the JSON object, pictures.
#pragma once

#include "comparison.hpp"

namespace command {

/// The object of schema lsaq.compare/1 (docs/formats.md).
nlohmann::json comparison_json(const Comparison& comparison);

/// Tables for a terminal of 80 columns.
std::string comparison_text(const Comparison& comparison);

/// The report as Markdown, with the pictures that were drawn.
std::string comparison_markdown(const Comparison& comparison, const std::vector<std::string>& pictures);

/// Draws perplexity.svg, kl.svg and ranks.svg into `folder`; gives the names of those drawn. What can't be drawn is noted and left out.
std::vector<std::string> draw_comparison(const Comparison& comparison, const std::filesystem::path& folder);

/// Orders and plans, and what has to be computed; for --dry-run.
std::string comparison_outline(const Comparison& comparison, const RemainingWork& work);
nlohmann::json outline_json(const Comparison& comparison, const RemainingWork& work);

} // namespace command
