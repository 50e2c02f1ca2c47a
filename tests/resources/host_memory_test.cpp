// Free memory of made-up machines: /proc and /sys below a folder of the test.
#include <lsaq/resources/host_memory.hpp>

#include <formats/make_files.hpp>

namespace host_memory_test {

using lsaq::Bytes;
using lsaq::host_memory;
using lsaq::HostMemory;
using make_files::expect_mentions;
using make_files::message_of;
using namespace lsaq::literals;

constexpr const char* sixteen_gib = "MemTotal:       16777216 kB\nMemFree:         1048576 kB\nMemAvailable:    8388608 kB\nBuffers: 5 kB\n";

class FakeHost : public testing::Test {
protected:
  void write(const std::string& file, const std::string& content) {
    std::filesystem::create_directories((folder.path() / file).parent_path());
    folder.write(file, content);
  }
  /// A control group of version 2 at `path` ("" is the root of the mount).
  void group_v2(const std::string& path, const std::string& max, Bytes current, const std::string& stat = "") {
    write("sys/fs/cgroup" + path + "/memory.max", max + "\n");
    write("sys/fs/cgroup" + path + "/memory.current", std::to_string(current) + "\n");
    if (!stat.empty()) write("sys/fs/cgroup" + path + "/memory.stat", stat);
  }
  void group_v1(const std::string& path, Bytes limit, Bytes usage, const std::string& stat = "") {
    write("sys/fs/cgroup/memory" + path + "/memory.limit_in_bytes", std::to_string(limit) + "\n");
    write("sys/fs/cgroup/memory" + path + "/memory.usage_in_bytes", std::to_string(usage) + "\n");
    if (!stat.empty()) write("sys/fs/cgroup/memory" + path + "/memory.stat", stat);
  }
  HostMemory probe() { return host_memory(folder.path().string()); }

