#include <lsaq/kernels/cpu/select.hpp>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <iterator>
#include <set>
#include <sstream>

namespace select_test {

using lsaq::Isa;
using testing::HasSubstr;

/// Sets LSAQ_ISA (or removes it) until the end of the scope.
class ScopedIsa {
public:
  explicit ScopedIsa(const char* value) {
    if (const char* before = std::getenv("LSAQ_ISA")) before_ = before;
    value != nullptr ? ::setenv("LSAQ_ISA", value, 1) : ::unsetenv("LSAQ_ISA");
  }
  ~ScopedIsa() { before_ ? ::setenv("LSAQ_ISA", before_->c_str(), 1) : ::unsetenv("LSAQ_ISA"); }
  ScopedIsa(const ScopedIsa&) = delete;
  ScopedIsa& operator=(const ScopedIsa&) = delete;

private:
  std::optional<std::string> before_;
};

std::string refusal(const std::string& value) {
  const ScopedIsa isa(value.c_str());
  try {
    return "accepted: " + std::string(name_of(lsaq::select_kernels().isa));
  } catch (const lsaq::InvalidArgument& error) {
    return error.what();
  }
}

TEST(Isa, NamesAndValuesBelongTogether) {
  for (const Isa isa : lsaq::all_isas) EXPECT_EQ(lsaq::isa_from_name(name_of(isa)), isa);
  EXPECT_EQ(name_of(static_cast<Isa>(77)), "unknown");
  EXPECT_EQ(lsaq::isa_from_name("unknown"), std::nullopt);
  EXPECT_EQ(lsaq::isa_from_name(""), std::nullopt);
}

TEST(Isa, EveryMachineRunsTheOracleAndEigen) {
  EXPECT_TRUE(lsaq::cpu_runs(Isa::scalar));
  EXPECT_TRUE(lsaq::cpu_runs(Isa::eigen));
  EXPECT_TRUE(lsaq::cpu_runs(lsaq::best_isa()));
  const Isa wanted[] = {Isa::amx, Isa::avx512vnni, Isa::avx512, Isa::avxvnni, Isa::avx2, Isa::neon_dotprod, Isa::neon, Isa::eigen};
  EXPECT_EQ(lsaq::best_isa(), *std::ranges::find_if(wanted, lsaq::cpu_runs));
  EXPECT_EQ(lsaq::cpu_runs(Isa::neon), LSAQ_ARM64 == 1);
  EXPECT_LE(lsaq::cpu_runs(Isa::neon_dotprod), lsaq::cpu_runs(Isa::neon));
}

TEST(Isa, AgreesWithTheKernelsList) {
  std::ifstream cpuinfo("/proc/cpuinfo");
  std::string line;
  while (std::getline(cpuinfo, line) && !line.starts_with("flags")) {
  }
  if (!cpuinfo || LSAQ_X86 == 0) GTEST_SKIP() << "/proc/cpuinfo: no flags of x86 on this machine"; // an emulator may show those of its host
  std::istringstream words(line);
  const std::set<std::string> flags{std::istream_iterator<std::string>(words), {}};
  const auto has = [&](std::initializer_list<const char*> names) { return std::ranges::all_of(names, [&](const char* name) { return flags.contains(name); }); };
  EXPECT_EQ(lsaq::cpu_runs(Isa::avx2), has({"avx2", "fma", "f16c"}));
  EXPECT_EQ(lsaq::cpu_runs(Isa::avxvnni), has({"avx2", "fma", "f16c", "avx_vnni"}));
  EXPECT_EQ(lsaq::cpu_runs(Isa::avx512), has({"avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512dq", "avx512vl"}));
  EXPECT_EQ(lsaq::cpu_runs(Isa::avx512vnni), has({"avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512_vnni", "avx512vbmi"}));
  EXPECT_EQ(lsaq::cpu_runs(Isa::amx), lsaq::cpu_runs(Isa::avx512vnni) && has({"amx_tile", "amx_int8"}) && lsaq::allows_tiles());
}

TEST(KernelsOf, EveryPathIsComplete) {
  for (const Isa isa : lsaq::all_isas) {
    if (!lsaq::cpu_runs(isa)) continue;
    const lsaq::CpuKernels& kernels = lsaq::kernels_of(isa);
    EXPECT_EQ(kernels.isa, isa);
    EXPECT_TRUE(kernels.widen && kernels.widen_codes && kernels.narrow_f16 && kernels.magnitude_bits && kernels.quantize);
    EXPECT_TRUE(kernels.extremes && kernels.quantize_packed);
    EXPECT_TRUE(kernels.dot_rows && kernels.unpack && kernels.product && kernels.above);
  }
}

TEST(SelectKernels, TakesTheFastestUnlessTold) {
  for (const char* value : {static_cast<const char*>(nullptr), ""}) {
    const ScopedIsa isa(value);
    EXPECT_EQ(lsaq::select_kernels().isa, lsaq::best_isa());
  }
}

class SelectByName : public testing::TestWithParam<Isa> {};

INSTANTIATE_TEST_SUITE_P(Paths, SelectByName, testing::ValuesIn(lsaq::all_isas), [](const auto& param) { return std::string(name_of(param.param)); });

TEST_P(SelectByName, TakesThePathOfThatName) {
  if (!lsaq::cpu_runs(GetParam())) {
    EXPECT_THAT(refusal(std::string(name_of(GetParam()))), HasSubstr("this machine does not run"));
    return;
  }
  const ScopedIsa isa(std::string(name_of(GetParam())).c_str());
  EXPECT_EQ(lsaq::select_kernels().isa, GetParam());
}

TEST(SelectKernels, RefusesWhatNamesNoPath) {
  for (const std::string value : {"AVX2", "avx", "arm", "avx512f", "sse2", " scalar", "scalar ", "scalar,avx2", "0", "auto", "native", "\xff"}) {
    const std::string message = refusal(value);
    EXPECT_THAT(message, AllOf(HasSubstr("LSAQ_ISA="), HasSubstr(value), HasSubstr("names no code path")));
    EXPECT_THAT(message, HasSubstr("scalar, eigen, avx2, avxvnni, avx512, avx512vnni, amx, neon or neondot")) << "says what is allowed";
  }
}

TEST(SelectKernels, CutsLongNonsense) {
  const std::string message = refusal(std::string(10000, 'x'));
  EXPECT_LT(message.size(), 200u);
  EXPECT_THAT(message, HasSubstr("xxxxxxxx names"));
}

} // namespace select_test
