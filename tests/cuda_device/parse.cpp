// PTX text to modules: declarations of variables, kernels with their parameters, statements.
#include "cuda_device/parse_words.hpp"

#include <algorithm>
#include <cstring>
#include <set>

namespace cuda_device {

namespace {

/// Comments become spaces, lines stay where they are.
std::string without_comments(const std::string& text) {
  std::string plain;
  plain.reserve(text.size());
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text.compare(i, 2, "//") == 0) {
      while (i < text.size() && text[i] != '\n') ++i;
      plain += '\n';
    } else {
      plain += text[i];
    }
  }
  return plain;
}

/// ".align 16 .b8 name[1024]" and the like.
struct Declaration {
  std::string name;
  unsigned alignment = 0;
  Type element{Kind::bits, 8};
  std::optional<unsigned> count; ///< of an array; none: a scalar

  explicit Declaration(const std::string& text) {
    const std::vector<std::string> words = split_words(text, " \t\r\n");
    for (std::size_t i = 0; i < words.size(); ++i) {
      if (words[i] == ".align")
        alignment = static_cast<unsigned>(std::stoul(words[++i]));
      else if (words[i][0] == '.') {
        if (const auto type = type_named(std::string_view(words[i]).substr(1))) element = *type;
      } else if (words[i] != "=") {
        name = words[i];
      }
    }
    if (const auto bracket = name.find('['); bracket != std::string::npos) {
      count = static_cast<unsigned>(std::atoi(name.c_str() + bracket + 1));
      name.resize(bracket);
    }
    if (alignment == 0) alignment = element.bytes();
  }

  unsigned bytes() const { return count.value_or(1) * element.bytes(); }
};

unsigned round_up(unsigned size, unsigned alignment) { return (size + alignment - 1) / alignment * alignment; }

class KernelParser {
public:
  KernelParser(Kernel& kernel, const std::string& body, int line) : kernel_(kernel), line_(line) {
    std::string statement;
    for (const char c : body) {
      if (c == '\n') ++line_;
      const bool blank = trim(statement).empty();
      if ((c == '{' || c == '}') && blank) continue; // a scope; names are unique without it, but for registers of inline assembly
      if (c == ':' && is_label(trim(statement))) {
        kernel_.labels[trim(statement)] = static_cast<int>(kernel_.code.size());
        statement.clear();
      } else if (c == ';') {
        add(trim(statement));
        statement.clear();
      } else {
        statement += c;
      }
    }
    for (Instruction& instruction : kernel_.code)
      if (instruction.op == Op::bra) {
        const auto label = kernel_.labels.find(instruction.operands.back().name);
        if (label == kernel_.labels.end()) throw Fault("no label for " + instruction.text);
        instruction.target = label->second;
      }
  }

  static void declare(Kernel& kernel, const std::string& statement, Space space) {
    const Declaration declaration(statement);
    Variable variable{space, 0, declaration.bytes(), statement.find(".extern") != std::string::npos || declaration.count == 0u};
    unsigned& total = space == Space::shared ? kernel.shared_bytes : kernel.local_bytes;
    if (!variable.dynamic) {
      variable.offset = round_up(total, declaration.alignment);
      total = variable.offset + variable.size;
    }
    kernel.variables[declaration.name] = variable;
  }

private:
  static bool is_label(const std::string& text) { return !text.empty() && text.find_first_of(" \t.[") == std::string::npos; }

  int reg(const std::string& name) { return kernel_.registers.try_emplace(name, static_cast<int>(kernel_.registers.size())).first->second; }

  void add(const std::string& statement) {
    if (statement.empty() || statement.starts_with(".pragma") || statement.starts_with(".loc ") || statement.starts_with(".loc\t")) return;
    if (statement.starts_with(".reg")) {
      for (const std::string& name : split_operands(statement.substr(statement.find_first_of(" \t", statement.find('.', 4)))))
        if (name[0] != '%') named_registers_.insert(name);
      return;
    }
    if (statement.starts_with(".shared")) return declare(kernel_, statement, Space::shared);
    if (statement.starts_with(".local")) return declare(kernel_, statement, Space::local);
    if (statement[0] == '.') throw Fault("not modelled: " + statement);
    kernel_.code.push_back(instruction(statement));
  }

