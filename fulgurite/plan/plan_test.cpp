#include "fulgurite/plan/plan.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "fulgurite/plan/bytes.h"
#include "fulgurite/plan/prepare.h"
#include "test/op_test.h"
#include "test/tiny_model.h"

namespace fulgurite::plan {
namespace {

const Row& row_of(const Plan& plan, int64_t layer, const std::string& operation) {
  return *std::ranges::find_if(
      plan.rows, [&](const Row& row) { return row.layer == layer && row.operation == operation; });
}

TEST(plan, every_operation_of_every_layer_has_a_row) {
  const test::TinyModel tiny;
  const Plan plan = make(tiny.model, test::device(2), {});
  EXPECT_EQ(plan.layers.size(), 4u);
  for (int64_t layer = 0; layer < 4; ++layer) {
    const int64_t rows = std::ranges::count_if(plan.rows, [&](const Row& row) { return row.layer == layer; });
    EXPECT_EQ(rows, layer == 0 ? 17 : 18) << "layer " << layer;
    EXPECT_EQ(plan.layers[static_cast<size_t>(layer)].router.has_value(), layer > 0);
  }
  EXPECT_EQ(row_of(plan, 2, "linear q_a").format, "e4m3 128x128, scales f32 [256, 384]");
  EXPECT_EQ(row_of(plan, model::kNoLayer, "linear head").format, "bf16 [2048, 384]");
}

TEST(plan, norms_of_the_latents_have_the_eps_of_the_published_code) {
  test::TinyModel tiny;
  tiny.model.config.norm_eps = 1e-5f;
  const Plan plan = make(tiny.model, test::device(1), {});
  EXPECT_EQ(plan.layers[2].attention_site.norm.problem.eps, 1e-5f);
  EXPECT_EQ(plan.layers[2].feed_forward_site.norm.problem.eps, 1e-5f);
  EXPECT_EQ(plan.layers[2].attention->q_a_norm.problem.eps, 1e-6f);
  EXPECT_EQ(plan.layers[2].attention->latent.problem.eps, 1e-6f);
}

TEST(plan, the_same_question_has_the_same_answer) {
  const test::TinyModel tiny;
  const Device device = test::device(2);
  EXPECT_TRUE(make(tiny.model, device, {}).rows == make(tiny.model, device, {}).rows);
}

TEST(plan, numerics_that_nobody_implements_fail_with_every_reason) {
  const test::TinyModel tiny;
  Options options;
  options.numerics.rsqrt = Rsqrt::kCuda;
  const std::string message = test::message_of([&] { make(tiny.model, test::device(1), options); });
  EXPECT_EQ(
      message,
      "layer 0 norm attention: no implementation takes it (cpu: rsqrt = cuda, takes correct or two_step or "
      "x86_12 or x86_14 or error; reference: rsqrt = cuda, takes correct or two_step or x86_12 or x86_14 or "
      "error)");
}

TEST(plan, serving_runs_on_kernels_of_its_own_and_prints_what_they_read) {
  const test::TinyModel tiny;
  const Plan plan = make(tiny.model, test::device(2), {});
  EXPECT_EQ(summary(plan.options.numerics), "serving");
  EXPECT_EQ(plan.numerics.activation_scale, ActivationScale::kPow2) << "scale_fmt ue8m0";
  EXPECT_EQ(row_of(plan, 1, "linear q_a").implementation, "cpu_fp8");
  EXPECT_EQ(row_of(plan, model::kNoLayer, "linear head").implementation, "cpu_bf16");
  EXPECT_EQ(row_of(plan, 1, "indexer_projection").implementation, "cpu_bf16");
  EXPECT_EQ(row_of(plan, 1, "index_select").implementation, "cpu_pairs");
  EXPECT_EQ(row_of(plan, 1, "sparse_attention").implementation, "cpu_pairs");
  EXPECT_EQ(row_of(plan, 1, "experts").implementation, "cpu_fp8");
  EXPECT_EQ(row_of(plan, 1, "latent_prepare").format, "cache fp8 [512 + 64], 656 bytes a row");
  for (const Row& row : plan.rows) EXPECT_NE(row.implementation, "reference") << row.operation;
}

// No kernel of bf16 operands holds fp16; those of fp32 operands stand in, and no reference does.
TEST(plan, fp16_runs_on_kernels_that_hold_it) {
  const test::TinyModel tiny;
  Options options;
  options.numerics = parse_numerics("serving,activation=fp16");
  const Plan plan = make(tiny.model, test::device(2), options);
  EXPECT_EQ(row_of(plan, 1, "linear q_a").implementation, "cpu_fp8");
  EXPECT_EQ(row_of(plan, model::kNoLayer, "linear head").implementation, "cpu");
  EXPECT_EQ(row_of(plan, 1, "indexer_projection").implementation, "cpu");
  EXPECT_EQ(row_of(plan, 1, "sparse_attention").implementation, "cpu_pairs");
  EXPECT_EQ(row_of(plan, 1, "experts").implementation, "cpu_fp8");
  for (const char* const also : {"", ",qk_operands=fp32", ",mla=expanded", ",activation_quant=none",
                                 ",latent_cache=bf16", ",index_quant=none"}) {
    options.numerics = parse_numerics(std::string("serving,activation=fp16") + also);
    for (const Row& row : make(tiny.model, test::device(2), options).rows)
      EXPECT_NE(row.implementation, "reference") << row.operation << also;
  }
}

TEST(plan, the_scale_of_activations_is_a_fact_of_the_checkpoint_unless_it_is_asked_for) {
  test::TinyModel tiny;
  tiny.model.config.quantization->activation_scale = ScaleRounding::kNone;
  Options options;
  EXPECT_EQ(make(tiny.model, test::device(1), options).numerics.activation_scale, ActivationScale::kFp32);
  options.numerics.activation_scale = ActivationScale::kPow2;
  EXPECT_EQ(make(tiny.model, test::device(1), options).numerics.activation_scale, ActivationScale::kPow2);
}

// What nothing implements, alone on top of either preset, is refused by name. (test/knobs_test.cpp shows that
// what is planned changes results.)
TEST(plan, no_knob_is_silently_ignored) {
  const test::TinyModel tiny;
  for (const char* const preset : {"serving", "fp32"}) {
    for (const std::string setting : {"mma=hopper", "rsqrt=cuda"}) {
      if (preset == std::string("serving") && setting == "mma=hopper") continue;  // references take it
      Options options;
      options.numerics = parse_numerics(fmt::format("{},{}", preset, setting));
      const std::string message = test::message_of([&] { make(tiny.model, test::device(1), options); });
      std::string expected(setting);
      expected.replace(expected.find('='), 1, " = ");
      EXPECT_NE(message.find(expected), std::string::npos) << preset << ": " << message;
    }
  }
}

// CPU kernels sum in fp32: what tensor cores would sum is left to references, and the plan says so.
TEST(plan, sums_of_tensor_cores_are_made_by_references) {
  const test::TinyModel tiny;
  Options options;
  options.numerics = parse_numerics("serving,mma=hopper");
  const Plan plan = make(tiny.model, test::device(1), options);
  for (const char* const operation : {"linear q_a", "head_projection query", "sparse_attention",
                                      "index_select", "indexer_projection", "router", "experts"}) {
    const Row& row = row_of(plan, 1, operation);
    EXPECT_EQ(row.implementation, "reference") << operation;
    ASSERT_FALSE(row.refused.empty()) << operation;
    EXPECT_NE(row.refused.front().find("mma = hopper, takes exact"), std::string::npos)
        << row.refused.front();
  }
  EXPECT_EQ(row_of(plan, 1, "norm attention").implementation, "cpu") << "no sum of products";
}

TEST(plan, refusals_stand_in_the_row_of_what_was_chosen) {
  const test::TinyModel tiny;
  Options options;
  options.candidates = Candidates::kReferencesOnly;
  const Plan plan = make(tiny.model, test::device(1), options);
  EXPECT_EQ(row_of(plan, 1, "router").implementation, "reference");
  EXPECT_EQ(row_of(plan, 1, "router").refused,
            (std::vector<std::string>{"cpu_bf16: only references are asked for",
                                      "cpu: only references are asked for"}));
}

TEST(plan, mla_expanded_is_another_operation) {
  const test::TinyModel tiny;
  Options options;
  options.numerics.mla = Mla::kExpanded;
  const Plan plan = make(tiny.model, test::device(1), options);
  EXPECT_FALSE(plan.layers[0].attention->absorbed);
  EXPECT_TRUE(plan.layers[0].attention->expanded);
}

TEST(plan, cache_bytes_are_rows_times_width) {
  const test::TinyModel tiny;
  Options options;
  options.numerics = Numerics::fp32();
  options.context = 100;
  options.sequences = 3;
  const Plan plan = make(tiny.model, test::device(1), options);
  EXPECT_EQ(plan.bytes.latent_cache, 4 * 3 * 100 * 576 * 4);
  EXPECT_EQ(plan.bytes.index_cache, 4 * 3 * 100 * 128 * 4);
  EXPECT_EQ(plan.bytes.viewed, tiny.checkpoint.total_bytes());
  options.numerics = Numerics::serving();
  const Plan serving = make(tiny.model, test::device(1), options);
  EXPECT_EQ(serving.bytes.latent_cache, 4 * 3 * 100 * 656);
  EXPECT_EQ(serving.bytes.index_cache, 4 * (3 * 100 * 128 + 1216));  // scales fill whole 64 bytes
}

// Window rings and entries, in whole blocks of 64 rows.
TEST(plan, the_cache_row_of_deepseek_v4_is_a_choice) {
  const test::TinyModel v4(test::kTinyV4);
  Options options;
  options.context = 1000;
  options.sequences = 3;
  for (const auto& [form, bytes] : {std::pair{LatentCache::kFp8, 584}, {LatentCache::kBf16, 1024}}) {
    options.numerics.latent_cache = form;
    const Plan plan = make(v4.model, test::device(1), options);
    EXPECT_NE(row_of(plan, 0, "kv_prepare").format.find(fmt::format("{} bytes each", bytes)),
              std::string::npos);
    int64_t all = 0;
    for (const LayerPlan& layer : plan.layers) {
      const KvRow row = compressed_attention::row_of(layer.window->attention.problem);
      EXPECT_EQ(row.bytes() + row.scale_bytes(), bytes);
      all += row.cache_bytes(3, layer.window->attention.problem.ring) +
             row.cache_bytes(3, layer.window->attention.problem.entries);
    }
    EXPECT_EQ(plan.bytes.latent_cache, all);
  }
}

// The other two layers attend to what these selected: index keys of theirs would never be read.
TEST(plan, layers_that_share_a_selection_have_no_index_keys) {
  const test::TinyModel glm(test::kTinyGlm5);
  Options options;
  options.context = 100;
  options.sequences = 3;
  const Plan plan = make(glm.model, test::device(1), options);
  EXPECT_EQ(plan.bytes.index_layers, 2);
  EXPECT_EQ(plan.bytes.latent_cache, 4 * 3 * 100 * 656);
  EXPECT_EQ(plan.bytes.index_cache, 2 * (3 * 100 * 128 + 1216));  // scales fill whole 64 bytes
  EXPECT_EQ(plan.caches.layers[1].index_keys.bytes, 0);
  EXPECT_GT(plan.caches.layers[2].index_keys.bytes, 0);
}

TEST(plan, the_family_says_how_its_indexer_rotates_and_which_eps_its_norms_have) {
  for (const auto& [directory, layout, eps] :
       {std::tuple{test::kTinyV32, rotary::Layout::kHalfSplit, 1e-6f},
        std::tuple{test::kTinyGlm5, rotary::Layout::kInterleaved, 1e-5f}}) {
    const test::TinyModel tiny(directory);
    const Plan plan = make(tiny.model, test::device(1), {});
    const LayerPlan& layer = plan.layers[2];
    const LatentAttentionPlan& attention = *layer.attention;
    EXPECT_EQ(indexer_prepare::layout_in_force(attention.indexer->prepare.problem), layout) << directory;
    EXPECT_EQ(layer.attention_site.norm.problem.eps, eps);
    EXPECT_EQ(plan.final_site.norm.problem.eps, eps);
    EXPECT_EQ(attention.q_a_norm.problem.eps, 1e-6f);
    EXPECT_EQ(attention.latent.problem.eps, 1e-6f);
    EXPECT_EQ(attention.q_rope.problem.layout, rotary::Layout::kInterleaved);
  }
}

TEST(plan, the_context_defaults_to_the_models_and_never_exceeds_it) {
  const test::TinyModel tiny;
  EXPECT_EQ(make(tiny.model, test::device(1), {}).options.context, 2048);
  Options options;
  options.context = 2049;
  EXPECT_EQ(test::message_of([&] { make(tiny.model, test::device(1), options); }),
            "context: expected 1 to 2048 positions (max_position_embeddings), asked for 2049");
}

TEST(plan, memory_that_is_not_there_is_refused_before_it_is_asked_for) {
  const test::TinyModel tiny;
  Plan plan = make(tiny.model, test::device(1), {});
  EXPECT_EQ(test::message_of([&] { require_memory(plan); }), "");
  plan.device.available_bytes = plan.bytes.owned() - 1;
  const std::string message = test::message_of([&] { require_memory(plan); });
  EXPECT_NE(message.find("context 2048 for 1 sequence(s) needs"), std::string::npos) << message;
}

TEST(plan, bytes_beyond_counting_are_an_error_and_not_a_small_number) {
  EXPECT_EQ(product({3, 5, 7}), 105);
  EXPECT_NE(test::message_of([] { product({int64_t{1} << 40, int64_t{1} << 40}); }), "");
  EXPECT_EQ(human_bytes(0), "0 B");
  EXPECT_EQ(human_bytes(1536), "1.50 KiB");
  EXPECT_EQ(human_bytes(int64_t{40} << 30), "40.0 GiB");
}

TEST(plan, matrices_are_viewed_and_vectors_are_exact) {
  const test::TinyModel tiny;
  const Plan plan = make(tiny.model, test::device(1), {});
  const PreparedWeights weights = prepare(tiny.model, plan);
  const auto& stored = std::get<BlockScaled>(tiny.model.weights.layers[1].kv_b.as);
  const auto& prepared = std::get<BlockScaled>(weights.layers[1].kv_b.as);
  EXPECT_EQ(prepared.data.data, stored.data.data);
  EXPECT_EQ(prepared.scale.data, stored.scale.data);
  const auto& norm = std::get<View<const bf16, 1>>(tiny.model.weights.layers[3].attention_norm);
  for (int64_t i = 0; i < 384; ++i) EXPECT_EQ(weights.layers[3].attention_norm(i), to_float(norm(i)));
}

}  // namespace
}  // namespace fulgurite::plan
