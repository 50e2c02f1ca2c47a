#include "grid.hpp"

#include <lsaq/quantization/packed_matrix.hpp>

#include <CLI/CLI.hpp>
#include <fmt/format.h>
#include <toml++/toml.h>

#include <algorithm>
#include <set>

namespace command {

namespace {

/// Says where in the file something is wrong.
class Place {
public:
  Place(const std::string& file, const toml::node& node) : file_(lsaq::printable_path(file)), line_(node.source().begin.line) {}

  std::string text() const { return fmt::format("{}:{}", file_, line_); }
  [[noreturn]] void refuse(const std::string& sentence) const { lsaq::fail<lsaq::BadInput>(text() + ": " + sentence); }

private:
  std::string file_;
  toml::source_index line_;
};

/// A value as it is written in TOML, for messages.
std::string text_of(const toml::node& node) {
  if (node.is_string()) return "\"" + lsaq::printable(**node.as_string()) + "\"";
  std::ostringstream text;
  node.visit([&](const auto& value) { text << value; });
  return lsaq::printable(text.str());
}

/// The keys of a table, each read once with its type; whatever nobody asked for is refused.
class Keys {
public:
  Keys(const toml::table& table, const std::string& file, std::string name) : table_(table), file_(file), name_(std::move(name)) {}

  Place place(std::string_view key) const {
    const toml::node* node = table_.get(key);
    return Place(file_, node != nullptr ? *node : static_cast<const toml::node&>(table_));
  }
  bool has(std::string_view key) const { return table_.contains(key); }
  const toml::table& table() const { return table_; }

  [[noreturn]] void refuse(std::string_view key, const std::string& allowed) const {
    place(key).refuse(fmt::format("{} {} = {}: {}", name_, key, text_of(*table_.get(key)), allowed));
  }

  const toml::node* find(std::string_view key) {
    known_.insert(std::string(key));
    return table_.get(key);
  }

  std::optional<std::string> text(std::string_view key) {
    const toml::node* node = find(key);
    if (node == nullptr) return std::nullopt;
    const auto value = node->value_exact<std::string>();
    if (!value || value->empty()) refuse(key, "a text in quotes is wanted");
    return value;
  }

  std::optional<std::string> one_of(std::string_view key, const std::vector<std::string>& allowed) {
    const std::optional<std::string> value = text(key);
    if (value && std::find(allowed.begin(), allowed.end(), *value) == allowed.end()) refuse(key, "one of " + quoted(allowed) + " is wanted");
    return value;
  }

  std::optional<std::int64_t> whole(std::string_view key, std::int64_t low, std::int64_t high) {
    const toml::node* node = find(key);
    if (node == nullptr) return std::nullopt;
    const auto value = node->value_exact<std::int64_t>();
    if (!value || *value < low || *value > high) refuse(key, fmt::format("a whole number from {} to {} is wanted", low, high));
    return value;
  }

  std::optional<bool> flag(std::string_view key) {
    const toml::node* node = find(key);
    if (node == nullptr) return std::nullopt;
    const auto value = node->value_exact<bool>();
    if (!value) refuse(key, "true or false is wanted");
    return value;
  }

  /// A file's name, relative to the grid's folder.
  std::optional<std::string> file(std::string_view key) {
    const std::optional<std::string> value = text(key);
    if (!value) return std::nullopt;
    return beside_grid(*value);
  }
  std::string beside_grid(const std::string& name) const { return (std::filesystem::path(file_).parent_path() / name).string(); }

  /// Refuses keys nobody has asked for.
  void finish(const std::string& more = "") const {
    for (const auto& [key, node] : table_)
      if (!known_.contains(std::string(key.str())))
        Place(file_, node)
            .refuse(fmt::format("{} has no key \"{}\"; it knows {}{}", name_, lsaq::printable(key.str()), quoted({known_.begin(), known_.end()}), more));
  }

