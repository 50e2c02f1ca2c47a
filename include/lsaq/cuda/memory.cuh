// Device memory in the order of a stream: where it comes from is the caller's choice, through Thrust's allocator interface.
#pragma once

#include <lsaq/cuda/error.cuh>

#include <concepts>
#include <memory>
#include <utility>
#include <vector>

namespace lsaq::inline v0::inline LSAQ_BASELINE::gpu {

/// An allocator as Thrust's execution policies take it: bytes of device memory, ready for work that is queued on its stream afterwards; given back, they may be
/// used again by work that is queued later. allocate() throws where there is none.
template <class A>
concept stream_allocator = std::same_as<typename A::value_type, char> && requires(A& allocator, char* bytes, std::size_t size) {
  { allocator.allocate(size) } -> std::same_as<char*>;
  allocator.deallocate(bytes, size);
};

/// cudaMallocAsync and cudaFreeAsync on a stream.
class StreamMemory {
public:
  using value_type = char;

  explicit StreamMemory(cudaStream_t stream = nullptr) noexcept : stream_(stream) {}

  cudaStream_t stream() const noexcept { return stream_; }

  /// Throws CudaError.
  char* allocate(std::size_t size) const {
    void* bytes = nullptr;
    check(cudaMallocAsync(&bytes, size, stream_), "cudaMallocAsync", std::to_string(size) + " bytes");
    return static_cast<char*>(bytes);
  }

  void deallocate(char* bytes, std::size_t) const noexcept { cudaFreeAsync(bytes, stream_); }

private:
  cudaStream_t stream_;
};

/// Keeps what is given back and hands it out again: in steady state nothing is allocated. Owns what it keeps; not for several threads at once. What is kept is
/// given back to `Upstream` by clear() or the destructor, which must come before the stream's end.
template <class Upstream = StreamMemory> class CachedMemory {
public:
  using value_type = char;

  explicit CachedMemory(Upstream upstream = Upstream()) : upstream_(std::move(upstream)) {}
  CachedMemory(const CachedMemory&) = delete;
  CachedMemory& operator=(const CachedMemory&) = delete;
  ~CachedMemory() { clear(); }

  /// The smallest kept block that is large enough, or a new one. Throws what `Upstream` throws; nothing is lost then.
  char* allocate(std::size_t size) {
    Block* best = nullptr;
    for (Block& block : blocks_)
      if (!block.used && block.size >= size && (best == nullptr || block.size < best->size)) best = &block;
    if (best == nullptr) {
      blocks_.reserve(blocks_.size() + 1);
      blocks_.push_back({upstream_.allocate(size), size, false});
      best = &blocks_.back();
    }
    best->used = true;
    return best->bytes;
  }

  void deallocate(char* bytes, std::size_t) noexcept {
    for (Block& block : blocks_)
      if (block.bytes == bytes) block.used = false;
  }

  /// Gives back what is not in use.
  void clear() noexcept {
    std::erase_if(blocks_, [&](const Block& block) {
      if (!block.used) upstream_.deallocate(block.bytes, block.size);
      return !block.used;
    });
  }

private:
  struct Block {
    char* bytes;
    std::size_t size;
    bool used;
  };

  Upstream upstream_;
  std::vector<Block> blocks_;
};

/// A reference to an allocator that the caller owns and keeps alive, or StreamMemory of a stream. Trivially copyable.
class MemoryRef {
public:
  using value_type = char;

  /// cudaMallocAsync on `stream`.
  explicit MemoryRef(cudaStream_t stream = nullptr) noexcept
      : object_(stream), allocate_([](void* object, std::size_t size) { return StreamMemory(static_cast<cudaStream_t>(object)).allocate(size); }),
        deallocate_([](void* object, char* bytes, std::size_t size) { StreamMemory(static_cast<cudaStream_t>(object)).deallocate(bytes, size); }) {}

  template <stream_allocator A>
  requires(!std::same_as<std::remove_cv_t<A>, MemoryRef>) MemoryRef(A& allocator)
  noexcept // NOLINT: implicit by design, as ExecutorRef
      : object_(std::addressof(allocator)), allocate_([](void* object, std::size_t size) { return static_cast<A*>(object)->allocate(size); }),
        deallocate_([](void* object, char* bytes, std::size_t size) { static_cast<A*>(object)->deallocate(bytes, size); }) {}

  char* allocate(std::size_t size) const { return allocate_(object_, size); }
  void deallocate(char* bytes, std::size_t size) const { deallocate_(object_, bytes, size); }

private:
  void* object_;
  char* (*allocate_)(void*, std::size_t);
  void (*deallocate_)(void*, char*, std::size_t);
};

static_assert(stream_allocator<StreamMemory> && stream_allocator<CachedMemory<>> && stream_allocator<MemoryRef>);

} // namespace lsaq::inline v0::inline LSAQ_BASELINE::gpu

namespace lsaq::inline v0::inline LSAQ_BASELINE {

/// An owned array in device memory, not initialized. Move-only; the allocator it came from outlives it.
template <class T> class DeviceArray {
public:
  DeviceArray() = default;

  /// Throws what the allocator throws; no elements take no memory.
  DeviceArray(std::size_t size, gpu::MemoryRef memory)
      : memory_(memory), data_(size == 0 ? nullptr : reinterpret_cast<T*>(memory.allocate(size * sizeof(T)))), size_(size) {}
  DeviceArray(DeviceArray&& other) noexcept : memory_(other.memory_), data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}
  DeviceArray& operator=(DeviceArray&& other) noexcept {
    std::swap(memory_, other.memory_);
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    return *this;
  }
  ~DeviceArray() {
    if (data_ != nullptr) memory_.deallocate(reinterpret_cast<char*>(data_), size_ * sizeof(T));
  }

  T* data() const noexcept { return data_; }
  std::size_t size() const noexcept { return size_; }

private:
  gpu::MemoryRef memory_;
  T* data_ = nullptr;
  std::size_t size_ = 0;
};

} // namespace lsaq::inline v0::inline LSAQ_BASELINE
