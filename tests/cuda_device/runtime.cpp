// Stands in for the CUDA runtime (libcudart): registration of what nvcc embeds, launches on the interpreter, memory, devices. See control.hpp.
#include "cuda_device/control.hpp"

#include <cuda_runtime_api.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>

#undef cudaGetDeviceProperties

namespace cuda_device {

namespace {

struct Registered {
  const Module* module = nullptr;
  const Kernel* kernel = nullptr;
};

struct Configuration {
  dim3 grid, block;
  std::size_t shared;
  cudaStream_t stream;
};

/// What the program's translation units register before main().
struct Programs {
  std::vector<std::unique_ptr<Module>> modules;
  std::map<const void*, Registered> kernels; // by the address of their host side
  std::vector<Configuration> configurations; // of launches being made
};

Programs& programs() {
  static Programs all;
  return all;
}

[[noreturn]] void stop(const std::string& why) {
  std::fprintf(stderr, "stand-in CUDA runtime: %s\n", why.c_str());
  std::abort();
}

cudaError_t answer(cudaError_t error) {
  if (error != cudaSuccess) control().last_error = error;
  return error;
}

/// The error of a machine without a driver, or success.
cudaError_t driver() { return answer(static_cast<cudaError_t>(control().driver_error)); }

std::uint64_t number(const unsigned char* bytes, std::size_t size) {
  std::uint64_t value = 0;
  std::memcpy(&value, bytes, size);
  return value;
}

/// The PTX in a fat binary: a header (its size at 6, that of the entries at 8), then entries with a kind at 0, header size at 4, size at 8.
std::string ptx_of(const unsigned char* binary) {
  if (number(binary, 4) != 0xba55ed50) stop("not a fat binary");
  const unsigned char* entry = binary + number(binary + 6, 2);
  const unsigned char* const end = entry + number(binary + 8, 8);
  while (entry < end) {
    const std::uint64_t kind = number(entry, 2), header = number(entry + 4, 4), size = number(entry + 8, 8), compressed = number(entry + 16, 4);
    if (kind == 1) {
      if (compressed != 0) stop("the PTX is compressed: build with nvcc --no-compress");
      const char* const text = reinterpret_cast<const char*>(entry + header);
      return {text, strnlen(text, size)};
    }
    entry += header + size;
  }
  stop("no PTX: build with -gencode arch=compute_75,code=compute_75");
}

cudaError_t launch(const void* function, dim3 grid, dim3 block, void** arguments, std::size_t shared) {
  if (driver() != cudaSuccess) return driver();
  const auto found = programs().kernels.find(function);
  if (found == programs().kernels.end() || found->second.kernel == nullptr) return answer(cudaErrorInvalidDeviceFunction);
  const Kernel& kernel = *found->second.kernel;
  const std::uint64_t threads = std::uint64_t{block.x} * block.y * block.z;
  if (threads == 0 || threads > 1024 || grid.x == 0 || grid.y == 0 || grid.z == 0 || grid.x > 0x7fffffffu || grid.y > 65535 || grid.z > 65535)
    return answer(cudaErrorInvalidConfiguration);
  if (shared + kernel.shared_bytes > 48 * 1024) return answer(cudaErrorInvalidValue);
  Control& state = control();
  if (state.failing_launch != 0 && --state.failing_launch == 0) return answer(cudaErrorLaunchOutOfResources);
  ++state.launches;
  ++state.launches_of[kernel.name];
  try {
    state.machine.launch(*found->second.module, kernel, arguments, {grid.x, grid.y, grid.z}, {block.x, block.y, block.z}, static_cast<unsigned>(shared));
  } catch (const Fault& fault) {
    if (state.fault.empty()) state.fault = fault.what();
    return answer(cudaErrorIllegalAddress);
  }
  return cudaSuccess;
}

cudaError_t allocate(void** pointer, std::size_t size) {
  Control& state = control();
  if (driver() != cudaSuccess) return driver();
  ++state.allocations;
  if (state.failing_allocation != 0 && --state.failing_allocation == 0) return answer(cudaErrorMemoryAllocation);
  *pointer = std::aligned_alloc(256, (size + 511) / 256 * 256);
  std::memset(*pointer, 0xcd, size);
  state.live[*pointer] = size;
  state.machine.memory.map(*pointer, size);
  return cudaSuccess;
}

cudaError_t release(void* pointer) {
  if (pointer == nullptr) return cudaSuccess;
  if (control().live.erase(pointer) == 0) return answer(cudaErrorInvalidValue);
  control().machine.memory.unmap(pointer);
  std::free(pointer);
  return cudaSuccess;
}

/// Host or device by address; a kind that contradicts is an error, as on a device it would be a crash.
cudaError_t copy(void* to, const void* from, std::size_t size, cudaMemcpyKind kind) {
  if (driver() != cudaSuccess) return driver();
  GlobalMemory& memory = control().machine.memory;
  const bool to_device = size != 0 && memory.holds(to, size), from_device = size != 0 && memory.holds(from, size);
  if (size != 0 && ((kind == cudaMemcpyHostToDevice && !to_device) || (kind == cudaMemcpyDeviceToHost && !from_device) ||
                    (kind == cudaMemcpyDeviceToDevice && !(to_device && from_device))))
    return answer(cudaErrorInvalidValue);
  if (size != 0) std::memmove(to, from, size);
  return cudaSuccess;
}

int attribute(cudaDeviceAttr name) {
  switch (name) {
  case cudaDevAttrComputeCapabilityMajor: return 7;
  case cudaDevAttrComputeCapabilityMinor: return 5;
  case cudaDevAttrMultiProcessorCount: return 2;
  case cudaDevAttrWarpSize: return 32;
  case cudaDevAttrMaxThreadsPerBlock: return 1024;
  case cudaDevAttrMaxSharedMemoryPerBlock:
  case cudaDevAttrMaxSharedMemoryPerBlockOptin: return 48 * 1024;
  case cudaDevAttrMaxThreadsPerMultiProcessor: return 1024;
  case cudaDevAttrMaxGridDimX: return 0x7fffffff;
  case cudaDevAttrMaxGridDimY:
  case cudaDevAttrMaxGridDimZ: return 65535;
  case cudaDevAttrMaxBlocksPerMultiprocessor: return 16;
  case cudaDevAttrMemoryPoolsSupported: return 1;
  default: return 0;
  }
}

} // namespace

Control& control() {
  static Control state;
  return state;
}

} // namespace cuda_device

