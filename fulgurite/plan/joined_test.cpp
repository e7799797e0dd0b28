// Two weights as one, and a session whose plan has one product of both.

#include "fulgurite/plan/joined.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "fulgurite/plan/prepare.h"
#include "test/hopper_plan.h"
#include "test/tiny_model.h"

namespace fulgurite::plan {
namespace {

using testing::HasSubstr;

StoredMatrix coded(int64_t out, int64_t in, BlockShape block, ScaleFormat format = ScaleFormat::kF32) {
  return {BlockScaled{{nullptr, {out, in}}, {}, block, format}, out, in};
}

std::string reason(const StoredMatrix& upper, const StoredMatrix& lower) {
  const Support refusal = joins(upper, lower);
  return refusal ? refusal->reason : "";
}

TEST(joined, weights_of_one_format_whose_border_is_a_blocks) {
  const BlockShape block{128, 128};
  EXPECT_EQ(reason(coded(256, 384, block), coded(576, 384, block)), "");
  EXPECT_EQ(reason(coded(256, 384, {1, kWhole}), coded(576, 384, {1, kWhole})), "");
  EXPECT_EQ(reason(coded(192, 384, block), coded(576, 384, block)),
            "192 rows end inside a block of e4m3 128x128, scales f32");
  EXPECT_THAT(reason(coded(256, 384, {kWhole, kWhole}), coded(576, 384, {kWhole, kWhole})),
              HasSubstr("per tensor"));
  EXPECT_EQ(reason(coded(256, 384, block), coded(576, 384, block, ScaleFormat::kE8M0)),
            "weights in e4m3 128x128, scales f32 and e4m3 128x128, scales e8m0");
  EXPECT_EQ(reason(coded(256, 384, block), coded(576, 512, block)), "weights of 384 and 512 columns");
  const StoredMatrix bf16s{View<const bf16, 2>(nullptr, {256, 384}), 256, 384};
  EXPECT_EQ(reason(bf16s, bf16s), "weights in bf16, takes e4m3 in blocks");
}

// Both weights' rows of every layer, scales of either format among them.
TEST(joined, what_is_prepared_holds_the_rows_of_both) {
  for (const test::Recorded& recorded : test::kRecorded) {
    const test::TinyModel tiny(recorded.directory());
    const Plan plan = test::hopper_plan(tiny.model);
    PreparedWeights weights = prepare(tiny.model, plan);
    std::ranges::fill(weights.memory.bytes(), std::byte{0x5A});
    prepare_again(tiny.model, plan, weights);
    for (size_t i = 0; i < weights.layers.size(); ++i) {
      const model::StoredLayer& stored = tiny.model.weights.layers[i];
      const PreparedMatrix& both = weights.layers[i].qkv_a;
      const StoredMatrix& kv = stored.window ? stored.window->kv : stored.kv_a;
      ASSERT_EQ(both.out, stored.q_a.out + kv.out) << recorded.name;
      EXPECT_EQ(format_of(both), format_of(stored.q_a));
      int64_t differ = 0;
      for (int64_t r = 0; r < both.out; ++r)
        for (int64_t c = 0; c < both.in; ++c) {
          const bool upper = r < stored.q_a.out;
          const double expected =
              upper ? exact_element(stored.q_a, r, c) : exact_element(kv, r - stored.q_a.out, c);
          differ += exact_element(both, r, c) != expected;
        }
      EXPECT_EQ(differ, 0) << recorded.name << " layer " << i;
      EXPECT_EQ(weights.layers[i].q_a.out + weights.layers[i].kv_a.out + weights.layers[i].window.kv.out, 0)
          << "nothing is uploaded twice";
    }
  }
}

// Where q_lora or kv_lora is odd: rows of both begin at multiples of 64 elements all the same.
TEST(joined, rows_of_queries_and_keys_are_aligned) {
  model::Config config = model::parse_config(
      checkpoint::MappedFile(test::kSource + "/models/configs/deepseek-v3.2.json").text(), "config.json");
  config.q_lora = 1500;
  config.kv_lora = 500;
  const Plan plan = test::hopper_plan(model::outline(config));
  EXPECT_EQ(plan.activations.kv_column, 1536);
  EXPECT_EQ(plan.activations.qkv_width, 1536 + 576);
  EXPECT_FALSE(plan.layers[0].attention->qkv_a) << "1500 rows end inside a block";
}

// The plan of a CPU, changed by hand: a row of the linear runs both where it ran one.
template <class AttentionPlan>
void join(AttentionPlan& attention, const LinearStep& kv, Plan& plan) {
  attention.qkv_a = attention.q_a;
  linear::Problem& problem = attention.qkv_a->problem;
  problem.out += kv.problem.out;
  const auto& runs = *attention.qkv_a->choices.front().implementation;
  plan.bytes.workspace = std::max(plan.bytes.workspace, runs.workspace_bytes(problem, plan.device.threads));
}

std::vector<float> logits_of(const model::Model& model, const Plan& plan, std::span<const int32_t> ids) {
  execute::Session session(model, plan);
  const View<const float, 2> logits = session.forward(0, ids);
  return {logits.data, logits.data + logits.size()};
}

TEST(joined, one_product_has_the_bits_of_two) {
  for (const test::Recorded& recorded : test::kRecorded) {
    const test::TinyModel tiny(recorded.directory());
    const auto ids = test::golden_ids(0, recorded.golden());
    const auto some = std::span(ids).first(20);
    Options options = test::trace_options(Numerics::serving(), 24, 24);
    options.tracing = Tracing::kOff;
    const Plan apart = make(tiny.model, test::device(2), options);
    Plan together = apart;
    for (LayerPlan& layer : together.layers)
      layer.window ? join(*layer.window, layer.window->kv, together)
                   : join(*layer.attention, layer.attention->kv_a, together);
    together.bytes.prepared = prepared_bytes(tiny.model, together).prepared;
    EXPECT_GT(together.bytes.prepared, apart.bytes.prepared);
    EXPECT_EQ(logits_of(tiny.model, together, some), logits_of(tiny.model, apart, some)) << recorded.name;
  }
}

}  // namespace
}  // namespace fulgurite::plan