  static std::string quoted(const std::vector<std::string>& words) {
    std::string list;
    for (const std::string& word : words) list += (list.empty() ? "" : ", ") + word;
    return list;
  }

private:
  const toml::table& table_;
  const std::string& file_;
  std::string name_;
  std::set<std::string> known_;
};

EvaluationText read_text(const toml::table& table, const std::string& file) {
  Keys keys(table, file, "[evaluate]");
  EvaluationText text;
  text.text_file = keys.file("text").value_or("");
  text.token_ids_file = keys.file("token_ids").value_or("");
  if (keys.has("text") && keys.has("token_ids")) keys.refuse("token_ids", "there is a text already; give one of the two");
  if (const auto context = keys.whole("context", 2, 1 << 30)) text.context = static_cast<std::size_t>(*context);
  if (const auto windows = keys.whole("windows", 1, 1 << 30)) text.windows = static_cast<std::size_t>(*windows);
  if (const auto protocol = keys.one_of("protocol", {"every", "second-half", "strided"})) text.protocol = *protocol_named(*protocol);
  if (const auto stride = keys.whole("stride", 1, 1 << 30)) text.stride = static_cast<std::size_t>(*stride);
  if (text.stride && text.protocol != lsaq::llama::Protocol::strided) keys.refuse("stride", "it belongs to protocol = \"strided\"");
  if (text.stride && *text.stride > text.context.value_or(512))
    keys.refuse("stride", fmt::format("it must be at most the context of {}", text.context.value_or(512)));
  keys.finish();
  return text;
}

unsigned read_width(Keys& keys, std::string_view key, unsigned usual) {
  const auto bits = keys.whole(key, 2, 16);
  if (bits && *bits > lsaq::max_bits && *bits != 16) keys.refuse(key, "16 and 2 to 8 are possible");
  return bits ? static_cast<unsigned>(*bits) : usual;
}

void read_plans(const toml::table& table, const std::string& file, Grid& grid) {
  Keys keys(table, file, "[plans]");
  grid.high = read_width(keys, "high", grid.high);
  grid.low = read_width(keys, "low", grid.low);
  if (grid.low >= grid.high) keys.refuse(keys.has("low") ? "low" : "high", fmt::format("low = {} must be less than high = {}", grid.low, grid.high));
  if (const toml::node* node = keys.find("average_bits")) {
    grid.average_bits.clear();
    const std::string allowed = fmt::format("an array of numbers from low = {} to high = {} is wanted", grid.low, grid.high);
    if (!node->is_array() || node->as_array()->empty()) keys.refuse("average_bits", allowed);
    for (const toml::node& entry : *node->as_array()) {
      const bool number = entry.is_integer() || entry.is_floating_point();
      const double bits = number ? *entry.value<double>() : 0;
      if (!number || !(bits >= grid.low && bits <= grid.high))
        Place(file, entry).refuse(fmt::format("[plans] average_bits holds {}: {}", text_of(entry), allowed));
      if (std::find(grid.average_bits.begin(), grid.average_bits.end(), bits) != grid.average_bits.end())
        Place(file, entry).refuse(fmt::format("[plans] average_bits holds {} twice", text_of(entry)));
      grid.average_bits.push_back(bits);
    }
  }
  for (const double bits : grid.average_bits)
    if (bits < grid.low || bits > grid.high)
      Place(file, table).refuse(fmt::format("[plans] needs average_bits: the usual 7, 6, 5 are not all from low = {} to high = {}", grid.low, grid.high));
  keys.finish();
}

/// The options of measured orders are those of `lsaq importance`, and of rounding, with underscores: their own definitions read and check them, so that
/// both know the same.
class MeasuringOptions {
public:
  MeasuringOptions(DetectOptions& detect, RoundingOptions& rounding) {
    add_detect_options(parser_, detect);
    add_rounding_options(parser_, rounding);
    add_rounding_calibration_options(parser_, rounding);
  }

  CLI::Option* find(const std::string& key) {
    std::string name = key;
    std::replace(name.begin(), name.end(), '_', '-');
    return is_left_out(name) || key.find('-') != std::string::npos ? nullptr : parser_.get_option_no_throw("--" + name);
  }

