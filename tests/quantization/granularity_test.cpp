#include <lsaq/quantization/granularity.hpp>

#include <gtest/gtest.h>

namespace granularity_test {

static_assert(lsaq::granularity_policy<lsaq::PerChannel>);
static_assert(!lsaq::granularity_policy<int>);

TEST(Granularity, HasTheNameTheCommandTakes) { EXPECT_EQ(lsaq::PerChannel::name, "channel"); }

} // namespace granularity_test
