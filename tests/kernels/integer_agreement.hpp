// Integer products of one path beside the oracle's, on weights in memory that ends with their last row.
#pragma once

#include <lsaq/kernels/cpu/integer_matmul.hpp>

#include "kernels/kernel_cases.hpp"

namespace integer_agreement {

using lsaq::Isa;
using lsaq::Scaling;

/// y = x W^T of one path.
inline std::vector<float> products(const lsaq::IntegerKernels& integer, const lsaq::WeightRows& weights, std::size_t rows, std::size_t columns,
                                   std::span<const float> x, std::size_t tokens, Scaling scaling, std::span<const float> row_scales) {
  const lsaq::TokenLayout layout = integer.layout(weights.format.bits, tokens, scaling);
  std::vector<std::byte> memory(lsaq::TokenCodes::bytes(tokens, columns, layout, scaling));
  const lsaq::TokenCodes codes = lsaq::TokenCodes::divide(tokens, columns, layout, memory.data(), scaling);
  for (std::size_t tile = 0; tile < codes.tiles(); ++tile) lsaq::quantize_tile(integer, x.data(), columns, codes, tile);
  std::vector<float> y(tokens * rows);
  const lsaq::RowScales scales{reinterpret_cast<const std::byte*>(row_scales.data()), lsaq::ElementType::f32};
  const auto multiply = scaling == Scaling::block ? lsaq::multiply_blocks : lsaq::multiply_codes;
  multiply(lsaq::kernels_of(Isa::scalar), integer, weights, 0, rows, codes, scales, y.data(), rows);
  return y;
}

/// Expects what the oracle computes, to the last bit, and nothing read behind the last row.
inline void expect_the_oracles_sums(const lsaq::IntegerKernels& integer) {
  std::mt19937 random{5};
  std::uniform_real_distribution<float> uniform(0.01f, 2);
  for (unsigned bits = 2; bits <= 8; ++bits)
    for (const auto& [rows, columns] : {std::pair<std::size_t, std::size_t>(1, 1), {3, 31}, {4, 64}, {33, 65}, {50, 100}, {20, 577}, {9, 1500}, {5, 4200}})
      for (const std::size_t tokens : {1, 2, 3, 4, 5, 6, 7, 15, 16, 17, 19, 25, 40})
        for (const std::size_t group : {0, 32, 96, 4224}) { // 0: a scale a token
          const kernel_cases::Weights stored({.element = lsaq::ElementType::f32, .bits = bits}, rows, columns, kernel_cases::Numbers::any, random);
          const std::size_t per_row = group == 0 ? 1 : (columns + group - 1) / group;
          const kernel_cases::Exact<float> scales(rows * per_row);
          for (float& scale : scales) scale = uniform(random);
          lsaq::WeightRows weights = stored.rows();
          if (group != 0) weights.groups = {reinterpret_cast<const std::byte*>(scales.data()), lsaq::ElementType::f32, group, per_row};
          const std::vector<float> x = kernel_cases::states(tokens, columns, random);
          const std::span<const float> row_scales(scales.data(), scales.size());
          const Scaling scaling = group == 0 ? Scaling::token : Scaling::block;
          ASSERT_EQ(products(integer, weights, rows, columns, x, tokens, scaling, row_scales),
                    products(*lsaq::kernels_of(Isa::scalar).integer, weights, rows, columns, x, tokens, scaling, row_scales))
              << bits << " bits, " << rows << " x " << columns << ", " << tokens << " tokens, groups of " << group;
        }
}

/// Tokens whose codes are as large as they may be, all of them or in each unit of 8 columns that may have two planes, by their pattern.
inline std::vector<float> largest_states(std::size_t tokens, std::size_t columns) {
  std::vector<float> x(tokens * columns);
  for (std::size_t t = 0; t < tokens; ++t)
    for (std::size_t c = 0; c < columns; ++c) {
      const bool negative = t % 3 == 1 || (t % 3 == 2 && c / 2 % 2 == 1), outlier = t % 2 == 1 && c / 8 % 17 == 3;
      x[t * columns + c] = (negative ? -1.0f : 1.0f) * (outlier ? 128.0f : 1.0f);
    }
  return x;
}

/// The same where every code and every token is at its limit: no sum of 16 bits on the way may saturate or wrap around.
inline void expect_exact_sums_at_the_limits(const lsaq::IntegerKernels& integer) {
  for (unsigned bits = 2; bits <= 8; ++bits)
    for (const std::size_t columns : {8, 96, 1000, 4200})
      for (const std::size_t tokens : {1, 5, 16, 23})
        for (const int byte : {0x00, 0xff}) {
          constexpr std::size_t rows = 19;
          const std::vector<std::byte> stored(rows * ((columns * bits + 31) / 32 * 4), static_cast<std::byte>(byte));
          const lsaq::WeightRows weights{stored.data(), stored.size() / rows, {.element = lsaq::ElementType::f32, .bits = bits}};
          const std::vector<float> x = largest_states(tokens, columns), scales(rows, 1.0f);
          ASSERT_EQ(products(integer, weights, rows, columns, x, tokens, Scaling::token, scales),
                    products(*lsaq::kernels_of(Isa::scalar).integer, weights, rows, columns, x, tokens, Scaling::token, scales))
              << bits << " bits, " << columns << " columns, " << tokens << " tokens, codes of bytes " << byte;
        }
}

} // namespace integer_agreement
