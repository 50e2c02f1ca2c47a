// The next token from logits: the likeliest, or drawn at a temperature.
#pragma once

#include <lsaq/types.hpp>

#include <algorithm>
#include <cmath>
#include <random>
#include <span>
#include <vector>

namespace command {

/// Draws tokens; temperature 0 takes the likeliest (ties: the lower id). Repeatable for a seed.
class Sampler {
public:
  Sampler(double temperature, std::uint64_t seed) : temperature_(temperature), random_(seed) {}

  lsaq::TokenId operator()(std::span<const float> logits) {
    const auto highest = std::max_element(logits.begin(), logits.end());
    if (temperature_ <= 0) return static_cast<lsaq::TokenId>(highest - logits.begin());
    weights_.resize(logits.size());
    double sum = 0;
    for (std::size_t i = 0; i < logits.size(); ++i) sum += weights_[i] = std::exp((double{logits[i]} - *highest) / temperature_);
    double left = std::uniform_real_distribution<double>(0, sum)(random_);
    for (std::size_t i = 0; i < logits.size(); ++i)
      if ((left -= weights_[i]) < 0) return static_cast<lsaq::TokenId>(i);
    return static_cast<lsaq::TokenId>(highest - logits.begin());
  }

private:
  double temperature_;
  std::mt19937_64 random_;
  std::vector<double> weights_;
};

} // namespace command
