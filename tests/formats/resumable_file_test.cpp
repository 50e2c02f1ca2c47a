#include <lsaq/formats/resumable_file.hpp>

#include "make_files.hpp"

namespace resumable_file_test {

using lsaq::IoError;
using lsaq::ResumableFile;
using make_files::content_of;
using make_files::expect_mentions;
using make_files::message_of;
using make_files::TemporaryFolder;

TEST(ResumableFile, AppearsOnlyWhenCommitted) {
  const TemporaryFolder folder;
  const auto path = folder.write("out", "old");
  ResumableFile file(path, "key");
  EXPECT_EQ(file.safe(), 0u);
  file.write("new ");
  file.mark_safe();
  file.write("content");
  EXPECT_EQ(content_of(path), "old");
  file.commit();
  EXPECT_EQ(content_of(path), "new content");
  EXPECT_EQ(folder.count(), 1u) << "nothing else remains";
}

TEST(ResumableFile, GoesOnBehindWhatIsSafe) {
  const TemporaryFolder folder;
  const auto path = folder.path() / "out";
  {
    ResumableFile file(path, "key");
    file.write("safe");
    file.mark_safe();
    file.write("lost");
  }
  EXPECT_FALSE(std::filesystem::exists(path));
  {
    ResumableFile file(path, "key");
    EXPECT_EQ(file.safe(), 4u);
    file.write(" and");
    file.mark_safe();
  }
  ResumableFile file(path, "key");
  EXPECT_EQ(file.safe(), 8u);
  file.write(" sound");
  file.commit();
  EXPECT_EQ(content_of(path), "safe and sound");
  EXPECT_EQ(folder.count(), 1u);
}

TEST(ResumableFile, BeginsAgainWhereNothingVouchesForIt) {
  const TemporaryFolder folder;
  const auto path = folder.path() / "out";
  const auto begin = [&] {
    ResumableFile file(path, "key");
    file.write("0123456789");
    file.mark_safe();
  };
  begin();
  EXPECT_EQ(ResumableFile(path, "another key").safe(), 0u);
  begin();
  std::filesystem::resize_file(folder.path() / "out.partial", 3);
  EXPECT_EQ(ResumableFile(path, "key").safe(), 0u) << "shorter than it was";
  for (const char* state : {"", "{", "[]", "{\"key\":\"key\"}", "{\"key\":\"key\",\"bytes\":-1}", "{\"key\":7,\"bytes\":1}"}) {
    begin();
    folder.write("out.partial.json", state);
    EXPECT_EQ(ResumableFile(path, "key").safe(), 0u) << state;
  }
  ResumableFile file(path, "key");
  file.write("x");
  file.commit();
  EXPECT_EQ(content_of(path), "x") << "nothing of the old content";
}

TEST(ResumableFile, SaysWhyItCannotBeWritten) {
  const TemporaryFolder folder;
  expect_mentions(message_of<IoError>([&] { ResumableFile(folder.path(), "key"); }), {folder.path().string(), "folder"});
  expect_mentions(message_of<IoError>([&] { ResumableFile(folder.path() / "none" / "out", "key"); }), {"none/out", "No such file"});
}

} // namespace resumable_file_test
