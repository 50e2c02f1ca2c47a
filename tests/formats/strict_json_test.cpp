#include <lsaq/formats/strict_json.hpp>

#include "make_files.hpp"

namespace strict_json_test {

using lsaq::BadInput;
using lsaq::parse_json;
using make_files::expect_mentions;
using make_files::message_of;

std::string refusal(std::string_view text) {
  return message_of<BadInput>([&] { parse_json(text, "c.json"); });
}

TEST(StrictJson, BuildsTheDocument) {
  const std::string text = R"( {"a":1,"b":[-2,2.5,true,null,"x\u00e4",[],{}],"c":{"a":{"a":18446744073709551615}}} )";
  EXPECT_EQ(parse_json(text, "f"), nlohmann::json::parse(text));
  EXPECT_EQ(parse_json("{}", "f"), nlohmann::json::object());
}

TEST(StrictJson, RefusesDuplicateKeysAlsoWhenEscaped) {
  expect_mentions(refusal(R"({"a":1,"a":2})"), {"c.json", "key 'a' appears twice"});
  expect_mentions(refusal(R"({"x":{"hidden":1,"hid\u0064en":2}})"), {"key 'hidden' appears twice"});
  EXPECT_NO_THROW(parse_json(R"({"a":{"b":1},"b":{"b":1}})", "f"));
}

TEST(StrictJson, RefusesWhatIsNotOneObject) {
  expect_mentions(refusal(""), {"c.json", "not a JSON object"});
  expect_mentions(refusal(" \n"), {"not a JSON object"});
  expect_mentions(refusal("[1]"), {"begins with \"[1]\""});
  expect_mentions(refusal("\xef\xbb\xbf{}"), {"not a JSON object", "\xef\xbb\xbf"});
  expect_mentions(refusal("{} x"), {"not valid JSON"});
  expect_mentions(refusal("{}{}"), {"not valid JSON"});
  expect_mentions(refusal(R"({"a":)"), {"not valid JSON at byte"});
  expect_mentions(refusal(R"({"a":1,})"), {"not valid JSON"});
  expect_mentions(refusal(R"({"a":NaN})"), {"not valid JSON"});
  expect_mentions(refusal(R"({"a":1e999})"), {"not valid JSON"});
  expect_mentions(refusal("{\"a\":\"\xff\"}"), {"not valid JSON"});
  expect_mentions(refusal("{\"a\":\"\n\"}"), {"not valid JSON"});
  expect_mentions(refusal(std::string_view("{}\0{}", 5)), {"zero byte at byte 2"});
}

TEST(StrictJson, BoundsTheDepth) {
  const auto nested = [](std::size_t levels) { return "{\"a\":" + std::string(levels - 1, '[') + std::string(levels - 1, ']') + "}"; };
  EXPECT_NO_THROW(parse_json(nested(lsaq::json_depth_limit), "f"));
  expect_mentions(refusal(nested(lsaq::json_depth_limit + 1)), {"nested deeper than 64 levels"});
  expect_mentions(refusal("{\"a\":" + std::string(10'000'000, '[')), {"nested deeper"});
}

TEST(StrictJson, NamesAreShownEscapedAndCut) {
  const std::string name = "\\u001b[31m" + std::string(5000, 'k');
  expect_mentions(refusal("{\"" + name + "\":1,\"" + name + "\":2}"), {"\\x1b[31mkkk", "..."});
}

} // namespace strict_json_test
