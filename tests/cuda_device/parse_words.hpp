// The words of PTX: names of types, instructions and modifiers, and the characters between them.
#pragma once

#include "cuda_device/ptx.hpp"

#include <cctype>
#include <optional>
#include <string_view>

namespace cuda_device {

inline std::string trim(std::string_view text) {
  const auto first = text.find_first_not_of(" \t\r\n");
  if (first == std::string_view::npos) return "";
  return std::string(text.substr(first, text.find_last_not_of(" \t\r\n") - first + 1));
}

/// The parts between commas that are not inside of brackets.
inline std::vector<std::string> split_operands(std::string_view text) {
  std::vector<std::string> parts;
  std::string part;
  int depth = 0;
  for (const char c : text) {
    depth += c == '{' || c == '[' ? 1 : c == '}' || c == ']' ? -1 : 0;
    if (c == ',' && depth == 0) {
      parts.push_back(trim(part));
      part.clear();
    } else {
      part += c;
    }
  }
  if (!trim(part).empty()) parts.push_back(trim(part));
  return parts;
}

inline std::vector<std::string> split_words(std::string_view text, std::string_view separators) {
  std::vector<std::string> words;
  for (std::size_t at = 0; (at = text.find_first_not_of(separators, at)) != std::string_view::npos;) {
    const std::size_t end = std::min(text.find_first_of(separators, at), text.size());
    words.emplace_back(text.substr(at, end - at));
    at = end;
  }
  return words;
}

inline std::optional<Type> type_named(std::string_view name) {
  if (name == "pred") return Type{Kind::predicate, 1};
  if (name == "bf16") return Type{Kind::brain, 16};
  if (name == "bf16x2") return Type{Kind::brain, 16, 2};
  if (name == "f16x2") return Type{Kind::real, 16, 2};
  if (name.size() < 2 || name.size() > 3) return std::nullopt;
  const auto bits = name.substr(1);
  if (bits != "8" && bits != "16" && bits != "32" && bits != "64") return std::nullopt;
  const unsigned width = bits == "8" ? 8 : bits == "16" ? 16 : bits == "32" ? 32 : 64;
  switch (name[0]) {
  case 'b': return Type{Kind::bits, width};
  case 'u': return Type{Kind::unsigned_integer, width};
  case 's': return Type{Kind::signed_integer, width};
  case 'f': return width == 8 ? std::nullopt : std::optional(Type{Kind::real, width});
  default: return std::nullopt;
  }
}

inline std::optional<Space> space_named(std::string_view name) {
  if (name == "global" || name == "const") return Space::global;
  if (name == "shared") return Space::shared;
  if (name == "local") return Space::local;
  if (name == "param") return Space::param;
  return std::nullopt;
}

inline Op op_named(const std::string& name, const std::string& statement) {
  static const std::map<std::string, Op> ops{{"mov", Op::mov},
                                             {"ld", Op::ld},
                                             {"st", Op::st},
                                             {"add", Op::add},
                                             {"sub", Op::sub},
                                             {"mul", Op::mul},
                                             {"mad", Op::mad},
                                             {"fma", Op::fma},
                                             {"div", Op::div},
                                             {"rem", Op::rem},
                                             {"min", Op::min},
                                             {"max", Op::max},
                                             {"abs", Op::abs},
                                             {"neg", Op::neg},
                                             {"and", Op::and_},
                                             {"or", Op::or_},
                                             {"xor", Op::xor_},
                                             {"not", Op::not_},
                                             {"shl", Op::shl},
                                             {"shr", Op::shr},
                                             {"setp", Op::setp},
                                             {"set", Op::set},
                                             {"selp", Op::selp},
                                             {"cvt", Op::cvt},
                                             {"cvta", Op::cvta},
                                             {"bra", Op::bra},
                                             {"bar", Op::bar},
                                             {"barrier", Op::bar},
                                             {"shfl", Op::shfl},
                                             {"ret", Op::ret},
                                             {"exit", Op::ret},
                                             {"bfi", Op::bfi},
                                             {"bfe", Op::bfe},
                                             {"prmt", Op::prmt},
                                             {"popc", Op::popc},
                                             {"clz", Op::clz},
                                             {"brev", Op::brev},
                                             {"rcp", Op::rcp},
                                             {"sqrt", Op::sqrt},
                                             {"rsqrt", Op::rsqrt},
                                             {"ex2", Op::ex2},
                                             {"lg2", Op::lg2},
                                             {"vote", Op::vote},
                                             {"atom", Op::atom},
                                             {"red", Op::red},
                                             {"dp4a", Op::dp4a},
                                             {"lop3", Op::lop3},
                                             {"redux", Op::redux},
                                             {"shf", Op::shf},
                                             {"bmsk", Op::bmsk},
                                             {"match", Op::match},
                                             {"bfind", Op::bfind},
                                             {"membar", Op::fence},
                                             {"fence", Op::fence},
                                             {"trap", Op::trap},
                                             {"nanosleep", Op::fence},
                                             {"prefetch", Op::fence},
                                             {"copysign", Op::copysign},
                                             {"activemask", Op::activemask}};
  const auto found = ops.find(name);
  if (found == ops.end()) throw Fault("not modelled: " + statement);
  return found->second;
}

/// Modifiers; what changes nothing that is modelled (caches, scopes, alignment of barriers) is ignored.
inline Modifier modifier_named(const std::string& name, const std::string& statement) {
  using M = Modifier;
  static const std::map<std::string, Modifier> modifiers{{"wide", M::wide},
                                                         {"hi", M::hi},
                                                         {"lo", M::lo},
                                                         {"sat", M::sat},
                                                         {"rn", M::rn},
                                                         {"rz", M::rz},
                                                         {"rni", M::rni},
                                                         {"rzi", M::rzi},
                                                         {"rmi", M::rmi},
                                                         {"rpi", M::rpi},
                                                         {"up", M::up},
                                                         {"down", M::down},
                                                         {"bfly", M::bfly},
                                                         {"idx", M::idx},
                                                         {"ballot", M::ballot},
                                                         {"any", M::any},
                                                         {"all", M::all},
                                                         {"uni", M::uni},
                                                         {"add", M::add},
                                                         {"min", M::min},
                                                         {"max", M::max},
                                                         {"and", M::and_},
                                                         {"or", M::or_},
                                                         {"xor", M::xor_},
                                                         {"cas", M::cas},
                                                         {"exch", M::exch},
                                                         {"popc", M::popc},
                                                         {"wrap", M::wrap},
                                                         {"clamp", M::clamp},
                                                         {"l", M::l},
                                                         {"r", M::r},
                                                         {"to", M::to},
                                                         {"approx", M::approx},
                                                         {"full", M::full},
                                                         {"nc", M::nc},
                                                         {"relaxed", M::strong},
                                                         {"acquire", M::strong},
                                                         {"release", M::strong},
                                                         {"acq_rel", M::strong},
                                                         {"volatile", M::strong},
                                                         {"shiftamt", M::shiftamt},
                                                         {"eq", M::eq},
                                                         {"ne", M::ne},
                                                         {"lt", M::lt},
                                                         {"le", M::le},
                                                         {"gt", M::gt},
                                                         {"ge", M::ge},
                                                         {"ls", M::ls},
                                                         {"hs", M::hs},
                                                         {"num", M::num},
                                                         {"nan", M::nan},
                                                         {"equ", M::equ},
                                                         {"neu", M::neu},
                                                         {"ltu", M::ltu},
                                                         {"leu", M::leu},
                                                         {"gtu", M::gtu},
                                                         {"geu", M::geu},
                                                         {"sync", M::ignored},
                                                         {"aligned", M::ignored},
                                                         {"warp", M::ignored},
                                                         {"red", M::ignored},
                                                         {"gpu", M::ignored},
                                                         {"cta", M::ignored},
                                                         {"sys", M::ignored},
                                                         {"gl", M::ignored},
                                                         {"cg", M::ignored},
                                                         {"ca", M::ignored},
                                                         {"cs", M::ignored},
                                                         {"b32", M::ignored},
                                                         {"sc", M::ignored},
                                                         {"L1", M::ignored},
                                                         {"L2", M::ignored},
                                                         {"cluster", M::ignored}};
  const auto found = modifiers.find(name);
  if (found == modifiers.end()) throw Fault("not modelled: ." + name + " of " + statement);
  return found->second;
}

inline bool is_special(std::string_view name) {
  static const std::map<std::string_view, bool> specials{{"%tid.x", true},       {"%tid.y", true},       {"%tid.z", true},       {"%ntid.x", true},
                                                         {"%ntid.y", true},      {"%ntid.z", true},      {"%ctaid.x", true},     {"%ctaid.y", true},
                                                         {"%ctaid.z", true},     {"%nctaid.x", true},    {"%nctaid.y", true},    {"%nctaid.z", true},
                                                         {"%laneid", true},      {"%warpid", true},      {"%lanemask_lt", true}, {"%lanemask_le", true},
                                                         {"%lanemask_eq", true}, {"%lanemask_ge", true}, {"%lanemask_gt", true}};
  return specials.count(name) != 0;
}

} // namespace cuda_device
