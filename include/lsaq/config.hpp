// Version, namespaces, assertion: the only macros of the library beside those that mark CUDA kernels (kernels/cuda/simt.cuh).
//
// Every name lives in `lsaq::v0` (inline). Types that are pure data (Plan, Importance, MatrixView) have the same layout in every translation unit and may cross
// between them. What computes lives one inline namespace deeper, named after the instruction set this translation unit is compiled for, so that objects built
// with different -m flags link together without one of them running the other's instructions:
//
//   namespace lsaq::inline v0 { struct Data; }
//   namespace lsaq::inline v0::inline LSAQ_BASELINE { class Computes; }
//
// Small member functions of data types are always_inline for the same reason: no copy of them is shared between translation units.
#pragma once

#define LSAQ_VERSION_MAJOR 0
#define LSAQ_VERSION_MINOR 1
#define LSAQ_VERSION_PATCH 0

#if defined(__x86_64__) || defined(_M_X64)
#define LSAQ_X86 1
#else
#define LSAQ_X86 0
#endif

#if defined(__aarch64__) || defined(_M_ARM64)
#define LSAQ_ARM64 1
#else
#define LSAQ_ARM64 0
#endif

#if defined(__AVX512VNNI__)
#define LSAQ_BASELINE_HOST x86_avx512vnni
#elif defined(__AVX512F__)
#define LSAQ_BASELINE_HOST x86_avx512f
#elif defined(__AVX2__)
#define LSAQ_BASELINE_HOST x86_avx2
#elif defined(__AVX__)
#define LSAQ_BASELINE_HOST x86_avx
#elif defined(__SSE4_2__)
#define LSAQ_BASELINE_HOST x86_sse42
#elif LSAQ_X86
#define LSAQ_BASELINE_HOST x86_64
#elif defined(__ARM_FEATURE_DOTPROD)
#define LSAQ_BASELINE_HOST aarch64_dotprod
#elif LSAQ_ARM64
#define LSAQ_BASELINE_HOST aarch64
#else
#define LSAQ_BASELINE_HOST portable
#endif

#if defined(__CUDACC__)
#define LSAQ_JOIN_TOKENS(a, b) a##b
#define LSAQ_JOIN(a, b) LSAQ_JOIN_TOKENS(a, b)
#define LSAQ_BASELINE LSAQ_JOIN(LSAQ_BASELINE_HOST, _cuda)
#pragma nv_diag_suppress 1675 // nvcc leaves `#pragma GCC unroll` to the host's compiler, and says so each time
#else
#define LSAQ_BASELINE LSAQ_BASELINE_HOST
#endif

#if defined(__cpp_exceptions) || defined(_CPPUNWIND)
#define LSAQ_EXCEPTIONS 1
#else
#define LSAQ_EXCEPTIONS 0
#endif

// 1: the CPU kernels are compiled in one file of the program instead of every one that uses them (kernels/cpu/all_kernels.hpp).
#ifndef LSAQ_EXTERN_KERNELS
#define LSAQ_EXTERN_KERNELS 0
#endif

// Preconditions of noexcept functions. Never used to validate input: files and user data are checked in every build.
#ifndef LSAQ_ASSERT
#include <cassert>
#define LSAQ_ASSERT(condition) assert(condition)
#endif
