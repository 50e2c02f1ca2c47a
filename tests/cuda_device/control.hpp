// The stand-in for the CUDA runtime as tests see it: what devices there are, which call fails, and what was found out.
//
// A program that nvcc compiled to PTX (-gencode arch=compute_75,code=compute_75 -cudart none --no-compress) and linked with the stand-in runs on the CPU
// unchanged: host code, launches, Thrust's and CUB's kernels. Not modelled: calls and branches to addresses in registers, tensor cores, asynchronous copies,
// clusters, weak memory, time; work on every stream is done when it is queued. What runs is PTX, not the machine code that ptxas makes of it.
#pragma once

#include "cuda_device/machine.hpp"

#include <memory>
#include <utility>

namespace cuda_device {

/// A device's memory as cudaMemGetInfo tells it.
struct DeviceMemory {
  std::size_t free = std::size_t{8} << 30, total = std::size_t{16} << 30;
};

/// The state of the stand-in, one for the program.
class Control {
public:
  Machine machine{0};
  std::vector<DeviceMemory> devices{1};
  int device = 0;
  int driver_error = 0;               ///< what every call answers, as a machine without a driver does
  std::size_t failing_allocation = 0; ///< the allocation from now on that fails, from 1; 0: none
  std::size_t failing_launch = 0;     ///< likewise

  std::uint64_t launches = 0, allocations = 0;
  std::map<std::string, std::uint64_t> launches_of; ///< by kernel
  std::map<void*, std::size_t> live;                ///< allocations that were not freed
  std::string fault;                                ///< the first one
  int last_error = 0;

  /// As at the beginning, but for the programs that are registered.
  void reset() {
    machine = Machine(0);
    devices.assign(1, {});
    device = driver_error = last_error = 0;
    failing_allocation = failing_launch = 0;
    launches = allocations = 0;
    launches_of.clear();
    fault.clear();
    for (const auto& [pointer, size] : live) machine.memory.map(pointer, size);
  }
};

Control& control();

} // namespace cuda_device
