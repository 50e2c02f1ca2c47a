// Steps of a tokenizer.json's normalizer.
#include <lsaq/models/normalizer.hpp>

#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace normalizer_test {

using lsaq::normalize;
using lsaq::normalized_nfc;
using lsaq::NormalizerStep;
using Kind = lsaq::NormalizerStep::Kind;
using Steps = std::vector<NormalizerStep>;

TEST(Normalizer, NfcComposes) {
  EXPECT_EQ(normalized_nfc("e\u0301"), "\u00e9");
  EXPECT_EQ(normalized_nfc("\u1112\u1161\u11ab"), "\ud55c");
  EXPECT_EQ(normalized_nfc(""), "");
  EXPECT_EQ(normalized_nfc("plain\n"), "plain\n");
}

TEST(Normalizer, NfcKeepsInvalidBytes) {
  EXPECT_EQ(normalized_nfc("e\u0301\xff"
                           "e\u0301\xc3"),
            "\u00e9\xff\u00e9\xc3");
  EXPECT_EQ(normalized_nfc("\x80\x81"), "\x80\x81");
}

TEST(Normalizer, LlamaSteps) {
  const Steps steps = {{Kind::prepend, "", "_"}, {Kind::replace, " ", "_"}};
  EXPECT_EQ(normalize(" a b ", steps, true), "__a_b_");
  EXPECT_EQ(normalize("", steps, true), "");
}

TEST(Normalizer, ReplaceDoesNotLookAtWhatItWrote) {
  const Steps steps = {{Kind::replace, "aa", "a"}};
  EXPECT_EQ(normalize("aaaaa", steps, true), "aaa");
}

TEST(Normalizer, PrefixesThatDepend) {
  const Steps if_absent = {{Kind::prepend_if_absent, "", " "}};
  EXPECT_EQ(normalize("x", if_absent, false), " x");
  EXPECT_EQ(normalize(" x", if_absent, false), " x");
  const Steps at_start = {{Kind::prepend_at_start, "", " "}};
  EXPECT_EQ(normalize("x", at_start, true), " x");
  EXPECT_EQ(normalize("x", at_start, false), "x");
}

} // namespace normalizer_test
