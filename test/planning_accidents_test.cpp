// What went wrong elsewhere between the loaded weights and the kernels that read them, once more, and what
// stops it here; with loading_accidents_test.cpp and docs/accidents.md, which lists both.

#include <cmath>
#include <fstream>

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

const std::string kO = "model.layers.1.self_attn.o_proj.weight";

// Scales that are no powers of two, in a checkpoint whose activations have powers of two.
void make_odd(test::EditedCheckpoint& edited) {
  for (size_t i = 0; i < edited.tensors.size(); ++i) {
    const std::string name = edited.tensors[i].name;
    if (!name.ends_with("_scale_inv")) continue;
    for (float& scale : edited.values_of<float>(name)) scale *= 1.1f;
  }
}

// sglang #22300: scales converted at load for a kernel that then refused, and converted back in every call.
TEST(planning_accidents, no_scale_is_converted_for_any_kernel) {
  for (const std::string& directory : {test::kTinyV32, convert(test::kTinyV32, "fp8-e8m0")}) {
    const auto checkpoint = checkpoint::open(directory);
    const model::Model model = model::bind(checkpoint);
    const plan::Plan plan = plan::make(model, test::device(1), {});
    const plan::PreparedWeights weights = plan::prepare(model, plan);
    for (size_t layer = 0; layer < weights.layers.size(); ++layer) {
      const auto& prepared = std::get<BlockScaled>(weights.layers[layer].o.as);
      const auto& stored = std::get<BlockScaled>(model.weights.layers[layer].o.as);
      EXPECT_EQ(prepared.data.data, stored.data.data);
      EXPECT_EQ(prepared.scale.data, stored.scale.data);
      EXPECT_EQ(prepared.exponents.data, stored.exponents.data);
      EXPECT_EQ(prepared.format, stored.format);
    }
  }
}

// sglang #22300, vLLM's --linear-backend: what cannot run was replaced by something else, with a warning at
// most.
TEST(planning_accidents, a_plan_that_cannot_be_met_is_refused_with_every_reason) {
  const test::ToolRun run = test::run_tool("plan " + test::kTinyV32 + " --numerics serving,rsqrt=cuda");
  EXPECT_EQ(run.exit_code, 1);
  EXPECT_THAT(run.error, HasSubstr("no implementation takes it ("));
  EXPECT_THAT(run.error, HasSubstr("reference: rsqrt = cuda, takes correct or "));
}

// sglang #28662: activations with power-of-two scales met fp32 scales of weights as if those were powers of
// two too: NaN, GSM8K 0 %.
TEST(planning_accidents, scales_of_weights_need_not_be_as_those_of_activations) {
  test::EditedCheckpoint odd;
  make_odd(odd);
  const std::string directory = odd.write();
  const double expected = test::distance(logits_of(test::kTinyV32, Numerics::serving()), tiny_logits());
  EXPECT_LT(test::distance(logits_of(directory, Numerics::serving()), logits_of(directory)), 2.0 * expected);
  const test::ToolRun run = test::run_tool("inspect --sample " + directory);
  EXPECT_EQ(run.exit_code, 0);
  EXPECT_THAT(run.out, HasSubstr("warning scale-not-power-of-two"));
}

// DeepGEMM's int32 scales hold four e8m0 bytes each, and are as wide as fp32 (SGLang, style of #22300).
TEST(planning_accidents, packed_scales_are_refused_and_never_taken_for_numbers) {
  test::EditedCheckpoint packed;
  packed.at(kWk + "_scale_inv").dtype = DType::kI32;
  EXPECT_THAT(refusal(packed.write()),
              HasSubstr(kWk + "_scale_inv: expected F32 or F8_E8M0 [1, 3], file has I32 [1, 3]"));
}

// vllm #58157, #37806, #38083: requantization to powers of two at load is a second rounding, 2.65 % of a
// weight, that nobody was told of.
TEST(planning_accidents, loading_requantizes_nothing_and_convert_says_what_it_costs) {
  test::EditedCheckpoint odd;
  make_odd(odd);
  const auto checkpoint = checkpoint::open(odd.write());
  const model::Model model = model::bind(checkpoint);
  const test::TinyModel tiny;
  const double clean = exact_element(tiny.model.weights.layers[1].o, 5, 7);
  EXPECT_NEAR(exact_element(model.weights.layers[1].o, 5, 7), clean * 1.1f, std::abs(clean) * 1e-6);
  const std::string out = test::scratch_file("accident_requantized");
  const test::ToolRun run =
      test::run_tool("convert --json --form fp8-e8m0 " + odd.directory().string() + " " + out);
  ASSERT_EQ(run.exit_code, 0) << run.error;
  const nlohmann::json report = nlohmann::json::parse(run.out)["requantized"];
  const auto o = std::ranges::find_if(report, [](const auto& weight) { return weight["name"] == kO; });
  ASSERT_NE(o, report.end());
  EXPECT_GT((*o)["relative_error"].template get<double>(), 0.01);
}

