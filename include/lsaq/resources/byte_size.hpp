// Amounts of memory as people write them: "140MiB", "6G", "1.5GB".
#pragma once

#include <lsaq/error.hpp>

#include <cmath>
#include <cstdlib>
#include <string>
#include <string_view>

namespace lsaq::inline v0::inline LSAQ_BASELINE {

/// Reads a number with an optional unit: B, K/KiB, M/MiB, G/GiB, T/TiB are powers of 1024, KB, MB, GB, TB powers of 1000. Fails on anything else.
inline Expected<Bytes> parse_bytes(std::string_view text) {
  using Failure = Expected<Bytes>::Failure;
  const auto refuse = [&] {
    std::string shown(text.substr(0, 40));
    for (char& c : shown)
      if (c < ' ' || c > '~') c = '?'; // the text may come from a file, the message goes to a terminal
    return Failure{"\"" + shown + "\" is not an amount of memory; write for example 140MiB, 6GiB or 1.5GB"};
  };
  std::size_t digits = 0;
  bool point = false;
  double number = 0, place = 1; // the digits without their point, and what they are to be divided by: both exact, so that 2.01GB is
  constexpr double last_place = 1e15;
  for (; digits < text.size(); ++digits) { // by hand: strtod follows the locale
    const char c = text[digits];
    if (c == '.' && !point) {
      point = true;
    } else if (c < '0' || c > '9') {
      break;
    } else if (!point || place < last_place) {
      number = number * 10 + (c - '0');
      if (point) place *= 10;
    }
  }
  if (digits == 0 || (digits == 1 && point)) return refuse();
  std::string unit;
  for (char c : text.substr(digits))
    if (c != ' ') unit += static_cast<char>(c >= 'A' && c <= 'Z' ? c + 32 : c);
  double factor = 1;
  if (!unit.empty() && unit != "b") {
    const std::size_t power = std::string_view("kmgt").find(unit[0]) + 1; // npos + 1 is 0
    const std::string_view rest = std::string_view(unit).substr(1);
    if (power == 0 || (rest != "" && rest != "ib" && rest != "b")) return refuse();
    factor = std::pow(rest == "b" ? 1000.0 : 1024.0, static_cast<double>(power));
  }
  const double bytes = std::floor(number * factor / place);
  if (!(bytes < 0x1p63)) return refuse();
  return static_cast<Bytes>(bytes);
}

} // namespace lsaq::inline v0::inline LSAQ_BASELINE
