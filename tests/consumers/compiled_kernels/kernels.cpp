#include <lsaq/kernels/cpu/all_kernels.hpp>