  Instruction instruction(const std::string& statement) {
    Instruction result;
    result.text = statement;
    result.line = line_;
    std::string rest = statement;
    if (rest[0] == '@') {
      const std::size_t end = rest.find_first_of(" \t");
      result.guard_negated = rest[1] == '!';
      result.guard = reg(rest.substr(result.guard_negated ? 2 : 1, end - (result.guard_negated ? 2 : 1)));
      rest = trim(rest.substr(end));
    }
    const std::size_t end = std::min(rest.find_first_of(" \t"), rest.size());
    read_name(result, rest.substr(0, end), statement);
    for (const std::string& operand : split_operands(rest.substr(end))) result.operands.push_back(this->operand(operand, result.op == Op::bra));
    return result;
  }

  static void read_name(Instruction& result, const std::string& name, const std::string& statement) {
    const std::vector<std::string> words = split_words(name, ".:");
    result.op = op_named(words[0], statement);
    unsigned types = 0;
    for (std::size_t i = 1; i < words.size(); ++i) {
      if (const auto type = type_named(words[i])) {
        (types == 0 ? result.type : result.from) = *type;
        result.has_from = types++ != 0;
      } else if (const auto space = space_named(words[i])) {
        result.space = *space;
      } else if (words[i] == "v2" || words[i] == "v4") {
        result.vector = words[i] == "v2" ? 2 : 4;
      } else if (words[i].starts_with("L1") || words[i].starts_with("L2") || words[i].starts_with("no_allocate") || words[i].starts_with("evict")) {
        continue; // caches
      } else {
        result.modifiers.push_back(modifier_named(words[i], statement));
      }
    }
    if (result.op == Op::bar && words.size() > 1 && words[1] == "warp") result.op = Op::bar_warp;
    if (result.op == Op::bar && words.size() > 1 && words[1] == "red") result.op = Op::bar_red;
    if (result.op == Op::ld && result.has(Modifier::nc)) result.space = Space::global;
  }

  Operand operand(const std::string& text, bool of_branch) {
    Operand result;
    if (text[0] == '{') {
      result.kind = Operand::Kind::vector;
      for (const std::string& element : split_operands(std::string_view(text).substr(1, text.size() - 2))) result.elements.push_back(operand(element, false));
      return result;
    }
    if (text[0] == '[') return address(trim(std::string_view(text).substr(1, text.size() - 2)));
    if (const auto bar = text.find('|'); bar != std::string::npos) {
      result = operand(trim(text.substr(0, bar)), false);
      result.second = reg(trim(text.substr(bar + 1)));
      return result;
    }
    if (text[0] == '!') {
      result = operand(text.substr(1), false);
      result.negated = true;
      return result;
    }
    if (text[0] == '%' || (!of_branch && named_registers_.count(text) != 0)) {
      result.kind = is_special(text) ? Operand::Kind::special : Operand::Kind::reg;
      result.name = text;
      if (result.kind == Operand::Kind::reg) result.reg = reg(text);
      return result;
    }
    if (const auto value = number(text)) {
      result.kind = Operand::Kind::immediate;
      result.value = *value;
      return result;
    }
    result.kind = Operand::Kind::symbol;
    result.name = text;
    return result;
  }

  static std::optional<std::uint64_t> number(const std::string& text) {
    if (text == "WARP_SZ") return 32;
    if (text.size() > 2 && text[0] == '0' && (text[1] == 'f' || text[1] == 'F' || text[1] == 'd' || text[1] == 'D'))
      return std::stoull(text.substr(2), nullptr, 16);
    if (text[0] == '-') return static_cast<std::uint64_t>(std::stoll(text, nullptr, 0));
    if (std::isdigit(static_cast<unsigned char>(text[0]))) return std::stoull(text, nullptr, 0);
    return std::nullopt;
  }

  Operand address(const std::string& text) {
    Operand result;
    result.kind = Operand::Kind::memory;
    const std::size_t sign = text.find_first_of("+-", 1); // "+8", "+-8", "-8"
    const std::string base = trim(text.substr(0, sign));
    if (sign != std::string::npos) result.offset = std::stoll(trim(text.substr(text[sign] == '+' ? sign + 1 : sign)), nullptr, 0);
    if (base[0] == '%' || named_registers_.count(base) != 0)
      result.reg = reg(base);
    else if (std::isdigit(static_cast<unsigned char>(base[0])))
      result.value = std::stoull(base, nullptr, 0);
    else
      result.name = base;
    return result;
  }

