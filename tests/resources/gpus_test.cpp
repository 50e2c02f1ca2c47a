// GPUs of made-up drivers, and which of them CUDA_VISIBLE_DEVICES leaves.
#include <lsaq/resources/nvml.hpp>

#include "scoped_environment.hpp"

#include <formats/make_files.hpp>

namespace gpus_test {

using lsaq::Device;
using lsaq::Gpu;
using lsaq::NvmlFunctions;
using testing::ElementsAre;
using testing::IsEmpty;
using namespace lsaq::literals;

const lsaq::HostMemory host{64_GiB, 40_GiB, "MemAvailable"};
const std::vector<Gpu> three{{.uuid = "GPU-aaaa-1", .name = "A", .total = 24_GiB, .free = 20_GiB},
                             {.uuid = "GPU-aabb-2", .name = "B", .total = 8_GiB, .free = 7_GiB},
                             {.uuid = "GPU-cccc-3", .name = "C", .total = 16_GiB, .free = 1_GiB}};

std::vector<std::string> uuids(const std::vector<Device>& devices) {
  std::vector<std::string> found;
  for (std::size_t d = 0; d < devices.size(); ++d) {
    EXPECT_EQ(devices[d].id, "cuda:" + std::to_string(d)) << "numbers are CUDA's";
    found.push_back(devices[d].uuid);
  }
  return found;
}
std::vector<std::string> visible(const std::vector<Gpu>& gpus, const char* list) { return uuids(lsaq::visible_gpus(gpus, list, host)); }

TEST(VisibleGpus, WithoutAListAreAll) {
  EXPECT_THAT(visible(three, nullptr), ElementsAre("GPU-aaaa-1", "GPU-aabb-2", "GPU-cccc-3"));
  const std::vector<Device> devices = lsaq::visible_gpus(three, nullptr, host);
  EXPECT_EQ(devices[2].name, "C");
  EXPECT_EQ(devices[2].total_bytes, 16_GiB);
  EXPECT_EQ(devices[2].free_bytes, 1_GiB);
  EXPECT_EQ(devices[2].limited_by, "NVML");
}

TEST(VisibleGpus, ByIndexInTheOrderOfTheList) {
  EXPECT_THAT(visible(three, "2,0"), ElementsAre("GPU-cccc-3", "GPU-aaaa-1"));
  EXPECT_THAT(visible(three, " 1 , 2 "), ElementsAre("GPU-aabb-2", "GPU-cccc-3"));
}

TEST(VisibleGpus, ByUuidOrItsBeginning) {
  EXPECT_THAT(visible(three, "GPU-cccc-3"), ElementsAre("GPU-cccc-3"));
  EXPECT_THAT(visible(three, "GPU-c,GPU-aab"), ElementsAre("GPU-cccc-3", "GPU-aabb-2"));
  EXPECT_THAT(visible(three, "GPU-aa"), IsEmpty()) << "two begin so";
  EXPECT_THAT(visible(three, "1,GPU-cc"), ElementsAre("GPU-aabb-2", "GPU-cccc-3"));
}

TEST(VisibleGpus, TheFirstThatIsNoneEndsTheList) {
  EXPECT_THAT(visible(three, "0,7,1"), ElementsAre("GPU-aaaa-1"));
  EXPECT_THAT(visible(three, "0,-1,1"), ElementsAre("GPU-aaaa-1"));
  EXPECT_THAT(visible(three, "0,,1"), ElementsAre("GPU-aaaa-1"));
  EXPECT_THAT(visible(three, "0,0,1"), ElementsAre("GPU-aaaa-1"));
  EXPECT_THAT(visible(three, "0,99999999999999999999"), ElementsAre("GPU-aaaa-1"));
  for (const char* nothing : {"", "-1", "none", "NoDevFiles", "GPU-zz", "gpu-aaaa-1", "3"}) EXPECT_THAT(visible(three, nothing), IsEmpty()) << nothing;
}

const std::vector<Gpu> divided{{.uuid = "GPU-whole", .name = "H", .total = 80_GiB, .free = 79_GiB},
                               {.uuid = "MIG-one", .name = "H 1g", .total = 10_GiB, .free = 9_GiB, .parent = "GPU-whole"},
                               {.uuid = "MIG-two", .name = "H 2g", .total = 20_GiB, .free = 19_GiB, .parent = "GPU-whole"},
                               {.uuid = "GPU-other", .name = "A", .total = 24_GiB, .free = 23_GiB}};

TEST(VisibleGpus, OfADividedGpuOnePart) {
  EXPECT_THAT(visible(divided, nullptr), ElementsAre("MIG-one", "GPU-other")) << "its memory is never the whole card's";
  EXPECT_THAT(visible(divided, "0"), ElementsAre("MIG-one"));
  EXPECT_THAT(visible(divided, "1,0"), ElementsAre("GPU-other", "MIG-one"));
  EXPECT_THAT(visible(divided, "MIG-two"), ElementsAre("MIG-two"));
  EXPECT_THAT(visible(divided, "MIG-two,MIG-one"), ElementsAre("MIG-two")) << "a process sees one part";
  EXPECT_THAT(visible(divided, "GPU-whole"), IsEmpty()) << "it can't be used undivided";
}

TEST(VisibleGpus, ThatShareTheHostsMemoryHaveTheHosts) {
  const std::vector<Device> devices = lsaq::visible_gpus(std::vector<Gpu>{{.uuid = "GPU-x", .name = "integrated", .has_memory = false}}, nullptr, host);
  ASSERT_EQ(devices.size(), 1u);
  EXPECT_EQ(devices[0].free_bytes, 40_GiB);
  EXPECT_EQ(devices[0].total_bytes, 64_GiB);
  EXPECT_EQ(devices[0].limited_by, "MemAvailable");
}

TEST(ChosenGpu, ByUuid) {
  const std::vector<Device> devices = lsaq::visible_gpus(three, "2,0", host);
  EXPECT_EQ(lsaq::choose_device(devices, "GPU-cccc-3").id, "cuda:0");
  EXPECT_EQ(lsaq::choose_device(devices, "GPU-aaaa").id, "cuda:1");
  EXPECT_EQ(lsaq::choose_device(devices, "cuda").uuid, "GPU-aaaa-1") << "most free";
  EXPECT_THROW(lsaq::choose_device(devices, "GPU-aabb-2"), lsaq::InvalidArgument) << "not visible";
}

/// A driver with two GPUs, the first divided into places of which one is taken, the second integrated, and a third that does not answer.
struct FakeDriver {
  static inline int open = 0;
  static inline int init_result = 0;
  static inline int gpus[3], part;

