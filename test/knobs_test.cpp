// Every knob that concerns DeepSeek-V3.2, at every value, on the whole model: each setting runs, on planned
// kernels or, where a kernel does not take it, on the reference that the plan prints; and each changes the
// logits, so that none is silently ignored.

#include <gtest/gtest.h>

#include <map>

#include "test/op_test.h"
#include "test/tiny_model.h"

namespace fulgurite {
namespace {

constexpr int64_t kTokens = 150;  // more than index_topk

std::vector<float> logits_of(const model::Model& model, const std::string& numerics,
                             plan::Candidates candidates = plan::Candidates::kAll, int64_t tokens = kTokens) {
  plan::Options options;
  options.candidates = candidates;
  options.numerics = parse_numerics(numerics);
  options.context = tokens;
  options.chunk_tokens = tokens;
  options.logits = plan::LogitRows::kLast;
  execute::Session session(model, plan::make(model, test::device(2), options));
  const std::vector<int32_t> ids = test::golden_ids(0);
  const View<const float, 2> logits = session.forward(0, std::span(ids).first(tokens));
  return {logits.data, logits.data + logits.size()};
}

void expect_difference(const model::Model& model, const std::string& base,
                       std::initializer_list<const char*> settings,
                       plan::Candidates candidates = plan::Candidates::kAll) {
  const std::vector<float> expected = logits_of(model, base, candidates);
  for (const char* const setting : settings) {
    const double apart = test::distance(logits_of(model, base + "," + setting, candidates), expected);
    EXPECT_GT(apart, 0.0) << base << "," << setting << " changes nothing";
    EXPECT_LT(apart, 1.0) << base << "," << setting;
  }
}

TEST(knobs, every_value_runs_and_changes_the_logits) {
  const test::TinyModel tiny;
  expect_difference(tiny.model, "serving",
                    {"activation=fp32",
                     "activation=fp16",
                     "activation_quant=none",
                     "activation_scale=fp32",
                     "norm_input=rounded",
                     "rsqrt=x86_12",
                     "rsqrt=error:1e-3",
                     "mla=expanded",
                     "latent_cache=bf16",
                     "indexer_wk=fp8",
                     "gate_weight=fp8",
                     "hadamard=none",
                     "hadamard=q",
                     "index_quant=none",
                     "index_quant=fp4",
                     "index_scale=fp32",
                     "indexer_rope=interleaved",
                     "index_norm=bf16",
                     "index_norm_eps=1e-2",
                     "softmax_tile=128",
                     "softmax_denominator=rounded"});
}

// What means the same, or something else, to the tiny DeepSeek-V3.2.
TEST(knobs, of_glm_5_run_and_change_the_logits) {
  const test::TinyModel glm(test::kTinyGlm5);
  expect_difference(glm.model, "serving",
                    {"activation_scale=pow2", "indexer_rope=half_split", "mla=expanded", "activation=fp16",
                     "latent_cache=bf16", "index_quant=fp4", "scale_form=divided"});
  const std::vector<float> expected = logits_of(glm.model, "serving");
  for (const char* const setting : {"activation_scale=fp32", "indexer_rope=interleaved"})
    EXPECT_EQ(logits_of(glm.model, std::string("serving,") + setting), expected) << setting;
}

TEST(knobs, of_deepseek_v4_run_and_change_the_logits) {
  const test::TinyModel v4(test::kTinyV4);
  expect_difference(
      v4.model, "serving",
      {"kv_quant=none,latent_cache=bf16", "index_quant=fp8", "activation_scale=fp32", "activation_quant=none",
       "hadamard=none", "rsqrt=error:1e-3", "activation=fp16", "softmax_denominator=rounded"});
  // The row of 584 bytes and that of 1,024 hold the same values; no gate of the shared expert is at its limit.
  const std::vector<float> expected = logits_of(v4.model, "serving");
  for (const char* const setting :
       {"latent_cache=bf16", "index_quant=fp4", "activation_scale=pow2", "shared_clamp=on"})
    EXPECT_EQ(logits_of(v4.model, std::string("serving,") + setting), expected) << setting;
}

// Values that the kernels of serving do not take: the row that does may sum in another order, which changes the
// logits as well, so references are held against references.
TEST(knobs, values_that_another_row_takes_change_the_references_too) {
  const test::TinyModel tiny;
  expect_difference(tiny.model, "serving",
                    {"latent_cache=fp32", "softmax_tile=none", "softmax_merge=independent", "softmax_p=fp32"},
                    plan::Candidates::kReferencesOnly);
  for (const char* const base : {"serving,activation=fp32", "serving,activation=fp16"})
    expect_difference(tiny.model, base, {"qk_operands=fp32"}, plan::Candidates::kReferencesOnly);
}

// What says nothing on this model: no logits tie at the last token's cut, and scale_fmt says pow2: scales of either form.
TEST(knobs, values_that_mean_the_same_here_give_the_same_bits) {
  const test::TinyModel tiny;
  const std::vector<float> expected = logits_of(tiny.model, "serving");
  for (const char* const setting :
       {"ties=higher", "activation_scale=pow2", "scale_form=divided", "rsqrt=correct"})
    EXPECT_EQ(logits_of(tiny.model, std::string("serving,") + setting), expected) << setting;
}

// A gate moves the logits only where it moves a key across the cut, which takes more keys.
TEST(knobs, a_gate_rounded_to_bf16_changes_the_logits_of_a_longer_text) {
  const test::TinyModel tiny;
  constexpr int64_t kLonger = 500;
  const auto logits = [&](const char* numerics) {
    return logits_of(tiny.model, numerics, plan::Candidates::kAll, kLonger);
  };
  EXPECT_GT(test::distance(logits("serving,gate=bf16"), logits("serving")), 0.0);
}

}  // namespace
}  // namespace fulgurite
