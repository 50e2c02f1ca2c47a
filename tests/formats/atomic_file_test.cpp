#include <lsaq/formats/atomic_file.hpp>

#include "make_files.hpp"

#include <csignal>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

namespace atomic_file_test {

using lsaq::AtomicFile;
using lsaq::IoError;
using make_files::content_of;
using make_files::expect_mentions;
using make_files::message_of;
using make_files::TemporaryFolder;

TEST(AtomicFile, AppearsOnlyWhenCommitted) {
  const TemporaryFolder folder;
  const auto path = folder.write("out", "old");
  {
    AtomicFile file(path);
    file.write("new");
    EXPECT_EQ(file.size(), 3u);
    EXPECT_EQ(file.path(), path);
    EXPECT_EQ(content_of(path), "old");
    EXPECT_EQ(folder.count(), 2u);
    file.commit();
    EXPECT_EQ(content_of(path), "new");
  }
  EXPECT_EQ(folder.count(), 1u);
}

TEST(AtomicFile, LeavesNothingWithoutCommit) {
  const TemporaryFolder folder;
  {
    AtomicFile file(folder.path() / "out");
    file.write(std::string(1 << 20, 'x'));
  }
  EXPECT_EQ(folder.count(), 0u);
}

TEST(AtomicFile, WritesSmallAndLargePiecesInOrder) {
  const TemporaryFolder folder;
  std::string expected;
  AtomicFile file(folder.path() / "out");
  for (const std::size_t size : {1u, 65535u, 1u, 65536u, 65537u, 0u, 300000u, 7u, 40000u, 40000u}) {
    const std::string piece(size, static_cast<char>('a' + expected.size() % 26));
    file.write(piece);
    expected += piece;
    EXPECT_EQ(file.size(), expected.size());
  }
  AtomicFile moved = std::move(file);
  moved.write("end");
  moved.commit();
  EXPECT_EQ(content_of(folder.path() / "out"), expected + "end");
}

TEST(AtomicFile, HasTheModeOfTheUmask) {
  const TemporaryFolder folder;
  const ::mode_t before = ::umask(027);
  AtomicFile file(folder.path() / "out");
  ::umask(before);
  file.commit();
  struct stat status = {};
  ASSERT_EQ(::stat((folder.path() / "out").c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 0777, 0640u);
}

TEST(AtomicFile, TheLongestNameCanBeWritten) {
  const TemporaryFolder folder;
  const auto path = folder.path() / std::string(255, 'n');
  AtomicFile file(path);
  file.write("x");
  file.commit();
  EXPECT_EQ(content_of(path), "x");
}

TEST(AtomicFile, ARelativePathIsInTheWorkingFolder) {
  const TemporaryFolder folder;
  const auto before = std::filesystem::current_path();
  std::filesystem::current_path(folder.path());
  AtomicFile file("out");
  file.write("x");
  file.commit();
  std::filesystem::current_path(before);
  EXPECT_EQ(content_of(folder.path() / "out"), "x");
}

TEST(AtomicFile, RefusesWhatCannotBeReplaced) {
  const TemporaryFolder folder;
  expect_mentions(message_of<IoError>([&] { AtomicFile file(folder.path()); }), {folder.path().string(), "folder"});
  expect_mentions(message_of<IoError>([&] { AtomicFile file("/dev/null"); }), {"/dev/null", "device"});
  expect_mentions(message_of<IoError>([&] { AtomicFile file(folder.path() / "none" / "out"); }), {"none/out", "No such file or directory"});
  expect_mentions(message_of<IoError>([&] { AtomicFile file(""); }), {"not the name of a file"});
  EXPECT_EQ(folder.count(), 0u);
}

TEST(AtomicFile, ReportsAFailedWriteAndKeepsTheOldFile) {
  const TemporaryFolder folder;
  const auto path = folder.write("out", "old");
  ::rlimit before = {};
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &before), 0);
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  ::rlimit limit = before;
  limit.rlim_cur = 100000;
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &limit), 0);
  const std::string message = message_of<IoError>([&] {
    AtomicFile file(path);
    file.write(std::string(200000, 'x')); // the first write is short, the next fails
    file.commit();
  });
  ::setrlimit(RLIMIT_FSIZE, &before);
  std::signal(SIGXFSZ, handler);
  expect_mentions(message, {path.string(), "cannot write", "File too large"});
  EXPECT_EQ(content_of(path), "old");
  EXPECT_EQ(folder.count(), 1u);
}

TEST(AtomicFile, ReportsAFailedRename) {
  const TemporaryFolder folder;
  const auto path = folder.path() / "out";
  AtomicFile file(path);
  std::filesystem::create_directory(path); // meanwhile
  expect_mentions(message_of<IoError>([&] { file.commit(); }), {path.string(), "cannot rename"});
}

TEST(AtomicFile, NeverTakesTheNumberOfAStandardStream) {
  const TemporaryFolder folder;
  const auto path = folder.path() / "out";
  const int saved = ::fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, 10);
  ::close(STDIN_FILENO);
  {
    AtomicFile file(path);
    EXPECT_EQ(::fcntl(STDIN_FILENO, F_GETFD), -1);
    file.write("x");
    file.commit();
  }
  if (saved >= 0) {
    ::dup2(saved, STDIN_FILENO);
    ::close(saved);
  }
  EXPECT_EQ(content_of(path), "x");
}

TEST(AtomicFile, ReplacesALinkAndNotItsTarget) {
  const TemporaryFolder folder;
  const auto target = folder.write("target", "old");
  std::filesystem::create_symlink("target", folder.path() / "link");
  AtomicFile file(folder.path() / "link");
  file.write("new");
  file.commit();
  EXPECT_EQ(content_of(target), "old");
  EXPECT_EQ(content_of(folder.path() / "link"), "new");
}

} // namespace atomic_file_test
