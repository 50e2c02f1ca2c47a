#include <lsaq/formats/names.hpp>

#include <gmock/gmock.h>

namespace names_test {

using lsaq::duplicate_name;
using lsaq::first_code_point;
using lsaq::is_clean_name;
using lsaq::NamedList;
using lsaq::printable;

struct Item {
  std::string name;
  int value = 0;
};

TEST(Names, DecodesUtf8AndRefusesWhatIsNot) {
  EXPECT_EQ(first_code_point("A").value, U'A');
  EXPECT_EQ(first_code_point("\xc3\xa4").value, U'\u00e4');
  EXPECT_EQ(first_code_point("\xe2\x82\xac").value, U'\u20ac');
  EXPECT_EQ(first_code_point("\xf0\x9f\x98\x80").value, U'\U0001f600');
  EXPECT_EQ(first_code_point("\xf4\x8f\xbf\xbf").value, U'\U0010ffff');
  for (const char* bad : {"\x80", "\xc0\xaf", "\xc1\xbf", "\xc3", "\xc3(", "\xe0\x80\x80", "\xed\xa0\x80", "\xe2\x82", "\xf0\x80\x80\x80", "\xf4\x90\x80\x80",
                          "\xf5\x80\x80\x80", "\xff"}) {
    EXPECT_EQ(first_code_point(bad).length, 0u) << printable(bad);
  }
  EXPECT_EQ(first_code_point("").length, 0u);
}

TEST(Names, PrintsWithoutControlCharacters) {
  EXPECT_EQ(printable("blk.0.attn_q.weight"), "blk.0.attn_q.weight");
  EXPECT_EQ(printable("a\nb\x1b[31m"), "a\\x0ab\\x1b[31m");
  EXPECT_EQ(printable(std::string_view("a\0b", 3)), "a\\x00b");
  EXPECT_EQ(printable("\x7f\\"), "\\x7f\\x5c");
  EXPECT_EQ(printable("\xff\xc3\xa4"), "\\xff\xc3\xa4");
  EXPECT_EQ(printable("\xc2\x9b"
                      "31m"),
            "\\xc2\\x9b31m")
      << "a C1 control sequence introducer";
  EXPECT_EQ(printable("\xe2\x80\xae"
                      "x"),
            "\\xe2\\x80\\xaex")
      << "a right-to-left override";
  EXPECT_EQ(printable("%s%n{}"), "%s%n{}");
}

TEST(Names, CutsLongTextBetweenCharacters) {
  EXPECT_EQ(printable(std::string(80, 'x')), std::string(80, 'x'));
  std::string cut(80, 'x');
  cut += "..."; // as a sum, GCC 12 warns of an overflow that is none
  EXPECT_EQ(printable(std::string(1000000, 'x')), cut);
  EXPECT_EQ(printable("ab\n\n", 8), "ab\\x0a...");
  EXPECT_EQ(printable("abc\xc3\xa4", 4), "abc...");
}

TEST(Names, CleanNamesAreUtf8WithoutControls) {
  EXPECT_TRUE(is_clean_name("model.layers.0.mlp.up_proj.weight"));
  EXPECT_TRUE(is_clean_name("%s%n"));
  EXPECT_TRUE(is_clean_name("stra\xc3\x9f"
                            "e"));
  for (const std::string_view bad :
       {std::string_view(""), std::string_view("a\nb"), std::string_view("a\0", 2), std::string_view("\x1b[2J"), std::string_view("\xff")}) {
    EXPECT_FALSE(is_clean_name(bad)) << printable(bad);
  }
}

TEST(Names, ListKeepsItsOrderAndFindsByName) {
  const NamedList<Item> list({{"c", 1}, {"a", 2}, {"b", 3}});
  EXPECT_EQ(list.items()[0].name, "c");
  ASSERT_NE(list.find("a"), nullptr);
  EXPECT_EQ(list.find("a")->value, 2);
  EXPECT_EQ(list.find("b")->value, 3);
  EXPECT_EQ(list.find(""), nullptr);
  EXPECT_EQ(list.find("d"), nullptr);
  EXPECT_EQ(NamedList<Item>().find("a"), nullptr);
}

TEST(Names, FindsADuplicate) {
  EXPECT_EQ(duplicate_name(std::vector<Item>{{"a"}, {"b"}, {"c"}}), nullptr);
  const std::vector<Item> twice = {{"x"}, {"b"}, {"a"}, {"b"}};
  ASSERT_NE(duplicate_name(twice), nullptr);
  EXPECT_EQ(duplicate_name(twice)->name, "b");
}

} // namespace names_test
