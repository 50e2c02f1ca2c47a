// The vocabulary the CUDA kernels are written in: a group of threads with barriers, shuffles and shared memory, and the few operations whose rounding matters.
//
// A kernel is a value that holds its arguments:
//
//   struct Kernel {
//     static constexpr unsigned threads = 256;              // of a block, a multiple of 32
//     static constexpr unsigned least_blocks = 3;           // optional: blocks on a multiprocessor for which registers must do; they are used up to that
//     struct Shared { ... };                                // shared memory of a block, not initialized
//     std::size_t blocks() const;                           // of the grid; 0: there is nothing to do
//     unsigned dynamic_bytes() const;                       // of shared memory besides, aligned to 16
//     template <class Group> LSAQ_DEVICE void operator()(const Group& group, Shared& shared) const;
//   };
//
// nvcc compiles it for CudaGroup, whose members are the machine's own operations; every other compiler for a group that runs threads on the CPU, which is how
// the kernels are tested where there is no device. All threads of a block reach each sync(), all of a warp each shuffle.
#pragma once

#include <lsaq/config.hpp>

#include <cmath>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstring>

#if defined(__CUDACC__)
#define LSAQ_DEVICE __device__
#define LSAQ_DEVICE_AND_HOST __host__ __device__
#define LSAQ_UNROLL _Pragma("unroll") // arrays that a loop indexes stay in registers
#else
#include <bit>
#define LSAQ_DEVICE
#define LSAQ_DEVICE_AND_HOST
#define LSAQ_UNROLL
#endif

namespace lsaq::inline v0::inline LSAQ_BASELINE::gpu {

inline constexpr unsigned warp_size = 32;

/// What a kernel sees of the threads it runs on.
template <class G>
concept thread_group = requires(const G& group, float value, unsigned lane, unsigned* counter) {
  { group.thread() } -> std::same_as<unsigned>;
  { group.block() } -> std::same_as<unsigned>;
  { group.shuffle_xor(value, lane) } -> std::same_as<float>;
  { group.ballot(true) } -> std::same_as<unsigned>;
  { group.dynamic() } -> std::same_as<std::byte*>;
  group.sync();
  group.atomic_min(counter, lane);
};

/// Sixteen bytes that are read or written at once.
struct alignas(16) Words {
  std::uint32_t word[4];
};

/// Four floats that are read or written at once.
struct alignas(16) Quad {
  float value[4];
};

/// Whether `address` is a multiple of `alignment`, a power of two.
LSAQ_DEVICE inline bool is_aligned(const void* address, std::size_t alignment) { return (reinterpret_cast<std::uintptr_t>(address) & (alignment - 1)) == 0; }

#if defined(__CUDACC__)

/// Threads of a one-dimensional block in a one-dimensional grid.
struct CudaGroup {
  __device__ unsigned thread() const { return threadIdx.x; }
  __device__ unsigned block() const { return blockIdx.x; }
  __device__ void sync() const { __syncthreads(); }
  template <class T> __device__ T shuffle_xor(T value, unsigned mask) const { return __shfl_xor_sync(0xffffffffu, value, mask); }
  __device__ unsigned ballot(bool predicate) const { return __ballot_sync(0xffffffffu, predicate); }
  __device__ void atomic_min(unsigned* address, unsigned value) const { atomicMin(address, value); }
  __device__ std::byte* dynamic() const {
    extern __shared__ uint4 lsaq_dynamic_memory[];
    return reinterpret_cast<std::byte*>(lsaq_dynamic_memory);
  }
};

/// Kernel::least_blocks; 0, which leaves it to the compiler, where a kernel has none.
template <class Kernel> constexpr unsigned least_blocks_of() {
  if constexpr (requires { Kernel::least_blocks; })
    return Kernel::least_blocks;
  else
    return 0;
}

/// The kernel as the device runs it. Of internal linkage: a kernel shared between libraries might be one that another of them has loaded.
template <class Kernel> static __global__ void __launch_bounds__(Kernel::threads, least_blocks_of<Kernel>()) run(const Kernel kernel) {
  __shared__ typename Kernel::Shared shared;
  kernel(CudaGroup{}, shared);
}

__device__ inline float float_of_bits(std::uint32_t bits) { return __uint_as_float(bits); }
__device__ inline std::uint32_t bits_of_float(float value) { return __float_as_uint(value); }

/// a / b and a * b + c, each rounded once, whatever -use_fast_math and -ftz do to the consumer.
__device__ inline float divide(float a, float b) {
  float quotient;
  asm("div.rn.f32 %0, %1, %2;" : "=f"(quotient) : "f"(a), "f"(b));
  return quotient;
}
__device__ inline float multiply_add(float a, float b, float c) {
  float sum;
  asm("fma.rn.f32 %0, %1, %2, %3;" : "=f"(sum) : "f"(a), "f"(b), "f"(c));
  return sum;
}
__device__ inline double multiply_add(double a, double b, double c) { return __fma_rn(a, b, c); }

/// Nearest integer, ties to even; |value| < 2^31.
__device__ inline int round_half_even(float value) { return __float2int_rn(value); }

__device__ inline unsigned population(unsigned bits) { return static_cast<unsigned>(__popc(bits)); }

/// Sixteen bytes that nobody writes while the kernel runs, at an address that is a multiple of 16.
__device__ inline Words load_words(const void* address) {
  const uint4 words = __ldg(static_cast<const uint4*>(address));
  return {{words.x, words.y, words.z, words.w}};
}
template <class T> __device__ T load(const T* address) { return __ldg(address); }

#else

inline float float_of_bits(std::uint32_t bits) { return std::bit_cast<float>(bits); }
inline std::uint32_t bits_of_float(float value) { return std::bit_cast<std::uint32_t>(value); }
inline float divide(float a, float b) { return a / b; }
inline float multiply_add(float a, float b, float c) { return std::fma(a, b, c); }
inline double multiply_add(double a, double b, double c) { return std::fma(a, b, c); }
inline int round_half_even(float value) { return static_cast<int>(std::nearbyint(value)); }
inline unsigned population(unsigned bits) { return static_cast<unsigned>(std::popcount(bits)); }
inline Words load_words(const void* address) { return *static_cast<const Words*>(address); }
template <class T> T load(const T* address) { return *address; }

#endif

/// The sum over a warp, the same in every lane: pairs at distance 16, then 8, 4, 2, 1.
template <class Group, class T> LSAQ_DEVICE T warp_sum(const Group& group, T value) {
  for (unsigned distance = warp_size / 2; distance != 0; distance /= 2) value += group.shuffle_xor(value, distance);
  return value;
}

/// The largest value of a warp, in every lane.
template <class Group> LSAQ_DEVICE std::uint32_t warp_max(const Group& group, std::uint32_t value) {
  for (unsigned distance = warp_size / 2; distance != 0; distance /= 2) {
    const std::uint32_t other = group.shuffle_xor(value, distance);
    value = value < other ? other : value;
  }
  return value;
}

} // namespace lsaq::inline v0::inline LSAQ_BASELINE::gpu