  std::vector<std::string> names() const {
    std::vector<std::string> names;
    for (const CLI::Option* option : parser_.get_options()) {
      std::string name = option->get_single_name();
      if (name == "help" || is_left_out(name)) continue;
      std::replace(name.begin(), name.end(), '-', '_');
      names.push_back(name);
    }
    return names;
  }

  /// Reads a value into the options; gives a sentence if it is not allowed.
  std::optional<std::string> set(CLI::Option& option, const toml::node& node, const std::string& as_text) {
    const std::string type = option.get_type_name();
    const bool is_flag = option.get_items_expected_max() == 0;
    const auto fits = [&](const toml::node& value) {
      if (is_flag) return value.is_boolean();
      if (type.starts_with("TEXT")) return value.is_string();
      if (type.starts_with("UINT") || type.starts_with("INT")) return value.is_integer();
      return value.is_integer() || value.is_floating_point();
    };
    const std::string wanted = is_flag ? "true or false is wanted" : type.starts_with("TEXT") ? "a text in quotes is wanted" : "a number is wanted";
    if (!fits(node)) return wanted; // an order is one result: no lists
    if (is_flag && !*node.value<bool>()) return std::nullopt;
    std::vector<std::string> words;
    if (!is_flag) words.push_back(as_text);
    words.insert(words.begin(), "--" + option.get_single_name());
    given_.push_back(words);
    return parse({words});
  }

  /// Reads all values that were set together: options that exclude each other are found.
  std::optional<std::string> check() { return parse(given_); }

  static std::string plain(const toml::node& node) { return node.is_string() ? **node.as_string() : text_of(node); }

private:
  /// What concerns one measurement and not the order that results.
  static bool is_left_out(const std::string& name) { return name == "no-cache" || name == "no-statistics-cache"; }

  std::optional<std::string> parse(const std::vector<std::vector<std::string>>& options) {
    std::vector<std::string> words;
    for (const auto& option : options) words.insert(words.end(), option.begin(), option.end());
    std::reverse(words.begin(), words.end()); // as CLI11 wants them
    try {
      parser_.parse(words);
      return std::nullopt;
    } catch (const CLI::ParseError& error) {
      const std::string sentence = error.what();
      const std::size_t colon = sentence.find(": ");
      return sentence.starts_with("--") && colon != std::string::npos ? sentence.substr(colon + 2) : sentence;
    }
  }

