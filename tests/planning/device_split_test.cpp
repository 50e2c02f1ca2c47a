#include <lsaq/planning/device_split.hpp>

#include <gtest/gtest.h>

#include <random>

namespace device_split_test {

using lsaq::Bytes;
using lsaq::DeviceMemory;
using lsaq::DeviceShare;
using lsaq::PlacedBytes;

/// Bytes of the device that has the layers [first, end); nothing without layers.
Bytes bytes_of(const std::vector<Bytes>& layers, std::size_t first, std::size_t end, const PlacedBytes& beside) {
  if (first == end) return 0;
  Bytes bytes = beside.each_layer * (end - first);
  for (std::size_t l = first; l < end; ++l) bytes += layers[l];
  if (first == 0) bytes += beside.first_layer;
  if (end == layers.size()) bytes += beside.last_layer;
  if (first == 0 && end == layers.size()) bytes -= beside.in_common;
  return bytes;
}

/// The fullest device of the best split, by trying all.
double best_of_all(const std::vector<Bytes>& layers, const std::vector<DeviceMemory>& devices, const PlacedBytes& beside) {
  double best = INFINITY;
  std::vector<std::size_t> cuts(devices.size() + 1, 0);
  cuts.back() = layers.size();
  const auto place = [&](const auto& self, std::size_t device) -> void {
    if (device + 1 < devices.size()) {
      for (std::size_t end = cuts[device]; end <= layers.size(); ++end) {
        cuts[device + 1] = end;
        self(self, device + 1);
      }
      return;
    }
    double fullest = 0;
    for (std::size_t d = 0; d < devices.size(); ++d)
      fullest = std::max(fullest, static_cast<double>(bytes_of(layers, cuts[d], cuts[d + 1], beside)) / static_cast<double>(devices[d].bytes));
    best = std::min(best, fullest);
  };
  place(place, 0);
  return best;
}

TEST(DeviceSplit, FillsDevicesEvenlyAndInOrder) {
  std::mt19937 random(11);
  for (int round = 0; round < 200; ++round) {
    std::vector<Bytes> layers(1 + random() % 9);
    for (Bytes& layer : layers) layer = 500 + random() % 1500;
    std::vector<DeviceMemory> devices(1 + random() % 3);
    for (std::size_t d = 0; d < devices.size(); ++d) devices[d] = {"d" + std::to_string(d), 2000 + random() % 9000};
    PlacedBytes beside{.each_layer = random() % 300, .first_layer = random() % 1000, .last_layer = random() % 1000};
    if (round % 2 == 1) beside.in_common = std::min(beside.first_layer, beside.last_layer);
    if (round % 5 == 0) devices[random() % devices.size()].bytes = 400; // too small for any layer
    const auto found = lsaq::split_layers(layers, devices, beside);
    const double best = best_of_all(layers, devices, beside);
    ASSERT_EQ(found.has_value(), best <= 1) << best;
    if (!found) continue;
    ASSERT_EQ(found->size(), devices.size());
    std::size_t next = 0;
    double fullest = 0;
    for (std::size_t d = 0; d < devices.size(); ++d) {
      const DeviceShare& share = (*found)[d];
      EXPECT_EQ(share.name, devices[d].name);
      EXPECT_EQ(share.first_layer, next);
      const Bytes bytes = bytes_of(layers, next, next + share.layers, beside);
      next += share.layers;
      EXPECT_EQ(share.bytes, bytes);
      fullest = std::max(fullest, static_cast<double>(bytes) / static_cast<double>(devices[d].bytes));
    }
    EXPECT_EQ(next, layers.size());
    EXPECT_NEAR(fullest, best, 1e-3);
  }
}

TEST(DeviceSplit, LeavesOutDevicesThatAreTooSmall) {
  const std::vector<Bytes> layers(4, 100);
  for (std::size_t small : {0u, 1u, 2u}) {
    std::vector<DeviceMemory> devices = {{"a", 400}, {"b", 400}, {"c", 400}};
    devices[small].bytes = 90;
    const auto found = lsaq::split_layers(layers, devices, {.first_layer = 150, .last_layer = 50, .in_common = 50});
    ASSERT_TRUE(found);
    for (std::size_t d = 0; d < devices.size(); ++d) {
      EXPECT_EQ((*found)[d].layers, d == small ? 0u : 2u);
      EXPECT_EQ((*found)[d].bytes == 0, d == small);
    }
  }
  const auto alone = lsaq::split_layers(layers, std::vector<DeviceMemory>{{"a", 550}}, {.first_layer = 150, .last_layer = 50, .in_common = 50});
  ASSERT_TRUE(alone) << "what both ends have in common is there once";
  EXPECT_EQ((*alone)[0].bytes, 550u);
}

TEST(DeviceSplit, NeedsDevices) { EXPECT_THROW((void)lsaq::split_layers(std::vector<Bytes>{1}, {}), lsaq::InvalidArgument); }

} // namespace device_split_test
