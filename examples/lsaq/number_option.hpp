// The check of options that take a real number.
#pragma once

#include <lsaq/formats/names.hpp>

#include <CLI/CLI.hpp>
#include <fmt/format.h>

#include <charconv>
#include <string>

namespace command {

/// A finite number from `least` to `most`; CLI::Range lets "nan" pass.
inline CLI::Validator number_between(double least, double most) {
  const auto check = [=](const std::string& text) {
    double value = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    const bool inside = error == std::errc() && end == text.data() + text.size() && least <= value && value <= most;
    return inside ? std::string() : fmt::format("\"{}\" is no number from {} to {}", lsaq::printable(text, 40), least, most);
  };
  return CLI::Validator(check, fmt::format("FLOAT from {} to {}", least, most));
}

} // namespace command
