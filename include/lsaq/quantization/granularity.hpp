// Which weights share one scale.
#pragma once

#include <lsaq/config.hpp>

#include <concepts>
#include <string_view>

namespace lsaq::inline v0 {

/// One scale for each output channel, i.e. each row of the weight matrix (LSAQ, Eq. 4).
struct PerChannel {
  static constexpr std::string_view name = "channel";
};

/// A granularity policy: a name, and a place in the list of layouts PackedMatrix can hold.
template <class G>
concept granularity_policy = std::same_as<G, PerChannel>;

static_assert(granularity_policy<PerChannel>);

} // namespace lsaq::inline v0
