// The stand-in looks for faults, races, leaks and registers that were not set.
#include "cuda_device/control.hpp"
#include "cuda_device/device_environment.hpp"

namespace device_environment {

using cuda_device::control;

std::string begin() {
  control().reset();
  control().machine.trusted = "3cub";
  return "";
}

std::string end() {
  const cuda_device::Machine& machine = control().machine;
  if (!control().fault.empty()) return control().fault;
  if (machine.races.races != 0) return std::to_string(machine.races.races) + " races, the first: " + machine.races.first;
  if (!control().live.empty()) return std::to_string(control().live.size()) + " allocations were not freed";
  return machine.unset_reads == 0 ? "" : std::to_string(machine.unset_reads) + " reads of registers that were not set";
}

} // namespace device_environment
