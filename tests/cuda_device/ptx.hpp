// PTX as data: what nvcc's text becomes before it is run (Parallel Thread Execution ISA, version 9.0).
#pragma once

#include <cstdint>
#include <map>
#include <stdexcept>
#include <string>
#include <unordered_map>
#include <vector>

namespace cuda_device {

/// What a program did that no device would take, or that is not modelled here.
struct Fault : std::runtime_error {
  using std::runtime_error::runtime_error;
};

enum class Kind : std::uint8_t { bits, unsigned_integer, signed_integer, real, brain, predicate };

/// The type of an instruction: .b32, .s16, .f64, .bf16, .f16x2, .pred.
struct Type {
  Kind kind = Kind::bits;
  unsigned bits = 32; ///< of a lane
  unsigned lanes = 1; ///< 2 for f16x2 and bf16x2
  unsigned total() const { return bits * lanes; }
  unsigned bytes() const { return bits == 1 ? 1 : total() / 8; }
  bool floating() const { return kind == Kind::real || kind == Kind::brain; }
  bool narrow_float() const { return floating() && bits == 16; }
};

enum class Space : std::uint8_t { generic, global, shared, local, param };

enum class Op : std::uint8_t {
  mov,
  ld,
  st,
  add,
  sub,
  mul,
  mad,
  fma,
  div,
  rem,
  min,
  max,
  abs,
  neg,
  and_,
  or_,
  xor_,
  not_,
  shl,
  shr,
  setp,
  set,
  selp,
  cvt,
  cvta,
  bra,
  bar,
  bar_red,
  bar_warp,
  shfl,
  ret,
  bfi,
  bfe,
  prmt,
  popc,
  clz,
  brev,
  rcp,
  sqrt,
  rsqrt,
  ex2,
  lg2,
  vote,
  atom,
  red,
  dp4a,
  lop3,
  redux,
  activemask,
  copysign,
  shf,
  bmsk,
  match,
  bfind,
  fence,
  trap
};

/// What follows the name of an instruction, but for types and spaces.
enum class Modifier : std::uint8_t {
  none,
  wide,
  hi,
  lo,
  sat,
  rn,
  rz,
  rni,
  rzi,
  rmi,
  rpi,
  up,
  down,
  bfly,
  idx,
  ballot,
  any,
  all,
  uni,
  add,
  min,
  max,
  and_,
  or_,
  xor_,
  cas,
  exch,
  popc,
  wrap,
  clamp,
  l,
  r,
  to,
  approx,
  full,
  nc,
  strong,
  shiftamt,
  eq,
  ne,
  lt,
  le,
  gt,
  ge,
  ls,
  hs,
  num,
  nan,
  equ,
  neu,
  ltu,
  leu,
  gtu,
  geu,
  ignored
};

struct Operand {
  enum class Kind : std::uint8_t { none, reg, immediate, memory, vector, special, symbol };
  Kind kind = Kind::none;
  int reg = -1;            ///< a register, or the base of an address
  int second = -1;         ///< of "p|q": the register that also receives something
  bool negated = false;    ///< a predicate with '!'
  std::uint64_t value = 0; ///< an immediate, or an absolute address
  std::int64_t offset = 0; ///< of an address
  std::string name;        ///< of a symbol or a special register
  std::vector<Operand> elements;
};

struct Instruction {
  std::string text;
  int line = 0;
  Op op = Op::mov;
  Type type, from; ///< `from`: the second type of cvt, set and dp4a
  bool has_from = false;
  Space space = Space::generic;
  unsigned vector = 1;
  std::vector<Modifier> modifiers;
  int guard = -1; ///< the predicate it depends on
  bool guard_negated = false;
  std::vector<Operand> operands;
  int target = -1; ///< of a branch

  bool has(Modifier wanted) const {
    for (const Modifier modifier : modifiers)
      if (modifier == wanted) return true;
    return false;
  }
};

/// Where a kernel's parameter or variable lies.
struct Variable {
  Space space = Space::param;
  unsigned offset = 0, size = 0;
  bool dynamic = false; ///< shared memory that a launch gives
};

struct Kernel {
  std::string name;
  std::vector<Variable> parameters;
  unsigned parameter_bytes = 0;
  std::unordered_map<std::string, Variable> variables; ///< parameters too
  unsigned shared_bytes = 0, local_bytes = 0;
  std::unordered_map<std::string, int> registers;
  std::unordered_map<std::string, int> labels;
  std::vector<Instruction> code;
};

/// All kernels of a translation unit, and its variables in global memory.
struct Module {
  std::map<std::string, Kernel> kernels;
  std::map<std::string, std::vector<unsigned char>> globals;
};

/// Reads PTX text. Throws Fault for whatever it does not know.
Module parse(const std::string& text);

} // namespace cuda_device
