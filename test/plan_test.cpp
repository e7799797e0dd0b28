// `fulgurite plan` for any target: the recorded plans of published models, and the command's own line.

#include <gtest/gtest.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "test/tool_run.h"

namespace fulgurite {
namespace {

const std::string kConfigs = test::kSource + "/models/configs/";
const std::string kLarge = kConfigs + "deepseek-v3.2.json";

// Paths as they are where the plans were recorded.
std::string from_the_root(std::string text) {
  const std::string root = test::kSource + "/";
  for (size_t at = text.find(root); at != std::string::npos; at = text.find(root))
    text.erase(at, root.size());
  return text;
}

void expect_recorded_plans(const std::string& config) {
  for (const std::string target : {"cpu", "sm80", "sm90", "sm100", "sm120"})
    for (const std::string activation : {"bf16", "fp16"}) {
      const test::ToolRun run = test::run_tool("plan " + kConfigs + config + ".json --config-only --target " +
                                               target + " --activation " + activation);
      const std::string file =
          test::kSource + "/golden/plans/" + config + "/" + target + "-" + activation + ".txt";
      EXPECT_EQ(from_the_root(run.out + run.error), checkpoint::MappedFile(file).text())
          << "golden/plans/record rewrites them; review what moved";
    }
}

TEST(golden_plans, of_the_671b_configuration_are_as_recorded) { expect_recorded_plans("deepseek-v3.2"); }

TEST(golden_plans, of_glm_5_are_as_recorded) { expect_recorded_plans("glm-5"); }

TEST(plan_verb, on_hopper_no_operation_of_a_real_configuration_is_left_to_a_generic_row) {
  for (const std::string config :
       {"deepseek-v3.2", "glm-5", "glm-5.2", "deepseek-v4-flash", "deepseek-v4-pro"}) {
    const test::ToolRun run = test::run_tool("plan " + kConfigs + config +
                                             ".json --config-only --context 32768 --json --target sm90");
    ASSERT_EQ(run.exit_code, 0) << run.error;
    const auto plan = nlohmann::json::parse(run.out);
    for (const auto& row : plan["rows"])
      EXPECT_NE(row["implementation"], "cuda") << config << ", " << row["operation"];
  }
}

// Of 78 layers 21 have an indexer; the others have no index keys.
TEST(plan_verb, glm_5_2_shares_selections_and_their_cache) {
  for (const std::string target : {"cpu", "sm80", "sm90", "sm100", "sm120"}) {
    const test::ToolRun run = test::run_tool(
        "plan " + kConfigs + "glm-5.2.json --config-only --context 1000 " + "--json --target " + target);
    ASSERT_EQ(run.exit_code, 0) << run.error;
    const auto json = nlohmann::json::parse(run.out);
    EXPECT_EQ(json["family"], "glm_moe_dsa");
    EXPECT_EQ(json["bytes"]["index_cache_layers"], 21);
    const bool pages = target != "cpu";  // 16 of 64 tokens
    EXPECT_EQ(json["bytes"]["index_cache"],
              21 * (pages ? 1024 * 132 : 1000 * 128 + 4032));  // scales fill whole 64 bytes
    EXPECT_EQ(json["bytes"]["latent_cache"], 78 * (pages ? 1024 : 1000) * 656);
    EXPECT_EQ(
        std::ranges::count_if(json["rows"], [](const auto& r) { return r["operation"] == "index_select"; }),
        21);
  }
}

TEST(plan_verb, config_only_takes_the_directory_or_the_file) {
  const std::string options = " --config-only --target sm90 --json";
  const test::ToolRun directory = test::run_tool("plan " + test::kTinyV32 + options);
  const test::ToolRun file = test::run_tool("plan " + test::kTinyV32 + "/config.json" + options);
  EXPECT_EQ(directory.exit_code, 0) << directory.error;
  EXPECT_EQ(directory.out, file.out);
  EXPECT_EQ(test::run_tool("plan " + test::kSource + options).exit_code, 1) << "no config.json";
}

TEST(plan_verb, json_says_what_the_text_says) {
  const test::ToolRun run = test::run_tool("plan " + kLarge +
                                           " --config-only --target sm100 --require linear:cuda_fp8 "
                                           "--forbid 'linear head:cuda' --json");
  EXPECT_EQ(run.exit_code, 1) << "the head is no fp8 linear";
  const test::ToolRun planned = test::run_tool("plan " + kLarge +
                                               " --config-only --target sm100 --require 'linear o:cuda_fp8' "
                                               "--forbid 'linear q_a:cuda_fp8' --json");
  ASSERT_EQ(planned.exit_code, 0) << planned.error;
  const auto json = nlohmann::json::parse(planned.out);
  EXPECT_EQ(json["device"]["target"], "sm100");
  EXPECT_EQ(json["device"]["sm"], 100);
  EXPECT_EQ(json["device"]["cublaslt"], 0);
  EXPECT_EQ(json["device"]["present"], false);
  EXPECT_EQ(json["demands"], nlohmann::json({"require linear o:cuda_fp8", "forbid linear q_a:cuda_fp8"}));
  const auto row = [&](const std::string& operation) {
    return *std::ranges::find_if(json["rows"], [&](const auto& r) { return r["operation"] == operation; });
  };
  EXPECT_EQ(row("linear o")["implementation"], "cuda_fp8");
  EXPECT_EQ(row("linear o")["kernel"], false);
  EXPECT_EQ(row("linear o")["scales"], "requantized to powers of two, e8m0 packed in int32");
  EXPECT_EQ(row("linear q_a")["refused"][0], "cuda_fp8: forbidden");
  EXPECT_EQ(row("linear q_a")["scales"], "as stored");
  EXPECT_GT(json["bytes"]["requantized"], 0);
}

TEST(plan_verb, activation_is_short_for_the_knob) {
  const std::string plan = "plan " + kLarge + " --config-only --target sm90 --json ";
  const auto numerics = [&](const std::string& options) {
    return nlohmann::json::parse(test::run_tool(plan + options).out)["numerics"];
  };
  EXPECT_EQ(numerics("--activation fp16"), numerics("--numerics serving,activation=fp16"));
  EXPECT_EQ(numerics("--activation fp16")["activation"], "fp16");
}

TEST(plan_verb, what_is_wrong_on_the_line_is_a_usage_error) {
  const auto refusal = [](const std::string& options) {
    const test::ToolRun run = test::run_tool("plan " + kLarge + " --config-only " + options);
    EXPECT_EQ(run.exit_code, 2) << options << run.error;
    EXPECT_EQ(std::ranges::count(run.error, '\n'), 1) << run.error;
    return run.error;
  };
  EXPECT_EQ(refusal("--target sm70"),
            "fulgurite: --target: no target \"sm70\"; there are cpu, sm80, sm90, sm100, sm120\n");
  EXPECT_EQ(
      refusal("--require router:fast"),
      "fulgurite: --require: router has no implementation \"fast\"; there are cpu_bf16, cpu, reference, "
      "cuda_hopper, cuda\n");
  EXPECT_NE(refusal("--forbid rooter:cpu").find("no operation \"rooter\"; there are embedding, norm"),
            std::string::npos);
  refusal("--activation int8");
  EXPECT_NE(
      refusal("--numerics serving,activation=bf16 --activation fp16").find("contradicts activation=bf16"),
      std::string::npos);
}

TEST(plan_verb, demands_hold_in_every_verb_that_runs_a_model) {
  const std::string demand = " --require 'linear head:cpu_fp8'";
  for (const std::string& verb :
       {"generate " + test::kTinyV32 + " --prompt a",
        "eval " + test::kTinyV32 + " --text " + test::kSource + "/golden/text/public.txt --windows 1",
        "trace " + test::kTinyV32 + " --ids " + test::kGolden + ":seq0.input_ids --out " +
            test::scratch_file("demanded.safetensors").string()}) {
    const test::ToolRun run = test::run_tool(verb + demand);
    EXPECT_EQ(run.exit_code, 1) << verb;
    EXPECT_NE(run.error.find("linear head: no implementation takes it (cpu_fp8: weight in bf16"),
              std::string::npos)
        << run.error;
  }
}

}  // namespace
}  // namespace fulgurite
