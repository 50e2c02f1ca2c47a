#include <lsaq/formats/mapped_file.hpp>

#include "make_files.hpp"

#include <sys/stat.h>
#include <unistd.h>

namespace mapped_file_test {

using lsaq::BadInput;
using lsaq::MappedFile;
using make_files::expect_mentions;
using make_files::message_of;
using make_files::TemporaryFolder;

std::string refusal(const std::filesystem::path& path) {
  return message_of<BadInput>([&] { MappedFile::open(path); });
}

TEST(MappedFile, ShowsTheBytesAndSurvivesMoves) {
  const TemporaryFolder folder;
  MappedFile first = MappedFile::open(folder.write("a", "hello"));
  const std::byte* const address = first.bytes().data();
  MappedFile second = std::move(first);
  EXPECT_EQ(second.bytes().data(), address);
  EXPECT_EQ(second.size(), 5u);
  EXPECT_EQ(second.path(), folder.path() / "a");
  EXPECT_EQ(std::memcmp(second.bytes().data(), "hello", 5), 0);
  MappedFile third = MappedFile::open(folder.write("b", "x"));
  third = std::move(second);
  EXPECT_EQ(third.size(), 5u);
}

TEST(MappedFile, DroppedPagesAreReadAgain) {
  const TemporaryFolder folder;
  std::string content(20000, 'x');
  content[0] = 'a';
  content[19999] = 'z';
  const MappedFile file = MappedFile::open(folder.write("a", content));
  EXPECT_EQ(std::memcmp(file.bytes().data(), content.data(), content.size()), 0);
  file.drop(0, content.size());
  file.drop(1, 3);
  file.drop(19999, ~std::size_t{0});
  file.drop(30000, 5);
  file.drop(~std::size_t{0}, 5);
  EXPECT_EQ(std::memcmp(file.bytes().data(), content.data(), content.size()), 0);
}

TEST(MappedFile, NamesWhatIsWrongWithThePath) {
  const TemporaryFolder folder;
  expect_mentions(refusal(folder.path() / "none"), {(folder.path() / "none").string() + ": no such file"});
  expect_mentions(refusal(folder.write("file", "x") / "below"), {"no such file"});
  expect_mentions(refusal(folder.write("empty", "")), {"empty: the file is empty"});
  expect_mentions(refusal(folder.path()), {"is a folder"});
  expect_mentions(refusal(folder.path() / std::string(300, 'n')), {"too long"});
  expect_mentions(refusal("/dev/null"), {"/dev/null: not a regular file"});
  std::filesystem::create_symlink("loop", folder.path() / "loop");
  expect_mentions(refusal(folder.path() / "loop"), {"symbolic links"});
  expect_mentions(refusal(folder.path() / "a\nb"), {"a\\x0ab: no such file"});
}

TEST(MappedFile, DoesNotWaitForAFifo) {
  const TemporaryFolder folder;
  ASSERT_EQ(::mkfifo((folder.path() / "fifo").c_str(), 0600), 0);
  expect_mentions(refusal(folder.path() / "fifo"), {"not a regular file"});
}

TEST(MappedFile, RefusesAFileThatMayNotBeRead) {
  if (::geteuid() == 0) GTEST_SKIP() << "the superuser may read every file";
  const TemporaryFolder folder;
  const auto path = folder.write("secret", "x");
  ASSERT_EQ(::chmod(path.c_str(), 0), 0);
  expect_mentions(refusal(path), {"permission denied"});
}

TEST(MappedFile, SortsSystemErrorsByWhoIsAtFault) {
  EXPECT_THROW(lsaq::fail_to_open("p", EACCES), BadInput);
  EXPECT_THROW(lsaq::fail_to_open("p", EIO), lsaq::IoError);
  EXPECT_THROW(lsaq::fail_to_open("p", EMFILE), lsaq::IoError);
}

} // namespace mapped_file_test