using namespace cuda_device;

extern "C" {

// --- What nvcc's host code calls ---

void** __cudaRegisterFatBinary(void* wrapper) {
  try {
    programs().modules.push_back(std::make_unique<Module>(parse(ptx_of(*reinterpret_cast<const unsigned char**>(static_cast<char*>(wrapper) + 8)))));
  } catch (const Fault& fault) {
    stop(fault.what());
  }
  return reinterpret_cast<void**>(programs().modules.back().get());
}
void __cudaRegisterFatBinaryEnd(void**) {}
void __cudaUnregisterFatBinary(void**) {}
void __cudaRegisterFunction(void** handle, const char* function, char*, const char* name, int, uint3*, uint3*, dim3*, dim3*, int*) {
  const Module& module = *reinterpret_cast<const Module*>(handle);
  const auto kernel = module.kernels.find(name);
  if (kernel != module.kernels.end()) programs().kernels[function] = {&module, &kernel->second};
}
void __cudaRegisterVar(void**, char*, char*, const char*, int, std::size_t, int, int) {}
char __cudaInitModule(void**) { return 0; }
unsigned __cudaPushCallConfiguration(dim3 grid, dim3 block, std::size_t shared, void* stream) {
  programs().configurations.push_back({grid, block, shared, static_cast<cudaStream_t>(stream)});
  return 0;
}
cudaError_t __cudaPopCallConfiguration(dim3* grid, dim3* block, std::size_t* shared, void* stream) {
  const Configuration configuration = programs().configurations.back();
  programs().configurations.pop_back();
  *grid = configuration.grid;
  *block = configuration.block;
  *shared = configuration.shared;
  *static_cast<cudaStream_t*>(stream) = configuration.stream;
  return cudaSuccess;
}
cudaError_t __cudaGetKernel(cudaKernel_t* kernel, const void* function) {
  *kernel = reinterpret_cast<cudaKernel_t>(const_cast<void*>(function));
  return cudaSuccess;
}

// --- Launches ---

cudaError_t cudaLaunchKernel(const void* function, dim3 grid, dim3 block, void** arguments, std::size_t shared, cudaStream_t) {
  return launch(function, grid, block, arguments, shared);
}
cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t* c, const void* function, void** arguments) {
  return launch(function, c->gridDim, c->blockDim, arguments, c->dynamicSmemBytes);
}
cudaError_t __cudaLaunchKernel(cudaKernel_t kernel, dim3 grid, dim3 block, void** arguments, std::size_t shared, cudaStream_t) {
  return launch(reinterpret_cast<const void*>(kernel), grid, block, arguments, shared);
}
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, const void* function) {
  std::memset(attributes, 0, sizeof *attributes);
  const auto found = programs().kernels.find(function);
  attributes->ptxVersion = attributes->binaryVersion = 75;
  attributes->maxThreadsPerBlock = 1024;
  attributes->numRegs = 32;
  attributes->sharedSizeBytes = found == programs().kernels.end() || found->second.kernel == nullptr ? 0 : found->second.kernel->shared_bytes;
  return driver();
}
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int* blocks, const void*, int, std::size_t, unsigned) {
  *blocks = 2;
  return driver();
}

