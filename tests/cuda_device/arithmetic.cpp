#include "cuda_device/arithmetic.hpp"

#include <algorithm>
#include <bit>
#include <cmath>

namespace cuda_device {

namespace {

[[noreturn]] void not_modelled(const Instruction& instruction) { throw Fault("not modelled: " + instruction.text); }

/// To the nearest of `digits` binary digits with exponents from `lowest` on; ties to even.
double rounded(double value, int digits, int lowest) {
  if (value == 0 || !std::isfinite(value)) return value;
  int exponent;
  std::frexp(value, &exponent); // value = f 2^exponent, f in [0.5, 1)
  const int unit = std::max(exponent - digits, lowest);
  return std::ldexp(std::nearbyint(std::ldexp(value, -unit)), unit);
}

template <class T> T binary(const Instruction& instruction, Op op, T a, T b, T c) {
  switch (op) {
  case Op::add: return a + b;
  case Op::sub: return a - b;
  case Op::mul: return a * b;
  case Op::mad:
  case Op::fma: return std::fma(a, b, c);
  case Op::div: return a / b;
  case Op::min: return std::isnan(a) ? b : std::isnan(b) ? a : a == b ? (std::signbit(a) ? a : b) : std::min(a, b);
  case Op::max: return std::isnan(a) ? b : std::isnan(b) ? a : a == b ? (std::signbit(a) ? b : a) : std::max(a, b);
  case Op::abs: return std::fabs(a);
  case Op::neg: return -a;
  case Op::rcp: return T(1) / a;
  case Op::sqrt: return std::sqrt(a);
  case Op::rsqrt: return T(1) / std::sqrt(a);
  case Op::ex2: return std::exp2(a);
  case Op::lg2: return std::log2(a);
  case Op::copysign: return std::copysign(b, a);
  default: not_modelled(instruction);
  }
}

std::uint64_t compute_real(const Instruction& instruction, Op op, std::uint64_t a, std::uint64_t b, std::uint64_t c) {
  for (const Modifier modifier : {Modifier::rz, Modifier::rmi, Modifier::rpi})
    if (instruction.has(modifier)) not_modelled(instruction);
  const Type type{instruction.type.kind, instruction.type.bits};
  if (type.narrow_float()) { // sums and products of 16-bit floats are exact in double, or rounded far beyond what matters
    if (op == Op::div || op == Op::ex2 || op == Op::lg2 || op == Op::sqrt) not_modelled(instruction);
    return bits_of_real(binary(instruction, op, real_of(a, type), real_of(b, type), real_of(c, type)), type);
  }
  const bool saturated = instruction.has(Modifier::sat);
  if (type.bits == 32) {
    const auto value = [](std::uint64_t bits) { return std::bit_cast<float>(static_cast<std::uint32_t>(bits)); };
    float result = binary(instruction, op, value(a), value(b), value(c));
    if (saturated) result = result > 0 ? std::min(result, 1.0f) : 0.0f;
    return std::bit_cast<std::uint32_t>(result);
  }
  double result = binary(instruction, op, std::bit_cast<double>(a), std::bit_cast<double>(b), std::bit_cast<double>(c));
  if (saturated) result = result > 0 ? std::min(result, 1.0) : 0.0;
  return std::bit_cast<std::uint64_t>(result);
}

std::uint64_t compute_integer(const Instruction& instruction, Op op, std::uint64_t a, std::uint64_t b, std::uint64_t c) {
  const unsigned bits = instruction.type.bits;
  const bool is_signed = instruction.type.kind == Kind::signed_integer;
  const std::int64_t sa = signed_of(a, bits), sb = signed_of(b, bits);
  const std::uint64_t ua = low_bits(a, bits), ub = low_bits(b, bits);
  const auto amount = static_cast<std::uint32_t>(b); // of a shift: 32 bits whatever is shifted
  const auto product = [&]() -> std::uint64_t {
    if (!instruction.has(Modifier::hi)) return is_signed ? static_cast<std::uint64_t>(sa) * static_cast<std::uint64_t>(sb) : ua * ub;
    if (is_signed) return static_cast<std::uint64_t>((static_cast<__int128>(sa) * sb) >> bits);
    return static_cast<std::uint64_t>((static_cast<unsigned __int128>(ua) * ub) >> bits);
  };
  if ((op == Op::div || op == Op::rem) && ub == 0) throw Fault("integer division by zero");
  std::uint64_t result = 0;
  switch (op) {
  case Op::add: result = ua + ub; break;
  case Op::sub: result = ua - ub; break;
  case Op::mul: result = product(); break;
  case Op::mad: result = product() + c; break;
  case Op::div: result = is_signed ? static_cast<std::uint64_t>(sa / sb) : ua / ub; break;
  case Op::rem: result = is_signed ? static_cast<std::uint64_t>(sa % sb) : ua % ub; break;
  case Op::min: result = is_signed ? static_cast<std::uint64_t>(std::min(sa, sb)) : std::min(ua, ub); break;
  case Op::max: result = is_signed ? static_cast<std::uint64_t>(std::max(sa, sb)) : std::max(ua, ub); break;
  case Op::abs: result = sa < 0 ? 0 - static_cast<std::uint64_t>(sa) : static_cast<std::uint64_t>(sa); break;
  case Op::neg: result = 0 - ua; break;
  case Op::and_: result = a & b; break;
  case Op::or_: result = a | b; break;
  case Op::xor_: result = a ^ b; break;
  case Op::not_: result = ~a; break;
  case Op::shl: result = amount >= bits ? 0 : ua << amount; break;
  case Op::shr: result = is_signed ? static_cast<std::uint64_t>(sa >> std::min(amount, bits - 1)) : amount >= bits ? 0 : ua >> amount; break;
  default: not_modelled(instruction);
  }
  return low_bits(result, instruction.has(Modifier::wide) ? 2 * bits : bits);
}

/// An integer from a float: the rounding the instruction names, saturated; NaN is 0.
std::uint64_t integer_of(const Instruction& instruction, double value) {
  const Type to = instruction.type;
  if (std::isnan(value)) return 0;
  const double whole = instruction.has(Modifier::rni)   ? std::nearbyint(value)
                       : instruction.has(Modifier::rzi) ? std::trunc(value)
                       : instruction.has(Modifier::rmi) ? std::floor(value)
                       : instruction.has(Modifier::rpi) ? std::ceil(value)
                                                        : (not_modelled(instruction), 0.0);
  const bool is_signed = to.kind == Kind::signed_integer;
  const double lowest = is_signed ? -std::ldexp(1, static_cast<int>(to.bits) - 1) : 0, above = std::ldexp(1, static_cast<int>(to.bits) - (is_signed ? 1 : 0));
  if (whole <= lowest) return is_signed ? std::uint64_t{1} << (to.bits - 1) : 0;
  if (whole >= above) return low_bits(~std::uint64_t{0}, to.bits - (is_signed ? 1 : 0));
  return low_bits(is_signed ? static_cast<std::uint64_t>(static_cast<std::int64_t>(whole)) : static_cast<std::uint64_t>(whole), to.bits);
}

} // namespace

double real_of(std::uint64_t bits, Type type) {
  if (type.bits == 64) return std::bit_cast<double>(bits);
  if (type.bits == 32) return std::bit_cast<float>(static_cast<std::uint32_t>(bits));
  const auto half = static_cast<std::uint32_t>(low_bits(bits, 16));
  if (type.kind == Kind::brain) return std::bit_cast<float>(half << 16);
  const int exponent = static_cast<int>(half >> 10 & 31u), fraction = static_cast<int>(half & 1023u);
  const double magnitude =
      exponent == 31 ? (fraction != 0 ? std::nan("") : HUGE_VAL) : std::ldexp(exponent != 0 ? fraction + 1024 : fraction, std::max(exponent, 1) - 25);
  return (half & 0x8000u) != 0 ? -magnitude : magnitude;
}

std::uint64_t bits_of_real(double value, Type type) {
  if (type.bits == 64) return std::bit_cast<std::uint64_t>(value);
  if (type.bits == 32) return std::bit_cast<std::uint32_t>(static_cast<float>(value));
  if (std::isnan(value)) return 0x7fff;
  if (type.kind == Kind::brain) {
    const double near = rounded(value, 8, -133);
    return std::bit_cast<std::uint32_t>(static_cast<float>(near)) >> 16;
  }
  const std::uint64_t sign = std::signbit(value) ? 0x8000 : 0;
  const double magnitude = std::fabs(rounded(value, 11, -24));
  if (magnitude > 65504) return sign | 0x7c00;
  if (magnitude < 0x1p-14) return sign | static_cast<std::uint64_t>(magnitude * 0x1p24);
  int exponent;
  const double fraction = std::frexp(magnitude, &exponent);
  return sign | ((static_cast<std::uint64_t>(exponent + 14) << 10) + static_cast<std::uint64_t>(fraction * 2048) - 1024);
}

std::uint64_t compute(const Instruction& instruction, Op op, std::uint64_t a, std::uint64_t b, std::uint64_t c) {
  const Type type = instruction.type;
  if (type.kind == Kind::predicate) {
    if (op == Op::not_) return (a & 1) ^ 1;
    return compute_integer(instruction, op, a & 1, b & 1, 0);
  }
  if (!type.floating()) return compute_integer(instruction, op, a, b, c);
  if (type.lanes == 1) return compute_real(instruction, op, a, b, c);
  return compute_real(instruction, op, low_bits(a, 16), low_bits(b, 16), low_bits(c, 16)) |
         compute_real(instruction, op, low_bits(a >> 16, 16), low_bits(b >> 16, 16), low_bits(c >> 16, 16)) << 16;
}

bool compare(const Instruction& instruction, std::uint64_t a, std::uint64_t b) {
  using M = Modifier;
  const Type type = instruction.op == Op::set ? instruction.from : instruction.type;
  const M test = instruction.modifiers.front();
  const auto ordered = [&](auto x, auto y) {
    switch (test) {
    case M::eq:
    case M::equ: return x == y;
    case M::ne:
    case M::neu: return x != y;
    case M::lt:
    case M::ltu:
    case M::lo: return x < y;
    case M::le:
    case M::leu:
    case M::ls: return x <= y;
    case M::gt:
    case M::gtu:
    case M::hi: return x > y;
    case M::ge:
    case M::geu:
    case M::hs: return x >= y;
    default: not_modelled(instruction);
    }
  };
  if (type.floating()) {
    const double x = real_of(a, type), y = real_of(b, type);
    const bool unordered = std::isnan(x) || std::isnan(y);
    if (test == M::num || test == M::nan) return unordered == (test == M::nan);
    const bool true_if_unordered = test == M::equ || test == M::neu || test == M::ltu || test == M::leu || test == M::gtu || test == M::geu;
    return unordered ? true_if_unordered : ordered(x, y);
  }
  if (type.kind == Kind::signed_integer) return ordered(signed_of(a, type.bits), signed_of(b, type.bits));
  return ordered(low_bits(a, type.bits), low_bits(b, type.bits));
}

std::uint64_t convert(const Instruction& instruction, std::uint64_t value) {
  const Type to = instruction.type, from = instruction.from;
  if (!instruction.has_from || to.lanes != 1 || from.lanes != 1 || instruction.has(Modifier::rz)) not_modelled(instruction);
  if (from.floating()) {
    double real = real_of(value, from);
    if (!to.floating()) return integer_of(instruction, real);
    if (instruction.has(Modifier::rni)) real = std::nearbyint(real);
    if (instruction.has(Modifier::rzi)) real = std::trunc(real);
    if (instruction.has(Modifier::rmi)) real = std::floor(real);
    if (instruction.has(Modifier::rpi)) real = std::ceil(real);
    if (instruction.has(Modifier::sat)) real = real > 0 ? std::min(real, 1.0) : 0.0;
    return bits_of_real(real, to);
  }
  const bool is_signed = from.kind == Kind::signed_integer;
  if (to.floating()) {
    if (to.bits == 32) { // 64-bit integers round once
      const float real = is_signed ? static_cast<float>(signed_of(value, from.bits)) : static_cast<float>(low_bits(value, from.bits));
      return std::bit_cast<std::uint32_t>(real);
    }
    return bits_of_real(is_signed ? static_cast<double>(signed_of(value, from.bits)) : static_cast<double>(low_bits(value, from.bits)), to);
  }
  std::int64_t whole = is_signed ? signed_of(value, from.bits) : static_cast<std::int64_t>(low_bits(value, from.bits));
  if (instruction.has(Modifier::sat)) {
    const std::int64_t above = std::int64_t{1} << (to.bits - (to.kind == Kind::signed_integer ? 1 : 0));
    whole = std::clamp(whole, to.kind == Kind::signed_integer ? -above : 0, above - 1);
  }
  // A narrow signed result fills a register of 32 bits.
  if (to.kind == Kind::signed_integer && to.bits < 32) return low_bits(static_cast<std::uint64_t>(signed_of(static_cast<std::uint64_t>(whole), to.bits)), 32);
  return low_bits(static_cast<std::uint64_t>(whole), to.bits);
}

std::uint64_t combine_bits(const Instruction& instruction, const std::uint64_t* values) {
  const unsigned bits = instruction.type.bits;
  const std::uint64_t a = values[0], b = values[1], c = values[2], d = values[3];
  std::uint64_t result = 0;
  switch (instruction.op) {
  case Op::bfi: {
    const auto first = static_cast<unsigned>(c & 255), length = static_cast<unsigned>(d & 255);
    result = b;
    for (unsigned i = 0; i < length && first + i < bits; ++i) result = (result & ~(std::uint64_t{1} << (first + i))) | (a >> i & 1) << (first + i);
    return low_bits(result, bits);
  }
  case Op::bfe: {
    const auto first = static_cast<unsigned>(b & 255), length = static_cast<unsigned>(c & 255);
    const bool is_signed = instruction.type.kind == Kind::signed_integer && length != 0;
    const std::uint64_t sign = is_signed ? a >> std::min(first + length - 1, bits - 1) & 1 : 0;
    for (unsigned i = 0; i < bits; ++i) result |= (i < length && first + i < bits ? a >> (first + i) & 1 : sign) << i;
    return result;
  }
  case Op::prmt: {
    if (!instruction.modifiers.empty()) not_modelled(instruction);
    const std::uint64_t bytes = low_bits(a, 32) | b << 32;
    for (unsigned i = 0; i < 4; ++i) {
      const auto selector = static_cast<unsigned>(c >> 4 * i & 15);
      const std::uint64_t byte = bytes >> 8 * (selector & 7u) & 255;
      result |= ((selector & 8u) == 0 ? byte : (byte & 128) != 0 ? 255u : 0u) << 8 * i;
    }
    return result;
  }
  case Op::popc: return static_cast<std::uint64_t>(std::popcount(low_bits(a, bits)));
  case Op::clz: return static_cast<std::uint64_t>(std::countl_zero(low_bits(a, bits))) - (64 - bits);
  case Op::brev:
    for (unsigned i = 0; i < bits; ++i) result |= (a >> i & 1) << (bits - 1 - i);
    return result;
  case Op::lop3:
    for (unsigned i = 0; i < 32; ++i) result |= (d >> ((a >> i & 1) << 2 | (b >> i & 1) << 1 | (c >> i & 1)) & 1) << i;
    return result;
  case Op::shf: {
    const std::uint64_t both = low_bits(a, 32) | b << 32;
    const auto amount = instruction.has(Modifier::wrap) ? static_cast<std::uint32_t>(c) & 31u : std::min(static_cast<std::uint32_t>(c), 32u);
    return low_bits(instruction.has(Modifier::l) ? both << amount >> 32 : both >> amount, 32);
  }
  case Op::bmsk: {
    std::uint64_t first = low_bits(a, 32), length = low_bits(b, 32);
    if (instruction.has(Modifier::wrap)) first &= 31, length &= 31;
    for (std::uint64_t i = first; i < std::min<std::uint64_t>(32, first + length); ++i) result |= std::uint64_t{1} << i;
    return result;
  }
  case Op::bfind: {
    std::uint64_t value = low_bits(a, bits);
    if (instruction.type.kind == Kind::signed_integer && value >> (bits - 1) != 0) value = low_bits(~value, bits);
    if (value == 0) return 0xffffffffu;
    const auto found = static_cast<std::uint64_t>(63 - std::countl_zero(value));
    return instruction.has(Modifier::shiftamt) ? bits - 1 - found : found;
  }
  case Op::dp4a: {
    const auto byte = [](std::uint64_t word, unsigned i, Type type) {
      const std::uint64_t value = word >> 8 * i & 255;
      return type.kind == Kind::signed_integer ? signed_of(value, 8) : static_cast<std::int64_t>(value);
    };
    std::int64_t sum = signed_of(c, 32);
    for (unsigned i = 0; i < 4; ++i) sum += byte(a, i, instruction.type) * byte(b, i, instruction.from);
    return low_bits(static_cast<std::uint64_t>(sum), 32);
  }
  default: not_modelled(instruction);
  }
}

Op operation_of(const Instruction& instruction) {
  for (const Modifier modifier : instruction.modifiers) switch (modifier) {
    case Modifier::add: return Op::add;
    case Modifier::min: return Op::min;
    case Modifier::max: return Op::max;
    case Modifier::and_: return Op::and_;
    case Modifier::or_: return Op::or_;
    case Modifier::xor_: return Op::xor_;
    default: break;
    }
  not_modelled(instruction);
}

std::uint64_t update(const Instruction& instruction, std::uint64_t old, std::uint64_t b, std::uint64_t c) {
  const unsigned bits = instruction.type.bits;
  if (instruction.has(Modifier::cas)) return low_bits(old, bits) == low_bits(b, bits) ? c : old;
  if (instruction.has(Modifier::exch)) return b;
  return compute(instruction, operation_of(instruction), old, b, 0);
}

} // namespace cuda_device
