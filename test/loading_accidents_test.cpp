// What went wrong between a checkpoint and its kernels elsewhere, once more, and what stops it here. Each
// test names the public report that it re-creates.

#include <cmath>

#include "test/accidents.h"

namespace fulgurite {
namespace {

namespace fs = std::filesystem;
using test::convert;
using test::kIndexer;
using test::kWk;
using test::logits_of;
using test::refusal;
using test::tiny_logits;
using testing::HasSubstr;

// vllm #38684: "wk" was replaced wherever it stood in a name, so the fused tensor's own name became another.
TEST(loading_accidents, the_fused_projection_is_known_by_its_whole_name) {
  EXPECT_EQ(logits_of(convert(test::kTinyV32, "fused-bf16")), tiny_logits());
  test::EditedCheckpoint mangled(convert(test::kTinyV32, "fused-bf16"));
  mangled.rename(kIndexer + "wk_weights_proj.weight", kIndexer + "wk_weights_proj_weights_proj.weight");
  EXPECT_THAT(refusal(mangled.write()),
              HasSubstr(kWk + ": expected F8_E4M3 with scales, BF16 or F32 [128, 384]"));
}

// vllm #38684, #38870: a KeyError for the scales of the fused tensor; and TRT-LLM #18658: wk's scale dropped.
TEST(loading_accidents, a_fused_quantized_projection_has_its_scales_or_is_refused) {
  const std::string fused = convert(test::kTinyV32, "fused-fp8");
  const auto checkpoint = checkpoint::open(fused);
  const model::Model model = model::bind(checkpoint);
  const test::TinyModel tiny;
  const model::StoredIndexer& a = model.weights.layers[1].indexer;
  const model::StoredIndexer& b = tiny.model.weights.layers[1].indexer;
  for (int64_t i = 0; i < 384; ++i) EXPECT_EQ(exact_element(a.k, 127, i), exact_element(b.k, 127, i));
  EXPECT_EQ(a.gate.out, 8);
  test::EditedCheckpoint dropped(fused);
  dropped.erase(kIndexer + "wk_weights_proj.weight_scale_inv");
  EXPECT_THAT(refusal(dropped.write()), HasSubstr("wk_weights_proj.weight: F8_E4M3 [136, 384] needs scales"));
}

TEST(loading_accidents, a_dropped_scale_of_wk_is_refused) {
  test::EditedCheckpoint dropped;
  dropped.erase(kWk + "_scale_inv");
  EXPECT_THAT(refusal(dropped.write()), HasSubstr(kWk + ": F8_E4M3 [128, 384] needs scales"));
}

// vllm #46078, #46168: a weight and its scale in different files were never put together; wk stayed
// uninitialized, and short prompts looked fine.
TEST(loading_accidents, weight_and_scale_may_stand_in_different_shards_in_either_order) {
  const test::EditedCheckpoint edited;
  for (const char* const weights : {"1.safetensors", "3.safetensors"})
    EXPECT_EQ(logits_of(edited.write_shards([&](const std::string& name) {
                return std::string(name.ends_with("_scale_inv") ? "2.safetensors" : weights);
              })),
              tiny_logits())
        << weights;
}

// vllm #54556, #54900: another writer's name of the scales.
TEST(loading_accidents, scales_are_known_by_three_names_and_never_by_two_at_once) {
  for (const char* const suffix : {".weight_scale", ".scale"}) {
    test::EditedCheckpoint edited;
    for (checkpoint::TensorView& tensor : edited.tensors) {
      const std::string official = ".weight_scale_inv";
      if (tensor.name.ends_with(official))
        tensor.name.replace(tensor.name.size() - official.size(), 99, suffix);
    }
    EXPECT_EQ(logits_of(edited.write()), tiny_logits()) << suffix;
  }
  test::EditedCheckpoint both;
  both.add(kIndexer + "wk.scale", DType::kF32, {1, 3});
  EXPECT_THAT(refusal(both.write()),
              HasSubstr("scales of the weight stand in " + kWk + "_scale_inv already"));
}

TEST(loading_accidents, scales_of_a_layer_that_was_left_out_of_quantization_are_refused) {
  test::EditedCheckpoint edited;
  edited.at(kWk).dtype = DType::kBF16;
  edited.bytes_of(kWk);
  EXPECT_THAT(refusal(edited.write()), HasSubstr(kWk + " is stored as BF16 [128, 384], which has no scales"));
}

// sglang #22300: fp32 scales taken for e8m0; omlx #2159: e8m0 bytes taken for numbers, weights 450,000 times
// too large. Here the type of the scales is what the file says, and a byte that does not say what it is is
// refused.
TEST(loading_accidents, the_format_of_scales_is_never_guessed) {
  EXPECT_EQ(logits_of(convert(test::kTinyV32, "fp8-e8m0")), tiny_logits());
  test::EditedCheckpoint bytes(convert(test::kTinyV32, "fp8-e8m0"));
  bytes.at(kIndexer + "wk.scale").dtype = DType::kU8;
  EXPECT_THAT(refusal(bytes.write()),
              HasSubstr(kIndexer + "wk.scale: expected F32 or F8_E8M0 [1, 3], file has U8 [1, 3]"));
  test::EditedCheckpoint numbers;
  const std::string scale = "model.layers.1.self_attn.o_proj.weight_scale_inv";
  for (float& value : numbers.values_of<float>(scale)) value = 127.0f + std::log2(value);
  const test::ToolRun run = test::run_tool("inspect --sample " + numbers.write());
  EXPECT_EQ(run.exit_code, 1);
  EXPECT_THAT(run.out, HasSubstr("error scale-bytes-as-numbers"));
}

// transformers #47030, #46763: scales rounded up to powers of two, codes left as they were: values up to
// twice as large. The only way to such scales is encode_e4m3, which writes both.
TEST(loading_accidents, rounding_a_scale_requantizes_its_codes) {
  test::EditedCheckpoint odd;
  const std::string name = "model.layers.1.self_attn.o_proj.weight";
  for (float& value : odd.values_of<float>(name + "_scale_inv")) value *= 1.1f;
  const auto before = checkpoint::open(odd.write());
  const std::string out = convert(odd.directory(), "fp8-e8m0");
  const auto after = checkpoint::open(out);
  const model::Model model_before = model::bind(before), model_after = model::bind(after);
  const StoredMatrix& a = model_before.weights.layers[1].o;
  const StoredMatrix& b = model_after.weights.layers[1].o;
  double difference = 0.0, norm = 0.0, sum = 0.0;
  for (int64_t r = 0; r < a.out; ++r) {
    for (int64_t c = 0; c < a.in; ++c) {
      const double x = exact_element(a, r, c), y = exact_element(b, r, c);
      difference += (x - y) * (x - y);
      norm += x * x;
      sum += x * y;
    }
  }
  EXPECT_LT(std::sqrt(difference / norm), 0.04) << "e4m3's own rounding";
  EXPECT_NEAR(sum / norm, 1.0, 0.01) << "not inflated; of codes times 1.1 more round down than up";
}

// vllm #57144: blocks of 32 x 32 where 128 x 128 was taken for granted.
TEST(loading_accidents, the_block_shape_is_that_of_config_json) {
  test::EditedCheckpoint small;
  small.config["quantization_config"]["weight_block_size"] = {32, 32};
  EXPECT_THAT(refusal(small.write()),
              HasSubstr("q_a_proj.weight_scale_inv: expected F32 or F8_E8M0 [8, 12], file has "
                        "F32 [2, 3]"));
  test::EditedCheckpoint reshaped;
  test::set_blocks(reshaped, 32, 32, [](float scale) { return scale; });
  EXPECT_EQ(logits_of(reshaped.write()), tiny_logits());
}

// TRT-LLM #11989: the indexer inherited the experts' fp4.
TEST(loading_accidents, fp4_experts_leave_the_indexer_as_it_is) {
  const std::string out = convert(test::kTinyV32, "nvfp4-experts");
  const auto checkpoint = checkpoint::open(out);
  const model::Model model = model::bind(checkpoint);
  EXPECT_EQ(format_of(model.weights.layers[1].experts[0].gate).form, MatrixForm::kNvfp4);
  EXPECT_EQ(format_of(model.weights.layers[1].indexer.k).form, MatrixForm::kE4M3Blocks);
  EXPECT_EQ(format_of(model.weights.layers[1].indexer.gate).form, MatrixForm::kBF16);
  test::EditedCheckpoint unnamed(out);
  unnamed.config.erase("expert_dtype");
  EXPECT_THAT(refusal(unnamed.write()),
              HasSubstr("experts.0.gate_proj.weight: expected F8_E4M3 with scales"));
}

// A scale an output channel, [out] or [out, 1]; one for the tensor.
TEST(loading_accidents, scales_without_blocks_are_told_apart_by_their_shape) {
  const std::string out = convert(test::kTinyV32, "fp8-channel");
  test::EditedCheckpoint flat(out);
  for (checkpoint::TensorView& tensor : flat.tensors)
    if (tensor.name.ends_with(".weight_scale")) tensor.shape = {tensor.shape[0]};
  EXPECT_EQ(logits_of(flat.write()), logits_of(out));
  test::EditedCheckpoint single(out);
  single.at(kIndexer + "wk.weight_scale").shape = {};
  single.values_of<float>(kIndexer + "wk.weight_scale")[0] = 0.25f;
  const auto checkpoint = checkpoint::open(single.write());
  EXPECT_EQ(describe(format_of(model::bind(checkpoint).weights.layers[1].indexer.k)),
            "e4m3 per tensor, scales f32");
}

// sglang #31213: the router's bias in bf16 collapses to a few values.
TEST(loading_accidents, every_form_keeps_the_router_bias_as_it_is) {
  const test::TinyModel tiny;
  const std::string name = "model.layers.1.mlp.gate.e_score_correction_bias";
  for (const std::string_view form : model::form_names()) {
    const auto made = checkpoint::open(convert(test::kTinyV32, std::string(form)));
    EXPECT_EQ(made.find(name)->dtype, DType::kF32) << form;
    EXPECT_TRUE(std::ranges::equal(made.find(name)->bytes, tiny.checkpoint.find(name)->bytes)) << form;
  }
}

// The MTP layer's index follows the last layer's.
TEST(loading_accidents, an_mtp_layer_is_no_layer_of_the_model) {
  test::EditedCheckpoint edited;
  edited.add_mtp();
  EXPECT_EQ(logits_of(edited.write()), tiny_logits());
  edited.config.erase("num_nextn_predict_layers");
  EXPECT_THAT(refusal(edited.write()), HasSubstr("model.layers.4."));
}

// GLM-5.2 ships layers without an indexer, which config.json names; elsewhere a missing one is an error, not
// a random one.
TEST(loading_accidents, a_layer_without_its_indexer_is_refused) {
  test::EditedCheckpoint edited;
  std::erase_if(edited.tensors, [](const auto& tensor) { return tensor.name.starts_with(kIndexer); });
  EXPECT_THAT(refusal(edited.write()), HasSubstr(kIndexer + "wq_b.weight: expected"));
}

// sglang #13530, ATOM #1502: the indexer rotated as the other family does it; seen beyond index_topk tokens
// only.
TEST(loading_accidents, an_indexer_rope_of_another_family_is_refused) {
  test::EditedCheckpoint edited;
  edited.config["indexer_rope_interleave"] = true;
  EXPECT_THAT(refusal(edited.write()), HasSubstr("\"indexer_rope_interleave\": expected false, found true"));
  test::EditedCheckpoint glm(test::kTinyGlm5);
  glm.config["indexer_rope_interleave"] = false;
  EXPECT_THAT(refusal(glm.write()), HasSubstr("\"indexer_rope_interleave\": expected true, found false"));
}

// sglang #32279: a shard that an interrupted download left out was passed over.
TEST(loading_accidents, a_shard_that_is_not_there_is_refused) {
  const test::EditedCheckpoint edited;
  const fs::path directory = edited.write_shards([](const std::string& name) {
    return std::string(name.starts_with("model.layers.3.") ? "2.safetensors" : "1.safetensors");
  });
  fs::remove(directory / "2.safetensors");
  EXPECT_THAT(refusal(directory), HasSubstr("shard 2.safetensors does not exist"));
}

// vllm #53019, #51665: a head that is not there was left random, or tied against the config.
TEST(loading_accidents, a_head_that_is_not_there_is_not_made_up) {
  test::EditedCheckpoint edited;
  edited.erase("lm_head.weight");
  EXPECT_THAT(refusal(edited.write()),
              HasSubstr("lm_head.weight: expected BF16 or F32 [2048, 384], the checkpoint has"));
}

}  // namespace
}  // namespace fulgurite