  make_files::TemporaryFolder folder;
};

TEST_F(FakeHost, WithoutControlGroupsTheKernelsEstimateCounts) {
  write("proc/meminfo", sixteen_gib);
  const HostMemory memory = probe();
  EXPECT_EQ(memory.total, 16_GiB);
  EXPECT_EQ(memory.free, 8_GiB);
  EXPECT_EQ(memory.limited_by, "MemAvailable");
}

TEST_F(FakeHost, OldKernelsWithoutAnEstimate) {
  write("proc/meminfo", "MemTotal: 1024 kB\nMemFree:\t256 kB\n");
  EXPECT_EQ(probe().free, 256_KiB);
  EXPECT_EQ(probe().total, 1_MiB);
}

TEST_F(FakeHost, MissingOrUselessMeminfoIsAnIoError) {
  const auto refusal = [&] { return message_of<lsaq::IoError>([&] { probe(); }); };
  const std::vector<std::string> sentence{folder.path().string() + "/proc/meminfo", "can't read the free memory", "LSAQ_MEMORY"};
  expect_mentions(refusal(), sentence);
  for (const char* content :
       {"", "MemTotal: 16777216 kB\n", "MemAvailable: 5 kB\n", "MemTotal: kB\nMemAvailable: 5 kB\n", "nonsense", "XMemTotal: 5 kB\nMemFree: 5 kB"}) {
    write("proc/meminfo", content);
    expect_mentions(refusal(), sentence);
  }
}

TEST_F(FakeHost, GroupOfVersion2) {
  write("proc/meminfo", sixteen_gib);
  write("proc/self/cgroup", "0::/user.slice/app\n");
  group_v2("/user.slice/app", std::to_string(2_GiB), 512_MiB);
  const HostMemory memory = probe();
  EXPECT_EQ(memory.free, 1536_MiB);
  EXPECT_EQ(memory.total, 16_GiB);
  EXPECT_EQ(memory.limited_by, folder.path().string() + "/sys/fs/cgroup/user.slice/app/memory.max");
}

TEST_F(FakeHost, TheTightestOfNestedGroupsWins) {
  write("proc/meminfo", sixteen_gib);
  write("proc/self/cgroup", "0::/a/b/c\n");
  group_v2("/a/b/c", std::to_string(6_GiB), 1_GiB); // 5 left
  group_v2("/a/b", "max", 3_GiB);
  group_v2("/a", std::to_string(4_GiB), 3_GiB); // 1 left, shared with others
  group_v2("", std::to_string(7_GiB), 1_GiB);   // 6 left
  EXPECT_EQ(probe().free, 1_GiB);
  EXPECT_THAT(probe().limited_by, testing::EndsWith("/sys/fs/cgroup/a/memory.max"));
  group_v2("/a/b/c", std::to_string(1_GiB), 512_MiB);
  EXPECT_EQ(probe().free, 512_MiB);
  group_v2("", std::to_string(2_GiB), 2_GiB - 5);
  EXPECT_EQ(probe().free, 5u);
}

TEST_F(FakeHost, InsideAContainerTheRootOfTheMountIsTheGroup) {
  write("proc/meminfo", sixteen_gib);
  write("proc/self/cgroup", "0::/\n");
  group_v2("", std::to_string(1_GiB), 256_MiB);
  EXPECT_EQ(probe().free, 768_MiB);
  write("proc/self/cgroup", "0::/not/visible/from/here\n"); // the path of the host's hierarchy
  EXPECT_EQ(probe().free, 768_MiB);
}

TEST_F(FakeHost, NoLimitIsWrittenMax) {
  write("proc/meminfo", sixteen_gib);
  write("proc/self/cgroup", "0::/a\n");
  group_v2("/a", "max", 15_GiB);
  EXPECT_EQ(probe().free, 8_GiB);
  EXPECT_EQ(probe().limited_by, "MemAvailable");
}

TEST_F(FakeHost, ALooseLimitChangesNothing) {
  write("proc/meminfo", sixteen_gib);
  write("proc/self/cgroup", "0::/a\n");
  group_v2("/a", std::to_string(12_GiB), 1_GiB); // 11 left, the machine has 8
  EXPECT_EQ(probe().free, 8_GiB);
  EXPECT_EQ(probe().limited_by, "MemAvailable");
  group_v2("/a", std::to_string(64_GiB), 60_GiB); // more than the machine has is no limit
  EXPECT_EQ(probe().free, 8_GiB);
}

TEST_F(FakeHost, FilePagesThatCanBeDroppedAreFree) {
  write("proc/meminfo", sixteen_gib);
  write("proc/self/cgroup", "0::/a\n");
  group_v2("/a", std::to_string(2_GiB), 2_GiB, "anon 1\nfile 2\nactive_file 77\ninactive_file " + std::to_string(1_GiB) + "\ninactive_anon 5\n");
  EXPECT_EQ(probe().free, 1_GiB);
  group_v2("/a", std::to_string(2_GiB), 1_GiB, "inactive_file " + std::to_string(3_GiB) + "\n"); // counters are read one after the other
  EXPECT_EQ(probe().free, 2_GiB);
}

TEST_F(FakeHost, UsageAboveTheLimitLeavesNothing) {
  write("proc/meminfo", sixteen_gib);
  write("proc/self/cgroup", "0::/a\n");
  group_v2("/a", std::to_string(1_GiB), 1_GiB + 4096);
  EXPECT_EQ(probe().free, 0u);
  group_v2("/a", "0", 0);
  EXPECT_EQ(probe().free, 0u);
}

TEST_F(FakeHost, GroupsOfVersion1) {
  write("proc/meminfo", sixteen_gib);
  write("proc/self/cgroup", "12:cpuset:/other\n9:memory:/docker/abc\n1:name=systemd:/docker/abc\n");
  group_v1("/docker/abc", 3_GiB, 2_GiB, "cache 1\ninactive_file 111\ntotal_inactive_file " + std::to_string(1_GiB) + "\n");
  EXPECT_EQ(probe().free, 2_GiB);
  EXPECT_THAT(probe().limited_by, testing::EndsWith("/sys/fs/cgroup/memory/docker/abc/memory.limit_in_bytes"));
  group_v1("/docker", 2_GiB, 1_GiB + 1);
  EXPECT_EQ(probe().free, 1_GiB - 1);
}

TEST_F(FakeHost, Version1WritesAHugeNumberForNoLimit) {
  write("proc/meminfo", sixteen_gib);
  write("proc/self/cgroup", "9:memory:/\n");
  group_v1("", 9223372036854771712u, 10_GiB);
  EXPECT_EQ(probe().free, 8_GiB);
}

TEST_F(FakeHost, ControllersOfVersion1MayShareAHierarchy) {
  write("proc/meminfo", sixteen_gib);
  group_v1("/job", 1_GiB, 0);
  write("proc/self/cgroup", "4:cpu,memory,blkio:/job\n");
  EXPECT_EQ(probe().free, 1_GiB);
  write("proc/self/cgroup", "4:memory_bandwidth,notmemory:/job\n"); // other controllers
  EXPECT_EQ(probe().free, 8_GiB);
}

TEST_F(FakeHost, HybridHierarchies) {
  write("proc/meminfo", sixteen_gib);
  write("proc/self/cgroup", "5:memory:/one\n0::/two\n");
  group_v1("/one", 3_GiB, 0);
  EXPECT_EQ(probe().free, 3_GiB);
  write("sys/fs/cgroup/unified/two/memory.max", "1073741824\n");
  write("sys/fs/cgroup/unified/two/memory.current", "73741824\n");
  EXPECT_EQ(probe().free, 1000000000u);
}

TEST_F(FakeHost, StrangeGroupFilesAreSkipped) {
  write("proc/meminfo", sixteen_gib);
  write("proc/self/cgroup", "garbage\n\n:\n::\n0:\n0::/a"); // no newline at the end
  group_v2("/a", std::to_string(1_GiB), 0);
  EXPECT_EQ(probe().free, 1_GiB);
  write("sys/fs/cgroup/a/memory.current", "");
  EXPECT_EQ(probe().free, 8_GiB);
  write("sys/fs/cgroup/a/memory.current", "-5\n");
  EXPECT_EQ(probe().free, 8_GiB);
  write("proc/self/cgroup", "");
  EXPECT_EQ(probe().free, 8_GiB);
}

TEST_F(FakeHost, TheHighMarkOfAGroupIsALimitToo) {
  write("proc/meminfo", sixteen_gib);
  write("proc/self/cgroup", "0::/app\n");
  group_v2("/app", std::to_string(4_GiB), 1_GiB);
  write("sys/fs/cgroup/app/memory.high", std::to_string(3_GiB) + "\n");
  EXPECT_EQ(probe().free, 2_GiB);
  EXPECT_THAT(probe().limited_by, testing::EndsWith("/app/memory.high"));
  write("sys/fs/cgroup/app/memory.high", "max\n");
  EXPECT_EQ(probe().free, 3_GiB);
}

TEST_F(FakeHost, AddressSpaceThatIsLimited) {
  write("proc/meminfo", sixteen_gib);
  write("proc/self/status", "Name:\tx\nVmPeak:\t  900000 kB\nVmSize:\t 1048576 kB\n");
  write("proc/self/limits", "Limit                     Soft Limit           Hard Limit           Units\n"
                            "Max address space         3221225472           unlimited            bytes\n");
  EXPECT_EQ(probe().free, 2_GiB);
  EXPECT_EQ(probe().limited_by, "address space (ulimit -v)");
  write("proc/self/limits", "Max address space         unlimited            unlimited            bytes\n");
  EXPECT_EQ(probe().free, 8_GiB);
  write("proc/self/limits", "Max address space         1024                 1024                 bytes\n");
  EXPECT_EQ(probe().free, 0u) << "it is used up";
}

TEST_F(FakeHost, MemoryNodesThatMayNotBeUsed) {
  write("proc/meminfo", sixteen_gib);
  write("sys/devices/system/node/online", "0-2\n");
  for (const char* node : {"0", "1", "2"})
    write(std::string("sys/devices/system/node/node") + node + "/meminfo", std::string("Node ") + node + " MemTotal: 5000000 kB\nNode " + node +
                                                                               " MemFree: 1048576 kB\nNode " + node + " Inactive(file): 524288 kB\nNode " +
                                                                               node + " SReclaimable: 0 kB\n");
  write("proc/self/status", "Mems_allowed:\t7\nMems_allowed_list:\t0-2\n");
  EXPECT_EQ(probe().free, 8_GiB) << "all of them: the kernel knows better";
  write("proc/self/status", "Mems_allowed_list:\t0,2\n");
  EXPECT_EQ(probe().free, 3_GiB);
  EXPECT_EQ(probe().limited_by, "memory nodes 0,2");
  write("proc/self/status", "Mems_allowed_list:\t1\n");
  EXPECT_EQ(probe().free, 1536_MiB);
  write("proc/self/status", "Mems_allowed_list:\t\n");
  EXPECT_EQ(probe().free, 8_GiB);
}

TEST_F(FakeHost, IsReadAgainAtEveryCall) {
  write("proc/meminfo", sixteen_gib);
  EXPECT_EQ(probe().free, 8_GiB);
  write("proc/meminfo", "MemTotal: 16777216 kB\nMemAvailable: 1024 kB\n");
  EXPECT_EQ(probe().free, 1_MiB);
}

TEST(HostMemoryHere, OfThisMachine) {
  if (!std::filesystem::exists("/proc/meminfo")) GTEST_SKIP() << "no /proc/meminfo";
  const HostMemory memory = host_memory();
  EXPECT_GT(memory.total, 0u);
  EXPECT_LE(memory.free, memory.total);
  EXPECT_FALSE(memory.limited_by.empty());
}

} // namespace host_memory_test
