// What the tests of `lsaq plan` share.
#pragma once

#include "command_runner.hpp"

namespace command_tests {

class Plans : public Command {
protected:
  /// A plan for a shape or model without measuring: layers are equally important.
  std::vector<std::string> with_scores(std::vector<std::string> arguments, std::size_t layers) const {
    arguments.insert(arguments.begin(), "plan");
    arguments.insert(arguments.end(), {"--importance", scores(std::vector<double>(layers, 0.5))});
    return arguments;
  }
  std::string scores(const std::vector<double>& values) const {
    return write("scores.json", json{{"schema", "lsaq.importance/1"}, {"metric", "made up"}, {"scores", values}}.dump());
  }
};

/// A plan as docs/formats.md says it is, whose bytes add up and fit.
inline void expect_consistent(const json& plan) {
  EXPECT_EQ(plan.value("schema", ""), "lsaq.plan/1");
  for (const char* key : {"bits", "model", "average_bits", "rounding", "granularity", "scale", "context", "kv_bits", "format", "planner"})
    EXPECT_TRUE(plan.contains(key)) << key;
  EXPECT_EQ(bytes_of(plan, "total"),
            bytes_of(plan, "weights") + bytes_of(plan, "embedding") + bytes_of(plan, "kv_cache") + bytes_of(plan, "activations") + bytes_of(plan, "reserve"));
  EXPECT_LE(bytes_of(plan, "total"), bytes_of(plan, "memory"));
}

} // namespace command_tests
