// A driver's library with two GPUs, for programs that look for them.
#include <cstdio>

namespace {

struct Memory {
  unsigned long long total, free, used;
};

const char* const names[] = {"A", "B"};
const char* const uuids[] = {"GPU-a", "GPU-b"};
int gpus[2];

int write(const char* text, char* to, unsigned size) {
  std::snprintf(to, size, "%s", text);
  return 0;
}
long index_of(const void* gpu) { return static_cast<const int*>(gpu) - gpus; }

} // namespace

extern "C" {

int nvmlInit_v2() { return 0; }
int nvmlShutdown() { return 0; }
int nvmlDeviceGetCount_v2(unsigned* count) {
  *count = 2;
  return 0;
}
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void** gpu) {
  *gpu = &gpus[index];
  return 0;
}
int nvmlDeviceGetUUID(void* gpu, char* text, unsigned size) { return write(uuids[index_of(gpu)], text, size); }
int nvmlDeviceGetName(void* gpu, char* text, unsigned size) { return write(names[index_of(gpu)], text, size); }
int nvmlDeviceGetMemoryInfo(void* gpu, Memory* memory) {
  const unsigned long long total = index_of(gpu) == 0 ? 24 * 1024 : 8 * 1024;
  *memory = {total, total - 1024, 1024};
  return 0;
}
}
