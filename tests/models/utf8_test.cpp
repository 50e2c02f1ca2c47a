// Text that arrives in pieces cut anywhere comes out as whole characters.
#include <lsaq/models/utf8.hpp>

#include <gtest/gtest.h>

#include <string>
#include <string_view>

namespace utf8_test {

TEST(Utf8, AppendsEveryLength) {
  std::string out;
  for (const char32_t c : {U'a', U'\u007f', U'\u0080', U'\u07ff', U'\u0800', U'\uffff', U'\U00010000', U'\U0010ffff'}) lsaq::append_utf8(out, c);
  EXPECT_EQ(out, "a\x7f\xc2\x80\xdf\xbf\xe0\xa0\x80\xef\xbf\xbf\xf0\x90\x80\x80\xf4\x8f\xbf\xbf");
}

TEST(Utf8Stream, ByteByByteGivesTheSameText) {
  const std::string text = "a\u00e9\u4e2d\U0001f600 z";
  lsaq::Utf8Stream stream;
  std::string out;
  for (const char c : text) {
    const std::string piece = stream.push(std::string_view(&c, 1));
    for (std::string_view rest = piece; !rest.empty();) {
      const auto character = lsaq::first_code_point(rest);
      ASSERT_NE(character.length, 0u);
      rest.remove_prefix(character.length);
    }
    out += piece;
  }
  EXPECT_EQ(out, text);
  EXPECT_EQ(stream.finish(), "");
}

TEST(Utf8Stream, HoldsBackOnlyWhatMayBeCompleted) {
  lsaq::Utf8Stream stream;
  EXPECT_EQ(stream.push("x\xf0\x9f"), "x");
  EXPECT_EQ(stream.push("\x98"), "");
  EXPECT_EQ(stream.push("\x80y"), "\U0001f600y");
}

TEST(Utf8Stream, ReplacesEachByteThatIsNoCharacter) {
  const auto pushed = [](std::string_view bytes) { return lsaq::Utf8Stream().push(bytes); };
  EXPECT_EQ(pushed("\xff"), "\ufffd");
  EXPECT_EQ(pushed("\x80y"), "\ufffdy");
  EXPECT_EQ(pushed("\xc0\xaf"), "\ufffd\ufffd");   // overlong
  EXPECT_EQ(pushed("\xe0\x80"), "\ufffd\ufffd");   // can only become overlong
  EXPECT_EQ(pushed("\xed\xa0"), "\ufffd\ufffd");   // can only become a surrogate
  EXPECT_EQ(pushed("\xf0\x8f"), "\ufffd\ufffd");   // can only become overlong
  EXPECT_EQ(pushed("\xf4\x90"), "\ufffd\ufffd");   // can only become too large
  EXPECT_EQ(pushed("\xe4\xb8z"), "\ufffd\ufffdz"); // cut by another character
  EXPECT_EQ(pushed("\xe4\xb8\xe4\xb8\xad"), "\ufffd\ufffd\u4e2d");
}

TEST(Utf8Stream, FinishGivesUpOnWhatIsLeft) {
  lsaq::Utf8Stream stream;
  EXPECT_EQ(stream.push("a\xe4\xb8"), "a");
  EXPECT_EQ(stream.finish(), "\ufffd\ufffd");
  EXPECT_EQ(stream.finish(), "");
  EXPECT_EQ(stream.push("b"), "b");
}

} // namespace utf8_test
