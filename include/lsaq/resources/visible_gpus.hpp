// Which GPUs of a machine this process may use, by the rules of CUDA_VISIBLE_DEVICES, and what they are called in CUDA's order.
#pragma once

#include <lsaq/resources/device.hpp>

#include <cstring>
#include <span>

namespace lsaq::inline v0 {

/// A GPU, or a part of one (MIG), as the driver lists it.
struct Gpu {
  std::string uuid = {}; ///< "GPU-...", "MIG-..."
  std::string name = {};
  Bytes total = 0;
  Bytes free = 0;
  bool has_memory = true;  ///< false: it shares the host's and does not tell how much is free
  std::string parent = {}; ///< uuid of the GPU this is a part of; empty: none
};

} // namespace lsaq::inline v0

namespace lsaq::inline v0::inline LSAQ_BASELINE {

namespace detail {

/// The GPU a token of CUDA_VISIBLE_DEVICES names: an index, a UUID or its beginning if only one begins so. nullptr: none.
inline const Gpu* gpu_of(std::span<const Gpu> by_index, std::span<const Gpu> all, std::string_view token) {
  if (!token.empty() && token.find_first_not_of("0123456789") == std::string_view::npos) {
    if (token.size() > 9) return nullptr;
    const auto index = static_cast<std::size_t>(std::strtoul(std::string(token).c_str(), nullptr, 10));
    return index < by_index.size() ? &by_index[index] : nullptr;
  }
  if (!token.starts_with("GPU-") && !token.starts_with("MIG-")) return nullptr;
  const Gpu* found = nullptr;
  for (const Gpu& gpu : all)
    if (gpu.uuid.starts_with(token)) {
      if (found != nullptr) return nullptr;
      found = &gpu;
    }
  return found;
}

} // namespace detail

/// The GPUs a CUDA program would see, as devices "cuda:0", "cuda:1", ... in its order. `gpus` are in the order of the PCI bus, the parts of a GPU behind it;
/// `visible` is CUDA_VISIBLE_DEVICES or nullptr.
///
/// As CUDA does: tokens are indices, UUIDs or unique beginnings of them; the first that names none, or one that was named before, ends the list; an empty list
/// is no GPU. A GPU that is divided can only be used in parts, by index its first, and a process sees one part only. Indices count in the order of the bus
/// (CUDA_DEVICE_ORDER=PCI_BUS_ID); CUDA's own default, fastest first, differs on machines with GPUs of several kinds, where UUIDs are the safe choice. A GPU
/// that shares the host's memory gets `host`'s.
inline std::vector<Device> visible_gpus(std::span<const Gpu> gpus, const char* visible, const HostMemory& host) {
  std::vector<Gpu> usable, by_index; // what can be named, and what an index counts
  for (const Gpu& gpu : gpus) {
    const auto is_part = [&](const Gpu& other) { return other.parent == gpu.uuid; };
    const auto part = gpu.parent.empty() ? std::find_if(gpus.begin(), gpus.end(), is_part) : gpus.end();
    if (part == gpus.end()) usable.push_back(gpu);
    if (gpu.parent.empty()) by_index.push_back(part == gpus.end() ? gpu : *part);
  }
  std::vector<const Gpu*> chosen;
  if (visible == nullptr) {
    for (const Gpu& gpu : by_index) chosen.push_back(&gpu);
  } else {
    for (std::string_view list = visible; !list.empty();) {
      std::string_view token = list.substr(0, list.find(','));
      list.remove_prefix(std::min(list.size(), token.size() + 1));
      while (!token.empty() && token.front() == ' ') token.remove_prefix(1);
      while (!token.empty() && token.back() == ' ') token.remove_suffix(1);
      const Gpu* const gpu = detail::gpu_of(by_index, usable, token);
      const auto same = [&](const Gpu* other) { return other->uuid == gpu->uuid; };
      if (gpu == nullptr || std::any_of(chosen.begin(), chosen.end(), same)) break;
      chosen.push_back(gpu);
    }
  }
  std::vector<Device> devices;
  bool part = false;
  for (const Gpu* gpu : chosen) {
    if (!gpu->parent.empty() && std::exchange(part, true)) continue;
    Device device{"cuda:" + std::to_string(devices.size()), gpu->name, gpu->total, gpu->free, "NVML"};
    if (!gpu->has_memory) {
      device.total_bytes = host.total;
      device.free_bytes = host.free;
      device.limited_by = host.limited_by;
    }
    device.uuid = gpu->uuid;
    devices.push_back(std::move(device));
  }
  return devices;
}

} // namespace lsaq::inline v0::inline LSAQ_BASELINE
