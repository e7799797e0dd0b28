// The model's quality and its text, against the figures of the oracle (golden/README.md).

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "test/tool_run.h"

namespace fulgurite {
namespace {

nlohmann::json evaluated(const std::string& numerics) {
  const test::ToolRun run =
      test::run_tool("eval " + test::kTinyV32 + " --text " + test::kSource +
                     "/golden/text/public.txt --windows 24 --json --numerics " + numerics);
  EXPECT_EQ(run.exit_code, 0) << run.error;
  return nlohmann::json::parse(run.out);
}

TEST(quality, twenty_four_windows_have_the_likelihood_of_the_oracle) {
  const nlohmann::json json = evaluated("fp32");
  EXPECT_NEAR(json["nll"].get<double>(), 3.20638, 0.0003);
  EXPECT_NEAR(json["windows"][0].get<double>(), 3.638326, 0.0003);
  EXPECT_NEAR(json["windows"][1].get<double>(), 3.328668, 0.0003);
  EXPECT_NEAR(json["windows"][2].get<double>(), 3.226307, 0.0003);
  EXPECT_EQ(json["windows"].size(), 24u);
}

// What fp8 operands, bf16 between operations and fp8 caches cost.
TEST(quality, serving_is_within_two_hundredths_of_the_oracle) {
  const nlohmann::json json = evaluated("serving");
  EXPECT_NEAR(json["nll"].get<double>(), 3.20638, 0.02);
  EXPECT_NE(json["nll"].get<double>(), evaluated("fp32")["nll"].get<double>());
}

TEST(quality, fp16_activations_are_within_two_hundredths_of_the_oracle) {
  const nlohmann::json json = evaluated("serving --activation fp16");
  EXPECT_EQ(json["numerics"], "serving,activation=fp16");
  EXPECT_NEAR(json["nll"].get<double>(), 3.20638, 0.02);
  EXPECT_NE(json["nll"].get<double>(), evaluated("serving")["nll"].get<double>());
}

TEST(quality, the_greedy_continuation_is_that_of_the_oracle) {
  const test::ToolRun run = test::run_tool("generate " + test::kTinyV32 +
                                           " --prompt 'The old man looked at the sea and said,' --greedy "
                                           "--max-new-tokens 60 --json --numerics fp32");
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

}  // namespace
}  // namespace fulgurite
