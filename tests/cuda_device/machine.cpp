#include "cuda_device/machine.hpp"

#include "cuda_device/arithmetic.hpp"

#include <bit>
#include <cstring>
#include <numeric>

namespace cuda_device {

namespace {

bool waits_for_warp(Op op) { return op == Op::shfl || op == Op::vote || op == Op::redux || op == Op::match || op == Op::bar_warp; }

} // namespace

std::string Machine::where(const Instruction& instruction, int thread) const {
  return "at line " + std::to_string(instruction.line) + " [" + instruction.text + "] of " + kernel_->name + ", block " + std::to_string(block_number_) +
         ", thread " + std::to_string(thread);
}

void Machine::fail(const Instruction& instruction, int thread, const std::string& why) const { throw Fault(why + " " + where(instruction, thread)); }

// --- Operands ---

std::uint64_t Machine::special(const std::string& name, int thread) const {
  const auto axis = [&](Dimensions size, unsigned linear) {
    return name.back() == 'x' ? linear % size.x : name.back() == 'y' ? linear / size.x % size.y : linear / size.x / size.y;
  };
  const auto extent = [&](Dimensions size) { return name.back() == 'x' ? size.x : name.back() == 'y' ? size.y : size.z; };
  const auto lane = static_cast<unsigned>(thread % 32);
  if (name.starts_with("%tid")) return axis(block_, static_cast<unsigned>(thread));
  if (name.starts_with("%ntid")) return extent(block_);
  if (name.starts_with("%ctaid")) return axis(grid_, static_cast<unsigned>(block_number_));
  if (name.starts_with("%nctaid")) return extent(grid_);
  if (name == "%laneid") return lane;
  if (name == "%warpid") return static_cast<unsigned>(thread / 32);
  if (name == "%lanemask_eq") return 1u << lane;
  if (name == "%lanemask_lt") return (1u << lane) - 1;
  if (name == "%lanemask_le") return (std::uint64_t{2} << lane) - 1;
  if (name == "%lanemask_ge") return static_cast<std::uint32_t>(~0u << lane);
  return low_bits(~std::uint64_t{1} << lane, 32); // %lanemask_gt
}

std::uint64_t Machine::address_of_symbol(const Instruction& instruction, int thread, const std::string& name) {
  if (const auto variable = kernel_->variables.find(name); variable != kernel_->variables.end())
    return variable->second.dynamic ? (kernel_->shared_bytes + 15) / 16 * 16 : variable->second.offset;
  const auto global = module_->globals.find(name);
  if (global == module_->globals.end()) fail(instruction, thread, "unknown symbol " + name);
  return reinterpret_cast<std::uintptr_t>(global->second.data());
}

std::uint64_t Machine::value(const Instruction& instruction, int thread, const Operand& operand) {
  Thread& state = threads_[static_cast<std::size_t>(thread)];
  switch (operand.kind) {
  case Operand::Kind::reg: {
    const auto reg = static_cast<std::size_t>(operand.reg);
    if (!state.set[reg]) {
      if (!trusted_) ++unset_reads;
      return 0xdeadbeefdeadbeef;
    }
    return operand.negated ? state.registers[reg] == 0 : state.registers[reg];
  }
  case Operand::Kind::immediate: return operand.value;
  case Operand::Kind::special: return special(operand.name, thread);
  case Operand::Kind::symbol: return address_of_symbol(instruction, thread, operand.name);
  default: fail(instruction, thread, "an operand that can't be read");
  }
}

void Machine::set_register(int thread, int reg, std::uint64_t value) {
  Thread& state = threads_[static_cast<std::size_t>(thread)];
  state.registers[static_cast<std::size_t>(reg)] = value;
  state.set[static_cast<std::size_t>(reg)] = 1;
}

void Machine::set(const Instruction& instruction, int thread, const Operand& operand, std::uint64_t value) {
  if (operand.name == "_") return;
  if (operand.kind != Operand::Kind::reg) fail(instruction, thread, "an operand that can't be written");
  set_register(thread, operand.reg, value);
}

// --- Memory ---

std::uint64_t Machine::address_of(const Instruction& instruction, int thread, const Operand& operand) {
  std::uint64_t base = operand.value;
  if (operand.reg >= 0) {
    if (!threads_[static_cast<std::size_t>(thread)].set[static_cast<std::size_t>(operand.reg)]) fail(instruction, thread, "an address that was not set");
    base = threads_[static_cast<std::size_t>(thread)].registers[static_cast<std::size_t>(operand.reg)];
  } else if (!operand.name.empty()) {
    base = address_of_symbol(instruction, thread, operand.name);
  }
  return base + static_cast<std::uint64_t>(operand.offset);
}

unsigned char* Machine::bytes_at(const Instruction& instruction, int thread, std::uint64_t address, unsigned size, bool write, bool atomic) {
  if (address % size != 0) fail(instruction, thread, "a misaligned access of " + std::to_string(size) + " bytes");
  Space space = instruction.space;
  if (space == Space::generic) {
    space = address - shared_base < window ? Space::shared : address - local_base < window ? Space::local : Space::global;
    if (space == Space::shared) address -= shared_base;
    if (space == Space::local) address -= local_base;
  }
  const Access access{thread, block_number_, barriers_, warp_operations_[static_cast<std::size_t>(thread / 32)], write, atomic};
  const auto record = [&](ByteHistory* history) {
    for (unsigned i = 0; i < size; ++i)
      races.record(history[i], access, [&] { return (write ? "a write race " : "a read race ") + where(instruction, thread); });
  };
  if (space == Space::local) {
    auto& local = threads_[static_cast<std::size_t>(thread)].local;
    if (address + size > local.size()) fail(instruction, thread, "outside of local memory");
    return &local[address];
  }
  if (space == Space::shared) {
    address = low_bits(address, 32);
    if (address + size > shared_.size()) fail(instruction, thread, "outside of shared memory");
    if (write)
      std::fill_n(&shared_set_[address], size, 1);
    else if (!trusted_ && std::find(&shared_set_[address], &shared_set_[address] + size, 0) != &shared_set_[address] + size)
      fail(instruction, thread, "a read of shared memory that was not written");
    if (check_races) record(&shared_history_[address]);
    return &shared_[address];
  }
  std::uint64_t begin = 0;
  GlobalMemory::Region* const region = memory.find(address, size, &begin);
  if (region == nullptr) fail(instruction, thread, "outside of every allocation");
  if (write && !region->writable) fail(instruction, thread, "a write to memory that is only read");
  if (check_races) {
    if (region->history.empty()) region->history.resize(region->end - begin);
    record(&region->history[address - begin]);
  }
  return reinterpret_cast<unsigned char*>(address);
}

void Machine::load_or_store(const Instruction& instruction, int thread) {
  const bool load = instruction.op == Op::ld;
  const Operand& target = instruction.operands[load ? 1 : 0];
  const Operand& data = instruction.operands[load ? 0 : 1];
  const unsigned size = instruction.type.bytes(), total = size * instruction.vector;
  const std::uint64_t address = address_of(instruction, thread, target);
  unsigned char* bytes = nullptr;
  if (instruction.space == Space::param) {
    if (address + total > parameters_.size()) fail(instruction, thread, "outside of the parameters");
    bytes = &parameters_[address];
  } else {
    Thread& state = threads_[static_cast<std::size_t>(thread)];
    if (profiler.enabled && instruction.space != Space::local)
      profiler.record(instruction, thread / 32, state.visits[static_cast<std::size_t>(state.next)]++, address, total);
    bytes = bytes_at(instruction, thread, address, total, !load, instruction.has(Modifier::strong));
  }
  for (unsigned i = 0; i < instruction.vector; ++i) {
    const Operand& element = instruction.vector == 1 ? data : data.elements[i];
    if (load) {
      std::uint64_t loaded = 0;
      std::memcpy(&loaded, bytes + i * size, size);
      if (instruction.type.kind == Kind::signed_integer)
        loaded = low_bits(static_cast<std::uint64_t>(signed_of(loaded, instruction.type.bits)), std::max(32u, instruction.type.bits));
      set(instruction, thread, element, loaded);
    } else {
      const std::uint64_t stored = value(instruction, thread, element);
      std::memcpy(bytes + i * size, &stored, size);
    }
  }
}

void Machine::update_memory(const Instruction& instruction, int thread) {
  const unsigned first = instruction.op == Op::atom ? 1 : 0, size = instruction.type.bytes();
  unsigned char* const bytes = bytes_at(instruction, thread, address_of(instruction, thread, instruction.operands[first]), size, true, true);
  std::uint64_t old = 0;
  std::memcpy(&old, bytes, size);
  const std::uint64_t b = value(instruction, thread, instruction.operands[first + 1]);
  const std::uint64_t c = instruction.operands.size() > first + 2 ? value(instruction, thread, instruction.operands[first + 2]) : 0;
  const std::uint64_t now = update(instruction, old, b, c);
  std::memcpy(bytes, &now, size);
  if (first == 1) set(instruction, thread, instruction.operands[0], old);
}

// --- Instructions of one thread ---

void Machine::move(const Instruction& instruction, int thread) {
  const Operand &to = instruction.operands[0], &from = instruction.operands[1];
  const unsigned bits = instruction.type.total();
  if (to.kind == Operand::Kind::vector) {
    const std::uint64_t all = value(instruction, thread, from);
    const unsigned part = bits / static_cast<unsigned>(to.elements.size());
    for (unsigned i = 0; i < to.elements.size(); ++i) set(instruction, thread, to.elements[i], low_bits(all >> part * i, part));
  } else if (from.kind == Operand::Kind::vector) {
    const unsigned part = bits / static_cast<unsigned>(from.elements.size());
    std::uint64_t all = 0;
    for (unsigned i = 0; i < from.elements.size(); ++i) all |= low_bits(value(instruction, thread, from.elements[i]), part) << part * i;
    set(instruction, thread, to, all);
  } else {
    set(instruction, thread, to, low_bits(value(instruction, thread, from), bits));
  }
}

void Machine::execute(const Instruction& instruction, int thread) {
  const auto source = [&](std::size_t i) { return i < instruction.operands.size() ? value(instruction, thread, instruction.operands[i]) : 0; };
  const auto give = [&](std::uint64_t result) { set(instruction, thread, instruction.operands[0], result); };
  switch (instruction.op) {
  case Op::mov: return move(instruction, thread);
  case Op::ld:
  case Op::st: return load_or_store(instruction, thread);
  case Op::atom:
  case Op::red: return update_memory(instruction, thread);
  case Op::cvt: return give(convert(instruction, source(1)));
  case Op::selp: return give(low_bits((source(3) & 1) != 0 ? source(1) : source(2), instruction.type.bits));
  case Op::fence: return;
  case Op::trap: fail(instruction, thread, "a trap");
  case Op::activemask: return give(0xffffffffu);
  case Op::cvta: {
    const std::uint64_t base = instruction.space == Space::shared ? shared_base : instruction.space == Space::local ? local_base : 0;
    return give(instruction.has(Modifier::to) ? source(1) - base : source(1) + base);
  }
  case Op::set: return give(!compare(instruction, source(1), source(2)) ? 0 : instruction.type.floating() ? 0x3f800000u : 0xffffffffu);
  case Op::setp: {
    bool result = compare(instruction, source(1), source(2));
    const Operand& to = instruction.operands[0];
    if (to.second >= 0 && instruction.operands.size() > 3) fail(instruction, thread, "not modelled: setp that combines and gives both results");
    if (instruction.operands.size() > 3) {
      const bool other = (source(3) & 1) != 0;
      const Modifier combine = instruction.modifiers.at(1);
      result = combine == Modifier::and_ ? result && other : combine == Modifier::or_ ? result || other : result != other;
    }
    give(result);
    if (to.second >= 0) set_register(thread, to.second, !result);
    return;
  }
  case Op::bfi:
  case Op::bfe:
  case Op::prmt:
  case Op::popc:
  case Op::clz:
  case Op::brev:
  case Op::lop3:
  case Op::shf:
  case Op::bmsk:
  case Op::bfind:
  case Op::dp4a: {
    const std::uint64_t values[] = {source(1), source(2), source(3), source(4)};
    return give(combine_bits(instruction, values));
  }
  default: return give(compute(instruction, instruction.op, source(1), source(2), source(3)));
  }
}

void Machine::run_thread(int thread) {
  Thread& state = threads_[static_cast<std::size_t>(thread)];
  while (state.next < static_cast<int>(kernel_->code.size())) {
    const Instruction& instruction = kernel_->code[static_cast<std::size_t>(state.next)];
    if (++executed > limit) fail(instruction, thread, "too many instructions: the program seems to run for ever");
    if (instruction.guard >= 0) {
      if (!state.set[static_cast<std::size_t>(instruction.guard)]) fail(instruction, thread, "a predicate that was not set");
      if ((state.registers[static_cast<std::size_t>(instruction.guard)] != 0) == instruction.guard_negated) {
        ++state.next;
        continue;
      }
    }
    if (instruction.op == Op::bra) {
      state.next = instruction.target;
      continue;
    }
    if (instruction.op == Op::ret) break;
    if (instruction.op == Op::bar && state.barriers++ == removed_barrier) {
      ++state.next;
      continue;
    }
    if (instruction.op == Op::bar || instruction.op == Op::bar_red) {
      state.state = State::at_barrier;
      return;
    }
    if (waits_for_warp(instruction.op)) {
      state.state = State::at_warp;
      return;
    }
    execute(instruction, thread);
    ++state.next;
  }
  state.state = State::done;
}

// --- Warps, blocks, grids ---

void Machine::pass_barrier() {
  ++barriers_;
  bool any = false, all = true;
  std::uint64_t count = 0;
  const int threads = static_cast<int>(threads_.size());
  const auto at = [&](int thread) -> const Instruction& { return kernel_->code[static_cast<std::size_t>(threads_[static_cast<std::size_t>(thread)].next)]; };
  for (int thread = 0; thread < threads; ++thread) {
    if (at(thread).op != Op::bar_red) continue;
    const bool predicate = (value(at(thread), thread, at(thread).operands.back()) & 1) != 0;
    any |= predicate;
    all &= predicate;
    count += predicate;
  }
  for (int thread = 0; thread < threads; ++thread) {
    const Instruction& instruction = at(thread);
    if (instruction.op == Op::bar_red)
      set(instruction, thread, instruction.operands[0],
          instruction.has(Modifier::popc) ? count : static_cast<std::uint64_t>(instruction.has(Modifier::or_) ? any : all));
  }
  for (Thread& state : threads_) {
    state.state = State::running;
    ++state.next;
  }
}

bool Machine::advance() {
  if (shuffled_) std::shuffle(order_.begin(), order_.end(), random_);
  bool moved = false;
  for (const int thread : order_)
    if (threads_[static_cast<std::size_t>(thread)].state == State::running) {
      run_thread(thread);
      moved = true;
    }
  const int threads = static_cast<int>(threads_.size());
  bool exchanged = false;
  for (int warp = 0; warp * 32 < threads; ++warp)
    for (int thread = warp * 32; thread < std::min(threads, warp * 32 + 32); ++thread)
      if (threads_[static_cast<std::size_t>(thread)].state == State::at_warp) {
        run_warp_operation(warp);
        exchanged = true;
        break;
      }
  if (exchanged) return true;
  int waiting = 0, done = 0;
  for (const Thread& state : threads_) {
    waiting += state.state == State::at_barrier;
    done += state.state == State::done;
  }
  if (done == threads) return false;
  if (waiting == threads) {
    pass_barrier();
    return true;
  }
  if (waiting + done == threads)
    throw Fault(std::to_string(waiting) + " threads of " + kernel_->name + " wait at a barrier that " + std::to_string(done) + " never reach");
  if (!moved) throw Fault("the threads of " + kernel_->name + " wait for each other");
  return true;
}

void Machine::run_block() {
  const unsigned threads = block_.count();
  std::fill(shared_.begin(), shared_.end(), static_cast<unsigned char>(0xff));
  shared_set_.assign(shared_.size(), 0);
  shared_history_.assign(check_races ? shared_.size() : 0, {});
  barriers_ = 0;
  warp_operations_.assign((threads + 31) / 32, 0);
  threads_.resize(threads);
  for (Thread& state : threads_) {
    state.registers.assign(kernel_->registers.size(), 0);
    state.set.assign(kernel_->registers.size(), 0);
    state.local.assign(kernel_->local_bytes, 0xff);
    state.visits.assign(profiler.enabled ? kernel_->code.size() : 0, 0);
    state.next = state.barriers = 0;
    state.state = State::running;
  }
  order_.resize(threads);
  std::iota(order_.begin(), order_.end(), 0);
  while (advance()) {
  }
  profiler.flush(kernel_->name);
}

void Machine::launch(const Module& module, const Kernel& kernel, const void* const* arguments, Dimensions grid, Dimensions block, unsigned dynamic_bytes) {
  module_ = &module;
  kernel_ = &kernel;
  trusted_ = !trusted.empty() && kernel.name.find(trusted) != std::string::npos;
  grid_ = grid;
  block_ = block;
  parameters_.assign(kernel.parameter_bytes, 0);
  for (std::size_t i = 0; i < kernel.parameters.size(); ++i) std::memcpy(&parameters_[kernel.parameters[i].offset], arguments[i], kernel.parameters[i].size);
  for (const auto& [name, bytes] : module.globals) memory.map(bytes.data(), bytes.size());
  memory.forget_history();
  shared_.resize((kernel.shared_bytes + 15) / 16 * 16 + dynamic_bytes);
  std::vector<int> blocks(grid.count());
  std::iota(blocks.begin(), blocks.end(), 0);
  if (shuffled_ && shuffle_blocks) std::shuffle(blocks.begin(), blocks.end(), random_);
  for (const int number : blocks) {
    block_number_ = number;
    run_block();
  }
}

} // namespace cuda_device
