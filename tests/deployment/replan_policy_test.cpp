// When memory is worth planning for again.
#include <lsaq/deployment/replan_policy.hpp>

#include <gmock/gmock.h>

namespace replan_policy_test {

using lsaq::Marks;
using std::chrono::seconds;
using Time = std::chrono::steady_clock::time_point;

const Time start{seconds(1000)};

/// Planned 900 of 1000.
bool wants(const Marks& marks, lsaq::Bytes available, Time now = start) { return marks.should_replan({available, 900, 1000}, now); }

TEST(Marks, TooLittleIsPlannedForAtOnce) {
  Marks marks;
  EXPECT_TRUE(wants(marks, 899));
  EXPECT_FALSE(wants(marks, 900)) << "less than there was, but enough";
  marks.replanned(start);
  EXPECT_TRUE(wants(marks, 899, start + seconds(1))) << "no pause: the memory is another's";
}

TEST(Marks, MoreIsPlannedForWhenItIsMuchAndStays) {
  Marks marks({.low = 1, .high = 1.2, .pause = seconds(5)});
  EXPECT_FALSE(wants(marks, 1200));
  EXPECT_TRUE(wants(marks, 1201));
  marks.replanned(start);
  EXPECT_FALSE(wants(marks, 5000, start + seconds(4)));
  EXPECT_TRUE(wants(marks, 5000, start + seconds(5)));
}

TEST(Marks, FlickeringMemoryChangesNothing) {
  Marks marks;
  for (int second = 0; second < 100; ++second) EXPECT_FALSE(wants(marks, second % 2 == 0 ? 905 : 1099, start + seconds(second)));
}

TEST(Marks, ALowMarkAboveOneKeepsADistance) {
  const Marks marks({.low = 1.05});
  EXPECT_TRUE(wants(marks, 944));
  EXPECT_FALSE(wants(marks, 945));
}

} // namespace replan_policy_test
