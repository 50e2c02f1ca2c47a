// Runs every unit that this processor can run; the plain one always. Includes the library too: a function that is not inline would be defined twice.
#include <lsaq/lsaq.hpp>

#include <cstdio>

double unit_plain();
double unit_avx2();
double unit_v4();

namespace {
int check(const char* name, double error) {
  std::printf("%s: %.3f of the allowed error\n", name, error);
  return error <= 1 ? 0 : 1;
}
} // namespace

int main() {
  int failures = check("plain", unit_plain());
#if HAS_unit_avx2
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) failures += check("avx2", unit_avx2());
#endif
#if HAS_unit_v4
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512vl"))
    failures += check("x86-64-v4", unit_v4());
#endif
  return failures;
}
