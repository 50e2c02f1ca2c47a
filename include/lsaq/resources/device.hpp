// Which device to deploy to: the one with the most free memory, unless LSAQ_DEVICE says otherwise.
#pragma once

#include <lsaq/resources/host_memory.hpp>

#include <concepts>
#include <utility>

namespace lsaq::inline v0 {

/// A device with its memory at the time it was looked at.
struct Device {
  std::string id;   ///< "cpu", "cuda:0"
  std::string name; ///< as people know it
  Bytes total_bytes = 0;
  Bytes free_bytes = 0;
  std::string limited_by; ///< what the free bytes were read from
};

} // namespace lsaq::inline v0

namespace lsaq::inline v0::inline LSAQ_BASELINE {

/// A backend that can list its devices.
template <class B>
concept lists_devices = requires {
  { B::devices() } -> std::same_as<std::vector<Device>>;
};

/// All devices of the given backends, in the order of the list.
template <lists_devices... Backends> std::vector<Device> list_devices() {
  std::vector<Device> all;
  (
      [&] {
        for (Device& device : Backends::devices()) all.push_back(std::move(device));
      }(),
      ...);
  return all;
}

/// The device among `devices` with the most free memory (ties: the first listed), restricted by `wanted`: an id ("cpu", "cuda:1") or a kind ("cuda"); empty:
/// any. Throws InvalidArgument if nothing is left to choose from.
inline Device choose_device(std::vector<Device> devices, std::string_view wanted) {
  const Device* best = nullptr;
  std::string ids;
  for (const Device& device : devices) {
    ids += (ids.empty() ? "" : ", ") + device.id;
    const bool allowed = wanted.empty() || wanted == device.id || (device.id.starts_with(wanted) && device.id[wanted.size()] == ':');
    if (allowed && (best == nullptr || device.free_bytes > best->free_bytes)) best = &device;
  }
  if (best == nullptr)
    fail<InvalidArgument>(wanted.empty() ? std::string("no device was found")
                                         : "device \"" + std::string(wanted.substr(0, 40)) + "\" is not there; found: " + (ids.empty() ? "none" : ids));
  return *best;
}

/// The device of these backends to deploy to: most free memory, LSAQ_DEVICE respected, free memory capped by LSAQ_MEMORY. Throws InvalidArgument, IoError.
template <lists_devices... Backends> Device choose_device() {
  const char* wanted = std::getenv("LSAQ_DEVICE");
  Device device = choose_device(list_devices<Backends...>(), wanted == nullptr ? "" : wanted);
  if (const std::optional<Bytes> cap = memory_from_environment(); cap && *cap < device.free_bytes) {
    device.free_bytes = *cap;
    device.limited_by = "LSAQ_MEMORY";
  }
  return device;
}

} // namespace lsaq::inline v0::inline LSAQ_BASELINE
