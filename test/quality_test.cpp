// The models' quality and their text, against the figures of the oracle (golden/README.md).

#include <gtest/gtest.h>

#include <array>
#include <nlohmann/json.hpp>

#include "test/tool_run.h"

namespace fulgurite {
namespace {

struct Likelihood {
  std::string model;
  int window, windows;
  double mean;
  std::array<double, 3> first;  // windows
  double serving;               // how far its mean may be
};
const Likelihood kOfOracles[] = {{test::kTinyV32, 1024, 24, 3.20638, {3.638326, 3.328668, 3.226307}, 0.02},
                                 {test::kTinyGlm5, 384, 8, 4.4260, {4.244087, 4.872407, 4.445904}, 0.05},
                                 {test::kTinyV4, 768, 8, 3.73804, {4.081806, 3.794023, 3.801344}, 0.05}};

nlohmann::json evaluated(const Likelihood& of, const std::string& numerics) {
  const test::ToolRun run =
      test::run_tool(fmt::format("eval {} --text {}/golden/text/public.txt --window {} --windows {} --json "
                                 "--numerics {}",
                                 of.model, test::kSource, of.window, of.windows, numerics));
  EXPECT_EQ(run.exit_code, 0) << run.error;
  return nlohmann::json::parse(run.out);
}

TEST(quality, windows_have_the_likelihood_of_the_oracle) {
  for (const Likelihood& of : kOfOracles) {
    SCOPED_TRACE(of.model);
    const nlohmann::json json = evaluated(of, "fp32");
    EXPECT_NEAR(json["nll"].get<double>(), of.mean, 0.0003);
    for (size_t i = 0; i < of.first.size(); ++i)
      EXPECT_NEAR(json["windows"][i].get<double>(), of.first[i], 0.0003);
    EXPECT_EQ(json["windows"].size(), static_cast<size_t>(of.windows));
  }
}

// What fp8 operands, bf16 between operations and fp8 caches cost.
TEST(quality, serving_is_within_hundredths_of_the_oracle) {
  for (const Likelihood& of : kOfOracles) {
    SCOPED_TRACE(of.model);
    const nlohmann::json json = evaluated(of, "serving");
    EXPECT_NEAR(json["nll"].get<double>(), of.mean, of.serving);
    EXPECT_NE(json["nll"].get<double>(), evaluated(of, "fp32")["nll"].get<double>());
  }
}

TEST(quality, fp16_activations_are_within_hundredths_of_the_oracle) {
  for (const Likelihood& of : kOfOracles) {
    SCOPED_TRACE(of.model);
    const nlohmann::json json = evaluated(of, "serving --activation fp16");
    EXPECT_EQ(json["numerics"], "serving,activation=fp16");
    EXPECT_NEAR(json["nll"].get<double>(), of.mean, of.serving);
    EXPECT_NE(json["nll"].get<double>(), evaluated(of, "serving")["nll"].get<double>());
  }
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
