// Which instruction sets this machine runs, and which one a caller asked for.
#pragma once

#include <lsaq/config.hpp>

#include <cstdint>
#include <optional>
#include <string_view>

#if LSAQ_X86 && defined(__GNUC__)
#include <cpuid.h>
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif
#elif LSAQ_ARM64 && defined(__linux__)
#include <sys/auxv.h>
#endif

namespace lsaq::inline v0 {

/// The code paths of the CPU backend, from the oracle upwards.
enum class Isa : std::uint8_t {
  scalar, ///< plain loops: the oracle every other path is tested against
  eigen,  ///< Eigen's products at the consumer's own compile flags: wherever there are no kernels of our own
  avx2,   ///< x86-64 with AVX2, FMA and F16C
  avxvnni, ///< x86-64 with these and AVX-VNNI
  avx512, ///< x86-64 with AVX2, FMA, F16C and AVX-512 F, BW, DQ and VL
  avx512vnni, ///< x86-64 with these and AVX-512 VNNI and VBMI
  amx,    ///< x86-64 with these and AMX for 8-bit integers, where the operating system allows its tile registers
  neon,   ///< AArch64
  neon_dotprod, ///< AArch64 with the dot product extension
};

inline constexpr Isa all_isas[] = {Isa::scalar, Isa::eigen, Isa::avx2, Isa::avxvnni, Isa::avx512, Isa::avx512vnni, Isa::amx, Isa::neon, Isa::neon_dotprod};

constexpr std::string_view name_of(Isa isa) noexcept {
  switch (isa) {
  case Isa::scalar: return "scalar";
  case Isa::eigen: return "eigen";
  case Isa::avx2: return "avx2";
  case Isa::avxvnni: return "avxvnni";
  case Isa::avx512: return "avx512";
  case Isa::avx512vnni: return "avx512vnni";
  case Isa::amx: return "amx";
  case Isa::neon: return "neon";
  case Isa::neon_dotprod: return "neondot";
  }
  return "unknown";
}

/// The path named `name`, or nothing.
constexpr std::optional<Isa> isa_from_name(std::string_view name) noexcept {
  for (Isa isa : all_isas)
    if (name == name_of(isa)) return isa;
  return std::nullopt;
}

} // namespace lsaq::inline v0

namespace lsaq::inline v0::inline LSAQ_BASELINE {

/// Whether an AArch64 machine has the dot product extension: the operating system tells, or else the compiler's flags.
inline bool has_dot_product() noexcept {
#if LSAQ_ARM64 && defined(__linux__)
  return (getauxval(AT_HWCAP) & HWCAP_ASIMDDP) != 0;
#elif defined(__ARM_FEATURE_DOTPROD)
  return true;
#else
  return false;
#endif
}

/// Asks the operating system for the tile registers of AMX, for all of the process; Linux wants that once before their first use (Linux, Documentation/arch/x86/
/// xstate.rst) and says no where alternate signal stacks are too small for them.
inline bool allows_tiles() noexcept {
#if LSAQ_X86 && defined(__linux__) && defined(SYS_arch_prctl)
  constexpr long request_permission = 0x1023, tile_data = 18;
  return syscall(SYS_arch_prctl, request_permission, tile_data) == 0;
#else
  return false;
#endif
}

/// Whether this machine, its operating system included, can run the path. For amx that asks for the tile registers, which adds 8 KiB to the signal frames of
/// threads that have used them.
inline bool cpu_runs(Isa isa) noexcept {
  if (isa == Isa::scalar || isa == Isa::eigen) return true;
  if (isa == Isa::neon) return LSAQ_ARM64 != 0;
  if (isa == Isa::neon_dotprod) return has_dot_product();
#if LSAQ_X86 && defined(__GNUC__)
  // The compiler's own check reads the operating system's register-saving state too. Clang 14 knows no names for F16C (CPUID leaf 1, ECX bit 29) and AVX-VNNI
  // (leaf 7.1, EAX bit 4).
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  const bool f16c = __get_cpuid(1, &eax, &ebx, &ecx, &edx) != 0 && (ecx >> 29 & 1u) != 0;
  const bool avx2 = f16c && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  if (isa == Isa::avx2) return avx2;
  if (isa == Isa::avxvnni) return avx2 && __get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx) != 0 && (eax >> 4 & 1u) != 0;
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
                      __builtin_cpu_supports("avx512vl");
  if (isa == Isa::avx512) return avx512;
  const bool avx512vnni = avx512 && __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512vbmi");
  if (isa == Isa::avx512vnni) return avx512vnni;
  constexpr unsigned tiles_of_bytes = 3u << 24; // leaf 7, EDX: AMX-TILE and AMX-INT8
  return avx512vnni && __get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) != 0 && (edx & tiles_of_bytes) == tiles_of_bytes && allows_tiles();
#else
  return false;
#endif
}

/// The fastest path this machine can run.
inline Isa best_isa() noexcept {
  for (Isa isa : {Isa::amx, Isa::avx512vnni, Isa::avx512, Isa::avxvnni, Isa::avx2, Isa::neon_dotprod, Isa::neon})
    if (cpu_runs(isa)) return isa;
  return Isa::eigen;
}

} // namespace lsaq::inline v0::inline LSAQ_BASELINE
