// What the command refuses of its own line: exit code 2, one short line that names what may stand there, and
// nothing is read, measured or written before.

#include <gtest/gtest.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "test/tool_run.h"

namespace fulgurite {
namespace {

// The line, after "fulgurite: ".
std::string refusal(const std::string& arguments) {
  const test::ToolRun run = test::run_tool(arguments);
  EXPECT_EQ(run.exit_code, 2) << arguments << run.error;
  EXPECT_EQ(run.out, "") << arguments;
  EXPECT_EQ(std::ranges::count(run.error, '\n'), 1) << arguments << run.error;
  EXPECT_LT(run.error.size(), 700u) << arguments;
  EXPECT_TRUE(run.error.starts_with("fulgurite: ")) << arguments << run.error;
  return run.error.substr(std::min<size_t>(11, run.error.size()));
}

const std::string kGenerate = "generate " + test::kTinyV32 + " --prompt a ";
const std::string kTinyBench = "bench --shape tiny-v32 ";

TEST(usage, errors_have_exit_code_two) {
  for (const char* const arguments : {"",
                                      "explode",
                                      "generate",
                                      "plan",
                                      "eval x",
                                      "compare a",
                                      "plan x --context many",
                                      "generate x --prompt a --prompt-file b",
                                      "generate x",
                                      "trace x --ids a:b",
                                      "audit x",
                                      "audit x --text t --context 1",
                                      "audit x --text t --judged 0",
                                      "audit x --text t --what-if ''",
                                      "bisect x",
                                      "bisect x --dump d --profile none",
                                      "bisect x --dump d --profile vllm --numerics fp32",
                                      "bisect x --dump d --text t --ids a:b",
                                      "plan x --context -1",
                                      "plan x --batch 0",
                                      "plan x --context ''",
                                      "trace x --ids a:b --out c --inject-only topk",
                                      "synth c --out d",
                                      "bench --nonsense",
                                      "convert x",
                                      "convert x y",
                                      "convert x y --form int4",
                                      "convert x y --form bf16 --shard-size 0"})
    refusal(arguments);
  for (const char* const verb : {"", "generate", "eval", "inspect", "plan", "trace", "compare", "audit",
                                 "bisect", "synth", "bench", "convert"})
    EXPECT_EQ(test::run_tool(std::string(verb) + " --help").exit_code, 0) << verb;
}

TEST(usage, a_verb_that_is_none_is_named) {
  EXPECT_EQ(
      refusal("foo"),
      "no verb \"foo\"; there are generate, eval, inspect, plan, trace, compare, audit, bisect, convert, "
      "synth, bench\n");
  EXPECT_NE(refusal("$'\\x1b[2J'").find("\\x1b[2J"), std::string::npos);
}

TEST(usage, an_integer_is_decimal_digits) {
  for (const char* const bad : {"0x3", "3.0", "+3", "' 3'", "3x", "''", "-1", "99999999999999999999"}) {
    EXPECT_NE(refusal(kGenerate + "--max-new-tokens " + bad).find("expected a whole number from 1 to"),
              std::string::npos)
        << bad;
    EXPECT_NE(refusal(kTinyBench + "norm --tokens " + bad).find("expected"), std::string::npos) << bad;
    EXPECT_NE(refusal(kTinyBench + "norm --threads " + bad).find("expected"), std::string::npos) << bad;
  }
  const test::ToolRun ten = test::run_tool(kGenerate + "--json --greedy --threads 01 --max-new-tokens 010");
  ASSERT_EQ(ten.exit_code, 0) << ten.error;
  EXPECT_EQ(nlohmann::json::parse(ten.out)["ids"].size(), 10u);
}

TEST(usage, a_seed_is_any_uint64_and_nothing_else) {
  const std::string expected = "--seed: expected a whole number from 0 to 18446744073709551615, found ";
  const std::string synth = "synth c --layers 1 --out d ";
  for (const std::string bad : {"-1", "18446744073709551616", "x", "0x1"}) {
    EXPECT_EQ(refusal(kGenerate + "--seed " + bad), expected + '"' + bad + "\"\n");
    EXPECT_EQ(refusal(synth + "--seed " + bad), expected + '"' + bad + "\"\n");
  }
  EXPECT_EQ(test::run_tool(kGenerate + "--max-new-tokens 1 --seed 18446744073709551615").exit_code, 0);
}

TEST(usage, a_number_is_in_its_range_and_no_nan) {
  for (const std::string bad : {"nan", "inf", "-1", "x", "1e999"}) {
    EXPECT_EQ(refusal(kGenerate + "--temperature " + bad),
              "--temperature: expected a number in [0, 100], found \"" + bad + "\"\n");
    EXPECT_EQ(refusal(kGenerate + "--top-p " + bad),
              "--top-p: expected a number in (0, 1], found \"" + bad + "\"\n");
    EXPECT_EQ(refusal("compare a b --tolerance " + bad),
              "--tolerance: expected a number in [0, 1e+300], found \"" + bad + "\"\n");
    EXPECT_EQ(refusal(kTinyBench + "--seconds " + bad),
              "--seconds: expected a number in [0, 3600], found \"" + bad + "\"\n");
  }
  EXPECT_NE(refusal(kGenerate + "--top-p 0").find("(0, 1]"), std::string::npos);
}

TEST(usage, threads_have_one_maximum) {
  for (const std::string& verb : {kGenerate, std::string("plan x "), std::string("eval x --text y "),
                                  std::string("synth c --layers 1 --out d ")})
    EXPECT_EQ(refusal(verb + "--threads 1025"),
              "--threads: expected a whole number from 0 to 1024, found \"1025\"\n");
  EXPECT_EQ(refusal(kTinyBench + "--threads 1025"),
            "threads: expected all or a number from 1 to 1024, found \"1025\"\n");
}

TEST(usage, more_threads_than_processors_are_worth_a_line) {
  const int threads = cpu::machine().threads;
  const std::string plan = "plan " + test::kTinyV32 + " --threads ";
  EXPECT_EQ(test::run_tool(plan + fmt::format("{}", threads)).error, "");
  EXPECT_EQ(test::run_tool(plan + fmt::format("{}", threads + 1)).error,
            fmt::format("{} threads on {} processor(s): more threads than processors only wait for each "
                        "other\n",
                        threads + 1, threads));
}

TEST(usage, numerics_are_refused_before_anything_is_read) {
  for (const std::string& verb : {std::string("plan /no/such/model "), std::string("eval /no --text /no "),
                                  std::string("generate /no --prompt x "), kTinyBench}) {
    EXPECT_NE(refusal(verb + "--numerics exact").find("fp32 or serving, found \"exact\""), std::string::npos);
    refusal(verb + "--numerics ''");
    EXPECT_NE(refusal(verb + "--numerics serving,mla=x").find("mla: expected one of absorbed, expanded"),
              std::string::npos);
    EXPECT_NE(refusal(verb + "--numerics fp32,ties=lower,ties=higher").find("ties stands twice"),
              std::string::npos);
  }
}

TEST(usage, ids_name_a_file_and_a_tensor) {
  for (const std::string bad : {"nonsense", "file:", ":tensor", ""})
    EXPECT_EQ(refusal("trace /no/such/model --out x --ids '" + bad + "'"),
              "--ids: expected FILE.safetensors:TENSOR, found \"" + bad + "\"\n");
}

TEST(usage, a_synthesis_has_no_more_dense_layers_than_layers) {
  EXPECT_EQ(refusal("synth /no/config.json --layers 2 --dense 3 --out d"),
            "--dense: expected at most the 2 of --layers, found 3\n");
  EXPECT_EQ(refusal("synth c --layers 1 --out ''"), "--out: expected a value, found none\n");
}

TEST(usage, operations_that_are_not_knobs_work_run_by_reference_and_are_named) {
  const std::string run = "--greedy --max-new-tokens 1 --numerics ";
  EXPECT_EQ(test::run_tool(kGenerate + run + "serving").error.find("by reference"), std::string::npos);
  const test::ToolRun slow = test::run_tool(kGenerate + run + "serving,softmax_merge=independent");
  EXPECT_EQ(slow.exit_code, 0);
  EXPECT_NE(slow.error.find("runs by reference, slowly: sparse_attention (`fulgurite plan` says why)\n"),
            std::string::npos)
      << slow.error;
  const test::ToolRun wanted = test::run_tool(kGenerate + run + "serving --references");
  EXPECT_EQ(wanted.error.find("by reference"), std::string::npos);
}

// --- bench: before the limits are measured, which takes seconds ---

TEST(usage, bench_names_what_there_is) {
  EXPECT_EQ(refusal("bench --shape v4"),
            "shape: expected v32-671b or glm5 or v4-flash or v4-pro or tiny-v32 or tiny-v4, found \"v4\"\n");
  EXPECT_NE(refusal("bench conv").find("conv: no such operation; there are linear, head_projection, "),
            std::string::npos);
  EXPECT_NE(refusal("bench linear.conv").find("there are linear.q_a, linear.q_b, "), std::string::npos);
  EXPECT_EQ(refusal(kTinyBench + "index_select.131072"),
            "index_select.131072: no such case in shape tiny-v32; there are index_select.512, "
            "index_select.2048\n");
  EXPECT_EQ(refusal("bench rotary --shape tiny-v4"), "rotary: shape tiny-v4 has no such operation\n");
  EXPECT_NE(refusal("bench --isa sse9").find("isa: expected portable or "), std::string::npos);
  EXPECT_EQ(refusal(kTinyBench + "norm --impl magic"),
            "norm has no implementation \"magic\"; it has cpu, reference, cuda_hopper, cuda\n");
  EXPECT_NE(refusal("bench --threads two").find("threads: expected all or a number from 1 to 1024"),
            std::string::npos);
}

TEST(usage, bench_says_why_a_case_that_exists_is_not_there) {
  EXPECT_EQ(refusal(kTinyBench + "index_select.512 --tokens 513"),
            "index_select.512: no case of 513 tokens, which is more than its context in shape tiny-v32\n");
  EXPECT_EQ(refusal(kTinyBench + "expanded_attention"),
            "expanded_attention: a plan has it where mla=expanded, here mla=absorbed\n");
  EXPECT_EQ(refusal(kTinyBench + "sparse_attention --tokens 4 --numerics fp32,mla=expanded"),
            "sparse_attention: a plan has it where mla=absorbed, here mla=expanded\n");
}

TEST(usage, bench_tokens_are_a_list_without_gaps_or_repeats) {
  for (const std::string bad : {"1,,8", "1,", ",1", "1,x", "0"})
    EXPECT_NE(refusal(kTinyBench + "norm --tokens " + bad).find("tokens: expected a whole number from 1"),
              std::string::npos)
        << bad;
  EXPECT_EQ(refusal(kTinyBench + "norm --tokens 1,8,01"), "tokens: 1 stands twice\n");
}

}  // namespace
}  // namespace fulgurite
