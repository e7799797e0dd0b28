// The indexer's projection as a step of the plan: what is printed of wk and the head gate in every form of a
// checkpoint, and when one pass over x meets both.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "test/converted.h"

namespace fulgurite {
namespace {

using test::Converted;
using testing::HasSubstr;

const plan::Row& projection_of(const plan::Plan& plan, int64_t layer) {
  return *std::ranges::find_if(plan.rows, [&](const plan::Row& row) {
    return row.layer == layer && row.operation == "indexer_projection";
  });
}

plan::Row projection_row(const std::filesystem::path& directory, const char* numerics) {
  const auto checkpoint = checkpoint::open(directory);
  return projection_of(test::form_plan(model::bind(checkpoint), parse_numerics(numerics)), 1);
}

const std::string kWkCodes = "wk e4m3 128x128, scales f32 [128, 384]";
const std::string kGateCodes = "gate e4m3 128x128, scales f32 [8, 384]";
const std::string kBothBf16 = "; both bf16: one pass", kNotBoth = "; not both bf16: two linears";

TEST(projection_plan, every_form_of_the_two_weights_is_one_pass_in_bf16) {
  const std::string codes = kWkCodes + ", read as bf16, ", half = "wk bf16 [128, 384], ",
                    half_gate = "gate bf16 [8, 384]", gate_codes = kGateCodes + ", read as bf16";
  const std::pair<const char*, std::string> forms[] = {{"fp8", codes + half_gate},
                                                       {"bf16", half + half_gate},
                                                       {"gate-fp8", codes + gate_codes},
                                                       {"fused-bf16", half + half_gate},
                                                       {"fused-fp8", codes + gate_codes}};
  for (const auto& [form, read] : forms) {
    const Converted converted(test::kTinyV32, form);
    const plan::Row row = projection_row(converted.path(), "serving");
    EXPECT_EQ(row.format, read + kBothBf16) << form;
    EXPECT_EQ(row.implementation, "cpu_bf16") << form;
    EXPECT_TRUE(row.refused.empty()) << form;
  }
}

TEST(projection_plan, otherwise_there_are_two_linears_and_the_reason_is_kept) {
  const std::string needs = "cpu_bf16: one pass needs wk and gate in bf16: ";
  const plan::Row wk = projection_row(test::kTinyV32, "serving,indexer_wk=fp8");
  EXPECT_EQ(wk.format, kWkCodes + ", gate bf16 [8, 384]" + kNotBoth);
  EXPECT_EQ(wk.implementation, "cpu_fp8");
  EXPECT_EQ(wk.refused, std::vector{needs + "indexer_wk = fp8, takes fp32 or bf16"});

  const plan::Row gate = projection_row(test::kTinyV32, "serving,gate_weight=fp8");
  EXPECT_EQ(gate.format,
            kWkCodes + ", read as bf16, gate bf16 [8, 384] quantized to e4m3 128x128, scales f32" + kNotBoth);
  EXPECT_EQ(gate.implementation, "cpu_fp8");
  EXPECT_EQ(gate.refused, std::vector{needs + "gate_weight = fp8, takes stored"});

  const plan::Row fp32 = projection_row(test::kTinyV32, "fp32");
  EXPECT_EQ(fp32.format, kWkCodes + ", gate bf16 [8, 384]" + kNotBoth);
  EXPECT_EQ(fp32.implementation, "cpu");
  EXPECT_EQ(fp32.refused.front(), needs + "activation = fp32, takes bf16");

  const plan::Row exact = projection_row(test::kTinyV32, "serving,indexer_wk=fp32");
  EXPECT_EQ(exact.refused.front(),
            needs + "wk in e4m3 128x128, scales f32 read at its exact value, takes bf16");
}

TEST(projection_plan, the_command_prints_condition_and_reason) {
  const test::ToolRun one = test::run_tool("plan " + test::kTinyV32);
  EXPECT_THAT(one.out, HasSubstr(kWkCodes + ", read as bf16, gate bf16 [8, 384]" + kBothBf16));
  const test::ToolRun two = test::run_tool("plan " + test::kTinyV32 + " --numerics serving,indexer_wk=fp8");
  EXPECT_THAT(two.out, HasSubstr(kNotBoth));
  EXPECT_THAT(two.out, HasSubstr("refused cpu_bf16: one pass needs wk and gate in bf16: indexer_wk = fp8"));
}

TEST(projection_plan, no_copy_of_either_weight_is_kept) {
  const test::TinyModel tiny;
  const plan::Plan plan = test::form_plan(tiny.model, Numerics::serving());
  const plan::PreparedWeights weights = plan::prepare(tiny.model, plan);
  const model::StoredIndexer& stored = tiny.model.weights.layers[1].indexer;
  EXPECT_EQ(std::get<BlockScaled>(weights.layers[1].index_k.as).data.data,
            std::get<BlockScaled>(stored.k.as).data.data);
  EXPECT_EQ((std::get<View<const bf16, 2>>(weights.layers[1].index_gate.as).data),
            (std::get<View<const bf16, 2>>(stored.gate.as).data));
}

// Read here from the fused tensor's own bytes.
TEST(projection_plan, a_fused_weight_has_the_rows_of_wk_and_then_those_of_the_heads) {
  for (const char* const form : {"fused-bf16", "fused-fp8"}) {
    const Converted converted(test::kTinyV32, form);
    const auto checkpoint = checkpoint::open(converted.path());
    const model::Model model = model::bind(checkpoint);
    const std::string name = "model.layers.1.self_attn.indexer.wk_weights_proj.weight";
    const checkpoint::TensorView& fused = *checkpoint.find(name);
    const checkpoint::TensorView* const scales = checkpoint.find(name + "_scale_inv");
    ASSERT_EQ(fused.shape, (std::vector<int64_t>{136, 384}));
    ASSERT_EQ(scales != nullptr, std::string(form) == "fused-fp8");
    EXPECT_TRUE(scales == nullptr || (scales->shape == std::vector<int64_t>{2, 3}));
    const auto expected = [&](int64_t row, int64_t column) {
      const auto at = static_cast<size_t>(row * 384 + column);
      if (scales == nullptr) {
        bf16 value;
        std::memcpy(&value, fused.bytes.data() + 2 * at, 2);
        return static_cast<double>(to_float(value));
      }
      const float scale = checkpoint::f32_values(*scales)[static_cast<size_t>(row / 128 * 3 + column / 128)];
      return static_cast<double>(to_float(e4m3{std::to_integer<uint8_t>(fused.bytes[at])})) * scale;
    };
    const model::StoredIndexer& indexer = model.weights.layers[1].indexer;
    for (const int64_t column : {0, 127, 128, 383}) {
      for (int64_t row = 0; row < 128; ++row)
        ASSERT_EQ(exact_element(indexer.k, row, column), expected(row, column)) << form << row;
      for (int64_t head = 0; head < 8; ++head)
        ASSERT_EQ(exact_element(indexer.gate, head, column), expected(128 + head, column)) << form << head;
    }
  }
}

}  // namespace
}  // namespace fulgurite
