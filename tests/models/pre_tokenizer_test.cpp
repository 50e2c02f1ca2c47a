// The scanners against the pieces that the regular expressions give in the Hugging Face tokenizers.
#include <lsaq/models/pre_tokenizer.hpp>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <string_view>
#include <vector>

namespace pre_tokenizer_test {

using lsaq::SplitRule;
using Words = std::vector<std::string_view>;

struct Example {
  std::string_view text;
  Words words;
};

Words words_of(std::string_view text, const std::vector<SplitRule>& rules) {
  Words words;
  auto collect = [&](std::string_view word) { words.push_back(word); };
  lsaq::for_each_word(text, rules, collect);
  return words;
}

void expect_words(const std::vector<SplitRule>& rules, const std::vector<Example>& examples) {
  for (const Example& example : examples) EXPECT_EQ(words_of(example.text, rules), example.words) << example.text;
}

TEST(PreTokenizer, Gpt2SplitsAsTheReference) {
  expect_words({SplitRule::gpt2},
               {
                   {"Hello world", {"Hello", " world"}},
                   {" Hello  world ", {" Hello", " ", " world", " "}},
                   {"   ", {"   "}},
                   {"\n", {"\n"}},
                   {"a\n\nb", {"a", "\n", "\n", "b"}},
                   {" \n x", {" \n", " x"}},
                   {"tabs\t\tand\r\nlines\r\n\r\nend", {"tabs", "\t", "\t", "and", "\r", "\n", "lines", "\r\n\r", "\n", "end"}},
                   {"it's IT'S we'll WE'LL o'clock '\xc5\xbf'",
                    {"it", "'s", " IT", "'", "S", " we", "'ll", " WE", "'", "LL", " o", "'", "clock", " '", "\xc5\xbf", "'"}},
                   {"year 2024, 12345 and \xd9\xa3\xc2\xb2\xe2\x85\xa7", {"year", " 2024", ",", " 12345", " and", " \xd9\xa3\xc2\xb2\xe2\x85\xa7"}},
                   {"3.14!!! ok???\n\n", {"3", ".", "14", "!!!", " ok", "???", "\n\n"}},
                   {"\xe6\x97\xa5\xe6\x9c\xac\xe8\xaa\x9e \xe4\xb8\xad\xe6\x96\x87\xe3\x80\x82\xed\x95\x9c\xea\xb5\xad\xec\x96\xb4",
                    {"\xe6\x97\xa5\xe6\x9c\xac\xe8\xaa\x9e", " \xe4\xb8\xad\xe6\x96\x87", "\xe3\x80\x82", "\xed\x95\x9c\xea\xb5\xad\xec\x96\xb4"}},
                   {"smile \xf0\x9f\x98\x80\xf0\x9f\x98\x80 x", {"smile", " \xf0\x9f\x98\x80\xf0\x9f\x98\x80", " x"}},
                   {"a\xc2\xa0"
                    "b\xe3\x80\x80"
                    "c\xe2\x80\xa8"
                    "d\xc2\x85"
                    "e",
                    {"a", "\xc2\xa0", "b", "\xe3\x80\x80", "c", "\xe2\x80\xa8", "d", "\xc2\x85", "e"}},
                   {"e\xcc\x81t\xc3\xa9", {"e", "\xcc\x81", "t\xc3\xa9"}},
                   {"a1b22c  333 ", {"a", "1", "b", "22", "c", " ", " 333", " "}},
                   {"'", {"'"}},
                   {"'v 'r 'l", {"'", "v", " '", "r", " '", "l"}},
                   {"(x)[y] \"z\"", {"(", "x", ")[", "y", "]", " \"", "z", "\""}},
                   {" \t\n \n  z", {" \t\n \n ", " z"}},
                   {"\xe2\x80\x8bzero", {"\xe2\x80\x8b", "zero"}},
               });
}

TEST(PreTokenizer, DigitsThenGpt2SplitsAsTheReference) {
  expect_words({SplitRule::digits, SplitRule::gpt2},
               {
                   {"Hello world", {"Hello", " world"}},
                   {" Hello  world ", {" Hello", " ", " world", " "}},
                   {"   ", {"   "}},
                   {"\n", {"\n"}},
                   {"a\n\nb", {"a", "\n", "\n", "b"}},
                   {" \n x", {" \n", " x"}},
                   {"tabs\t\tand\r\nlines\r\n\r\nend", {"tabs", "\t", "\t", "and", "\r", "\n", "lines", "\r\n\r", "\n", "end"}},
                   {"it's IT'S we'll WE'LL o'clock '\xc5\xbf'",
                    {"it", "'s", " IT", "'", "S", " we", "'ll", " WE", "'", "LL", " o", "'", "clock", " '", "\xc5\xbf", "'"}},
                   {"year 2024, 12345 and \xd9\xa3\xc2\xb2\xe2\x85\xa7",
                    {"year", " ", "2", "0", "2", "4", ",", " ", "1", "2", "3", "4", "5", " and", " ", "\xd9\xa3", "\xc2\xb2", "\xe2\x85\xa7"}},
                   {"3.14!!! ok???\n\n", {"3", ".", "1", "4", "!!!", " ok", "???", "\n\n"}},
                   {"\xe6\x97\xa5\xe6\x9c\xac\xe8\xaa\x9e \xe4\xb8\xad\xe6\x96\x87\xe3\x80\x82\xed\x95\x9c\xea\xb5\xad\xec\x96\xb4",
                    {"\xe6\x97\xa5\xe6\x9c\xac\xe8\xaa\x9e", " \xe4\xb8\xad\xe6\x96\x87", "\xe3\x80\x82", "\xed\x95\x9c\xea\xb5\xad\xec\x96\xb4"}},
                   {"smile \xf0\x9f\x98\x80\xf0\x9f\x98\x80 x", {"smile", " \xf0\x9f\x98\x80\xf0\x9f\x98\x80", " x"}},
                   {"a\xc2\xa0"
                    "b\xe3\x80\x80"
                    "c\xe2\x80\xa8"
                    "d\xc2\x85"
                    "e",
                    {"a", "\xc2\xa0", "b", "\xe3\x80\x80", "c", "\xe2\x80\xa8", "d", "\xc2\x85", "e"}},
                   {"e\xcc\x81t\xc3\xa9", {"e", "\xcc\x81", "t\xc3\xa9"}},
                   {"a1b22c  333 ", {"a", "1", "b", "2", "2", "c", "  ", "3", "3", "3", " "}},
                   {"'", {"'"}},
                   {"'v 'r 'l", {"'", "v", " '", "r", " '", "l"}},
                   {"(x)[y] \"z\"", {"(", "x", ")[", "y", "]", " \"", "z", "\""}},
                   {" \t\n \n  z", {" \t\n \n ", " z"}},
                   {"\xe2\x80\x8bzero", {"\xe2\x80\x8b", "zero"}},
               });
}

TEST(PreTokenizer, Llama3SplitsAsTheReference) {
  expect_words(
      {SplitRule::llama3},
      {
          {"Hello world", {"Hello", " world"}},
          {" Hello  world ", {" Hello", " ", " world", " "}},
          {"   ", {"   "}},
          {"\n", {"\n"}},
          {"a\n\nb", {"a", "\n\n", "b"}},
          {" \n x", {" \n", " x"}},
          {"tabs\t\tand\r\nlines\r\n\r\nend", {"tabs", "\t", "\tand", "\r\n", "lines", "\r\n\r\n", "end"}},
          {"it's IT'S we'll WE'LL o'clock '\xc5\xbf'", {"it", "'s", " IT", "'S", " we", "'ll", " WE", "'LL", " o", "'clock", " '", "\xc5\xbf", "'"}},
          {"year 2024, 12345 and \xd9\xa3\xc2\xb2\xe2\x85\xa7", {"year", " ", "202", "4", ",", " ", "123", "45", " and", " ", "\xd9\xa3\xc2\xb2\xe2\x85\xa7"}},
          {"3.14!!! ok???\n\n", {"3", ".", "14", "!!!", " ok", "???\n\n"}},
          {"\xe6\x97\xa5\xe6\x9c\xac\xe8\xaa\x9e \xe4\xb8\xad\xe6\x96\x87\xe3\x80\x82\xed\x95\x9c\xea\xb5\xad\xec\x96\xb4",
           {"\xe6\x97\xa5\xe6\x9c\xac\xe8\xaa\x9e", " \xe4\xb8\xad\xe6\x96\x87", "\xe3\x80\x82\xed\x95\x9c\xea\xb5\xad\xec\x96\xb4"}},
          {"smile \xf0\x9f\x98\x80\xf0\x9f\x98\x80 x", {"smile", " \xf0\x9f\x98\x80\xf0\x9f\x98\x80", " x"}},
          {"a\xc2\xa0"
           "b\xe3\x80\x80"
           "c\xe2\x80\xa8"
           "d\xc2\x85"
           "e",
           {"a",
            "\xc2\xa0"
            "b",
            "\xe3\x80\x80"
            "c",
            "\xe2\x80\xa8"
            "d",
            "\xc2\x85"
            "e"}},
          {"e\xcc\x81t\xc3\xa9", {"e", "\xcc\x81t\xc3\xa9"}},
          {"a1b22c  333 ", {"a", "1", "b", "22", "c", " ", " ", "333", " "}},
          {"'", {"'"}},
          {"'v 'r 'l", {"'v", " '", "r", " '", "l"}},
          {"(x)[y] \"z\"", {"(x", ")[", "y", "]", " \"", "z", "\""}},
          {" \t\n \n  z", {" \t\n \n", " ", " z"}},
          {"\xe2\x80\x8bzero", {"\xe2\x80\x8bzero"}},
      });
}

TEST(PreTokenizer, Qwen2SplitsAsTheReference) {
  expect_words({SplitRule::qwen2},
               {
                   {"Hello world", {"Hello", " world"}},
                   {" Hello  world ", {" Hello", " ", " world", " "}},
                   {"   ", {"   "}},
                   {"\n", {"\n"}},
                   {"a\n\nb", {"a", "\n\n", "b"}},
                   {" \n x", {" \n", " x"}},
                   {"tabs\t\tand\r\nlines\r\n\r\nend", {"tabs", "\t", "\tand", "\r\n", "lines", "\r\n\r\n", "end"}},
                   {"it's IT'S we'll WE'LL o'clock '\xc5\xbf'", {"it", "'s", " IT", "'S", " we", "'ll", " WE", "'LL", " o", "'clock", " '", "\xc5\xbf", "'"}},
                   {"year 2024, 12345 and \xd9\xa3\xc2\xb2\xe2\x85\xa7",
                    {"year", " ", "2", "0", "2", "4", ",", " ", "1", "2", "3", "4", "5", " and", " ", "\xd9\xa3", "\xc2\xb2", "\xe2\x85\xa7"}},
                   {"3.14!!! ok???\n\n", {"3", ".", "1", "4", "!!!", " ok", "???\n\n"}},
                   {"\xe6\x97\xa5\xe6\x9c\xac\xe8\xaa\x9e \xe4\xb8\xad\xe6\x96\x87\xe3\x80\x82\xed\x95\x9c\xea\xb5\xad\xec\x96\xb4",
                    {"\xe6\x97\xa5\xe6\x9c\xac\xe8\xaa\x9e", " \xe4\xb8\xad\xe6\x96\x87", "\xe3\x80\x82\xed\x95\x9c\xea\xb5\xad\xec\x96\xb4"}},
                   {"smile \xf0\x9f\x98\x80\xf0\x9f\x98\x80 x", {"smile", " \xf0\x9f\x98\x80\xf0\x9f\x98\x80", " x"}},
                   {"a\xc2\xa0"
                    "b\xe3\x80\x80"
                    "c\xe2\x80\xa8"
                    "d\xc2\x85"
                    "e",
                    {"a",
                     "\xc2\xa0"
                     "b",
                     "\xe3\x80\x80"
                     "c",
                     "\xe2\x80\xa8"
                     "d",
                     "\xc2\x85"
                     "e"}},
                   {"e\xcc\x81t\xc3\xa9", {"e", "\xcc\x81t\xc3\xa9"}},
                   {"a1b22c  333 ", {"a", "1", "b", "2", "2", "c", " ", " ", "3", "3", "3", " "}},
                   {"'", {"'"}},
                   {"'v 'r 'l", {"'v", " '", "r", " '", "l"}},
                   {"(x)[y] \"z\"", {"(x", ")[", "y", "]", " \"", "z", "\""}},
                   {" \t\n \n  z", {" \t\n \n", " ", " z"}},
                   {"\xe2\x80\x8bzero", {"\xe2\x80\x8bzero"}},
               });
}

TEST(PreTokenizer, NoRuleLeavesTheTextWhole) { EXPECT_EQ(words_of("a b", {}), Words{"a b"}); }

TEST(PreTokenizer, NothingHasNoWords) {
  for (const SplitRule rule : {SplitRule::digits, SplitRule::gpt2, SplitRule::llama3, SplitRule::qwen2}) EXPECT_TRUE(words_of("", {rule}).empty());
}

TEST(PreTokenizer, WordsCoverEveryByteOfInvalidText) {
  // Cut characters, stray continuation bytes, overlong forms, surrogates, bytes that never occur.
  const std::string text = "a\xc3 \x80\xbf'\xe3\x81 \xed\xa0\x80 \xc0\xaf\xff\xfe 1\xf0\x9f\x98";
  for (const SplitRule rule : {SplitRule::digits, SplitRule::gpt2, SplitRule::llama3, SplitRule::qwen2}) {
    std::string joined;
    for (const std::string_view word : words_of(text, {rule})) {
      EXPECT_FALSE(word.empty());
      joined += word;
    }
    EXPECT_EQ(joined, text);
  }
  EXPECT_EQ(words_of("ab\xff\xfe c", {SplitRule::gpt2}), (Words{"ab", "\xff\xfe", " c"}));
}

TEST(PreTokenizer, NamesAndPatterns) {
  using Rules = std::vector<SplitRule>;
  EXPECT_EQ(lsaq::split_rules_named("smollm"), (Rules{SplitRule::digits, SplitRule::gpt2}));
  EXPECT_EQ(lsaq::split_rules_named("default"), (Rules{SplitRule::gpt2}));
  EXPECT_EQ(lsaq::split_rules_named("llama-bpe"), (Rules{SplitRule::llama3}));
  EXPECT_EQ(lsaq::split_rules_named("qwen2"), (Rules{SplitRule::qwen2}));
  EXPECT_EQ(lsaq::split_rules_named("deepseek-llm"), std::nullopt);
  EXPECT_EQ(lsaq::split_rule_of_pattern(lsaq::gpt2_pattern), SplitRule::gpt2);
  EXPECT_EQ(lsaq::split_rule_of_pattern(lsaq::llama3_pattern), SplitRule::llama3);
  EXPECT_EQ(lsaq::split_rule_of_pattern(lsaq::qwen2_pattern), SplitRule::qwen2);
  EXPECT_EQ(lsaq::split_rule_of_pattern("\\s+"), std::nullopt);
}

TEST(PreTokenizer, ClassesAreUnicode) {
  using lsaq::CharacterClass;
  EXPECT_EQ(lsaq::class_of(U'\u00df'), CharacterClass::letter);
  EXPECT_EQ(lsaq::class_of(U'\u4e2d'), CharacterClass::letter);
  EXPECT_EQ(lsaq::class_of(U'\u00b2'), CharacterClass::number); // superscript two: a number, no digit
  EXPECT_EQ(lsaq::class_of(U'\u2167'), CharacterClass::number);
  EXPECT_EQ(lsaq::class_of(U'\u3000'), CharacterClass::space);
  EXPECT_EQ(lsaq::class_of(0x85), CharacterClass::space);
  EXPECT_EQ(lsaq::class_of(U'\u200b'), CharacterClass::other); // zero width space is no white space
  EXPECT_EQ(lsaq::class_of(0x1c), CharacterClass::other);
  EXPECT_EQ(lsaq::class_of('\n'), CharacterClass::line_break);
}

} // namespace pre_tokenizer_test
