// The CUDA backend without lsaq/cuda.cuh, beside the CPU's.
// expected-error: Backend<Cuda> needs #include <lsaq/cuda.cuh>, nvcc and the CMake target lsaq::cuda
#include <lsaq/lsaq.hpp>

#ifdef WITH_ERROR
using Device = lsaq::Cuda;
#else
using Device = lsaq::Cpu;
#endif

lsaq::Backend<Device> backend;
