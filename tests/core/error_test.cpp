#include <lsaq/error.hpp>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <set>
#include <type_traits>

namespace error_test {

using lsaq::Expected;
using lsaq::Status;
using testing::StrEq;

static_assert(std::is_base_of_v<std::runtime_error, lsaq::Error>);
static_assert(std::is_base_of_v<lsaq::Error, lsaq::InvalidArgument> && std::is_base_of_v<lsaq::Error, lsaq::Infeasible>);
static_assert(std::is_base_of_v<lsaq::Error, lsaq::BadInput> && std::is_base_of_v<lsaq::Error, lsaq::IoError>);
static_assert(std::is_nothrow_copy_constructible_v<lsaq::BadInput>, "exceptions are copied while they are thrown");

template <class E> std::string thrown(const std::string& message) {
  try {
    lsaq::fail<E>(message);
  } catch (const lsaq::Error& error) { // every category is caught as Error
    EXPECT_NE(dynamic_cast<const E*>(&error), nullptr);
    return error.what();
  }
  return "nothing thrown";
}

TEST(Fail, ThrowsTheCategoryWithTheMessage) {
  EXPECT_EQ(thrown<lsaq::Error>("a"), "a");
  EXPECT_EQ(thrown<lsaq::InvalidArgument>("9 bits"), "9 bits");
  EXPECT_EQ(thrown<lsaq::BadInput>("file.gguf: truncated"), "file.gguf: truncated");
  EXPECT_EQ(thrown<lsaq::IoError>(""), "");
}

TEST(Fail, CarriesTheMissingBytes) {
  try {
    lsaq::fail<lsaq::Infeasible>("too small", lsaq::Bytes{12345678901});
    FAIL();
  } catch (const lsaq::Infeasible& error) {
    EXPECT_THAT(error.what(), StrEq("too small"));
    EXPECT_EQ(error.missing, 12345678901u);
  }
}

TEST(Status, EveryValueHasItsOwnSentence) {
  std::set<std::string> sentences;
  for (const Status status : {Status::ok, Status::shape_mismatch, Status::workspace_too_small, Status::unsupported, Status::device_error})
    sentences.insert(message_of(status));
  EXPECT_EQ(sentences.size(), 5u);
  EXPECT_THAT(message_of(static_cast<Status>(200)), StrEq("unknown status"));
  static_assert(noexcept(message_of(Status::ok)));
}

TEST(Expected, HoldsAValue) {
  Expected<std::string> found = std::string("plan");
  ASSERT_TRUE(found);
  EXPECT_TRUE(found.has_value());
  EXPECT_EQ(*found, "plan");
  EXPECT_EQ(found->size(), 4u);
  found.value() += "s";
  EXPECT_EQ(found.value(), "plans");
}

TEST(Expected, HoldsAFailure) {
  const Expected<int> found = Expected<int>::Failure{"needs more", 42};
  EXPECT_FALSE(found);
  EXPECT_FALSE(found.has_value());
  EXPECT_EQ(found.error().message, "needs more");
  EXPECT_EQ(found.error().missing, 42u);
  EXPECT_EQ(Expected<int>(Expected<int>::Failure{"only a message"}).error().missing, 0u);
}

TEST(Expected, MovesValuesThatCannotBeCopied) {
  Expected<std::unique_ptr<int>> found = std::make_unique<int>(5);
  const std::unique_ptr<int> taken = std::move(found.value());
  EXPECT_EQ(*taken, 5);
}

#ifndef NDEBUG
TEST(ExpectedDeathTest, ReadingTheWrongSideIsCaughtInDebugBuilds) {
  EXPECT_DEATH((void)Expected<int>(Expected<int>::Failure{"no"}).value(), "test has_value");
  EXPECT_DEATH((void)Expected<int>(1).error(), "test has_value");
}
#endif

} // namespace error_test
