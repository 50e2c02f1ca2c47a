// Chooses the kernels of a backend: the fastest path this machine runs, or the one LSAQ_ISA names.
#pragma once

#include <lsaq/error.hpp>
#if LSAQ_EXTERN_KERNELS
#include <lsaq/kernels/cpu/kernel_table.hpp>
#else
#include <lsaq/kernels/cpu/all_kernels.hpp>
#endif

#include <cstdlib>
#include <string>

namespace lsaq::inline v0::inline LSAQ_BASELINE {

#if LSAQ_EXTERN_KERNELS
/// The kernels of one path, compiled elsewhere (all_kernels.hpp). Precondition: cpu_runs(isa).
const CpuKernels& kernels_of(Isa isa) noexcept;
#endif

/// The kernels to use: those named by the environment variable LSAQ_ISA (scalar, eigen, avx2, avxvnni, avx512, avx512vnni, amx, neon, neondot), else the fastest this machine runs.
/// Throws InvalidArgument if LSAQ_ISA names no path, or one this machine can't run. Reads the environment on every call: keep the result.
inline const CpuKernels& select_kernels() {
  const char* wanted = std::getenv("LSAQ_ISA");
  if (wanted == nullptr || *wanted == '\0') return kernels_of(best_isa());
  const std::optional<Isa> isa = isa_from_name(wanted);
  if (!isa)
    fail<InvalidArgument>("LSAQ_ISA=" + std::string(wanted).substr(0, 40) +
                          " names no code path; it may be scalar, eigen, avx2, avxvnni, avx512, avx512vnni, amx, neon or neondot");
  if (!cpu_runs(*isa)) fail<InvalidArgument>("LSAQ_ISA=" + std::string(wanted) + ": this machine does not run that instruction set");
  return kernels_of(*isa);
}

} // namespace lsaq::inline v0::inline LSAQ_BASELINE
