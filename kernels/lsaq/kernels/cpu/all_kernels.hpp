// The kernels of every path, by name.
//
// They take a compiler seconds, in every file that multiplies or quantizes. A program of many files may compile them once: it defines LSAQ_EXTERN_KERNELS=1 for
// all its files and includes this header in exactly one (in CMake: links lsaq::compiled_kernels).
#pragma once

#include <lsaq/kernels/cpu/amx.hpp>
#include <lsaq/kernels/cpu/avxvnni.hpp>
#include <lsaq/kernels/cpu/eigen.hpp>
#include <lsaq/kernels/cpu/neon_dotprod.hpp>

namespace lsaq::inline v0::inline LSAQ_BASELINE {

/// The kernels of one path. Precondition of calling those: cpu_runs(isa); only layout() of the integer ones runs anywhere.
#if !LSAQ_EXTERN_KERNELS
inline
#endif
    const CpuKernels&
    kernels_of(Isa isa) noexcept {
  switch (isa) {
  case Isa::scalar: return scalar::kernels;
#if LSAQ_X86
  case Isa::avx2: return avx2::kernels;
  case Isa::avxvnni: return avxvnni::kernels;
  case Isa::avx512: return avx512::kernels;
  case Isa::avx512vnni: return avx512vnni::kernels;
  case Isa::amx: return amx::kernels;
#endif
#if LSAQ_ARM64
  case Isa::neon: return neon::kernels;
  case Isa::neon_dotprod: return neon_dotprod::kernels;
#endif
  default: return eigen::kernels;
  }
}

} // namespace lsaq::inline v0::inline LSAQ_BASELINE
