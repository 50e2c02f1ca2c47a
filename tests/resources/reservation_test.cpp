// Bytes set aside by processes that share a device.
#include <lsaq/resources/reservation.hpp>

#include "scoped_environment.hpp"

#include <formats/make_files.hpp>

#include <csignal>
#include <sys/wait.h>
#include <thread>

namespace reservation_test {

using lsaq::Bytes;
using lsaq::Reservation;

class Reservations : public testing::Test {
protected:
  make_files::TemporaryFolder temporary;
  std::string folder = (temporary.path() / "lsaq").string();

  /// Takes `wanted` if so much of `free` is left.
  Reservation take(Bytes wanted, Bytes free, const std::string& device = "cpu") {
    return Reservation::make(folder, device, [&](Bytes others) { return others + wanted <= free ? wanted : 0; });
  }
};

TEST_F(Reservations, AreSeenByOthers) {
  EXPECT_EQ(Reservation::others(folder, "cpu"), 0u);
  Reservation first = take(600, 1000);
  EXPECT_EQ(first.bytes(), 600u);
  EXPECT_EQ(Reservation::others(folder, "cpu"), 600u);
  EXPECT_EQ(take(600, 1000).bytes(), 0u);
  EXPECT_EQ(Reservation::others(folder, "cpu"), 600u) << "nothing was taken";
  const Reservation second = take(400, 1000);
  EXPECT_EQ(second.bytes(), 400u);
  EXPECT_EQ(Reservation::others(folder, "cuda:0"), 0u) << "another device";
  first.resize(50);
  EXPECT_EQ(Reservation::others(folder, "cpu"), 450u) << "most of it is allocated now";
  first = Reservation();
  EXPECT_EQ(Reservation::others(folder, "cpu"), 400u);
}

TEST_F(Reservations, AreNotTakenForThoseOfTheDeadWhileTheyAreMade) {
  EXPECT_EQ(take(1, 1000).bytes(), 1u); // makes the folder
  const std::jthread looking([&](const std::stop_token& stop) {
    while (!stop.stop_requested()) (void)Reservation::others(folder, "cpu");
  });
  for (int round = 0; round < 300; ++round) {
    const Reservation held = take(100, 1000);
    ASSERT_EQ(Reservation::others(folder, "cpu"), 100u) << "round " << round;
  }
}

TEST_F(Reservations, EndWithTheirProcess) {
  int ready[2];
  ASSERT_EQ(::pipe(ready), 0);
  const pid_t child = ::fork();
  if (child == 0) {
    const Reservation held = take(700, 1000);
    (void)!::write(ready[1], "x", 1);
    while (true) ::pause();
  }
  char byte = 0;
  ASSERT_EQ(::read(ready[0], &byte, 1), 1);
  EXPECT_EQ(take(600, 1000).bytes(), 0u);
  ::kill(child, SIGKILL);
  int status = 0;
  ::waitpid(child, &status, 0);
  EXPECT_EQ(take(600, 1000).bytes(), 600u);
  EXPECT_EQ(Reservation::others(folder, "cpu"), 0u);
  for (const int end : ready) ::close(end);
}

TEST_F(Reservations, FilesOfTheDeadAreRemovedByTheNextThatReserves) {
  take(1, 1000);
  const std::string left = folder + "/cpu.1-0.bytes";
  std::ofstream(left) << "700\n";
  EXPECT_EQ(Reservation::others(folder, "cpu"), 0u) << "nobody holds it";
  EXPECT_TRUE(std::filesystem::exists(left)) << "who only looks removes nothing";
  EXPECT_EQ(take(600, 1000).bytes(), 600u);
  EXPECT_FALSE(std::filesystem::exists(left));
}

TEST_F(Reservations, OfProcessesThatPlanAtOnceNeverExceedTheMemory) {
  constexpr int processes = 8;
  int results[2], finish[2];
  ASSERT_EQ(::pipe(results), 0);
  ASSERT_EQ(::pipe(finish), 0);
  std::vector<pid_t> children;
  for (int p = 0; p < processes; ++p) {
    const pid_t child = ::fork();
    if (child == 0) {
      ::close(finish[1]);
      const Reservation mine = take(300, 1000);
      const char got = mine.bytes() != 0 ? '1' : '0';
      (void)!::write(results[1], &got, 1);
      char byte = 0;
      (void)!::read(finish[0], &byte, 1); // holds it until all have tried
      ::_exit(0);
    }
    children.push_back(child);
  }
  int granted = 0;
  for (int p = 0; p < processes; ++p) {
    char got = 0;
    ASSERT_EQ(::read(results[0], &got, 1), 1);
    granted += got == '1';
  }
  EXPECT_EQ(granted, 3) << "the others notice";
  EXPECT_EQ(Reservation::others(folder, "cpu"), 900u);
  for (const int end : {finish[0], finish[1], results[0], results[1]}) ::close(end);
  for (const pid_t child : children) {
    int status = -1;
    ::waitpid(child, &status, 0);
    EXPECT_EQ(status, 0);
  }
  EXPECT_EQ(Reservation::others(folder, "cpu"), 0u);
}

TEST_F(Reservations, AFolderThatCantBeUsedIsNamed) {
  folder = (temporary.path() / "not" / "there").string();
  make_files::expect_mentions(make_files::message_of<lsaq::IoError>([&] { take(1, 2); }), {folder, "cannot create the folder"});
  EXPECT_EQ(Reservation::others(folder, "cpu"), 0u);
}

TEST_F(Reservations, AFolderThatIsNoneOfThisUserIsNotUsed) {
  std::filesystem::create_symlink(temporary.path(), folder);
  make_files::expect_mentions(make_files::message_of<lsaq::IoError>([&] { take(1, 2); }), {folder, "not a folder of this user"});
  std::filesystem::remove(folder);
  temporary.write("lsaq", "a file");
  make_files::expect_mentions(make_files::message_of<lsaq::IoError>([&] { take(1, 2); }), {folder, "not a folder of this user"});
}

TEST_F(Reservations, FolderOfTheUser) {
  scoped_environment::ScopedVariable runtime("XDG_RUNTIME_DIR", "/run/user/5");
  EXPECT_EQ(lsaq::reservation_folder(), "/run/user/5/lsaq");
  runtime.set("");
  EXPECT_EQ(lsaq::reservation_folder(), "/tmp/lsaq-" + std::to_string(::getuid()));
}

} // namespace reservation_test
