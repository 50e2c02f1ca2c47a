// A device that is none.
// expected-error: lsaq: Backend<Cpu> needs #include <lsaq/deployment/cpu.hpp>;
#include <lsaq/deployment/cpu.hpp>

#ifdef WITH_ERROR
using Device = int;
#else
using Device = lsaq::Cpu;
#endif

lsaq::Backend<Device> backend;
