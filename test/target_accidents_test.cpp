// Accidents of layers that a GPU's fast path refuses, and of the scales that its kernels read: planned here
// without a device; with loading_accidents_test.cpp and planning_accidents_test.cpp, and docs/accidents.md.

#include "fulgurite/core/requantized.h"
#include "test/accidents.h"
#include "test/op_test.h"

namespace fulgurite {
namespace {

using test::convert;
using testing::HasSubstr;
using testing::StartsWith;

const std::string kConfig = test::kSource + "/models/configs/deepseek-v3.2.json";

plan::Plan plan_for(const model::Model& model, const Target& target,
                    Activation activation = Activation::kBf16) {
  plan::Options options;
  options.numerics.activation = activation;
  options.context = 512;
  return plan::make(model, device_of(target), options);
}

const plan::Row& row_of(const plan::Plan& plan, const std::string& operation) {
  return *std::ranges::find(plan.rows, operation, &plan::Row::operation);
}

std::string first_refusal(const plan::Row& row) { return row.refused.empty() ? "" : row.refused.front(); }

// sglang #22300: layers that DeepGEMM refuses (fp16 activations; N = 32 and 96; K = 192) were requantized for
// it all the same, and their scales unpacked again in every call of the kernel that ran instead.
TEST(target_accidents, layers_that_the_fast_path_refuses_are_not_requantized_for_it) {
  model::Config config = model::parse_config(checkpoint::MappedFile(kConfig).text(), kConfig);
  config.q_lora = 192;  // K of q_b and index_q
  config.rope = 16;
  for (const int64_t n : {32, 96}) {
    config.kv_lora = n - config.rope;
    const model::Model model = model::outline(config);
    for (const char* const target : {"sm100", "sm120"}) {
      const plan::Plan plan = plan_for(model, target_named(target));
      const std::pair<const char*, std::string> refused[] = {
          {"linear q_b", "cuda_fp8: K = 192, needs K % 128 == 0"},
          {"linear index_q", "cuda_fp8: K = 192, needs K % 128 == 0"},
          {"linear kv_a", fmt::format("cuda_fp8: N = {}, needs N % 64 == 0", n)}};
      for (const auto& [operation, reason] : refused) {
        EXPECT_EQ(row_of(plan, operation).implementation, "cuda") << operation;
        EXPECT_EQ(row_of(plan, operation).scales, "as stored") << operation;
        EXPECT_EQ(first_refusal(row_of(plan, operation)), reason);
      }
      EXPECT_THAT(row_of(plan, "linear o").scales, StartsWith("requantized")) << "which does run there";
      const plan::Plan fp16 = plan_for(model, target_named(target), Activation::kFp16);
      EXPECT_EQ(fp16.bytes.requantized, 0);
      EXPECT_EQ(first_refusal(row_of(fp16, "linear o")), "cuda_fp8: activation = fp16, takes bf16");
      EXPECT_EQ(row_of(fp16, "linear o").scales, "as stored");
    }
  }
}

// sglang #22300 again: with DeepGEMM off another kernel read fp32 scales as if they were e8m0: accuracy 0. A
// row says which scales it reads, and takes no others, in the plan or in a call.
TEST(target_accidents, scales_are_read_by_rows_of_their_format_alone) {
  const auto checkpoint = checkpoint::open(convert(test::kTinyV32, "fp8-e8m0"));
  const model::Model bytes = model::bind(checkpoint);
  const plan::Row hopper = row_of(plan_for(bytes, target_named("sm90")), "linear o");
  EXPECT_EQ(hopper.implementation, "cuda_hopper") << "which reads both";
  EXPECT_EQ(hopper.scales, "as stored");
  EXPECT_EQ(row_of(plan_for(bytes, target_named("sm100")), "linear o").scales,
            "e8m0 packed in int32, the same values");

  const test::TinyModel tiny;
  const linear::Problem planned = plan_for(tiny.model, target_named("sm100")).layers[1].attention->o.problem;
  const StoredMatrix& stored = tiny.model.weights.layers[1].o;
  const PreparedMatrix as_stored{stored.as, stored.out, stored.in};
  const auto x = inputs::unwritten<2>(DType::kBF16, {1, stored.in});
  const auto y = inputs::unwritten<2>(DType::kBF16, {1, stored.out});
  EXPECT_EQ(
      test::message_of([&] {
        linear::check(planned, {x.view, &as_stored, y.view});
      }),
      "linear: weight: expected e4m3 128x128, scales e8m0 packed in int32, found e4m3 128x128, scales f32");
  const Requantized requantized(stored);
  const PreparedMatrix packed = requantized.packed();
  linear::check(planned, {x.view, &packed, y.view});
}

// vllm #57486: on Blackwell a switch turned e8m0 scales off under kernels that read nothing else: a hard
// failure, or NaN. Here the format follows from the row; where scales of activations are no powers of two,
// the row is refused, and another one runs.
TEST(target_accidents, scales_that_the_tensor_core_cannot_apply_are_refused_at_load) {
  for (const char* const target : {"sm100", "sm120"}) {
    const std::string plan = "plan " + kConfig + " --config-only --context 512 --target " + target +
                             " --numerics serving,activation_scale=fp32";
    const auto json = nlohmann::json::parse(test::run_tool(plan + " --json").out);
    EXPECT_EQ(json["bytes"]["requantized"], 0);
    for (const auto& row : json["rows"]) {
      if (row["operation"] != "linear q_a") continue;
      EXPECT_EQ(row["implementation"], "cuda");
      EXPECT_EQ(row["refused"][0], "cuda_fp8: activation_scale = fp32, takes pow2");
    }
    const test::ToolRun required = test::run_tool(plan + " --require 'linear q_a:cuda_fp8'");
    EXPECT_EQ(required.exit_code, 1);
    EXPECT_THAT(required.error, HasSubstr("(cuda_fp8: activation_scale = fp32, takes pow2; "));
  }
}

// miles #1338: new weights of a live session were converted because a library was installed, not because
// their layer ran it, and the update crashed.
TEST(target_accidents, new_weights_are_prepared_for_the_rows_that_run_whatever_is_installed) {
  const model::Model model =
      model::outline(model::parse_config(checkpoint::MappedFile(kConfig).text(), kConfig));
  Target installed = target_named("sm100");
  installed.cuda = {13000, 130000};
  const plan::Plan with = plan_for(model, installed, Activation::kFp16),
                   without = plan_for(model, target_named("sm100"), Activation::kFp16);
  EXPECT_EQ(with.bytes.requantized, 0);
  EXPECT_TRUE(with.rows == without.rows) << "which takes nothing of this model";

  const std::string before = convert(test::kTinyV32, "fp8-e8m0");
  const auto first = checkpoint::open(before);
  const model::Model old_model = model::bind(first);
  plan::Options options;
  options.context = options.chunk_tokens = test::kAccidentPositions;
  execute::Session session(old_model, plan::make(old_model, test::device(2), options));
  test::EditedCheckpoint edited(before);
  for (uint8_t& code : edited.values_of<uint8_t>(test::kWk)) code ^= 0x80;
  const std::string directory = edited.write();
  const auto second = checkpoint::open(directory);
  const model::Model new_model = model::bind(second);
  session.update_weights(new_model);
  const std::vector<int32_t> ids = test::golden_ids(0);
  const View<const float, 2> logits = session.forward(0, std::span(ids).first(test::kAccidentPositions));
  const std::vector<float> updated(logits.data, logits.data + logits.size());
  EXPECT_EQ(updated, test::logits_of(directory, Numerics::serving()));
  EXPECT_NE(updated, test::logits_of(test::kTinyV32, Numerics::serving())) << "wk is another";
}

// vllm #37806, #38083: requantization cost one family of models its accuracy (GSM8K 0.74 instead of 0.78), and
// the answer was a list of models to leave out. Here its cost is printed before anything runs, and whoever
// does not want it forbids the row.
TEST(target_accidents, what_requantization_costs_is_said_and_can_be_forbidden) {
  test::EditedCheckpoint odd;
  for (size_t i = 0; i < odd.tensors.size(); ++i) {
    const std::string name = odd.tensors[i].name;
    if (!name.ends_with("_scale_inv")) continue;
    for (float& scale : odd.values_of<float>(name)) scale *= 1.1f;
  }
  const std::string plan = "plan " + odd.write() + " --target sm100 --context 512 --requantization --json ";
  const auto costly = nlohmann::json::parse(test::run_tool(plan).out);
  ASSERT_EQ(costly["requantization"].size(), 20u);
  for (const auto& weight : costly["requantization"]) {
    EXPECT_GT(weight["relative_error"], 0.01) << weight;
    EXPECT_LT(weight["relative_error"], 0.04) << weight;
    EXPECT_EQ(weight["kept_blocks"], 0) << weight;
  }
  const auto exact = nlohmann::json::parse(test::run_tool(plan + "--forbid linear:cuda_fp8").out);
  EXPECT_TRUE(exact["requantization"].empty());
  EXPECT_EQ(exact["bytes"]["requantized"], 0);
}

}  // namespace
}  // namespace fulgurite
