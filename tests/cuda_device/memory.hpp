// Memory of a device: allocations with their bounds, who touched a byte last and what orders them, and how many 32-byte sectors a warp's access takes.
#pragma once

#include "cuda_device/ptx.hpp"

#include <algorithm>
#include <set>
#include <tuple>

namespace cuda_device {

/// Who makes an access, and what it is ordered by: barriers of the block and operations of the warp so far.
struct Access {
  int thread = 0, block = 0;
  std::uint32_t barriers = 0, warp_operations = 0;
  bool write = false, atomic = false;
};

/// The last accesses to one byte.
struct ByteHistory {
  Access writer, reader;
  bool written = false, read = false, many_readers = false; ///< readers of several warps since the last barrier
};

/// Finds accesses to a byte, at least one of them a write, that nothing orders.
class RaceCheck {
public:
  std::uint64_t races = 0;
  std::string first;

  /// Records an access; `where` describes it if it is a race.
  template <class Where> void record(ByteHistory& byte, const Access& access, Where&& where) {
    if (byte.written && !(access.atomic && byte.writer.atomic) && !ordered(byte.writer, access)) report(byte.writer, where);
    if (access.write && byte.read) {
      const bool same_block = byte.reader.block == access.block;
      const bool conflict = byte.many_readers && same_block ? byte.reader.barriers == access.barriers : !ordered(byte.reader, access);
      if (conflict && !(access.atomic && byte.reader.atomic)) report(byte.reader, where);
    }
    if (access.write) {
      byte.writer = access;
      byte.written = true;
    } else {
      const bool together = byte.read && byte.reader.barriers == access.barriers && byte.reader.block == access.block;
      byte.many_readers = together && (byte.many_readers || byte.reader.thread / 32 != access.thread / 32);
      byte.reader = access;
      byte.read = true;
    }
  }

private:
  /// Whether `before` is ordered before `now` by a barrier, by an operation of their warp, or because one thread made both.
  static bool ordered(const Access& before, const Access& now) {
    if (before.block != now.block) return false;
    if (before.thread == now.thread || before.barriers != now.barriers) return true;
    return before.thread / 32 == now.thread / 32 && before.warp_operations != now.warp_operations;
  }

  template <class Where> void report(const Access& other, Where&& where) {
    if (races++ == 0) first = where() + ", after thread " + std::to_string(other.thread) + " of block " + std::to_string(other.block);
  }
};

/// Allocations in the address space of this process.
class GlobalMemory {
public:
  struct Region {
    std::uint64_t end;
    bool writable;
    std::vector<ByteHistory> history; ///< of this launch; empty if it was not touched
  };

  void map(const void* begin, std::size_t size, bool writable = true) { regions_[address_of(begin)] = {address_of(begin) + size, writable, {}}; }
  void unmap(const void* begin) { regions_.erase(address_of(begin)); }

  /// The region that holds all of [address, address + size), or null.
  Region* find(std::uint64_t address, std::size_t size, std::uint64_t* begin = nullptr) {
    auto next = regions_.upper_bound(address);
    if (next == regions_.begin()) return nullptr;
    --next;
    if (begin != nullptr) *begin = next->first;
    return address + size <= next->second.end ? &next->second : nullptr;
  }

  bool holds(const void* begin, std::size_t size) { return find(address_of(begin), size) != nullptr; }

  /// A launch is ordered after all before it.
  void forget_history() {
    for (auto& [begin, region] : regions_) region.history.clear();
  }

private:
  static std::uint64_t address_of(const void* pointer) { return reinterpret_cast<std::uintptr_t>(pointer); }

  std::map<std::uint64_t, Region> regions_;
};

/// What the accesses of an instruction cost, summed over its executions by warps.
struct AccessProfile {
  std::string kernel, text;
  bool shared = false;
  unsigned bytes = 0;           ///< of a lane
  std::uint64_t requests = 0;   ///< executions by a warp
  std::uint64_t sectors = 0;    ///< 32-byte sectors of global memory they touched
  std::uint64_t ideal = 0;      ///< as many as the bytes they touched would fill
  std::uint64_t wavefronts = 0; ///< of shared memory: passes that 32 banks of 4 bytes need
  std::uint64_t ideal_wavefronts = 0;
};

/// Collects the accesses of lanes that belong to one execution by their warp: the n-th of each lane.
class Profiler {
public:
  bool enabled = false;
  std::map<std::pair<std::string, int>, AccessProfile> profiles; ///< by kernel and line

  void record(const Instruction& instruction, int warp, std::uint32_t visit, std::uint64_t address, unsigned bytes) {
    if (enabled) pending_[{&instruction, warp, visit}].push_back({address, bytes});
  }

  /// Sums up a block.
  void flush(const std::string& kernel) {
    for (const auto& [key, lanes] : pending_) {
      const Instruction& instruction = *std::get<0>(key);
      AccessProfile& profile = profiles[{kernel, instruction.line}];
      profile.kernel = kernel;
      profile.text = instruction.text;
      profile.shared = instruction.space == Space::shared;
      profile.bytes = lanes.front().second;
      ++profile.requests;
      std::set<std::uint64_t> touched, sectors;
      std::map<std::uint64_t, std::set<std::uint64_t>> banks;
      for (const auto& [address, bytes] : lanes)
        for (std::uint64_t byte = address; byte < address + bytes; ++byte) {
          touched.insert(byte);
          sectors.insert(byte / 32);
          banks[byte / 4 % 32].insert(byte / 4);
        }
      if (profile.shared) {
        std::size_t passes = 1;
        for (const auto& [bank, words] : banks) passes = std::max(passes, words.size());
        profile.wavefronts += passes;
        profile.ideal_wavefronts += (touched.size() + 127) / 128;
      } else {
        profile.sectors += sectors.size();
        profile.ideal += (touched.size() + 31) / 32;
      }
    }
    pending_.clear();
  }

private:
  std::map<std::tuple<const Instruction*, int, std::uint32_t>, std::vector<std::pair<std::uint64_t, unsigned>>> pending_;
};

} // namespace cuda_device