  CLI::App parser_;
  std::vector<std::vector<std::string>> given_;
};

void read_measured(Keys& keys, GridOrder& order) {
  MeasuringOptions options(order.detect, order.rounding);
  for (const auto& [key, node] : keys.table()) {
    const std::string name(key.str());
    if (name == "name" || name == "reverse") continue;
    CLI::Option* option = options.find(name);
    if (option == nullptr) continue;
    keys.find(name);
    const bool is_file = name == "text" || name == "token_ids" || name == "calibration_text" || name == "calibration_ids";
    if (const auto problem =
            options.set(*option, node, is_file && node.is_string() ? keys.beside_grid(MeasuringOptions::plain(node)) : MeasuringOptions::plain(node)))
      keys.refuse(name, *problem);
    if (name == "metric") continue;
    if (const auto number = node.value<double>(); number && !node.is_boolean())
      order.options[name] = node.is_integer() ? nlohmann::json(*node.value<std::int64_t>()) : nlohmann::json(*number);
    else if (node.is_boolean())
      order.options[name] = *node.value<bool>();
    else
      order.options[name] = MeasuringOptions::plain(node);
  }
  if (const auto problem = options.check()) keys.place("metric").refuse("[[order]]: " + *problem);
  keys.finish(", " + Keys::quoted(options.names()));
}

std::string usual_name(const GridOrder& order) {
  std::string name = order.metric == "file" ? std::filesystem::path(order.file).stem().string() : order.metric;
  for (const auto& [key, value] : order.options.items())
    if (value.is_primitive()) name += fmt::format(" {}={}", key, value.is_string() ? value.get<std::string>() : value.dump());
  return name + (order.reverse ? " reversed" : "");
}

GridOrder read_order(const toml::table& table, const std::string& file) {
  Keys keys(table, file, "[[order]]");
  GridOrder order;
  order.where = Place(file, table).text();
  const std::optional<std::string> name = keys.text("name"), from = keys.file("file");
  if (from.has_value() == keys.has("metric")) Place(file, table).refuse("[[order]] needs either metric or file");
  const toml::node* metric = keys.find("metric");
  const bool random = metric != nullptr && metric->value_exact<std::string>() == "random";
  if (!random) order.reverse = keys.flag("reverse").value_or(false);
  if (from) {
    order.metric = "file";
    order.file = *from;
    keys.finish();
  } else if (random) {
    order.metric = "random";
    order.draws = static_cast<std::size_t>(keys.whole("draws", 1, 1000).value_or(3));
    order.seed = static_cast<std::uint64_t>(keys.whole("seed", 0, std::int64_t{1} << 53).value_or(0));
    keys.finish();
  } else {
    if (const auto text = keys.text("metric"); text->find(',') != std::string::npos) keys.refuse("metric", "one metric is wanted");
    read_measured(keys, order);
    order.metric = *keys.text("metric");
  }
  order.name = lsaq::printable(name.value_or(usual_name(order)), 60);
  return order;
}

void add_order(Grid& grid, GridOrder order) {
  for (const GridOrder& other : grid.orders)
    if (other.name == order.name)
      lsaq::fail<lsaq::BadInput>(
          fmt::format("{}: [[order]] name = \"{}\": another order has this name ({}); give each its own", order.where, order.name, other.where));
  grid.orders.push_back(std::move(order));
}

constexpr std::string_view default_grid_text = R"(
[[order]]
name = "jaccard k=50"
metric = "jaccard"
[[order]]
name = "cosine, last position"
metric = "cosine"
[[order]]
name = "outliers, more important"
metric = "outlier"
[[order]]
name = "outliers, less important"
metric = "outlier"
outlier_direction = "fewer"
[[order]]
metric = "random"
draws = 3
)";

Grid grid_of(const toml::table& root, const std::string& file) {
  Keys keys(root, file, "the grid");
  Grid grid{.where = lsaq::printable_path(file)};
  const auto table = [&](std::string_view key, auto&& read) {
    const toml::node* node = keys.find(key);
    if (node == nullptr) return;
    if (!node->is_table()) keys.refuse(key, fmt::format("a table is wanted: [{}]", key));
    read(*node->as_table());
  };
  table("evaluate", [&](const toml::table& t) { grid.text = read_text(t, file); });
  table("plans", [&](const toml::table& t) { read_plans(t, file, grid); });
  const toml::node* orders = keys.find("order");
  keys.finish();
  if (orders == nullptr) lsaq::fail<lsaq::BadInput>(lsaq::printable_path(file) + ": there is no [[order]]: at least one is wanted");
  if (!orders->is_array_of_tables()) keys.refuse("order", "a list of tables is wanted: [[order]]");
  for (const toml::node& order : *orders->as_array()) add_order(grid, read_order(*order.as_table(), file));
  return grid;
}

} // namespace

Grid default_grid() {
  Grid grid = grid_of(toml::parse(default_grid_text), "built-in grid");
  grid.where.clear();
  for (GridOrder& order : grid.orders) order.where.clear();
  return grid;
}

Grid read_grid(const std::filesystem::path& path) {
  const std::string text = read_file(path);
  try {
    // Line numbers are all that is taken from the parser's idea of the source; the path of messages is ours, printable.
    const toml::table root = toml::parse(text);
    return grid_of(root, path.string());
  } catch (const toml::parse_error& error) {
    lsaq::fail<lsaq::BadInput>(fmt::format("{}:{}: {}", lsaq::printable_path(path), error.source().begin.line, lsaq::printable(error.description(), 200)));
  }
}

} // namespace command
