// Which device is chosen: most free memory, LSAQ_DEVICE, LSAQ_MEMORY.
#include <lsaq/resources/device.hpp>

#include "scoped_environment.hpp"

#include <lsaq/deployment/cpu.hpp>

#include <formats/make_files.hpp>

namespace device_test {

using lsaq::choose_device;
using lsaq::Device;
using lsaq::InvalidArgument;
using make_files::expect_mentions;
using make_files::message_of;
using scoped_environment::ScopedVariable;
using testing::ElementsAre;
using testing::Field;
using namespace lsaq::literals;

struct Host {
  static std::vector<Device> devices() { return {{"cpu", "host memory", 16_GiB, 6_GiB, "MemAvailable"}}; }
};

struct Gpus {
  static std::vector<Device> devices() {
    return {{"cuda:0", "small", 8_GiB, 5_GiB, "driver"}, {"cuda:1", "large", 24_GiB, 20_GiB, "driver"}, {"cuda:11", "twin", 24_GiB, 20_GiB, "driver"}};
  }
};

struct Absent {
  static std::vector<Device> devices() { return {}; }
};

static_assert(lsaq::lists_devices<Host> && lsaq::lists_devices<lsaq::Backend<lsaq::Cpu>> && !lsaq::lists_devices<int>);

Device device(std::string id, lsaq::Bytes free) { return {std::move(id), "", 64_GiB, free, ""}; }

TEST(ChooseDevice, MostFreeMemoryWins) {
  EXPECT_EQ(choose_device({device("a", 1), device("b", 3), device("c", 2)}, "").id, "b");
  EXPECT_EQ(choose_device({device("a", 0)}, "").id, "a");
}

TEST(ChooseDevice, TiesGoToTheFirstListed) {
  EXPECT_EQ(choose_device({device("a", 2), device("b", 3), device("c", 3)}, "").id, "b");
  EXPECT_EQ(choose_device({device("a", 0), device("b", 0)}, "").id, "a");
}

TEST(ChooseDevice, ByIdOrKind) {
  const std::vector<Device> all = lsaq::list_devices<Host, Gpus>();
  EXPECT_EQ(choose_device(all, "cpu").id, "cpu");
  EXPECT_EQ(choose_device(all, "cuda:0").id, "cuda:0") << "asked for by its id, although others have more";
  EXPECT_EQ(choose_device(all, "cuda:11").id, "cuda:11");
  EXPECT_EQ(choose_device(all, "cuda:1").id, "cuda:1") << "not cuda:11";
  EXPECT_EQ(choose_device(all, "cuda").id, "cuda:1");
}

TEST(ChooseDevice, WhatIsNotThereListsWhatIs) {
  const std::vector<Device> all = lsaq::list_devices<Host, Gpus>();
  for (const char* wanted : {"cuda:2", "cud", "CUDA", "cpu:0", "cuda:", "gpu", ":", " cpu"}) {
    const std::string message = message_of<InvalidArgument>([&] { choose_device(all, wanted); });
    expect_mentions(message, {"\"" + std::string(wanted) + "\" is not there", "found: cpu, cuda:0, cuda:1, cuda:11"});
  }
  expect_mentions(message_of<InvalidArgument>([] { choose_device({}, "cuda"); }), {"\"cuda\" is not there; found: none"});
  expect_mentions(message_of<InvalidArgument>([] { choose_device({}, ""); }), {"no device was found"});
  EXPECT_LT(message_of<InvalidArgument>([&] { choose_device(all, std::string(9999, 'x')); }).size(), 200u);
}

TEST(ListDevices, OfAllBackendsInTheirOrder) {
  const auto id = [](const char* name) { return Field(&Device::id, name); };
  EXPECT_THAT((lsaq::list_devices<Gpus, Absent, Host>()), ElementsAre(id("cuda:0"), id("cuda:1"), id("cuda:11"), id("cpu")));
  EXPECT_TRUE(lsaq::list_devices<>().empty());
}

class DeviceVariables : public testing::Test {
protected:
  ScopedVariable wanted{"LSAQ_DEVICE", std::nullopt};
  ScopedVariable memory{"LSAQ_MEMORY", std::nullopt};
};

TEST_F(DeviceVariables, WithoutThemMostFreeMemoryWins) {
  const Device chosen = choose_device<Host, Gpus>();
  EXPECT_EQ(chosen.id, "cuda:1");
  EXPECT_EQ(chosen.name, "large");
  EXPECT_EQ(chosen.total_bytes, 24_GiB);
  EXPECT_EQ(chosen.free_bytes, 20_GiB);
  EXPECT_EQ(chosen.limited_by, "driver");
  EXPECT_EQ((choose_device<Absent, Host>().id), "cpu");
}

TEST_F(DeviceVariables, DeviceByIdOrKind) {
  wanted.set("cpu");
  EXPECT_EQ((choose_device<Host, Gpus>().id), "cpu");
  wanted.set("cuda:0");
  EXPECT_EQ((choose_device<Host, Gpus>().id), "cuda:0");
  wanted.set("cuda");
  EXPECT_EQ((choose_device<Host, Gpus>().id), "cuda:1");
  expect_mentions(message_of<InvalidArgument>([] { choose_device<Host>(); }), {"\"cuda\" is not there", "found: cpu"});
  wanted.set("");
  EXPECT_EQ((choose_device<Host, Gpus>().id), "cuda:1") << "set to nothing is not set";
}

TEST_F(DeviceVariables, MemoryCapsWhatIsFree) {
  memory.set("2GiB");
  const Device capped = choose_device<Host>();
  EXPECT_EQ(capped.free_bytes, 2_GiB);
  EXPECT_EQ(capped.total_bytes, 16_GiB);
  EXPECT_EQ(capped.limited_by, "LSAQ_MEMORY");
  memory.set("7GiB"); // a cap gives no memory
  EXPECT_EQ(choose_device<Host>().free_bytes, 6_GiB);
  EXPECT_EQ(choose_device<Host>().limited_by, "MemAvailable");
  memory.set("0");
  EXPECT_EQ(choose_device<Host>().free_bytes, 0u);
}

TEST_F(DeviceVariables, TheCapComesAfterTheChoice) {
  memory.set("1GiB");
  EXPECT_EQ((choose_device<Host, Gpus>().id), "cuda:1");
}

TEST_F(DeviceVariables, AWrongCapIsAnError) {
  memory.set("plenty");
  expect_mentions(message_of<InvalidArgument>([] { choose_device<Host>(); }), {"LSAQ_MEMORY", "\"plenty\""});
}

TEST_F(DeviceVariables, TheCpuBackendListsTheHost) {
  if (!std::filesystem::exists("/proc/meminfo")) GTEST_SKIP() << "no /proc/meminfo";
  const Device host = choose_device<lsaq::Backend<lsaq::Cpu>>();
  EXPECT_EQ(host.id, "cpu");
  EXPECT_GT(host.total_bytes, 0u);
  EXPECT_LE(host.free_bytes, host.total_bytes);
}

} // namespace device_test
