// The model's quality and its text, against the figures of the oracle (golden/README.md).

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "test/tool_run.h"

namespace fulgurite {
namespace {

TEST(quality, twenty_four_windows_have_the_likelihood_of_the_oracle) {
  const test::ToolRun run = test::run_tool("eval " + test::kTinyV32 + " --text " + test::kSource +
                                           "/golden/text/public.txt --windows 24 --json");
  ASSERT_EQ(run.exit_code, 0) << run.error;
  const auto json = nlohmann::json::parse(run.out);
  EXPECT_NEAR(json["nll"].get<double>(), 3.20638, 0.0003);
  EXPECT_NEAR(json["windows"][0].get<double>(), 3.638326, 0.0003);
  EXPECT_NEAR(json["windows"][1].get<double>(), 3.328668, 0.0003);
  EXPECT_NEAR(json["windows"][2].get<double>(), 3.226307, 0.0003);
  EXPECT_EQ(json["windows"].size(), 24u);
}

TEST(quality, the_greedy_continuation_is_that_of_the_oracle) {
  const test::ToolRun run = test::run_tool(
      "generate " + test::kTinyV32 +
      " --prompt 'The old man looked at the sea and said,' --greedy --max-new-tokens 60 --json");
  ASSERT_EQ(run.exit_code, 0) << run.error;
  const auto json = nlohmann::json::parse(run.out);
  EXPECT_EQ(json["prompt_ids"].get<std::vector<int>>(),
            (std::vector<int>{0, 564, 716, 435, 1011, 364, 262, 1626, 281, 444, 13}));
  EXPECT_EQ(
      json["ids"].get<std::vector<int>>(),
      (std::vector<int>{404, 56,  467,  13,  503,  422,  335, 709,  700, 564, 312, 456,  262,  1209, 280,
                        262, 716, 435,  387, 1370, 15,   512, 2041, 340, 260, 264, 864,  13,   281,  260,
                        637, 342, 1370, 328, 1047, 1783, 13,  404,  564, 716, 435, 387,  1370, 328,  260,
                        588, 860, 445,  692, 84,   321,  335, 13,   545, 15,  494, 1595, 1493, 890,  1067}));
}

TEST(memory, anonymous_memory_is_what_the_plan_says_and_sixteen_megabytes) {
  const test::ToolRun run =
      test::run_tool("generate " + test::kTinyV32 +
                     " --prompt 'It was' --context 2048 --max-new-tokens 300 --temperature 1 --json");
  ASSERT_EQ(run.exit_code, 0) << run.error;
  const auto json = nlohmann::json::parse(run.out);
  const auto planned = json["planned_bytes"].get<int64_t>(),
             resident = json["anonymous_resident_bytes"].get<int64_t>();
  EXPECT_GT(resident, 0);
  EXPECT_LE(resident, planned + 16'000'000);
  // A copy of the weights would show.
  const test::ToolRun small = test::run_tool("generate " + test::kTinyV32 +
                                             " --prompt 'It was' --context 16 --max-new-tokens 8 --json");
  const auto small_json = nlohmann::json::parse(small.out);
  EXPECT_LE(small_json["anonymous_resident_bytes"].get<int64_t>(),
            small_json["planned_bytes"].get<int64_t>() + 12'000'000);
}

}  // namespace
}  // namespace fulgurite
