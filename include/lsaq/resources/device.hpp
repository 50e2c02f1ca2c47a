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
  std::string uuid = {};  ///< of a GPU, "GPU-..." or "MIG-..."; empty: it has none
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

/// The device among `devices` with the most free memory (ties: the first listed), restricted by `wanted`: an id ("cpu", "cuda:1"), a kind ("cuda"), or a UUID
/// or its beginning ("GPU-8d1f"); empty: any. Throws InvalidArgument if nothing is left to choose from.
inline Device choose_device(std::vector<Device> devices, std::string_view wanted) {
  const Device* best = nullptr;
  std::string ids;
  for (const Device& device : devices) {
    ids += (ids.empty() ? "" : ", ") + device.id;
    const bool by_uuid = (wanted.starts_with("GPU-") || wanted.starts_with("MIG-")) && device.uuid.starts_with(wanted);
    const bool allowed = wanted.empty() || by_uuid || wanted == device.id || (device.id.starts_with(wanted) && device.id[wanted.size()] == ':');
    if (allowed && (best == nullptr || device.free_bytes > best->free_bytes)) best = &device;
  }
  if (best == nullptr)
    fail<InvalidArgument>(wanted.empty() ? std::string("no device was found")
                                         : "device \"" + std::string(wanted.substr(0, 40)) + "\" is not there; found: " + (ids.empty() ? "none" : ids));
  return *best;
}

/// The device among `devices` to deploy to: most free memory, LSAQ_DEVICE respected, free memory capped by LSAQ_MEMORY. Throws InvalidArgument.
inline Device choose_by_environment(std::vector<Device> devices) {
  const char* wanted = std::getenv("LSAQ_DEVICE");
  Device device = choose_device(std::move(devices), wanted == nullptr ? "" : wanted);
  if (const std::optional<Bytes> cap = memory_from_environment(); cap && *cap < device.free_bytes) {
    device.free_bytes = *cap;
    device.limited_by = "LSAQ_MEMORY";
  }
  return device;
}

/// The same of all devices of these backends. Throws InvalidArgument, IoError.
template <lists_devices... Backends> Device choose_device() { return choose_by_environment(list_devices<Backends...>()); }

} // namespace lsaq::inline v0::inline LSAQ_BASELINE