// A tensor library forgot the stride of a dimension of one element, and DeepGEMM refused the scales of
// K <= 512 (peers of SGLang).
TEST(planning_accidents, scales_of_a_single_column_keep_their_shape) {
  test::EditedCheckpoint wide;
  test::set_blocks(wide, 128, 512, [](float scale) { return scale; });
  const std::string directory = wide.write();
  EXPECT_EQ(wide.at(kO + "_scale_inv").shape, (std::vector<int64_t>{3, 1}));
  EXPECT_EQ(logits_of(directory), logits_of(convert(directory, "bf16")));
}

// vllm #57486: a variable of the environment turned the format of scales off under kernels that need it.
TEST(planning_accidents, no_variable_of_the_environment_chooses_a_format) {
  int sources = 0;
  for (const char* const room : {"/fulgurite", "/tool"}) {
    for (const auto& entry : fs::recursive_directory_iterator(test::kSource + room)) {
      if (!entry.is_regular_file()) continue;
      const std::string text(checkpoint::MappedFile(entry.path()).text());
      ++sources;
      for (const char* const word : {"getenv", "environ[", "**environ"})
        EXPECT_EQ(text.find(word), std::string::npos) << entry.path();
    }
  }
  EXPECT_GT(sources, 100);
}

// vllm #38665: checkpoints with wk and weights_proj as one tensor; with the halves beside it, one of them
// would win.
TEST(planning_accidents, a_fused_projection_beside_its_halves_is_refused) {
  test::EditedCheckpoint both;
  both.add(kIndexer + "wk_weights_proj.weight", DType::kBF16, {136, 384});
  EXPECT_THAT(refusal(both.write()),
              HasSubstr(kWk + ": stands in " + kIndexer + "wk_weights_proj.weight already"));
}

// vllm #38870: one scale for rows of wk and of the heads has no meaning for either half.
TEST(planning_accidents, no_block_of_a_fused_projection_holds_rows_of_both_halves) {
  test::EditedCheckpoint tall(convert(test::kTinyV32, "fused-fp8"));
  test::set_blocks(tall, 256, 128, [](float scale) { return scale; });
  EXPECT_THAT(refusal(tall.write()),
              HasSubstr("a block of 256 rows holds rows of wk, the first 128, and of weights_proj"));
}

// SGLang's loader takes a quantized weights_proj; TRT-LLM #18658 lost the scales of its neighbour.
TEST(planning_accidents, a_quantized_gate_has_its_scales_or_is_refused) {
  test::EditedCheckpoint gate(convert(test::kTinyV32, "gate-fp8"));
  const std::string name = kIndexer + "weights_proj.weight";
  EXPECT_LT(test::distance(logits_of(gate.write()), tiny_logits()), 0.5);
  gate.erase(name + "_scale_inv");
  EXPECT_THAT(refusal(gate.write()), HasSubstr(name + ": F8_E4M3 [8, 384] needs scales"));
}

// vllm #50137: scales cut along the wrong axis.
TEST(planning_accidents, scales_along_the_wrong_axis_are_refused) {
  test::EditedCheckpoint turned;
  turned.at(kO + "_scale_inv").shape = {4, 3};
  EXPECT_THAT(refusal(turned.write()),
              HasSubstr(kO + "_scale_inv: expected F32 or F8_E8M0 [3, 4], file has F32 [4, 3]"));
}

// transformers #47031, vllm #47874: weights loaded transposed.
TEST(planning_accidents, a_transposed_weight_is_refused) {
  test::EditedCheckpoint turned;
  turned.at(kO).shape = {512, 384};
  EXPECT_THAT(refusal(turned.write()),
              HasSubstr(kO + ": expected F8_E4M3 with scales, BF16 or F32 [384, 512], file has F8_E4M3"));
}

// W4AFP8 keeps its block size in a key of its own, Quark leaves layers out by a list (vllm #54556, #54900):
// to read such a checkpoint as plain fp8 is to guess.
TEST(planning_accidents, a_quantization_that_is_not_known_is_refused_and_not_guessed) {
  test::EditedCheckpoint method;
  method.config["quantization_config"]["quant_method"] = "w4afp8";
  EXPECT_THAT(refusal(method.write()), HasSubstr("\"quant_method\": expected \"fp8\" or \"modelopt\""));
  test::EditedCheckpoint list;
  list.config["quantization_config"]["ignored_layers"] = {"lm_head"};
  EXPECT_THAT(refusal(list.write()), HasSubstr("\"ignored_layers\": expected no such key"));
}

// kv_b_proj is used as two matrices; splitting its codes went wrong where its scales had been converted
// (SGLang, inverse_transform_scale_ue8m0). Here a block of 128 rows holds 64 of either.
TEST(planning_accidents, kv_b_is_read_by_rows_with_the_scales_that_it_has) {
  const std::string powers = convert(test::kTinyV32, "fp8-e8m0");
  const auto checkpoint = checkpoint::open(powers);
  const model::Model model = model::bind(checkpoint);
  const plan::Plan plan = plan::make(model, test::device(1), {});
  for (const char* const half : {"head_projection query", "head_projection value"}) {
    const auto row = std::ranges::find(plan.rows, half, &plan::Row::operation);
    ASSERT_NE(row, plan.rows.end());
    EXPECT_EQ(row->format, "e4m3 128x128, scales e8m0 [1024, 512]");
  }
  EXPECT_EQ(logits_of(powers, Numerics::serving()), logits_of(test::kTinyV32, Numerics::serving()));
}

