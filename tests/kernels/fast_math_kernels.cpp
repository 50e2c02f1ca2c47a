// The kernels as a consumer's -ffast-math compiles them; the tests they are linked with are compiled without.
#ifndef __FAST_MATH__
#error "this file is to be compiled with -ffast-math"
#endif

#include <lsaq/kernels/cpu/all_kernels.hpp>