  Kernel& kernel_;
  int line_;
  std::set<std::string> named_registers_; // of inline assembly, without '%'
};

/// "name = {1, 2}" of a variable in global or constant memory.
void declare_global(Module& module, const std::string& statement) {
  const std::size_t space = std::max(statement.rfind(".global") + 1, statement.rfind(".const") + 1); // npos + 1 is 0
  if (space == 0) return;
  const std::size_t equals = statement.find('=');
  const Declaration declaration(statement.substr(space - 1, equals == std::string::npos ? equals : equals - space + 1));
  std::vector<unsigned char> bytes(std::max(1u, declaration.bytes()) + 16);
  if (equals != std::string::npos) {
    unsigned i = 0;
    for (const std::string& value : split_words(statement.substr(equals + 1), "{}, \t\r\n")) {
      if (!std::isdigit(static_cast<unsigned char>(value[0])) && value[0] != '-') throw Fault("not modelled: " + statement.substr(0, 100));
      const std::uint64_t number = value[0] == '-' ? static_cast<std::uint64_t>(std::stoll(value)) : std::stoull(value, nullptr, 0);
      std::memcpy(&bytes[i++ * declaration.element.bytes()], &number, declaration.element.bytes());
    }
  }
  module.globals[declaration.name] = std::move(bytes);
}

void read_parameters(Kernel& kernel, const std::string& text) {
  for (const std::string& parameter : split_operands(text)) {
    std::string plain = parameter;
    if (const auto pointer = plain.find(".ptr"); pointer != std::string::npos) { // ".ptr .global .align 16": says something of what it points to
      const std::size_t last = plain.find_last_of(" \t");
      plain = plain.substr(0, pointer) + plain.substr(last);
    }
    const Declaration declaration(plain);
    const Variable variable{Space::param, round_up(kernel.parameter_bytes, declaration.alignment), declaration.bytes(), false};
    kernel.parameter_bytes = variable.offset + variable.size;
    kernel.parameters.push_back(variable);
    kernel.variables[declaration.name] = variable;
  }
}

/// The brace that closes the one at `open`.
std::size_t closing_brace(const std::string& text, std::size_t open) {
  int depth = 0;
  for (std::size_t i = open; i < text.size(); ++i) {
    depth += text[i] == '{' ? 1 : text[i] == '}' ? -1 : 0;
    if (depth == 0) return i;
  }
  throw Fault("a brace is not closed");
}

} // namespace

Module parse(const std::string& text) {
  const std::string plain = without_comments(text);
  Module module;
  std::vector<std::string> shared; // declared for all kernels
  std::string statement;
  for (std::size_t i = 0; i < plain.size(); ++i) {
    const std::string head = plain[i] == '(' || plain[i] == '{' ? trim(statement) : "";
    if (plain[i] == '(' && head.find(".func") != std::string::npos) throw Fault("calls are not modelled: " + head);
    if (plain[i] == '(' && head.find(".entry") != std::string::npos) {
      Kernel kernel;
      kernel.name = trim(head.substr(head.find(".entry") + 6));
      const std::size_t end = plain.find(')', i), open = plain.find('{', end), close = closing_brace(plain, open);
      read_parameters(kernel, plain.substr(i + 1, end - i - 1));
      for (const std::string& declaration : shared) KernelParser::declare(kernel, declaration, Space::shared);
      const int line = 1 + static_cast<int>(std::count(plain.begin(), plain.begin() + static_cast<std::ptrdiff_t>(open), '\n'));
      KernelParser(kernel, plain.substr(open + 1, close - open - 1), line);
      module.kernels.emplace(kernel.name, std::move(kernel));
      i = close;
      statement.clear();
    } else if (plain[i] == ';') {
      if (statement.find(".shared") != std::string::npos)
        shared.push_back(trim(statement));
      else
        declare_global(module, trim(statement));
      statement.clear();
    } else {
      statement += plain[i];
    }
  }
  return module;
}

} // namespace cuda_device
