// What ran is what was planned: calls are counted for each row, and a session that runs anything else is
// found out.

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <regex>

#include "test/op_test.h"
#include "test/tool_run.h"
#include "tool/verify_plan.h"

namespace fulgurite {
namespace {

constexpr plan::Pass kTwoChunks{8, 2}, kToken{1, 1};

plan::Plan plan_of(const model::Model& model, const std::string& numerics = "serving",
                   plan::LogitRows logits = plan::LogitRows::kLast) {
  plan::Options options;
  options.numerics = parse_numerics(numerics);
  options.context = 64;
  options.chunk_tokens = 8;
  options.sequences = 2;
  options.logits = logits;
  return plan::make(model, test::device(1), options);
}

// A pass of 5 + 3 tokens of two sequences, then a token of the first one.
std::vector<plan::Pass> run(execute::Session& session) {
  const std::vector<int32_t> ids = test::golden_ids(0);
  const std::vector<execute::Chunk> chunks{{0, std::span(ids).first(5)}, {1, std::span(ids).first(3)}};
  session.forward(chunks);
  session.forward(0, std::span(ids).subspan(5, 1));
  return {kTwoChunks, kToken};
}

// What differs after that run, a line each.
std::vector<std::string> differences_of(const model::Model& model, const plan::Plan& plan) {
  execute::Session session(model, plan);
  const std::vector<plan::Pass> passes = run(session);
  std::vector<std::string> lines;
  for (const auto& difference : plan::compare_counts(session.plan(), passes, session.counts()))
    lines.push_back(describe(session.plan(), difference));
  return lines;
}

int64_t row_of(const plan::Plan& plan, int64_t layer, const std::string& operation) {
  const auto found = std::ranges::find_if(
      plan.rows, [&](const plan::Row& row) { return row.layer == layer && row.operation == operation; });
  EXPECT_NE(found, plan.rows.end()) << operation;
  return found - plan.rows.begin();
}

TEST(verify_plan, every_row_runs_as_often_as_predicted) {
  const test::TinyModel tiny;
  for (const char* const numerics : {"serving", "fp32", "fp32,mla=expanded"})
    for (const plan::LogitRows logits : {plan::LogitRows::kLast, plan::LogitRows::kAll})
      EXPECT_EQ(differences_of(tiny.model, plan_of(tiny.model, numerics, logits)), std::vector<std::string>{})
          << numerics;
}

TEST(verify_plan, a_prediction_is_a_call_a_pass_and_of_the_head_rows_of_logits) {
  const test::TinyModel tiny;
  const std::vector<plan::Pass> passes{kTwoChunks, kToken};
  for (const plan::LogitRows logits : {plan::LogitRows::kLast, plan::LogitRows::kAll}) {
    const plan::Plan plan = plan_of(tiny.model, "serving", logits);
    const std::vector<plan::RowCount> counts = plan::predicted_counts(plan, passes);
    ASSERT_EQ(counts.size(), plan.rows.size());
    const auto head = static_cast<size_t>(row_of(plan, model::kNoLayer, "linear head"));
    for (size_t i = 0; i < counts.size(); ++i) {
      EXPECT_EQ(counts[i].calls, 2) << plan.rows[i].operation;
      EXPECT_EQ(counts[i].tokens, i == head && logits == plan::LogitRows::kLast ? 2 + 1 : 8 + 1);
    }
  }
}

TEST(verify_plan, an_implementation_that_the_plan_did_not_choose_is_found_out) {
  const test::TinyModel tiny;
  plan::Plan plan = plan_of(tiny.model);
  plan.layers[1].attention->q_a.choices[0].implementation = &linear::kReference;
  EXPECT_EQ(
      differences_of(tiny.model, plan),
      (std::vector<std::string>{
          "layer 1 linear q_a: expected 2 calls of cpu_fp8 with 9 tokens, counted 0 calls with 0 tokens "
          "and 2 calls of reference, which the plan did not choose"}));
}

TEST(verify_plan, a_row_that_runs_too_often_and_one_that_never_runs_are_found_out) {
  const test::TinyModel tiny;
  plan::Plan plan = plan_of(tiny.model);
  plan.layers[2].attention->q_a = plan.layers[1].attention->q_a;  // the step of another layer, and of its row
  EXPECT_EQ(
      differences_of(tiny.model, plan),
      (std::vector<std::string>{"layer 1 linear q_a: expected 2 calls of cpu_fp8 with 9 tokens, counted 4 "
                                "calls with 18 tokens",
                                "layer 2 linear q_a: expected 2 calls of cpu_fp8 with 9 tokens, counted 0 "
                                "calls with 0 tokens"}));
}

TEST(verify_plan, a_row_runs_in_its_range_of_token_counts_alone) {
  const test::TinyModel tiny;
  plan::Plan plan = plan_of(tiny.model);
  auto& choices = plan.layers[1].attention->q_a.choices;
  plan::Row& few = plan.rows[static_cast<size_t>(choices[0].row)];
  few.last_token = choices[0].last_token = 4;
  plan::Row many = few;
  many.implementation = "reference";
  many.first_token = 5;
  many.last_token = INT64_MAX;
  choices.push_back({INT64_MAX, &linear::kReference, std::ssize(plan.rows)});
  plan.rows.push_back(many);
  EXPECT_EQ(differences_of(tiny.model, plan), std::vector<std::string>{});
  choices[0].last_token = 1000;
  EXPECT_EQ(differences_of(tiny.model, plan).size(), 2u) << "the first for all, against what its row says";
}

TEST(verify_plan, a_pass_that_nobody_announced_is_found_out) {
  const test::TinyModel tiny;
  execute::Session session(tiny.model, plan_of(tiny.model));
  std::vector<plan::Pass> passes = run(session);
  passes.pop_back();
  EXPECT_EQ(plan::compare_counts(session.plan(), passes, session.counts()).size(),
            session.plan().rows.size());
  session.reset_counts();
  EXPECT_TRUE(plan::compare_counts(session.plan(), {}, session.counts()).empty());
}

TEST(verify_plan, execute_calls_steps_and_never_an_implementation) {
  static const std::regex kImplementation("\\bk(Reference|Cpu\\w*|Cuda\\w*)\\b|implementation\\s*->");
  for (const auto& entry : std::filesystem::directory_iterator(test::kSource + "/fulgurite/execute")) {
    if (entry.path().filename().string().find("_test.") != std::string::npos) continue;
    std::ifstream file(entry.path());
    for (std::string line; std::getline(file, line);)
      EXPECT_FALSE(std::regex_search(line, kImplementation)) << entry.path() << ": " << line;
  }
}

TEST(verify_plan, what_differs_is_a_table_and_exit_code_one) {
  const test::TinyModel tiny;
  plan::Plan plan = plan_of(tiny.model);
  plan.layers[3].router->choices[0].implementation = &router::kReference;
  execute::Session session(tiny.model, plan);
  const std::vector<plan::Pass> passes = run(session);
  const tool::Verification wrong = tool::verify(session.plan(), passes, session.counts());
  EXPECT_EQ(wrong.exit_code(), 1);
  EXPECT_EQ(wrong.text,
            "verify-plan: 1 of 74 rows did not run as planned\n"
            "layer  operation  planned        expected        counted\n"
            "3      router     cpu_bf16  2 x, 9 tokens  0 x, 0 tokens\n"
            "    and 2 x through reference, which the plan did not choose\n");
  EXPECT_EQ(wrong.json["agrees"], false);
  const auto& row = wrong.json["rows"][static_cast<size_t>(row_of(plan, 3, "router"))];
  EXPECT_EQ(row["expected"]["calls"], 2);
  EXPECT_EQ(row["counted"]["calls"], 0);
  EXPECT_EQ(row["counted"]["unplanned"]["implementation"], "reference");
}

// The verbs, each in the way in which it brings its tokens.
TEST(verify_plan, generate_and_eval_agree_with_their_plan_and_say_so) {
  const std::string line = "verify-plan: all 74 rows ran as planned (";
  for (const std::string& arguments :
       {"generate " + test::kTinyV32 + " --prompt 'It was a dark night' --greedy --max-new-tokens 9",
        "eval " + test::kTinyV32 + " --text " + test::kSource +
            "/golden/text/public.txt --windows 2 --window 300"}) {
    const test::ToolRun plain = test::run_tool(arguments + " --verify-plan");
    EXPECT_EQ(plain.exit_code, 0) << plain.error;
    EXPECT_NE(plain.error.find(line), std::string::npos) << plain.error;
    const test::ToolRun json = test::run_tool(arguments + " --verify-plan --json");
    EXPECT_NE(json.error.find(line), std::string::npos) << json.error;
    const auto verified = nlohmann::json::parse(json.out)["verify_plan"];
    EXPECT_EQ(verified["agrees"], true);
    EXPECT_EQ(verified["rows"].size(), 74u);
    EXPECT_FALSE(nlohmann::json::parse(test::run_tool(arguments + " --json").out).contains("verify_plan"));
  }
}

// A hidden state injected from the middle of a chunk on splits the norm that reads it into two calls.
TEST(verify_plan, a_trace_agrees_also_where_it_injects) {
  const std::string ids = " --ids " + test::kGolden + ":seq0.input_ids", out = test::scratch_file("v.trace"),
                    again = test::scratch_file("v2.trace");
  const test::ToolRun first =
      test::run_tool("trace " + test::kTinyV32 + ids + " --out " + out + " --last 50 --verify-plan");
  EXPECT_EQ(first.exit_code, 0) << first.error;
  EXPECT_NE(first.error.find("verify-plan: all 74 rows ran as planned (passes: 1,"), std::string::npos)
      << first.error;
  const test::ToolRun injected = test::run_tool("trace " + test::kTinyV32 + ids + " --out " + again +
                                                " --chunk 100 --inject " + out + " --verify-plan");
  EXPECT_EQ(injected.exit_code, 0) << injected.error;
  EXPECT_NE(injected.error.find("all 74 rows ran as planned"), std::string::npos) << injected.error;
}

}  // namespace
}  // namespace fulgurite
