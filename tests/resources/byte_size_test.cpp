// Amounts of memory as people write them.
#include <lsaq/resources/byte_size.hpp>

#include <formats/make_files.hpp>

#include <clocale>

namespace byte_size_test {

using lsaq::Bytes;
using lsaq::parse_bytes;
using namespace lsaq::literals;

Bytes bytes(std::string_view text) {
  const lsaq::Expected<Bytes> found = parse_bytes(text);
  if (found) return *found;
  ADD_FAILURE() << found.error().message;
  return 0;
}

TEST(ParseBytes, EveryUnit) {
  EXPECT_EQ(bytes("123"), 123u);
  EXPECT_EQ(bytes("123B"), 123u);
  EXPECT_EQ(bytes("3K"), 3_KiB);
  EXPECT_EQ(bytes("3KiB"), 3_KiB);
  EXPECT_EQ(bytes("3KB"), 3'000u);
  EXPECT_EQ(bytes("140M"), 140_MiB);
  EXPECT_EQ(bytes("140MiB"), 140_MiB);
  EXPECT_EQ(bytes("140MB"), 140'000'000u);
  EXPECT_EQ(bytes("6G"), 6_GiB);
  EXPECT_EQ(bytes("6GiB"), 6_GiB);
  EXPECT_EQ(bytes("6GB"), 6'000'000'000u);
  EXPECT_EQ(bytes("2T"), 2048_GiB);
  EXPECT_EQ(bytes("2TiB"), 2048_GiB);
  EXPECT_EQ(bytes("2TB"), 2'000'000'000'000u);
  EXPECT_EQ(bytes("0"), 0u);
  EXPECT_EQ(bytes("0GiB"), 0u);
}

TEST(ParseBytes, CaseAndSpacesDoNotMatter) {
  for (const char* text : {"6gib", "6GIB", "6GiB", "6Gib", "6 GiB", "6   GiB", "6 g", "6GiB ", "6 G "}) EXPECT_EQ(bytes(text), 6_GiB) << text;
  for (const char* text : {"7kb", "7KB", "7Kb", "7 kB"}) EXPECT_EQ(bytes(text), 7000u) << text;
  EXPECT_EQ(bytes("9 b"), 9u);
}

TEST(ParseBytes, Decimals) {
  EXPECT_EQ(bytes("1.5GiB"), 1536_MiB);
  EXPECT_EQ(bytes(".5KiB"), 512u);
  EXPECT_EQ(bytes("2.K"), 2_KiB);
  EXPECT_EQ(bytes("007.250KB"), 7250u);
  EXPECT_EQ(bytes("0.3KiB"), 307u) << "307.2: whole bytes, rounded down";
  EXPECT_EQ(bytes("5.9B"), 5u);
}

TEST(ParseBytes, DecimalsAreExactToTheByte) {
  for (unsigned hundredths = 0; hundredths < 2000; ++hundredths) {
    char text[32];
    std::snprintf(text, sizeof text, "%u.%02uGB", hundredths / 100, hundredths % 100);
    ASSERT_EQ(bytes(text), Bytes{hundredths} * 10'000'000) << text;
    std::snprintf(text, sizeof text, "%u.%02uKB", hundredths / 100, hundredths % 100);
    ASSERT_EQ(bytes(text), Bytes{hundredths} * 10) << text;
    std::snprintf(text, sizeof text, "%u.%02uGiB", hundredths / 100, hundredths % 100);
    ASSERT_EQ(bytes(text), Bytes{hundredths} * 1_GiB / 100) << text;
  }
}

TEST(ParseBytes, RefusesWhatIsNoAmount) {
  for (const char* text : {"",    " ",     ".",    "GiB", "x",   "-1",  "+1", "-1GiB", "1e9", "0x10",  "1,5GiB", "1.5.2GiB", "..5", "6 GiB free",
                           "6Gi", "6GiBB", "6PiB", "6kk", "6bb", "6iB", "6%", "inf",   "nan", " 6GiB", "6GiB\n", "6\tGiB",   "6G6"}) {
    const lsaq::Expected<Bytes> found = parse_bytes(text);
    EXPECT_FALSE(found.has_value()) << "\"" << text << "\" gave " << *found;
  }
}

TEST(ParseBytes, RefusalShowsTheTextAndWhatToWrite) {
  const auto refusal = [](std::string_view text) { return parse_bytes(text).error().message; };
  make_files::expect_mentions(refusal("6 apples"), {"\"6 apples\" is not an amount of memory", "140MiB", "6GiB", "1.5GB"});
  make_files::expect_mentions(refusal(std::string(5000, 'x')), {"\"" + std::string(40, 'x') + "\""});
  EXPECT_LT(refusal(std::string(5000, 'x')).size(), 150u);
  make_files::expect_mentions(refusal("\x1b[31m6\n\u009b"), {"\"?[31m6???\" is not an amount of memory"}); // nothing a terminal would act on
}

TEST(ParseBytes, RefusesWhatOverflows) {
  EXPECT_EQ(bytes("8388607TiB"), Bytes{8388607} << 40);
  EXPECT_FALSE(parse_bytes("8388608TiB")); // 2^63
  EXPECT_FALSE(parse_bytes("9223372036854775808"));
  EXPECT_FALSE(parse_bytes("99999999999999999999999999"));
  EXPECT_FALSE(parse_bytes(std::string(400, '9')));
  EXPECT_EQ(bytes("0." + std::string(400, '0') + "1GiB"), 0u);
  EXPECT_EQ(bytes("1." + std::string(400, '0') + "GiB"), 1_GiB);
}

TEST(ParseBytes, DoesNotFollowTheLocale) {
  const std::string before = std::setlocale(LC_ALL, nullptr);
  const char* found = nullptr;
  for (const char* name : {"de_DE.UTF-8", "de_DE.utf8", "fr_FR.UTF-8", "fr_FR.utf8", "de_DE", "fr_FR"})
    if (found == nullptr) found = std::setlocale(LC_ALL, name);
  if (found == nullptr) GTEST_SKIP() << "no locale with a decimal comma is installed";
  EXPECT_EQ(std::strtod("1.5", nullptr), 1.0) << "the locale is in force";
  EXPECT_EQ(bytes("1.5GiB"), 1536_MiB);
  EXPECT_FALSE(parse_bytes("1,5GiB"));
  std::setlocale(LC_ALL, before.c_str());
}

} // namespace byte_size_test
