// Which weights share one scale: policies for the front door, and the same as data for matrices in memory.
#pragma once

#include <lsaq/config.hpp>

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace lsaq::inline v0 {

/// Which codes of a matrix share a scale, as data.
struct Grouping {
  std::uint32_t columns = 0; ///< consecutive columns of a row that share one, a multiple of 32; 0: the whole row
  bool whole_matrix = false; ///< one scale for all rows; `columns` is 0 then

  /// Scales of a row of `row_columns` columns; a last group may be shorter than the others.
  constexpr std::size_t scales_per_row(std::size_t row_columns) const noexcept { return columns == 0 ? 1 : (row_columns + columns - 1) / columns; }

  /// Scales of a matrix.
  constexpr std::size_t scales(std::size_t rows, std::size_t row_columns) const noexcept {
    return whole_matrix ? (rows == 0 ? 0 : 1) : rows * scales_per_row(row_columns);
  }

  /// "tensor", "channel" or "group:N".
  std::string name() const { return whole_matrix ? "tensor" : columns == 0 ? "channel" : "group:" + std::to_string(columns); }

  friend constexpr bool operator==(Grouping, Grouping) = default;
};

/// Groups end where packed codes of any width end on a whole word, and where the products' chunks of columns do.
inline constexpr std::size_t group_multiple = 32;

/// One scale for the whole matrix.
struct PerTensor {
  static constexpr std::string_view name = "tensor";
  static constexpr Grouping grouping{.columns = 0, .whole_matrix = true};
};

/// One scale for each output channel, i.e. each row of the weight matrix (LSAQ, Eq. 4).
struct PerChannel {
  static constexpr std::string_view name = "channel";
  static constexpr Grouping grouping{};
};

/// One scale for each N consecutive columns of a row.
template <std::uint32_t N> struct PerGroup {
  static_assert(N != 0 && N % group_multiple == 0, "lsaq: PerGroup<N>: N must be a multiple of 32 (docs/policies.md)");
  static constexpr std::string_view name = "group";
  static constexpr Grouping grouping{.columns = N};
};

/// A granularity policy: a name, and the grouping it stands for.
template <class G>
concept granularity_policy = requires {
  { G::name } -> std::convertible_to<std::string_view>;
  { G::grouping } -> std::convertible_to<Grouping>;
};

static_assert(granularity_policy<PerTensor> && granularity_policy<PerChannel> && granularity_policy<PerGroup<32>>);

} // namespace lsaq::inline v0
