// Runs PTX: blocks one after the other, the threads of a block in turns, each until it waits for its block or its warp.
//
// Every register, address, alignment and shared byte is checked before it is used; barriers and warp operations are checked for who takes part. Memory is
// sequentially consistent. With a seed, threads take turns in a random order, and blocks too if `shuffle_blocks` is set (which programs whose blocks wait for
// earlier ones can't stand).
#pragma once

#include "cuda_device/memory.hpp"

#include <random>

namespace cuda_device {

struct Dimensions {
  unsigned x = 1, y = 1, z = 1;
  unsigned count() const { return x * y * z; }
};

class Machine {
public:
  explicit Machine(unsigned seed = 0) : random_(seed), shuffled_(seed != 0) {}

  GlobalMemory memory;
  RaceCheck races;
  Profiler profiler;
  bool check_races = true;
  bool shuffle_blocks = false;
  std::string
      trusted; ///< kernels with this in their names may read registers and shared memory that were not written: CUB's sorts do, and do not use what they read
  int removed_barrier = -1;            ///< a barrier that every thread passes by, counted from 0: a mistake on purpose, which tests have to notice
  std::uint64_t executed = 0;          ///< instructions of threads
  std::uint64_t unset_reads = 0;       ///< registers read before they were written: allowed, and what they hold is not
  std::uint64_t limit = 4'000'000'000; ///< instructions, after which a program is taken to run for ever

  /// Runs a kernel to its end. `arguments` point to the values of its parameters. Throws Fault.
  void launch(const Module& module, const Kernel& kernel, const void* const* arguments, Dimensions grid, Dimensions block, unsigned dynamic_bytes = 0);

private:
  enum class State : std::uint8_t { running, at_barrier, at_warp, done };

  struct Thread {
    std::vector<std::uint64_t> registers;
    std::vector<char> set;
    std::vector<unsigned char> local;
    std::vector<std::uint32_t> visits; // of each instruction that is profiled
    int next = 0;
    int barriers = 0; // come to
    State state = State::running;
  };

  // Generic addresses of shared and local memory.
  static constexpr std::uint64_t shared_base = 0x7ff0'0000'0000'0000, local_base = 0x7fe0'0000'0000'0000, window = 1 << 24;

  void run_block();
  bool advance();
  void run_thread(int thread);
  void execute(const Instruction& instruction, int thread);
  void move(const Instruction& instruction, int thread);
  void load_or_store(const Instruction& instruction, int thread);
  void update_memory(const Instruction& instruction, int thread);
  void run_warp_operation(int warp);
  void shuffle(const Instruction& instruction, int first, std::uint32_t here);
  void vote(const Instruction& instruction, int first, std::uint32_t here);
  void match(const Instruction& instruction, int first, std::uint32_t here);
  void reduce(const Instruction& instruction, int first, std::uint32_t here);
  void pass_barrier();

  std::uint64_t value(const Instruction& instruction, int thread, const Operand& operand);
  void set(const Instruction& instruction, int thread, const Operand& operand, std::uint64_t value);
  void set_register(int thread, int reg, std::uint64_t value);
  std::uint64_t address_of(const Instruction& instruction, int thread, const Operand& operand);
  std::uint64_t address_of_symbol(const Instruction& instruction, int thread, const std::string& name);
  std::uint64_t special(const std::string& name, int thread) const;
  unsigned char* bytes_at(const Instruction& instruction, int thread, std::uint64_t address, unsigned size, bool write, bool atomic);
  [[noreturn]] void fail(const Instruction& instruction, int thread, const std::string& why) const;
  std::string where(const Instruction& instruction, int thread) const;

  std::mt19937 random_;
  bool shuffled_;
  const Module* module_ = nullptr;
  const Kernel* kernel_ = nullptr;
  bool trusted_ = false;
  std::vector<unsigned char> parameters_;
  Dimensions grid_, block_;
  int block_number_ = 0;
  std::vector<Thread> threads_;
  std::vector<int> order_;
  std::vector<unsigned char> shared_;
  std::vector<char> shared_set_;
  std::vector<ByteHistory> shared_history_;
  std::uint32_t barriers_ = 0;
  std::vector<std::uint32_t> warp_operations_;
};

} // namespace cuda_device
