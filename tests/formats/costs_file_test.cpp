// Cost tables as JSON.
#include <lsaq/formats/costs_file.hpp>

#include "make_files.hpp"

namespace costs_file_test {

using lsaq::costs_from_json;
using lsaq::CostTable;
using make_files::expect_mentions;
using make_files::message_of;
using nlohmann::json;

const lsaq::ModelShape shape{.name = "two layers",
                             .layers = {{.linears = {{.name = "a", .rows = 2, .columns = 3}, {.name = "b", .rows = 2, .columns = 3}}},
                                        {.linears = {{.name = "a", .rows = 2, .columns = 3}, {.name = "b", .rows = 2, .columns = 3}}}}};

std::string refusal(const json& table) {
  return message_of<lsaq::BadInput>([&] { costs_from_json(json::parse(table.dump()), shape, "costs.json"); }); // numbers as a file has them
}

TEST(CostsFile, ByLayerAndBack) {
  const double never = std::numeric_limits<double>::infinity();
  const CostTable costs{.widths = {4, 8, 16}, .layers = {{0.125, 0.0625, 0}, {0.3, never, -0.001}}};
  const json written = lsaq::costs_to_json(costs, shape);
  EXPECT_EQ(written.at("schema"), "lsaq.costs/1");
  EXPECT_EQ(written.at("model"), "two layers");
  EXPECT_TRUE(written.at("layers")[1][1].is_null());
  const CostTable read = costs_from_json(written, shape, "costs.json");
  EXPECT_EQ(read.widths, costs.widths);
  EXPECT_EQ(read.layers, costs.layers);
  EXPECT_TRUE(read.linears.empty());
}

TEST(CostsFile, ByLinearAndBack) {
  const CostTable costs{.widths = {2, 16}, .linears = {{{4, 0}, {5, 0}}, {{6, 0}, {7, 0}}}};
  const json written = lsaq::costs_to_json(costs, shape);
  EXPECT_EQ(written.at("linears")[1].at("b"), (json{7, 0}));
  EXPECT_EQ(costs_from_json(written, shape, "costs.json").linears, costs.linears) << "in the order of the shape, whatever the file's";
}

TEST(CostsFile, WrongOnesAreRefusedByField) {
  const json good{{"schema", "lsaq.costs/1"}, {"widths", {4, 8}}, {"layers", {{1, 2}, {3, 4}}}};
  ASSERT_NO_THROW(costs_from_json(json::parse(good.dump()), shape, "costs.json"));
  const auto with = [&](const char* key, json value) {
    json changed = good;
    changed[key] = std::move(value);
    return changed;
  };
  expect_mentions(refusal(json::array()), {"costs.json", "lsaq.costs/1"});
  expect_mentions(refusal(with("schema", "lsaq.costs/2")), {"lsaq.costs/1"});
  expect_mentions(refusal(with("widths", "4")), {"\"widths\" must be an array"});
  expect_mentions(refusal(with("widths", {4, 4})), {"\"widths\" names one twice"});
  expect_mentions(refusal(with("widths", {4, 17})), {"\"widths\" holds 17"});
  expect_mentions(refusal(with("layers", {{1, 2}})), {"\"layers\"", "2 layers"});
  expect_mentions(refusal(with("layers", {{1, 2}, {3}})), {"\"layers\" of layer 1", "2 widths"});
  expect_mentions(refusal(with("layers", {{1, 2}, {3, "x"}})), {"layer 1 holds \"x\""});
  expect_mentions(refusal(with("linears", json::array())), {"either \"layers\" or \"linears\""});
  json linears = good;
  linears.erase("layers");
  expect_mentions(refusal(linears), {"either \"layers\" or \"linears\""});
  linears["linears"] = {{{"a", {1, 2}}, {"b", {1, 2}}}, {{"a", {1, 2}}, {"c", {1, 2}}}};
  expect_mentions(refusal(linears), {"layer 1 does not name b"});
  linears["linears"] = {{{"a", {1, 2}}, {"b", {1, 2}}}, {{"a", {1, 2}}}};
  expect_mentions(refusal(linears), {"layer 1 must name each of the 2 linears"});
  linears["linears"] = {{{"a", {1, 2}}, {"b", {1, 2}}}, {1, 2}};
  expect_mentions(refusal(linears), {"two kinds"});
}

} // namespace costs_file_test
