// lsaq devices: every device with its memory, GPUs of other programs included, the one chosen and why.
#include "console.hpp"

#include <lsaq/deployment/cpu.hpp>
#include <lsaq/formats/names.hpp>
#include <lsaq/report.hpp>
#include <lsaq/resources/nvml.hpp>

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

namespace command {

namespace {

void devices(const Global& global) {
  using Cpu = lsaq::Backend<lsaq::Cpu>;
  const std::vector<lsaq::Device> all = lsaq::list_devices<Cpu, lsaq::NvmlDevices>();
  const lsaq::Device chosen = lsaq::choose_device<Cpu>();
  const std::string isa(name_of(Cpu().isa()));
  const char* wanted = std::getenv("LSAQ_DEVICE");
  const std::string reason = wanted != nullptr && *wanted != '\0' ? fmt::format("LSAQ_DEVICE={}", wanted)
                             : all.size() > 1                     ? "this program computes on the CPU"
                                                                  : "most free memory";

  if (global.json) {
    nlohmann::json list = nlohmann::json::array();
    for (const lsaq::Device& device : all) {
      list.push_back({{"id", device.id}, {"name", device.name}, {"total", device.total_bytes}, {"free", device.free_bytes}, {"limited_by", device.limited_by}});
      if (!device.uuid.empty()) list.back()["uuid"] = device.uuid;
    }
    return print_json({{"schema", "lsaq.devices/1"},
                       {"devices", list},
                       {"chosen", {{"id", chosen.id}, {"free", chosen.free_bytes}, {"limited_by", chosen.limited_by}, {"reason", reason}}},
                       {"isa", isa}});
  }
  std::string text = fmt::format("{:<10} {:<20} {:>12} {:>12}  {}\n", "device", "name", "total", "free", "free memory read from");
  for (const lsaq::Device& device : all)
    text += fmt::format("{:<10} {:<20} {:>12} {:>12}  {}\n", device.id, lsaq::printable(device.name, 20), lsaq::format_bytes(device.total_bytes),
                        lsaq::format_bytes(device.free_bytes), device.limited_by);
  text += lsaq::wrap(fmt::format("chosen: {} with {} ({}; limited by {})", chosen.id, lsaq::format_bytes(chosen.free_bytes), reason, chosen.limited_by), 8);
  text += fmt::format("\nCPU kernels: {}\n", isa);
  print_text(text);
}

} // namespace

void add_devices(CLI::App& app, Global& global) {
  CLI::App* verb = app.add_subcommand("devices", "List devices with free and total memory, and the one that would be used");
  verb->footer("GPUs are those that NVIDIA's driver lists and CUDA_VISIBLE_DEVICES leaves; no context is made on them.\n"
               "LSAQ_DEVICE (cpu) chooses a device, LSAQ_MEMORY (140MiB, or @FILE that holds an amount) caps its memory.");
  add_global_options(*verb, global);
  verb->callback([&global] { devices(global); });
}

} // namespace command
