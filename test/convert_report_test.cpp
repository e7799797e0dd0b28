// What `fulgurite convert` reports of weights that it encodes anew.

#include <gmock/gmock.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "test/converted.h"

namespace fulgurite {
namespace {

using testing::HasSubstr;

const std::string kExpert = "model.layers.2.mlp.experts.3.up_proj.weight";

nlohmann::json report_of(const std::string& from, const std::string& form) {
  const auto out = test::scratch_file("reported");
  std::filesystem::remove_all(out);
  const test::ToolRun run = test::run_tool("convert " + from + " " + out.string() + " --json --form " + form);
  EXPECT_EQ(run.exit_code, 0) << run.error;
  return nlohmann::json::parse(run.out);
}

const nlohmann::json& entry(const nlohmann::json& report, const std::string& weight) {
  for (const nlohmann::json& one : report["requantized"])
    if (one["name"] == weight) return one;
  static const nlohmann::json none;
  ADD_FAILURE() << "no " << weight;
  return none;
}

TEST(convert_report, has_nothing_where_codes_are_kept_and_no_error_where_nothing_is_lost) {
  EXPECT_TRUE(report_of(test::kTinyV32, "fp8")["requantized"].empty());
  EXPECT_TRUE(report_of(test::kTinyV32, "fp8-e8m0")["requantized"].empty());
  const nlohmann::json half = report_of(test::kTinyV32, "bf16");
  EXPECT_GT(half["requantized"].size(), 80u);
  for (const nlohmann::json& weight : half["requantized"]) EXPECT_EQ(weight["relative_error"], 0.0) << weight;
}

// Requantizing to powers of two what came from them loses nothing, and doing it again does nothing.
TEST(convert_report, requantization_to_powers_of_two_is_idempotent) {
  const test::Converted half(test::kTinyV32, "bf16");
  const nlohmann::json anew = report_of(half.path(), "fp8-e8m0");
  EXPECT_GT(anew["requantized"].size(), 80u);
  for (const nlohmann::json& weight : anew["requantized"]) EXPECT_EQ(weight["relative_error"], 0.0) << weight;
  const test::Converted channels(test::kTinyV32, "fp8-channel"), once(channels.path(), "fp8-e8m0");
  EXPECT_TRUE(report_of(once.path(), "fp8-e8m0")["requantized"].empty());
}

TEST(convert_report, says_what_a_reader_of_both_checkpoints_finds) {
  const nlohmann::json report = report_of(test::kTinyV32, "nvfp4-experts");
  const nlohmann::json& weight = entry(report, kExpert);
  EXPECT_EQ(weight["from"], "e4m3 128x128, scales f32");
  EXPECT_EQ(weight["to"], "e2m1 1x16, scales e4m3 x f32");
  const test::TinyModel before;
  const auto made = checkpoint::open(test::scratch_file("reported"));
  const model::Model after = model::bind(made);
  const StoredMatrix& a = before.model.weights.layers[2].experts[3].up;
  const StoredMatrix& b = after.weights.layers[2].experts[3].up;
  double difference = 0.0, norm = 0.0;
  int64_t flushed = 0;
  for (int64_t row = 0; row < a.out; ++row)
    for (int64_t column = 0; column < a.in; ++column) {
      const double x = exact_element(a, row, column), y = exact_element(b, row, column);
      difference += (x - y) * (x - y);
      norm += x * x;
      flushed += x != 0.0 && y == 0.0;
    }
  EXPECT_NEAR(weight["relative_error"].get<double>(), std::sqrt(difference / norm), 1e-12);
  EXPECT_EQ(weight["flushed"], flushed);
  EXPECT_GT(weight["worst_block"]["relative_error"], weight["relative_error"]);
  EXPECT_EQ(weight["worst_block"]["column"].get<int64_t>() % 16, 0);
}

TEST(convert_report, the_table_has_the_worst_weights_first_and_counts_the_rest) {
  const auto out = test::scratch_file("reported");
  std::filesystem::remove_all(out);
  const test::ToolRun run =
      test::run_tool("convert " + test::kTinyV32 + " " + out.string() + " --form mxfp4-experts");
  EXPECT_EQ(run.exit_code, 0) << run.error;
  EXPECT_THAT(run.out, HasSubstr("relative error"));
  EXPECT_THAT(run.out, HasSubstr("e2m1 1x32, scales e8m0"));
  EXPECT_THAT(run.out, HasSubstr("more: --json has all"));
  EXPECT_THAT(run.out, HasSubstr("72 weights encoded anew, 0 of them exactly"));
}

}  // namespace
}  // namespace fulgurite
