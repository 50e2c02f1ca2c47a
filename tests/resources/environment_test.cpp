// LSAQ_MEMORY: an amount, or a file that is read again at every call.
#include <lsaq/resources/host_memory.hpp>

#include "scoped_environment.hpp"

#include <formats/make_files.hpp>

namespace environment_test {

using lsaq::memory_from_environment;
using make_files::expect_mentions;
using make_files::message_of;
using scoped_environment::ScopedVariable;
using testing::Optional;
using namespace lsaq::literals;

class MemoryVariable : public testing::Test {
protected:
  std::string refusal() {
    return message_of<lsaq::InvalidArgument>([] { memory_from_environment(); });
  }
  ScopedVariable variable{"LSAQ_MEMORY", std::nullopt};
  make_files::TemporaryFolder folder;
};

TEST_F(MemoryVariable, NotSetOrEmptyIsNoCap) {
  EXPECT_EQ(memory_from_environment(), std::nullopt);
  variable.set("");
  EXPECT_EQ(memory_from_environment(), std::nullopt);
}

TEST_F(MemoryVariable, AnAmount) {
  variable.set("140MiB");
  EXPECT_THAT(memory_from_environment(), Optional(140_MiB));
  variable.set("1.5 GB");
  EXPECT_THAT(memory_from_environment(), Optional(1'500'000'000u));
  variable.set("0");
  EXPECT_THAT(memory_from_environment(), Optional(0u)) << "zero is a cap, not the absence of one";
}

TEST_F(MemoryVariable, AFileIsReadAgainAtEveryCall) {
  variable.set("@" + folder.write("cap", "300MiB\n").string());
  EXPECT_THAT(memory_from_environment(), Optional(300_MiB));
  folder.write("cap", "100MiB");
  EXPECT_THAT(memory_from_environment(), Optional(100_MiB));
  folder.write("cap", "2GiB\r\nwhatever stands below the first line\n");
  EXPECT_THAT(memory_from_environment(), Optional(2_GiB));
  folder.write("cap", "none");
  EXPECT_THROW(memory_from_environment(), lsaq::InvalidArgument);
  folder.write("cap", "1KB ");
  EXPECT_THAT(memory_from_environment(), Optional(1000u));
}

TEST_F(MemoryVariable, WrongAmountsNameTheVariable) {
  variable.set("lots");
  expect_mentions(refusal(), {"LSAQ_MEMORY: ", "\"lots\" is not an amount of memory"});
  variable.set("-1");
  expect_mentions(refusal(), {"LSAQ_MEMORY", "\"-1\""});
}

TEST_F(MemoryVariable, WrongFilesAreNamed) {
  const std::string missing = (folder.path() / "missing").string();
  variable.set("@" + missing);
  expect_mentions(refusal(), {"LSAQ_MEMORY=@" + missing, "can't be read"});
  variable.set("@" + folder.path().string()); // a folder
  expect_mentions(refusal(), {"LSAQ_MEMORY=@" + folder.path().string()});
  variable.set("@");
  expect_mentions(refusal(), {"LSAQ_MEMORY=@: "});
  const std::string wrong = folder.write("wrong", "x\n5GiB\n").string();
  variable.set("@" + wrong);
  expect_mentions(refusal(), {"LSAQ_MEMORY=@" + wrong, "\"x\" is not an amount of memory"});
  folder.write("wrong", "");
  expect_mentions(refusal(), {"LSAQ_MEMORY=@" + wrong, "\"\" is not an amount of memory"});
  folder.write("wrong", "\n5GiB\n");
  expect_mentions(refusal(), {"\"\" is not an amount of memory"});
}

TEST_F(MemoryVariable, ContentsOfAFileAreShownWithoutControlCharacters) {
  variable.set("@" + folder.write("hostile", "\x1b]0;title\x07 5GiB").string());
  expect_mentions(refusal(), {"is not an amount of memory"});
}

} // namespace environment_test
