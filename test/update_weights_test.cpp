// Session::update_weights: the weights of another checkpoint in a session that goes on.

#include <gtest/gtest.h>

#include "test/converted.h"
#include "test/op_test.h"
#include "test/other_weights.h"

namespace fulgurite {
namespace {

constexpr int64_t kPositions = 150;  // more than index_topk: the selection has to choose

plan::Plan plan_of(const model::Model& model, const char* numerics) {
  plan::Options options;
  options.numerics = parse_numerics(numerics);
  options.context = kPositions + 10;
  options.chunk_tokens = kPositions;
  options.sequences = 2;
  options.logits = plan::LogitRows::kAll;
  return plan::make(model, test::device(2), options);
}

std::vector<float> copied(View<const float, 2> logits) {
  return {logits.data, logits.data + logits.extent[0] * logits.extent[1]};
}

// A prefill and a token more: what was cached counts too.
std::vector<float> logits_of(execute::Session& session) {
  const std::vector<int32_t> ids = test::golden_ids(0);
  std::vector<float> logits = copied(session.forward(0, std::span(ids).first(kPositions)));
  const std::vector<float> next = copied(session.forward(0, std::span(ids).subspan(kPositions, 1)));
  logits.insert(logits.end(), next.begin(), next.end());
  return logits;
}

TEST(update_weights, a_session_with_new_weights_is_a_fresh_one_byte_for_byte) {
  const test::TinyModel tiny;
  test::EditedCheckpoint edited;
  const test::OtherModel other(test::directory_of_other_weights(edited));
  for (const char* const numerics : {"serving", "fp32", "serving,gate_weight=fp8", "fp32,mla=expanded"}) {
    execute::Session session(tiny.model, plan_of(tiny.model, numerics));
    execute::Session fresh(other.model, plan_of(other.model, numerics));
    const std::vector<float> before = logits_of(session), expected = logits_of(fresh);
    session.update_weights(other.model);
    EXPECT_EQ(session.length(0), 0) << "what the caches hold came from other weights";
    const std::vector<float> after = logits_of(session);
    EXPECT_TRUE(test::identical(after, expected)) << numerics;
    EXPECT_FALSE(test::identical(after, before)) << numerics << ": the weights are others";
    session.update_weights(tiny.model);
    EXPECT_TRUE(test::identical(logits_of(session), before)) << numerics << ": and back";
  }
}

TEST(update_weights, the_old_model_may_go) {
  auto first = std::make_unique<test::TinyModel>();
  execute::Session session(first->model, plan_of(first->model, "serving,gate_weight=fp8"));
  const std::vector<float> before = logits_of(session);
  const test::TinyModel second;
  session.update_weights(second.model);
  first.reset();
  EXPECT_TRUE(test::identical(logits_of(session), before));
  session.update_weights(second.model);
}

// The line that refuses a checkpoint; after it the session holds its sequence, and goes on as if nobody had
// asked.
std::string refusal(const std::string& directory) {
  const test::TinyModel tiny;
  const test::OtherModel other(directory);
  const std::vector<int32_t> ids = test::golden_ids(0);
  execute::Session session(tiny.model, plan_of(tiny.model, "serving")),
      undisturbed(tiny.model, plan_of(tiny.model, "serving"));
  session.forward(0, std::span(ids).first(20));
  undisturbed.forward(0, std::span(ids).first(20));
  std::string message;
  try {
    session.update_weights(other.model);
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kModel);
    message = error.what();
  }
  EXPECT_EQ(session.length(0), 20);
  EXPECT_TRUE(test::identical(copied(session.forward(0, std::span(ids).subspan(20, 5))),
                              copied(undisturbed.forward(0, std::span(ids).subspan(20, 5)))));
  return message;
}

template <class Edit>
std::string refusal_of(const Edit& edit) {
  test::EditedCheckpoint edited;
  test::change_values(edited);
  edit(edited);
  return refusal(edited.write());
}

const std::string kQA = "model.layers.1.self_attn.q_a_proj.weight";
const std::string kGate = "model.layers.2.self_attn.indexer.weights_proj.weight";

TEST(update_weights, another_dtype_is_refused_by_the_tensors_name) {
  EXPECT_EQ(refusal_of([](auto& edited) {
              edited.at(kGate).dtype = DType::kF32;
              edited.bytes_of(kGate);
            }),
            kGate + ": expected BF16 [8, 384] as in the old weights, found F32 [8, 384]");
}

TEST(update_weights, another_scale_format_is_refused) {
  const std::string scale = kQA + "_scale_inv";
  EXPECT_EQ(refusal_of([&](auto& edited) {
              edited.at(scale).dtype = DType::kF8_E8M0;
              edited.bytes_of(scale);
            }),
            scale + ": expected F32 [2, 3] as in the old weights, found F8_E8M0 [2, 3]");
}

TEST(update_weights, another_name_is_refused) {
  EXPECT_EQ(refusal_of([&](auto& edited) { edited.rename(kQA + "_scale_inv", kQA + "_scale"); }),
            kQA + "_scale_inv: expected F32 [2, 3] as in the old weights, found " + kQA +
                "_scale F32 [2, 3] in its place");
}

TEST(update_weights, another_form_is_refused_by_its_first_tensor) {
  const test::Converted bf16(test::kTinyV32, "bf16");
  const std::string first = "model.layers.0.self_attn.q_a_proj.weight";
  EXPECT_EQ(refusal(bf16.path()),
            first + ": expected F8_E4M3 [256, 384] as in the old weights, found BF16 [256, 384]");
}

TEST(update_weights, a_config_that_computes_something_else_is_refused) {
  EXPECT_EQ(refusal_of([](auto& edited) { edited.config["rope_theta"] = 20000.0; }),
            "config.json: rope_theta: expected 10000 as of the old weights, found 20000");
  EXPECT_EQ(
      refusal_of([](auto& edited) { edited.config["quantization_config"].erase("scale_fmt"); }),
      "config.json: quantization_config: expected blocks of 128x128, scales fp32, of activations ue8m0, "
      "experts fp8 as of the old weights, found blocks of 128x128, scales fp32, of "
      "activations fp32, experts fp8");
}

TEST(update_weights, what_no_model_reads_may_differ) {
  const test::TinyModel tiny;
  test::EditedCheckpoint edited;
  edited.add_mtp();
  const test::OtherModel other(edited.write());
  execute::Session session(tiny.model, plan_of(tiny.model, "serving"));
  const std::vector<float> before = logits_of(session);
  session.update_weights(other.model);
  EXPECT_TRUE(test::identical(logits_of(session), before)) << "MTP tensors are left out of both";
}

}  // namespace
}  // namespace fulgurite
