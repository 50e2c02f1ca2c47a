// lsaq plan --diff: what is different between two plan files.
#pragma once

#include "console.hpp"

#include <string>

namespace command {

/// Prints the layers and linears whose bits differ, other settings that do, and the bytes of both. Throws BadInput for a file that is no plan, or plans of
/// different numbers of layers.
void compare_plans(const std::string& from, const std::string& to, const Global& global);

} // namespace command
