// Added tokens are found in text: the leftmost, the longest of those, special ones only if asked for.
#include <lsaq/models/added_tokens.hpp>

#include <gtest/gtest.h>

#include <string_view>

namespace added_tokens_test {

using lsaq::AddedTokenFinder;

const AddedTokenFinder& finder() {
  static const AddedTokenFinder made({{.text = "<a>", .id = 1, .special = true},
                                      {.text = "<ab>", .id = 2},
                                      {.text = "<ab><", .id = 3},
                                      {.text = "\u4e2d", .id = 4},
                                      {.text = "<l>", .id = 5, .takes_space_before = true},
                                      {.text = "<r>", .id = 6, .takes_space_behind = true},
                                      {.text = "", .id = 7}});
  return made;
}

void expect_match(std::string_view text, std::size_t from, bool special, std::size_t begin, std::size_t end, lsaq::TokenId id) {
  const auto match = finder().find(text, from, special);
  ASSERT_TRUE(match.has_value()) << text;
  EXPECT_EQ(match->begin, begin) << text;
  EXPECT_EQ(match->end, end) << text;
  EXPECT_EQ(match->id, id) << text;
}

TEST(AddedTokenFinder, LeftmostThenLongest) {
  expect_match("x<ab>y", 0, true, 1, 5, 2);
  expect_match("x<ab><a>", 0, true, 1, 6, 3);
  expect_match("<<ab>", 0, true, 1, 5, 2);
  expect_match("\u4e2d<ab>", 0, true, 0, 3, 4);
  expect_match("<ab><ab>y", 4, true, 4, 8, 2);
}

TEST(AddedTokenFinder, SpecialOnlyIfAskedFor) {
  expect_match("<a><ab>", 0, true, 0, 3, 1);
  expect_match("<a><ab>", 0, false, 3, 7, 2);
  EXPECT_FALSE(finder().find("<a>", 0, false).has_value());
}

TEST(AddedTokenFinder, SwallowsWhiteSpace) {
  expect_match("x \n\u3000<l> y", 0, true, 1, 9, 5);
  expect_match("x \n<l>", 2, true, 2, 6, 5); // not what lies before the start
  expect_match("x <r>\u00a0 y", 0, true, 2, 8, 6);
  expect_match("<r>", 0, true, 0, 3, 6);
}

TEST(AddedTokenFinder, NothingToFind) {
  EXPECT_FALSE(finder().find("", 0, true).has_value());
  EXPECT_FALSE(finder().find("<", 0, true).has_value());
  EXPECT_FALSE(finder().find("\xe4\xb8", 0, true).has_value());
  EXPECT_TRUE(AddedTokenFinder().empty());
  EXPECT_FALSE(AddedTokenFinder().find("abc", 0, true).has_value());
}

} // namespace added_tokens_test
