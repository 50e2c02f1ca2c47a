// What PTX's arithmetic gives: integers of every width, FP64, FP32, FP16 and BF16, one by one or by pairs. Registers are 64 bits; what is beyond a type's width
// is 0.
#pragma once

#include "cuda_device/ptx.hpp"

namespace cuda_device {

/// The low `bits` bits of a value.
constexpr std::uint64_t low_bits(std::uint64_t value, unsigned bits) { return bits >= 64 ? value : value & ((std::uint64_t{1} << bits) - 1); }

/// The low `bits` bits as a signed number.
constexpr std::int64_t signed_of(std::uint64_t value, unsigned bits) {
  return bits >= 64 ? static_cast<std::int64_t>(value) : static_cast<std::int64_t>(value << (64 - bits)) >> (64 - bits);
}

/// A floating-point register of a type, widened exactly, and back, rounded to nearest even.
double real_of(std::uint64_t bits, Type type);
std::uint64_t bits_of_real(double value, Type type);

/// add, sub, mul, mad, fma, div, rem, min, max, abs, neg, logic, shifts and the functions of one float. Throws Fault for what is not modelled.
std::uint64_t compute(const Instruction& instruction, Op op, std::uint64_t a, std::uint64_t b, std::uint64_t c);

/// The comparison of setp and set.
bool compare(const Instruction& instruction, std::uint64_t a, std::uint64_t b);

/// cvt.
std::uint64_t convert(const Instruction& instruction, std::uint64_t value);

/// bfi, bfe, prmt, popc, clz, brev, lop3, shf, bmsk, bfind, dp4a: bits of integers. `values` are the sources.
std::uint64_t combine_bits(const Instruction& instruction, const std::uint64_t* values);

/// What atom and red do to memory: the new value. `type` and the operation are the instruction's.
std::uint64_t update(const Instruction& instruction, std::uint64_t old, std::uint64_t b, std::uint64_t c);

/// The operation that atom, red and redux name by a modifier.
Op operation_of(const Instruction& instruction);

} // namespace cuda_device
