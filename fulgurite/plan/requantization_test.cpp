// What a plan requantizes, and what that costs: measured on the weights as the checkpoint stores them.

#include "fulgurite/plan/requantization.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "fulgurite/core/requantized.h"
#include "test/edited_checkpoint.h"
#include "test/op_test.h"
#include "test/tool_run.h"

namespace fulgurite::plan {
namespace {

const std::string kO = "model.layers.1.self_attn.o_proj.weight";

Plan plan_for(const model::Model& model, const std::string& target, std::vector<Demand> demands = {}) {
  Options options;
  options.context = 64;
  options.demands = std::move(demands);
  return make(model, device_of(target_named(target)), options);
}

const RequantizedWeight& of(const std::vector<RequantizedWeight>& all, const std::string& tensor) {
  const auto found = std::ranges::find(all, tensor, &RequantizedWeight::tensor);
  EXPECT_NE(found, all.end()) << tensor;
  return *found;
}

TEST(requantization, scales_that_are_powers_of_two_are_kept_with_their_codes) {
  const test::TinyModel tiny;
  const std::vector<RequantizedWeight> all =
      measure_requantization(tiny.model, plan_for(tiny.model, "sm100"));
  ASSERT_EQ(all.size(), 20u) << "five linears of four layers, and not the head";
  EXPECT_EQ(all.front().tensor, "model.layers.0.self_attn.q_a_proj.weight");
  EXPECT_EQ(all.front().operation, "linear q_a");
  EXPECT_EQ(all.front().to, "e4m3 128x128, scales e8m0 packed in int32");
  for (const RequantizedWeight& weight : all) {
    EXPECT_EQ(weight.kept_blocks, weight.blocks) << weight.tensor;
    EXPECT_FALSE(weight.error.any()) << weight.tensor;
    EXPECT_EQ(weight.implementation, "cuda_fp8");
  }
}

// The squares once more, of each block of the weight as it is and as it becomes.
TEST(requantization, says_what_a_reader_of_both_weights_finds) {
  test::EditedCheckpoint edited;
  const auto scales = edited.values_of<float>(kO + "_scale_inv");
  for (const size_t block : {1u, 6u}) scales[block] *= 1.3f;
  const auto checkpoint = checkpoint::open(edited.write());
  const model::Model model = model::bind(checkpoint);
  const std::vector<RequantizedWeight> all = measure_requantization(model, plan_for(model, "sm120"));
  const RequantizedWeight& weight = of(all, kO);
  EXPECT_EQ(weight.blocks, 12);
  EXPECT_EQ(weight.kept_blocks, 10);
  const StoredMatrix& stored = model.weights.layers[1].o;
  const Requantized made(stored);
  double differences = 0.0, values = 0.0;
  double of_block[12][2] = {};
  for (int64_t r = 0; r < stored.out; ++r)
    for (int64_t c = 0; c < stored.in; ++c) {
      const double x = exact_element(stored, r, c), difference = exact_element(made.stored(), r, c) - x;
      differences += difference * difference;
      values += x * x;
      of_block[r / 128 * 4 + c / 128][0] += difference * difference;
      of_block[r / 128 * 4 + c / 128][1] += x * x;
    }
  EXPECT_NEAR(weight.error.relative, std::sqrt(differences / values), 1e-12);
  EXPECT_GT(weight.error.relative, 0.001);
  EXPECT_EQ(of_block[0][0], 0.0) << "a block whose scale is a power of two is as it was";
  const double first = std::sqrt(of_block[1][0] / of_block[1][1]),
               second = std::sqrt(of_block[6][0] / of_block[6][1]);
  EXPECT_NEAR(weight.error.worst_block, std::max(first, second), 1e-12);
  EXPECT_EQ(weight.error.worst_row, first > second ? 0 : 128);
  EXPECT_EQ(weight.error.worst_column, first > second ? 128 : 256);
  for (const RequantizedWeight& other : all) EXPECT_EQ(other.error.any(), other.tensor == kO) << other.tensor;
}

TEST(requantization, has_nothing_where_rows_read_scales_as_stored_or_their_bytes_packed) {
  const test::TinyModel tiny;
  for (const char* const target : {"cpu", "sm80", "sm90"})
    EXPECT_TRUE(measure_requantization(tiny.model, plan_for(tiny.model, target)).empty()) << target;
  const Plan without = plan_for(tiny.model, "sm100", {parse_demand(DemandKind::kForbid, "linear:cuda_fp8")});
  EXPECT_TRUE(measure_requantization(tiny.model, without).empty());
  EXPECT_EQ(without.bytes.requantized, 0);
  constexpr BlockShape kBlock{128, 128};
  const MatrixFormat fp32{MatrixForm::kE4M3Blocks, kBlock, ScaleFormat::kF32};
  MatrixFormat bytes = fp32, packed = fp32;
  bytes.scale = packed.scale = ScaleFormat::kE8M0;
  packed.layout = ScaleLayout::kPacked;
  EXPECT_TRUE(requantizes(fp32, packed));
  EXPECT_FALSE(requantizes(bytes, packed)) << "the same values";
  EXPECT_FALSE(requantizes(fp32, fp32));
}

TEST(requantization, its_progress_ends_with_the_bytes_of_all) {
  const test::TinyModel tiny;
  int64_t calls = 0, last = 0, all = 0;
  measure_requantization(tiny.model, plan_for(tiny.model, "sm100"), [&](int64_t done, int64_t total) {
    EXPECT_GT(done, last);
    last = done;
    all = total;
    ++calls;
  });
  EXPECT_EQ(calls, 20);
  EXPECT_EQ(last, all);
}

TEST(requantization, the_command_prints_it_and_has_every_weight_in_json) {
  test::EditedCheckpoint edited;
  for (float& scale : edited.values_of<float>(kO + "_scale_inv")) scale *= 1.1f;
  const std::string plan = "plan " + edited.write() + " --context 64 --target sm100 ";
  const test::ToolRun text = test::run_tool(plan + "--requantization");
  EXPECT_EQ(text.exit_code, 0) << text.error;
  for (const char* const part : {"relative error", "worst block", "saturated", "flushed", "0 of 12",
                                 "20 weights requantized to powers of two, 19 of them exactly"})
    EXPECT_THAT(text.out, testing::HasSubstr(part));
  const auto json = nlohmann::json::parse(test::run_tool(plan + "--requantization --json").out);
  ASSERT_EQ(json["requantization"].size(), 20u);
  for (const auto& weight : json["requantization"])
    EXPECT_EQ(weight["relative_error"] > 0.01, weight["tensor"] == kO) << weight;
  EXPECT_FALSE(nlohmann::json::parse(test::run_tool(plan + "--json").out).contains("requantization"));
  EXPECT_THAT(test::run_tool("plan " + test::kTinyV32 + " --context 64 --target sm90 --requantization").out,
              testing::HasSubstr("requantization: none; every row reads scales as they are stored"));
  const test::ToolRun config = test::run_tool(plan + "--requantization --config-only");
  EXPECT_EQ(config.exit_code, 2) << "what reads no weight cannot measure one";
}

}  // namespace
}  // namespace fulgurite::plan
