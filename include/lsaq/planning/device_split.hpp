// The layers of a planned model over several devices, in their order: which device holds which, and how full it gets.
#pragma once

#include <lsaq/planning/memory_model.hpp>

#include <algorithm>

namespace lsaq::inline v0 {

/// A device, and what of its memory weights and caches may take.
struct DeviceMemory {
  std::string name = {};
  Bytes bytes = 0;
};

/// The layers [first_layer, first_layer + layers) on one device; bytes with their caches and what else lies there.
struct DeviceShare {
  std::string name = {};
  std::size_t first_layer = 0;
  std::size_t layers = 0;
  Bytes bytes = 0;
};

/// Bytes that go where certain layers are.
struct PlacedBytes {
  Bytes each_layer = 0;  ///< keys and values of a layer
  Bytes first_layer = 0; ///< the embedding
  Bytes last_layer = 0;  ///< the output head and the final norm
  Bytes in_common = 0;   ///< of these two, what is there only once where one device has both: a tied embedding

  /// What is beside the weights of the layers [first, end) of so many; there is one at least.
  constexpr Bytes of(std::size_t first, std::size_t end, std::size_t layers) const noexcept {
    const bool begins = first == 0, ends = end == layers;
    return each_layer * (end - first) + (begins ? first_layer : 0) + (ends ? last_layer : 0) - (begins && ends ? in_common : 0);
  }
};

} // namespace lsaq::inline v0

namespace lsaq::inline v0::inline LSAQ_BASELINE {

/// Spreads layers over devices, as engines with pipelines do: each device gets consecutive layers, or none and then nothing else. Among all such splits that
/// whose fullest device, as a share of its memory, is the least full; nothing if no split fits.
///
/// `layers` has the bytes of every layer's weights, `beside` what goes with them. O(40 x layers).
inline std::optional<std::vector<DeviceShare>> split_layers(std::span<const Bytes> layers, std::span<const DeviceMemory> devices,
                                                            const PlacedBytes& beside = {}) {
  if (devices.empty()) fail<InvalidArgument>("a model can't be spread over no devices");
  // What fits if no device may be filled beyond a share of its memory: each takes as many layers as it can.
  const auto filled = [&](double share) -> std::optional<std::vector<DeviceShare>> {
    std::vector<DeviceShare> shares;
    std::size_t next = 0;
    for (const DeviceMemory& device : devices) {
      const auto limit = static_cast<Bytes>(share * static_cast<double>(device.bytes));
      DeviceShare one{device.name, next, 0, 0};
      Bytes weights = 0;
      for (std::size_t end = next + 1; end <= layers.size(); ++end) {
        weights += layers[end - 1];
        const Bytes bytes = weights + beside.of(next, end, layers.size());
        if (bytes > limit) break; // the last layer may be too much here with the head, and goes to a later device
        one.layers = end - next;
        one.bytes = bytes;
      }
      next += one.layers;
      shares.push_back(std::move(one));
    }
    if (next != layers.size()) return std::nullopt;
    return shares;
  };
  std::optional<std::vector<DeviceShare>> best = filled(1);
  if (!best) return best;
  double low = 0, high = 1;
  for (int step = 0; step < 40; ++step) {
    const double middle = (low + high) / 2;
    if (std::optional<std::vector<DeviceShare>> found = filled(middle)) {
      best = std::move(found);
      high = middle;
    } else {
      low = middle;
    }
  }
  return best;
}

} // namespace lsaq::inline v0::inline LSAQ_BASELINE
