// The GPUs of NVIDIA's driver, with their free memory, without a CUDA context: contexts take 100 to 550 MiB each. The library is opened when it is needed;
// where there is none, there are no GPUs. Link with libdl where it is not part of libc; not part of the umbrella header.
#pragma once

#include <lsaq/resources/visible_gpus.hpp>

#include <dlfcn.h>

namespace lsaq::inline v0 {

/// The part of NVML that is used: its entry points by name, as <nvml.h> declares them. Filled from a library, or by a test.
struct NvmlFunctions {
  using Handle = void*;
  struct Memory {
    unsigned long long total = 0, free = 0, used = 0;
  };
  static constexpr int success = 0, not_supported = 3;

  int (*init)() = nullptr;                                   ///< nvmlInit_v2
  int (*shutdown)() = nullptr;                               ///< nvmlShutdown
  int (*count)(unsigned*) = nullptr;                         ///< nvmlDeviceGetCount_v2
  int (*by_index)(unsigned, Handle*) = nullptr;              ///< nvmlDeviceGetHandleByIndex_v2
  int (*uuid)(Handle, char*, unsigned) = nullptr;            ///< nvmlDeviceGetUUID
  int (*name)(Handle, char*, unsigned) = nullptr;            ///< nvmlDeviceGetName
  int (*memory)(Handle, Memory*) = nullptr;                  ///< nvmlDeviceGetMemoryInfo
  int (*most_parts)(Handle, unsigned*) = nullptr;            ///< nvmlDeviceGetMaxMigDeviceCount; may be missing
  int (*part_by_index)(Handle, unsigned, Handle*) = nullptr; ///< nvmlDeviceGetMigDeviceHandleByIndex; may be missing
};

} // namespace lsaq::inline v0

namespace lsaq::inline v0::inline LSAQ_BASELINE {

namespace detail {

/// A GPU or part of one; nothing where the driver does not tell its UUID.
inline std::optional<Gpu> gpu_at(const NvmlFunctions& nvml, NvmlFunctions::Handle handle) {
  char text[128] = {};
  if (nvml.uuid(handle, text, sizeof text - 1) != NvmlFunctions::success) return std::nullopt;
  Gpu gpu{.uuid = text};
  std::memset(text, 0, sizeof text);
  if (nvml.name(handle, text, sizeof text - 1) == NvmlFunctions::success) gpu.name = text;
  NvmlFunctions::Memory memory;
  gpu.has_memory = nvml.memory(handle, &memory) == NvmlFunctions::success && memory.total != 0;
  if (gpu.has_memory) {
    gpu.total = memory.total;
    gpu.free = memory.free;
  }
  return gpu;
}

} // namespace detail

/// All GPUs in the order of the PCI bus, the parts of a divided one behind it. Empty where the driver does not run.
inline std::vector<Gpu> list_gpus(const NvmlFunctions& nvml) {
  std::vector<Gpu> gpus;
  if (nvml.init() != NvmlFunctions::success) return gpus;
  unsigned count = 0;
  if (nvml.count(&count) != NvmlFunctions::success) count = 0;
  for (unsigned i = 0; i < count; ++i) {
    NvmlFunctions::Handle handle = nullptr;
    if (nvml.by_index(i, &handle) != NvmlFunctions::success) continue; // no permission, or fallen off the bus
    const std::optional<Gpu> gpu = detail::gpu_at(nvml, handle);
    if (!gpu) continue;
    gpus.push_back(*gpu);
    unsigned parts = 0;
    if (nvml.most_parts == nullptr || nvml.part_by_index == nullptr || nvml.most_parts(handle, &parts) != NvmlFunctions::success) continue;
    for (unsigned p = 0; p < parts; ++p) {
      NvmlFunctions::Handle part = nullptr;
      if (nvml.part_by_index(handle, p, &part) != NvmlFunctions::success) continue; // places that are not taken
      if (std::optional<Gpu> one = detail::gpu_at(nvml, part)) {
        one->parent = gpu->uuid;
        gpus.push_back(std::move(*one));
      }
    }
  }
  nvml.shutdown();
  return gpus;
}

/// The same from the driver's library: empty where it is not installed, or lacks what is used.
inline std::vector<Gpu> list_gpus() {
  void* const library = ::dlopen("libnvidia-ml.so.1", RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) return {};
  NvmlFunctions nvml;
  const auto find = [&](auto& function, const char* name) {
    function = reinterpret_cast<std::remove_reference_t<decltype(function)>>(::dlsym(library, name));
    return function != nullptr;
  };
  const bool complete = find(nvml.init, "nvmlInit_v2") && find(nvml.shutdown, "nvmlShutdown") && find(nvml.count, "nvmlDeviceGetCount_v2") &&
                        find(nvml.by_index, "nvmlDeviceGetHandleByIndex_v2") && find(nvml.uuid, "nvmlDeviceGetUUID") && find(nvml.name, "nvmlDeviceGetName") &&
                        find(nvml.memory, "nvmlDeviceGetMemoryInfo");
  find(nvml.most_parts, "nvmlDeviceGetMaxMigDeviceCount");
  find(nvml.part_by_index, "nvmlDeviceGetMigDeviceHandleByIndex");
  std::vector<Gpu> gpus;
  if (complete) gpus = list_gpus(nvml);
  ::dlclose(library);
  return gpus;
}

/// NVIDIA's GPUs as devices of this process: what a CUDA backend lists before it makes a context. Satisfies lists_devices.
struct NvmlDevices {
  static std::vector<Device> devices() {
    const std::vector<Gpu> gpus = list_gpus();
    if (gpus.empty()) return {};
    return visible_gpus(gpus, std::getenv("CUDA_VISIBLE_DEVICES"), host_memory());
  }
};

static_assert(lists_devices<NvmlDevices>);

} // namespace lsaq::inline v0::inline LSAQ_BASELINE
