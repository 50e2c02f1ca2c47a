// The two 16-bit formats from their definition, in double arithmetic and comparisons only: what the library's bit manipulation is checked against.
#pragma once

#include <cmath>
#include <cstdint>

namespace float_oracle {

/// A binary format with a sign bit above `infinity`'s pattern.
struct Format {
  int fraction_bits;
  int bias;
  std::uint16_t infinity;
};

inline constexpr Format binary16{10, 15, 0x7c00};
inline constexpr Format bfloat16{7, 127, 0x7f80};

/// Value of a pattern without its sign bit; infinity's counts as the number that would follow the largest one.
inline double magnitude_of(Format format, unsigned pattern) {
  const int exponent = static_cast<int>(pattern >> format.fraction_bits);
  const unsigned one = 1u << format.fraction_bits;
  const unsigned fraction = pattern & (one - 1);
  if (exponent == 0) return std::ldexp(fraction, 1 - format.bias - format.fraction_bits);
  return std::ldexp(fraction + one, exponent - format.bias - format.fraction_bits);
}

inline double value_of(Format format, std::uint16_t pattern) {
  const double magnitude = magnitude_of(format, pattern & 0x7fffu);
  return (pattern & 0x8000u) != 0 ? -magnitude : magnitude;
}

/// The smallest pattern whose value is not below `magnitude`; infinity's if there is none.
inline std::uint16_t not_below(Format format, double magnitude) {
  unsigned low = 0, high = format.infinity;
  while (low < high) {
    const unsigned middle = (low + high) / 2;
    if (magnitude_of(format, middle) < magnitude)
      low = middle + 1;
    else
      high = middle;
  }
  return static_cast<std::uint16_t>(low);
}

/// The pattern nearest to a value that is not NaN, ties to the even pattern.
inline std::uint16_t nearest(Format format, float value) {
  const double magnitude = std::fabs(static_cast<double>(value));
  const unsigned sign = std::signbit(value) ? 0x8000u : 0u;
  const unsigned above = not_below(format, magnitude);
  if (above == 0) return static_cast<std::uint16_t>(sign);
  const double middle = (magnitude_of(format, above - 1) + magnitude_of(format, above)) / 2; // exact
  const bool down = magnitude < middle || (magnitude == middle && above % 2 != 0);
  return static_cast<std::uint16_t>(sign | (down ? above - 1 : above));
}

} // namespace float_oracle