// --- Memory ---

cudaError_t cudaMalloc(void** pointer, std::size_t size) { return allocate(pointer, size); }
cudaError_t cudaMallocAsync(void** pointer, std::size_t size, cudaStream_t) { return allocate(pointer, size); }
cudaError_t cudaFree(void* pointer) { return release(pointer); }
cudaError_t cudaFreeAsync(void* pointer, cudaStream_t) { return release(pointer); }
cudaError_t cudaMemcpy(void* to, const void* from, std::size_t size, cudaMemcpyKind kind) { return copy(to, from, size, kind); }
cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t size, cudaMemcpyKind kind, cudaStream_t) { return copy(to, from, size, kind); }
cudaError_t cudaMemsetAsync(void* to, int value, std::size_t size, cudaStream_t) {
  if (driver() != cudaSuccess) return driver();
  if (!control().machine.memory.holds(to, size)) return answer(cudaErrorInvalidValue);
  std::memset(to, value, size);
  return cudaSuccess;
}
cudaError_t cudaMemGetInfo(std::size_t* free, std::size_t* total) {
  if (driver() != cudaSuccess) return driver();
  const DeviceMemory& memory = control().devices[static_cast<std::size_t>(control().device)];
  *free = memory.free;
  *total = memory.total;
  return cudaSuccess;
}

// --- Streams: work is done when it is queued ---

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  *stream = reinterpret_cast<cudaStream_t>(new char);
  return driver();
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  delete reinterpret_cast<char*>(stream);
  return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t) { return driver(); }
cudaError_t cudaDeviceSynchronize() { return driver(); }

// --- Devices and errors ---

cudaError_t cudaGetDeviceCount(int* count) { // leaves count as it was where there is no driver
  if (driver() != cudaSuccess) return driver();
  *count = static_cast<int>(control().devices.size());
  return count == nullptr || *count == 0 ? answer(cudaErrorNoDevice) : cudaSuccess;
}
cudaError_t cudaGetDevice(int* device) {
  *device = control().device;
  return driver();
}
cudaError_t cudaSetDevice(int device) {
  if (device < 0 || device >= static_cast<int>(control().devices.size())) return answer(cudaErrorInvalidDevice);
  control().device = device;
  return driver();
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device) {
  std::memset(properties, 0, sizeof *properties);
  std::snprintf(properties->name, sizeof properties->name, "stand-in %d", device);
  return driver();
}
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr name, int) {
  *value = attribute(name);
  return driver();
}
cudaError_t cudaDriverGetVersion(int* version) {
  *version = 13000;
  return cudaSuccess;
}
cudaError_t cudaRuntimeGetVersion(int* version) { return cudaDriverGetVersion(version); }
cudaError_t cudaGetLastError() { return static_cast<cudaError_t>(std::exchange(control().last_error, 0)); }
cudaError_t cudaPeekAtLastError() { return static_cast<cudaError_t>(control().last_error); }
const char* cudaGetErrorString(cudaError_t error) {
  return error == cudaErrorMemoryAllocation     ? "out of memory"
         : error == cudaErrorInsufficientDriver ? "CUDA driver version is insufficient for CUDA runtime version"
                                                : "an error";
}
const char* cudaGetErrorName(cudaError_t error) {
  switch (error) {
  case cudaSuccess: return "cudaSuccess";
  case cudaErrorMemoryAllocation: return "cudaErrorMemoryAllocation";
  case cudaErrorInsufficientDriver: return "cudaErrorInsufficientDriver";
  case cudaErrorNoDevice: return "cudaErrorNoDevice";
  case cudaErrorIllegalAddress: return "cudaErrorIllegalAddress";
  case cudaErrorInvalidConfiguration: return "cudaErrorInvalidConfiguration";
  case cudaErrorLaunchOutOfResources: return "cudaErrorLaunchOutOfResources";
  default: return "cudaError";
  }
}

} // extern "C"
