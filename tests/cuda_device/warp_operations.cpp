// Operations that the lanes of a warp make together: shuffles, votes, matches, reductions, warp barriers.
#include "cuda_device/arithmetic.hpp"
#include "cuda_device/machine.hpp"

#include <bit>

namespace cuda_device {

void Machine::run_warp_operation(int warp) {
  const int first = warp * 32, lanes = std::min(32, static_cast<int>(threads_.size()) - first);
  const auto state = [&](int lane) -> Thread& { return threads_[static_cast<std::size_t>(first + lane)]; };
  int next = -1, leader = 0;
  std::uint32_t here = 0; // lanes at the instruction of the first one that waits
  for (int lane = 0; lane < lanes; ++lane) {
    if (state(lane).state != State::at_warp) continue;
    if (next < 0) {
      next = state(lane).next;
      leader = lane;
    }
    if (state(lane).next == next) here |= 1u << lane;
  }
  const Instruction& instruction = kernel_->code[static_cast<std::size_t>(next)];
  const Operand& mask_operand = instruction.op == Op::bar_warp ? instruction.operands[0] : instruction.operands.back();
  auto mask = static_cast<std::uint32_t>(value(instruction, first + leader, mask_operand));
  if (lanes < 32) mask &= (1u << lanes) - 1;
  if ((mask & here) != mask) fail(instruction, first + leader, "lanes " + std::to_string(mask & ~here) + " of its mask are not there");
  if ((here & mask) != here) fail(instruction, first + leader, "a lane is not in its own mask");
  ++warp_operations_[static_cast<std::size_t>(warp)];
  switch (instruction.op) {
  case Op::shfl: shuffle(instruction, first, here); break;
  case Op::vote: vote(instruction, first, here); break;
  case Op::match: match(instruction, first, here); break;
  case Op::redux: reduce(instruction, first, here); break;
  default: break; // bar.warp.sync
  }
  for (int lane = 0; lane < lanes; ++lane)
    if ((here >> lane & 1) != 0) {
      ++state(lane).next;
      state(lane).state = State::running;
    }
}

void Machine::shuffle(const Instruction& instruction, int first, std::uint32_t here) {
  const auto& operands = instruction.operands;
  std::uint64_t values[32] = {};
  for (int lane = 0; lane < 32; ++lane)
    if ((here >> lane & 1) != 0) values[lane] = value(instruction, first + lane, operands[1]);
  for (int lane = 0; lane < 32; ++lane) {
    if ((here >> lane & 1) == 0) continue;
    const int b = static_cast<int>(value(instruction, first + lane, operands[2]) & 31), c = static_cast<int>(value(instruction, first + lane, operands[3]));
    const int segment = c >> 8 & 31, clamp = c & 31;
    const int lowest = lane & segment, highest = lowest | (clamp & ~segment);
    int from = lane;
    bool inside = false;
    if (instruction.has(Modifier::up)) {
      from = lane - b;
      inside = from >= highest; // for .up, "clamp" is the lowest lane
    } else {
      from = instruction.has(Modifier::down) ? lane + b : instruction.has(Modifier::bfly) ? lane ^ b : lowest | (b & ~segment);
      inside = from <= highest;
    }
    if (!inside) from = lane;
    if ((here >> from & 1) == 0) fail(instruction, first + lane, "a shuffle from lane " + std::to_string(from) + ", which is not there");
    set(instruction, first + lane, operands[0], values[from]);
    if (operands[0].second >= 0) set_register(first + lane, operands[0].second, inside);
  }
}

void Machine::vote(const Instruction& instruction, int first, std::uint32_t here) {
  std::uint32_t ballot = 0;
  for (int lane = 0; lane < 32; ++lane)
    if ((here >> lane & 1) != 0) ballot |= static_cast<std::uint32_t>(value(instruction, first + lane, instruction.operands[1]) & 1) << lane;
  const std::uint64_t result = instruction.has(Modifier::ballot) ? ballot
                               : instruction.has(Modifier::any)  ? ballot != 0
                               : instruction.has(Modifier::all)  ? ballot == here
                                                                 : ballot == 0 || ballot == here;
  for (int lane = 0; lane < 32; ++lane)
    if ((here >> lane & 1) != 0) set(instruction, first + lane, instruction.operands[0], result);
}

void Machine::match(const Instruction& instruction, int first, std::uint32_t here) {
  if (!instruction.has(Modifier::any)) fail(instruction, first, "not modelled: match.all");
  std::uint64_t values[32] = {};
  for (int lane = 0; lane < 32; ++lane)
    if ((here >> lane & 1) != 0) values[lane] = low_bits(value(instruction, first + lane, instruction.operands[1]), instruction.type.bits);
  for (int lane = 0; lane < 32; ++lane) {
    if ((here >> lane & 1) == 0) continue;
    std::uint32_t equal = 0;
    for (int other = 0; other < 32; ++other)
      if ((here >> other & 1) != 0 && values[other] == values[lane]) equal |= 1u << other;
    set(instruction, first + lane, instruction.operands[0], equal);
  }
}

void Machine::reduce(const Instruction& instruction, int first, std::uint32_t here) {
  const Op op = operation_of(instruction);
  std::uint64_t result = value(instruction, first + std::countr_zero(here), instruction.operands[1]);
  for (int lane = std::countr_zero(here) + 1; lane < 32; ++lane)
    if ((here >> lane & 1) != 0) result = compute(instruction, op, result, value(instruction, first + lane, instruction.operands[1]), 0);
  for (int lane = 0; lane < 32; ++lane)
    if ((here >> lane & 1) != 0) set(instruction, first + lane, instruction.operands[0], result);
}

} // namespace cuda_device
