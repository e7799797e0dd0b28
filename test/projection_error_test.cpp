// What the forms of the indexer's projection cost in accuracy, at the tiny dimensions.

#include <gtest/gtest.h>

#include <map>
#include <nlohmann/json.hpp>

#include "bench/gate_error.h"
#include "bench/projection_error.h"
#include "test/tool_run.h"

namespace fulgurite {
namespace {

bench::Request request_of(const plan::Catalog& catalog) {
  bench::Request request;
  request.shape = bench::shape_named("tiny-v32");
  request.setting.target = cpu::machine().target;
  request.catalog = &catalog;
  return request;
}

std::map<std::string, bench::FormError> errors_of(const plan::Catalog& catalog) {
  const bench::Request request = request_of(catalog);
  std::map<std::string, bench::FormError> errors;
  for (const bench::FormError& form : bench::projection_errors(request, {}).forms)
    errors[form.numerics] = form;
  return errors;
}

const std::map<std::string, bench::FormError>& errors() {
  static const std::map<std::string, bench::FormError> errors = errors_of(plan::catalog());
  return errors;
}

constexpr double kBf16 = 0x1p-9, kFp32 = 1e-5;

TEST(projection_error, one_pass_rounds_k_to_bf16_and_the_gate_not_at_all) {
  const bench::FormError& form = errors().at("serving");
  EXPECT_EQ(form.implementation, "cpu_bf16");
  EXPECT_LT(form.gate.relative, kFp32);
  EXPECT_GT(form.key.relative, 0.25 * kBf16);
  EXPECT_LT(form.key.relative, kBf16);
}

TEST(projection_error, a_gate_rounded_to_bf16_has_that_step_and_moves_the_choice) {
  const bench::FormError &form = errors().at("serving,gate=bf16"), &whole = errors().at("serving");
  EXPECT_GT(form.gate.relative, 0.25 * kBf16);
  EXPECT_LT(form.gate.relative, kBf16);
  EXPECT_GE(form.gate.largest, form.gate.relative);
  EXPECT_EQ(form.key.relative, whole.key.relative);
  EXPECT_GT(form.by_gate.positions, whole.by_gate.positions);
}

TEST(projection_error, an_fp8_linear_costs_the_output_that_it_makes_and_no_other) {
  const bench::FormError& whole = errors().at("serving");
  const bench::FormError &key = errors().at("serving,indexer_wk=fp8"),
                         &gate = errors().at("serving,gate_weight=fp8"),
                         &both = errors().at("serving,indexer_wk=fp8,gate_weight=fp8");
  EXPECT_EQ(both.implementation, "cpu_fp8");
  EXPECT_GT(key.key.relative, 5.0 * kBf16);
  EXPECT_LT(key.gate.relative, kFp32);
  EXPECT_GT(gate.gate.relative, 5.0 * kBf16);
  EXPECT_EQ(gate.key.relative, whole.key.relative);
  EXPECT_EQ(both.key.relative, key.key.relative);
  EXPECT_EQ(both.gate.relative, gate.gate.relative);
  EXPECT_GT(gate.by_gate.positions, errors().at("serving,gate=bf16").by_gate.positions);
  EXPECT_EQ(both.by_gate.sets, gate.by_gate.sets) << "keys are exact there";
}

// Fusing changes when x is read, and no sum.
TEST(projection_error, two_linears_of_bf16_have_what_one_pass_has) {
  using indexer_projection::Implementation;
  const Implementation* const rows[] = {&indexer_projection::kCpuFp8, &indexer_projection::kReference};
  plan::Catalog catalog = plan::catalog();
  catalog.indexer_projection = rows;
  const bench::FormError form = errors_of(catalog).at("serving"), &fused = errors().at("serving");
  EXPECT_EQ(form.implementation, "cpu_fp8");
  EXPECT_EQ(form.gate.relative, fused.gate.relative);
  EXPECT_EQ(form.gate.largest, fused.gate.largest);
  EXPECT_EQ(form.key.relative, fused.key.relative);
}

TEST(projection_error, fp32_rounds_neither) {
  const bench::FormError& form = errors().at("fp32");
  EXPECT_LT(form.gate.relative, kFp32);
  EXPECT_LT(form.key.relative, kFp32);
}

// Of the row that runs, not of a formula: the reference sums in double and rounds once, a wrong row is seen.
TEST(projection_error, is_that_of_the_row_that_runs) {
  using indexer_projection::Implementation, indexer_projection::kReference;
  const Implementation* const reference[] = {&kReference};
  plan::Catalog catalog = plan::catalog();
  catalog.indexer_projection = reference;
  const auto exact = errors_of(catalog);
  EXPECT_EQ(exact.at("serving").implementation, "reference");
  EXPECT_LT(exact.at("serving").gate.relative, 0x1p-24);
  EXPECT_EQ(exact.at("serving").by_gate.sets, 0);
  EXPECT_LE(exact.at("serving").gate.relative, errors().at("serving").gate.relative);
  Implementation wrong = kReference;
  wrong.run = [](const auto& problem, const auto& args, const Lane& lane) {
    kReference.run(problem, args, lane);
    args.gate(args.gate.extent[0] - 1, 0) += 1.0f;
  };
  const Implementation* const spoiled[] = {&wrong};
  catalog.indexer_projection = spoiled;
  EXPECT_GT(errors_of(catalog).at("serving").gate.largest, 0.1);
}

const bench::GateForm& form_of(const bench::GateInput& input, const std::string& what) {
  return *std::ranges::find(input.forms, what, &bench::GateForm::what);
}

TEST(gate_error, only_the_form_in_bf16_moves_the_choice_of_realistic_inputs) {
  const bench::Request request = request_of(plan::catalog());
  const bench::GateErrors errors = bench::gate_errors(request, {});
  EXPECT_EQ(errors.candidates, 2048);
  ASSERT_EQ(errors.inputs.size(), 2u);
  for (const bench::GateInput& input : errors.inputs) {
    const bench::GateForm &exact = form_of(input, "double"),
                          &once = form_of(input, "double, rounded to fp32"), &fp32 = form_of(input, "fp32"),
                          &bf16 = form_of(input, "rounded to bf16");
    EXPECT_EQ(exact.sets, 0);
    EXPECT_LT(once.gate.relative, 0x1p-24);
    EXPECT_LE(once.gate.relative, fp32.gate.relative);
    EXPECT_EQ(fp32.implementation, "cpu_bf16");
    EXPECT_GT(bf16.gate.relative, 0.25 * kBf16) << input.what;
    EXPECT_LT(bf16.gate.relative, kBf16) << input.what;
    EXPECT_GT(bf16.sets, fp32.sets) << input.what;
    EXPECT_GE(bf16.positions, static_cast<double>(bf16.sets) / static_cast<double>(errors.queries));
    for (const bench::GateForm& form : input.forms) {
      EXPECT_LT(form.tied, 200.0) << form.what;
      EXPECT_GE(form.tied, exact.tied) << form.what << ": scores in double tie least";
    }
  }
  EXPECT_LE(form_of(errors.inputs[0], "fp32").sets, 1);
  // Sums that cancel lose what the terms were larger by.
  EXPECT_GT(form_of(errors.inputs[1], "fp32").gate.relative,
            3.0 * form_of(errors.inputs[0], "fp32").gate.relative);
}

// Gates of 0: every candidate ties with every other.
TEST(gate_error, counts_ties_and_sees_a_wrong_gate) {
  using indexer_projection::Implementation, indexer_projection::kReference;
  Implementation wrong = kReference;
  wrong.run = [](const auto& problem, const auto& args, const Lane& lane) {
    kReference.run(problem, args, lane);
    for (int64_t t = 0; t < args.gate.extent[0]; ++t)
      for (int64_t h = 0; h < args.gate.extent[1]; ++h) args.gate(t, h) = 0.0f;
  };
  const Implementation* const spoiled[] = {&wrong};
  plan::Catalog catalog = plan::catalog();
  catalog.indexer_projection = spoiled;
  const bench::Request request = request_of(catalog);
  const bench::GateErrors errors = bench::gate_errors(request, {});
  const bench::GateForm& none = form_of(errors.inputs[0], "fp32");
  EXPECT_EQ(none.gate.relative, 1.0);
  EXPECT_EQ(none.sets, errors.queries);
  EXPECT_EQ(none.decided_by_tie, errors.queries);
  EXPECT_GT(none.tied, 1900.0) << "every score is 0";
}

TEST(projection_error, is_printed_by_the_command) {
  const test::ToolRun run = test::run_tool("bench indexer_projection --errors --shape tiny-v32 --json");
  ASSERT_EQ(run.exit_code, 0) << run.error;
  const auto json = nlohmann::json::parse(run.out);
  ASSERT_EQ(json["forms"].size(), errors().size());
  for (const auto& form : json["forms"])
    EXPECT_EQ(form["gate"]["relative_l2"], errors().at(form["numerics"]).gate.relative);
  ASSERT_EQ(json["head_gate"]["forms"].size(), 8u);
  EXPECT_EQ(json["head_gate"]["forms"][3]["form"], "rounded to bf16");
  const test::ToolRun text = test::run_tool("bench indexer_projection --errors --shape tiny-v32");
  EXPECT_NE(text.out.find("one pass, gate rounded to bf16"), std::string::npos) << text.out;
  EXPECT_EQ(test::run_tool("bench linear --errors").exit_code, 2);
  for (const char* const other : {"--tokens 1", "--numerics fp32", "--seconds 1", "--impl cpu", "--list"})
    EXPECT_EQ(test::run_tool(fmt::format("bench indexer_projection --errors {}", other)).exit_code, 2)
        << other;
}

}  // namespace
}  // namespace fulgurite
