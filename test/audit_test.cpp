// The audit on a whole model: a right plan passes, what is wrong is named, and it changes nothing by looking.

#include "fulgurite/audit/audit.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "fulgurite/audit/what_if.h"
#include "fulgurite/core/element.h"
#include "test/op_test.h"
#include "test/tiny_model.h"
#include "test/tool_run.h"

namespace fulgurite {
namespace {

constexpr int64_t kTokens = 144;  // more than index_topk, and two passes

std::vector<int32_t> ids(int64_t count = kTokens + 1) {
  std::vector<int32_t> ids = test::golden_ids(0);
  ids.resize(static_cast<size_t>(count));
  return ids;
}

plan::Plan audit_plan(const model::Model& model, const std::string& numerics, plan::Candidates candidates,
                      int threads = 2) {
  plan::Options options;
  options.numerics = parse_numerics(numerics);
  options.candidates = candidates;
  return plan::make(model, test::device(threads), audit::audit_options(options, kTokens));
}

const audit::OperationResult& result_of(const std::vector<audit::OperationResult>& results, int64_t layer,
                                        const std::string& operation) {
  return *std::ranges::find_if(results, [&](const audit::OperationResult& result) {
    return result.layer == layer && result.operation == operation;
  });
}

TEST(audit, a_right_plan_is_within_its_bounds_and_every_row_was_judged) {
  const test::TinyModel tiny;
  std::vector<double> progress;
  const audit::AuditReport report = audit::run_audit(tiny.model, test::device(2), {}, ids(), {2, true},
                                                     [&](double share) { progress.push_back(share); });
  EXPECT_EQ(report.whole.likelihood.tokens, kTokens);
  for (const audit::OperationResult& op : report.operations) {
    EXPECT_TRUE(op.within()) << op.layer << " " << op.operation;
    EXPECT_NE(op.implementation, "reference") << op.operation;
    EXPECT_FALSE(op.judged.empty()) << op.operation;
    EXPECT_EQ(op.judged_tokens, 4) << op.operation;
    for (const audit::OutputStatistics& output : op.outputs)
      EXPECT_EQ(output.statistics.rows, kTokens) << op.operation << " " << output.name;
  }
  for (const audit::Gate& gate : report.gates) EXPECT_TRUE(gate.within()) << gate.name << " " << gate.value;
  EXPECT_EQ(report.gates.size(), 2u);
  EXPECT_TRUE(std::ranges::is_sorted(progress));
  EXPECT_EQ(progress.back(), 1.0);
}

// A kernel that is wrong in one value of one token: of o in layer 1, the first token of every call.
void run_wrong(const linear::Problem& problem, const linear::Args& args, const Lane& lane) {
  linear::kCpuFp8.run(problem, args, lane);
  const int64_t t = args.y.extent[0] - 1;
  store(args.y, load(args.y, t, 5) * 1.5f + 0.25f, t, 5);
}
constexpr linear::Implementation kWrong{"wrong", nullptr, no_workspace<linear::Problem>, run_wrong};

TEST(audit, a_wrong_value_is_reported_where_it_arose_and_nowhere_else) {
  const test::TinyModel tiny;
  const plan::Plan planned = audit_plan(tiny.model, "serving", plan::Candidates::kAll),
                   references = audit_plan(tiny.model, "serving", plan::Candidates::kReferencesOnly);
  audit::OperationAudit operations(planned, references, 2);
  const auto wrong = std::ranges::find_if(
      planned.rows, [](const plan::Row& row) { return row.layer == 1 && row.operation == "linear o"; });
  ASSERT_EQ(wrong->implementation, "cpu_fp8");
  operations.stand_in(wrong - planned.rows.begin(), kWrong);
  audit::compare_plans(tiny.model, planned, references, ids(), &operations);
  for (const audit::OperationResult& op : operations.results())
    EXPECT_EQ(op.within(), !(op.layer == 1 && op.operation == "linear o")) << op.layer << " " << op.operation;
  const audit::OperationResult& found = result_of(operations.results(), 1, "linear o");
  EXPECT_EQ(found.judged.front().beyond, 2) << "one of each pass";
  EXPECT_GT(found.worst_share(), 1.0);
  EXPECT_EQ(found.outputs.front().statistics.largest_column, 5);
  EXPECT_TRUE(found.outputs.front().statistics.largest_row == 127 ||
              found.outputs.front().statistics.largest_row == kTokens - 1);
}

TEST(audit, conducting_changes_no_bit_on_any_number_of_threads) {
  const test::TinyModel tiny;
  const std::vector<int32_t> text = ids(40);
  std::vector<float> expected;
  for (const int threads : {1, 3}) {
    const plan::Plan planned = audit_plan(tiny.model, "serving", plan::Candidates::kAll, threads),
                     references =
                         audit_plan(tiny.model, "serving", plan::Candidates::kReferencesOnly, threads);
    execute::Session session(tiny.model, references);
    if (expected.empty()) {
      const View<const float, 2> plain = session.forward(0, text);
      expected.assign(plain.data, plain.data + plain.size());
      session.reset(0);
    }
    audit::OperationAudit operations(planned, references, 1);
    const View<const float, 2> conducted = session.forward(0, text, nullptr, &operations);
    EXPECT_TRUE(std::ranges::equal(expected, std::span(conducted.data, expected.size()))) << threads;
  }
}

TEST(audit, gates_take_no_nan) {
  audit::AuditReport report;
  report.gates = {{"kl", NAN, 1.0, 4.0}};
  EXPECT_FALSE(report.within());
  report.gates = {{"kl", 4.0, 1.0, 4.0}};
  EXPECT_TRUE(report.within());
  report.whole.likelihood.not_finite = 1;
  EXPECT_FALSE(report.within());
}

TEST(what_if, knobs_take_the_place_of_the_bases_own) {
  const Numerics base = parse_numerics("serving,gate=bf16,softmax_tile=128");
  EXPECT_EQ(audit::changed(base, "softmax_tile=none"), parse_numerics("serving,gate=bf16,softmax_tile=none"));
  EXPECT_EQ(audit::changed(base, "gate=fp32,ties=higher"),
            parse_numerics("serving,softmax_tile=128,ties=higher"));
  EXPECT_NE(test::message_of([&] { audit::changed(base, "gates=bf16"); }), "");
}

TEST(what_if, every_known_choice_is_a_value_of_knobs_and_has_a_source) {
  for (const audit::KnownChoice& choice : audit::known_choices()) {
    EXPECT_FALSE(choice.source.empty()) << choice.what;
    if (!choice.knobs.empty()) audit::changed(Numerics::serving(), choice.knobs);
  }
  for (const char* const asked : {"gate=bf16",
                                  "gate_weight=fp8",
                                  "rsqrt=error:1e-4",
                                  "rsqrt=two_step",
                                  "rsqrt=x86_12",
                                  "softmax_tile=128",
                                  "softmax_merge=independent",
                                  "softmax_denominator=rounded",
                                  "softmax_p=fp32",
                                  "index_scale=fp32",
                                  "index_quant=fp4",
                                  "index_quant=none",
                                  "hadamard=none",
                                  "hadamard=q",
                                  "indexer_rope=interleaved",
                                  "indexer_rope=half_split",
                                  "index_norm=bf16",
                                  "index_norm_eps=1e-5",
                                  "activation_quant=none",
                                  "activation_scale=fp32",
                                  "activation_scale=pow2",
                                  "scale_form=divided",
                                  "ties=higher"})
    EXPECT_NE(audit::source_of(asked), "") << asked;
  EXPECT_EQ(audit::source_of("gate=bf16").substr(0, 6), "sglang");
  EXPECT_EQ(audit::source_of(""), "");
}

TEST(what_if, tells_what_is_measurable_from_what_is_not) {
  const test::TinyModel tiny;
  const audit::WhatIfAudit audit(tiny.model, test::device(2), {}, ids());
  const audit::WhatIf same = audit.run({"nothing", "indexer_rope=half_split", ""});  // the family's own
  EXPECT_EQ(same.refusal, "");
  EXPECT_FALSE(same.measurable);
  EXPECT_EQ(same.effect.kl.largest, 0.0);
  EXPECT_EQ(same.effect.changed_sets.mean(), 0.0);
  EXPECT_EQ(same.effect.recall.mean(), 1.0);
  const audit::WhatIf rope = audit.run({"RoPE", "indexer_rope=interleaved", ""});
  EXPECT_TRUE(rope.measurable);
  EXPECT_GT(rope.effect.changed_sets.mean(), 0.5);
  EXPECT_LT(rope.effect.recall.mean(), 1.0);
  EXPECT_EQ(audit.run({"none", "", ""}).refusal, "no knob says it");
  EXPECT_NE(audit.run({"none", "rsqrt=cuda", ""}).refusal, "");
}

// Its index keys are rows that tokens share: looking at them reads codes and a scale.
TEST(what_if, deepseek_v4_has_its_index_keys_and_gate_in_fp8_too) {
  const test::TinyModel tiny(test::kTinyV4);
  const audit::WhatIfAudit audit(tiny.model, test::device(2), {}, ids(160));
  for (const char* const knobs : {"index_quant=fp8,index_scale=fp32,scale_form=divided", "gate_weight=fp8"}) {
    const audit::WhatIf result = audit.run({"", knobs, ""});
    EXPECT_EQ(result.refusal, "");
    EXPECT_GT(result.effect.changed_sets.mean(), 0.0) << knobs;
    EXPECT_EQ(result.effect.recall.count, result.effect.changed_sets.count);
    EXPECT_GT(result.effect.recall.mean(), 0.5) << knobs;
    EXPECT_LT(result.effect.recall.mean(), 1.0) << knobs;
  }
}

// What --json and --html wrote of the same run.
struct Written {
  test::ToolRun run;
  nlohmann::json json;
  std::string html;
};
Written audit_of(const std::string& arguments) {
  const std::string json = test::scratch_file("audit.json"), html = test::scratch_file("audit.html");
  Written written{test::run_tool("audit " + arguments + " --text " + test::kSource +
                                 "/golden/text/public.txt --json " + json + " --html " + html),
                  {},
                  {}};
  written.json = nlohmann::json::parse(checkpoint::MappedFile(json).text());
  written.html = checkpoint::MappedFile(html).text();
  return written;
}

// The page's own numbers.
nlohmann::json numbers_of(const std::string& html) {
  const std::string begin = "<script type=\"application/json\" id=\"report\">";
  const size_t first = html.find(begin) + begin.size();
  return nlohmann::json::parse(html.substr(first, html.find("</script>", first) - first));
}

void expect_self_contained(const std::string& html) {
  EXPECT_LT(html.size(), 500'000u);
  EXPECT_NE(html.find("Chart.js v"), std::string::npos);
  EXPECT_EQ(html.find("@PAGE"), std::string::npos);
  for (const char* const reads : {" src=", " href=", ":url(", " url(", "@import", "fetch(", "XMLHttpRequest"})
    EXPECT_EQ(html.find(reads), std::string::npos) << reads;
}

TEST(audit_tool, prints_a_page_and_writes_everything) {
  const Written written = audit_of(test::kTinyV32 + " --context 40 --judged 1");
  EXPECT_EQ(written.run.exit_code, 0) << written.run.error << written.run.out;
  EXPECT_NE(written.run.out.find("audit: within"), std::string::npos) << written.run.out;
  EXPECT_GT(written.json["operations"].size(), 40u);
  EXPECT_EQ(written.json["plan"].size(), written.json["operations"].size());
  EXPECT_EQ(written.json["knobs"]["softmax_tile"], "64");
  EXPECT_EQ(written.json["whole"]["tokens"], 40);
  EXPECT_TRUE(written.json["within"]);
}

TEST(audit_tool, writes_a_page_of_the_same_numbers_that_needs_nothing_else) {
  const Written written = audit_of(test::kTinyGlm5 + " --context 80 --judged 1");
  EXPECT_EQ(written.run.exit_code, 0) << written.run.error << written.run.out;
  expect_self_contained(written.html);
  nlohmann::json expected = written.json;
  ASSERT_EQ(expected["whole"]["layers"].size(), 4u);
  for (nlohmann::json& layer : expected["whole"]["layers"]) {
    if (!layer.contains("selection")) continue;
    nlohmann::json& selection = layer["selection"];
    EXPECT_EQ(selection["open"], 80 - 64);
    EXPECT_EQ(selection["each_margin"].size(), 80u - 64u);
    for (const char* const histogram : {"margins", "overlaps"}) {
      int64_t queries = 0;
      for (const auto& count : selection[histogram]["counts"]) queries += count.get<int64_t>();
      EXPECT_EQ(queries, 80 - 64) << histogram;
      EXPECT_EQ(selection[histogram]["counts"].size(), selection[histogram]["edges"].size() + 1);
    }
    selection.erase("each_margin");
  }
  EXPECT_EQ(numbers_of(written.html), expected);
  EXPECT_NE(written.html.find("audit: within\n"), std::string::npos) << "the terminal's page";
}

TEST(audit_tool, writes_a_page_of_choices_too) {
  const Written written = audit_of(test::kTinyGlm5 + " --context 70 --what-if hadamard=none");
  EXPECT_EQ(written.run.exit_code, 0) << written.run.error << written.run.out;
  expect_self_contained(written.html);
  EXPECT_EQ(numbers_of(written.html), written.json);
  EXPECT_EQ(written.json["choices"][0]["knobs"], "hadamard=none");
  EXPECT_GT(written.json["choices"][0]["effect"]["kl"]["mean"], 0.0);
}

}  // namespace
}  // namespace fulgurite