  static NvmlFunctions functions() {
    using Handle = NvmlFunctions::Handle;
    NvmlFunctions nvml;
    nvml.init = [] { return open += init_result == 0, init_result; };
    nvml.shutdown = [] { return --open, 0; };
    nvml.count = [](unsigned* count) { return *count = 3, 0; };
    nvml.by_index = [](unsigned i, Handle* handle) { return *handle = &gpus[i], i == 2 ? 15 : 0; };
    nvml.uuid = [](Handle h, char* text, unsigned size) {
      std::snprintf(text, size, "%s", h == &gpus[0] ? "GPU-0" : h == &gpus[1] ? "GPU-1" : "MIG-0");
      return 0;
    };
    nvml.name = [](Handle h, char* text, unsigned size) {
      std::snprintf(text, size, "%s", h == &gpus[0] ? "large" : "small");
      return h == &part ? 3 : 0;
    };
    nvml.memory = [](Handle h, NvmlFunctions::Memory* memory) {
      *memory = h == &gpus[0] ? NvmlFunctions::Memory{80_GiB, 70_GiB, 10_GiB} : NvmlFunctions::Memory{10_GiB, 9_GiB, 1_GiB};
      return h == &gpus[1] ? NvmlFunctions::not_supported : 0;
    };
    nvml.most_parts = [](Handle h, unsigned* count) { return *count = 7, h == &gpus[0] ? 0 : NvmlFunctions::not_supported; };
    nvml.part_by_index = [](Handle, unsigned i, Handle* handle) { return *handle = &part, i == 3 ? 0 : 6; };
    return nvml;
  }
};

TEST(Nvml, ListsGpusAndTheirParts) {
  const std::vector<Gpu> gpus = lsaq::list_gpus(FakeDriver::functions());
  ASSERT_EQ(gpus.size(), 3u);
  EXPECT_EQ(gpus[0].uuid, "GPU-0");
  EXPECT_EQ(gpus[0].name, "large");
  EXPECT_EQ(gpus[0].free, 70_GiB);
  EXPECT_EQ(gpus[1].uuid, "MIG-0");
  EXPECT_EQ(gpus[1].parent, "GPU-0");
  EXPECT_EQ(gpus[1].name, "");
  EXPECT_EQ(gpus[1].free, 9_GiB);
  EXPECT_EQ(gpus[2].uuid, "GPU-1");
  EXPECT_FALSE(gpus[2].has_memory);
  EXPECT_EQ(FakeDriver::open, 0) << "closed again";
}

TEST(Nvml, OldDriversKnowNoParts) {
  NvmlFunctions nvml = FakeDriver::functions();
  nvml.most_parts = nullptr;
  EXPECT_EQ(lsaq::list_gpus(nvml).size(), 2u);
}

TEST(Nvml, ADriverThatDoesNotRunHasNone) {
  FakeDriver::init_result = 9;
  EXPECT_TRUE(lsaq::list_gpus(FakeDriver::functions()).empty());
  FakeDriver::init_result = 0;
}

TEST(NvmlHere, CanBeAskedOnAnyMachine) {
  const scoped_environment::ScopedVariable none("CUDA_VISIBLE_DEVICES", "");
  EXPECT_TRUE(lsaq::NvmlDevices::devices().empty()) << "hidden, or not there";
}

} // namespace gpus_test