// ATOM #451: GLM-5-FP8 lists `indexers_proj`, which is the name of no module, and weights_proj was taken for
// fp8. What is quantized the tensors tell.
TEST(planning_accidents, a_list_of_modules_that_are_not_quantized_moves_no_tensor) {
  test::EditedCheckpoint list;
  list.config["quantization_config"]["modules_to_not_convert"] = {
      "lm_head", "model.layers.0.self_attn.indexers_proj", "model.layers.1.mlp"};
  EXPECT_EQ(logits_of(list.write()), tiny_logits());
  const plan::Plan plan =
      plan::make(model::outline(model::parse_config(list.config.dump(), "config.json")), test::device(1), {});
  for (const int64_t layer : {1, 2}) {
    const auto experts = std::ranges::find_if(
        plan.rows, [&](const plan::Row& row) { return row.layer == layer && row.operation == "experts"; });
    EXPECT_THAT(experts->format, HasSubstr(layer == 1 ? "bf16" : "e4m3 128x128")) << "from config.json alone";
  }
  list.config["quantization_config"]["modules_to_not_convert"] = "lm_head";
  EXPECT_THAT(refusal(list.write()), HasSubstr("\"modules_to_not_convert\": expected names of modules"));
}

// GLM-5.2 ships indexers of full layers alone, other converters those of all layers.
TEST(planning_accidents, a_shared_layer_needs_no_indexer_and_may_have_one) {
  test::EditedCheckpoint shared;
  shared.config["index_topk_pattern"] = "FSFF";
  const std::vector<float> with = logits_of(shared.write());
  std::erase_if(shared.tensors, [](const auto& tensor) { return tensor.name.starts_with(kIndexer); });
  EXPECT_EQ(logits_of(shared.write()), with);
  EXPECT_NE(with, tiny_logits());
}

// vllm #46168: wk was never written, and everything looked fine: a NaN score is the worst of all, so the
// logits are numbers, and up to index_topk tokens the right ones.
TEST(planning_accidents, a_wk_that_is_no_number_is_found_though_logits_are) {
  test::EditedCheckpoint spoiled;
  spoiled.values_of<float>(kWk + "_scale_inv")[0] = std::nanf("");
  const std::string directory = spoiled.write();
  EXPECT_EQ(logits_of(directory, Numerics::fp32(), 100), logits_of(test::kTinyV32, Numerics::fp32(), 100));
  const std::vector<float> logits = logits_of(directory);
  EXPECT_NE(logits, tiny_logits());
  for (const float logit : logits) ASSERT_TRUE(std::isfinite(logit));
  const test::ToolRun run = test::run_tool("inspect --sample " + directory);
  EXPECT_EQ(run.exit_code, 1);
  EXPECT_THAT(run.out, HasSubstr(kWk + "_scale_inv: block [0, 0]: a scale is nan"));
}

// Streamed tensors lay in one buffer, and the next one overwrote the last (SGLang, RunAI). Here a weight is
// the file's own bytes, which stay while anything views them.
TEST(planning_accidents, what_was_loaded_stays_when_its_files_are_gone) {
  const test::EditedCheckpoint copy;
  const auto checkpoint = checkpoint::open(copy.write());
  const model::Model model = model::bind(checkpoint);
  plan::Options options;
  options.numerics = Numerics::fp32();
  options.context = options.chunk_tokens = test::kAccidentPositions;
  execute::Session session(model, plan::make(model, test::device(2), options));
  fs::remove_all(copy.directory());
  const std::vector<int32_t> ids = test::golden_ids(0);
  const View<const float, 2> logits = session.forward(0, std::span(ids).first(test::kAccidentPositions));
  EXPECT_EQ(std::vector<float>(logits.data, logits.data + logits.size()), tiny_logits());
}

TEST(accident_list, docs_name_every_accident_with_its_test) {
  const std::string text(checkpoint::MappedFile(test::kSource + "/docs/accidents.md").text());
  const testing::UnitTest& tests = *testing::UnitTest::GetInstance();
  int accidents = 0;
  for (int i = 0; i < tests.total_test_suite_count(); ++i) {
    const testing::TestSuite& suite = *tests.GetTestSuite(i);
    if (!std::string(suite.name()).ends_with("_accidents")) continue;
    for (int j = 0; j < suite.total_test_count(); ++j) {
      const std::string name = fmt::format("{}.{}", suite.name(), suite.GetTestInfo(j)->name());
      accidents += text.find("`" + name + "`") != std::string::npos;
      EXPECT_NE(text.find("`" + name + "`"), std::string::npos) << name;
    }
  }
  EXPECT_GE(accidents, 15);
}

}  // namespace
}  // namespace fulgurite
