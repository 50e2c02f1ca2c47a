// What activations become before they are multiplied with packed codes: a policy of the backend.
#pragma once

#include <lsaq/config.hpp>

#include <concepts>
#include <string_view>

namespace lsaq::inline v0 {

/// Keeps activations as FP32; codes are widened. The reference.
struct Float32 {
  static constexpr std::string_view name = "float32";
};

/// Makes a token integers of 8 bits with one scale, of 15 bits in the few units of columns that need it (kernels/cpu/token_codes.hpp); sums over a row are exact.
struct Int8PerToken {
  static constexpr std::string_view name = "int8 per token";
};

/// Makes every block of 32 columns integers of 8 bits with a scale of its own, as llama.cpp does: more sums, one plane. What Int8PerToken does beside weights with
/// scales for groups.
struct Int8PerBlock {
  static constexpr std::string_view name = "int8 per block";
};

/// A policy that says what activations become.
template <class P>
concept activation_policy = requires {
  { P::name } -> std::convertible_to<std::string_view>;
};

static_assert(activation_policy<Float32> && activation_policy<Int8PerToken> && activation_policy<Int8PerBlock>);

/// Names the policy where a backend is made: Backend<Cpu, Activation<Float32>>.
template <class Policy> struct Activation {
  static_assert(activation_policy<Policy>, "lsaq: Activation<P>: P is Int8PerToken, Int8PerBlock or Float32");
  using policy = Policy;
};

} // namespace lsaq::inline v0
