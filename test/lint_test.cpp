// Longer than other tests: one fault for each rule of docs/lint.md. Each fires its rule and no other.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>

#include "test/edited_checkpoint.h"
#include "test/tool_run.h"

namespace fulgurite {
namespace {

namespace fs = std::filesystem;
using model::Rule;
using model::Severity;

const std::string kLayer = "model.layers.2.";
const std::string kOWeight = kLayer + "self_attn.o_proj.weight";
const std::string kOScale = kOWeight + "_scale_inv";
const std::string kWk = kLayer + "self_attn.indexer.wk.weight";
const std::string kGate = kLayer + "self_attn.indexer.weights_proj.weight";
const std::string kNorm = kLayer + "self_attn.indexer.k_norm.weight";
const std::string kBias = kLayer + "mlp.gate.e_score_correction_bias";

// The rules that were seen to fire, by all tests of this file.
std::set<Rule>& fired() {
  static std::set<Rule> rules;
  return rules;
}

std::vector<model::Finding> findings(const std::string& directory) {
  const checkpoint::Survey survey = checkpoint::survey(directory);
  return model::inspect(survey, model::Sampling::kSample).findings;
}

// One rule fires, at `subject`; the message of its first finding.
std::string expect_only(Rule rule, const std::string& subject, const std::string& directory) {
  const std::vector<model::Finding> found = findings(directory);
  for (const model::Finding& finding : found) EXPECT_EQ(name(finding.rule), name(rule)) << finding.message;
  if (found.empty()) {
    ADD_FAILURE() << name(rule) << " does not fire";
    return "";
  }
  fired().insert(rule);
  EXPECT_EQ(found.front().subject, subject);
  EXPECT_EQ(found.front().message.find('\n'), std::string::npos);
  // The command says the same.
  const test::ToolRun run = test::run_tool("inspect --sample " + directory);
  EXPECT_EQ(run.exit_code, severity(rule) == Severity::kError ? 1 : 0) << name(rule);
  EXPECT_NE(run.out.find(std::string(name(rule)) + ": " + std::string(remedy(rule))), std::string::npos)
      << run.out;
  EXPECT_NE(run.out.find(found.front().message), std::string::npos) << run.out;
  // What is an error is refused by binding too, or is of the data.
  if (severity(rule) == Severity::kError && rule < Rule::kScaleBytesAsNumbers && rule != Rule::kExpertForms) {
    EXPECT_THROW(model::bind(checkpoint::open(directory)), Error) << name(rule);
  }
  return found.front().message;
}

TEST(lint, a_clean_model_has_no_finding) {
  EXPECT_TRUE(findings(test::kTinyV32).empty());
  const test::ToolRun run = test::run_tool("inspect " + test::kTinyV32);
  EXPECT_EQ(run.exit_code, 0);
  EXPECT_NE(run.out.find("no findings"), std::string::npos);
  test::EditedCheckpoint with_mtp;
  with_mtp.add_mtp();
  EXPECT_TRUE(findings(with_mtp.write()).empty());
}

TEST(lint, missing_unknown_and_duplicate_tensors) {
  test::EditedCheckpoint missing;
  missing.erase(kLayer + "self_attn.q_a_layernorm.weight");
  EXPECT_EQ(
      expect_only(Rule::kMissingTensor, kLayer + "self_attn.q_a_layernorm.weight", missing.write()),
      kLayer +
          "self_attn.q_a_layernorm.weight: expected BF16 or F32 [256], the checkpoint has no such tensor");

  test::EditedCheckpoint unknown;
  unknown.add(kLayer + "self_attn.q_norm.weight", DType::kF32, {4});
  expect_only(Rule::kUnknownTensor, kLayer + "self_attn.q_norm.weight", unknown.write());

  test::EditedCheckpoint twice;
  twice.add(kLayer + "self_attn.indexer.wk_weights_proj.weight", DType::kBF16, {136, 384});
  EXPECT_EQ(expect_only(Rule::kDuplicateTensor, kWk, twice.write()),
            kWk + ": stands in " + kLayer + "self_attn.indexer.wk_weights_proj.weight already");

  test::EditedCheckpoint scales;
  scales.add(kLayer + "self_attn.o_proj.weight_scale", DType::kF32, {3, 4});
  expect_only(Rule::kDuplicateTensor, kLayer + "self_attn.o_proj.weight_scale", scales.write());
}

TEST(lint, a_tensor_in_two_shards) {
  test::EditedCheckpoint edited;
  const std::string directory = edited.write_shards(
      [](const std::string& name) { return name.size() % 2 ? "a.safetensors" : "b.safetensors"; });
  const auto shard = checkpoint::SafetensorsFile::open(fs::path(directory) / "b.safetensors");
  std::vector<checkpoint::TensorView> tensors(shard.tensors().begin(), shard.tensors().end());
  const std::string odd = "model.norm.weight";
  ASSERT_EQ(odd.size() % 2, 1u);
  tensors.push_back(edited.at(odd));
  checkpoint::write_safetensors(fs::path(directory) / "b.safetensors", tensors);
  expect_only(Rule::kDuplicateTensor, odd, directory);
}

TEST(lint, a_quantized_weight_without_scale_and_a_scale_without_weight) {
  test::EditedCheckpoint no_scale;
  no_scale.erase(kOScale);
  EXPECT_THAT(expect_only(Rule::kWeightWithoutScale, kOWeight, no_scale.write()),
              testing::HasSubstr("the checkpoint has none of " + kOScale));
  test::EditedCheckpoint no_weight;
  no_weight.erase(kOWeight);
  expect_only(Rule::kScaleWithoutWeight, kOScale, no_weight.write());
  test::EditedCheckpoint plain;
  plain.at(kWk).dtype = DType::kBF16;
  plain.bytes_of(kWk);
  expect_only(Rule::kScaleWithoutWeight, kWk + "_scale_inv", plain.write());
}

TEST(lint, shapes_and_types) {
  test::EditedCheckpoint scale;
  scale.at(kOScale).shape = {4, 3};
  EXPECT_EQ(expect_only(Rule::kScaleShape, kOScale, scale.write()),
            kOScale + ": expected F32 or F8_E8M0 [3, 4], file has F32 [4, 3]");
  test::EditedCheckpoint transposed;
  transposed.at(kOWeight).shape = {512, 384};
  expect_only(Rule::kTransposedTensor, kOWeight, transposed.write());
  test::EditedCheckpoint shape;
  shape.at(kGate).shape = {4, 768};
  expect_only(Rule::kTensorShape, kGate, shape.write());
  test::EditedCheckpoint type;
  type.at(kOWeight).dtype = DType::kF8_E5M2;
  expect_only(Rule::kTensorType, kOWeight, type.write());
  test::EditedCheckpoint bias;
  bias.at(kBias).dtype = DType::kBF16;
  bias.bytes_of(kBias);
  expect_only(Rule::kRouterBiasPrecision, kBias, bias.write());
}

TEST(lint, a_tensor_that_no_pointer_may_read) {
  const test::EditedCheckpoint edited;
  const std::string path = edited.write() + "/model.safetensors";
  std::string text(checkpoint::MappedFile(path).text());
  uint64_t length = 0;
  std::memcpy(&length, text.data(), sizeof length);
  text.insert(8 + length, " ");
  ++length;
  std::memcpy(text.data(), &length, sizeof length);
  std::ofstream(path, std::ios::binary) << text;
  const std::vector<model::Finding> found = findings(edited.directory());
  ASSERT_FALSE(found.empty());
  expect_only(Rule::kMisalignedTensor, found.front().subject, edited.directory());
}

TEST(lint, tied_embeddings) {
  test::EditedCheckpoint edited;
  edited.config["tie_word_embeddings"] = true;
  expect_only(Rule::kTiedTensor, "lm_head.weight", edited.write());
  edited.erase("lm_head.weight");
  expect_only(Rule::kTiedTensor, "lm_head.weight", edited.write());
  edited.config["tie_word_embeddings"] = false;
  expect_only(Rule::kTiedTensor, "lm_head.weight", edited.write());
}

TEST(lint, shards_that_are_missing_unreadable_stray_or_not_what_the_index_says) {
  const test::EditedCheckpoint edited;
  const auto layer_two = [](const std::string& name) {
    return name.starts_with(kLayer) ? "b.safetensors" : "a.safetensors";
  };
  const fs::path directory = edited.write_shards(layer_two);
  nlohmann::json map = nlohmann::json::parse(
      checkpoint::MappedFile(directory / "model.safetensors.index.json").text())["weight_map"];
  std::ofstream(directory / "c.safetensors") << "x";
  expect_only(Rule::kStrayShard, "c.safetensors", directory);
  fs::remove(directory / "c.safetensors");

  fs::resize_file(directory / "b.safetensors", 100'000);
  expect_only(Rule::kUnreadableShard, "b.safetensors", directory);
  fs::remove(directory / "b.safetensors");
  EXPECT_THAT(expect_only(Rule::kMissingShard, "b.safetensors", directory),
              testing::HasSubstr("does not exist"));

  edited.write_shards(layer_two);
  map.erase("model.norm.weight");
  edited.write_index(map);
  expect_only(Rule::kShardIndex, "model.norm.weight", directory);
  map["model.norm.weight"] = "b.safetensors";
  edited.write_index(map);
  expect_only(Rule::kShardIndex, "model.norm.weight", directory);
}

TEST(lint, config_that_is_broken_or_contradicts_the_tensors) {
  const auto message = [](Rule rule, const std::string& subject, const std::string& key,
                          const nlohmann::json& value) {
    SCOPED_TRACE(key);
    test::EditedCheckpoint edited;
    edited.config[key] = value;
    return expect_only(rule, subject, edited.write());
  };
  message(Rule::kConfig, "config.json", "hidden_act", "gelu");
  message(Rule::kIndexerRopeStyle, "config.json", "indexer_rope_interleave", true);
  test::EditedCheckpoint glm(test::kTinyGlm5);
  glm.config["indexer_rope_interleave"] = false;
  EXPECT_THAT(expect_only(Rule::kIndexerRopeStyle, "config.json", glm.write()),
              testing::HasSubstr("expected true for glm_moe_dsa, found false"));
  EXPECT_THAT(message(Rule::kConfigContradiction, "config.json", "num_hidden_layers", 5),
              testing::HasSubstr("says 5, the tensors have 4 layers"));
  message(Rule::kConfigContradiction, "config.json", "num_hidden_layers", 3);
  message(Rule::kConfigContradiction, "config.json", "n_routed_experts", 16);
  message(Rule::kConfigContradiction, "config.json", "first_k_dense_replace", 2);
  message(Rule::kConfigContradiction, "model.layers.0.self_attn.indexer.wq_b.weight", "index_n_heads", 16);
  message(Rule::kConfigContradiction, "model.layers.1.mlp.experts.0.gate_proj.weight", "expert_dtype", "fp4");
  test::EditedCheckpoint unquantized;
  unquantized.config.erase("quantization_config");
  EXPECT_THAT(expect_only(Rule::kConfigContradiction, "model.layers.0.self_attn.q_a_proj.weight",
                          unquantized.write()),
              testing::HasSubstr("no quantization_config"));
  test::EditedCheckpoint block;
  block.config["quantization_config"]["weight_block_size"] = {64, 128};
  expect_only(Rule::kConfigContradiction, "model.layers.0.self_attn.q_a_proj.weight_scale_inv",
              block.write());
}

TEST(lint, mtp_tensors_present_absent_or_in_part) {
  test::EditedCheckpoint absent;
  absent.config["num_nextn_predict_layers"] = 1;
  EXPECT_THAT(expect_only(Rule::kMtpTensors, "model.layers.4.input_layernorm.weight", absent.write()),
              testing::HasSubstr("there are 0"));
  test::EditedCheckpoint part;
  part.add_mtp();
  part.erase("model.layers.4.enorm.weight");
  expect_only(Rule::kMtpTensors, "model.layers.4.enorm.weight", part.write());
  part.config.erase("num_nextn_predict_layers");
  const std::vector<model::Finding> stray = findings(part.write());
  ASSERT_EQ(stray.size(), 1u);
  EXPECT_EQ(stray.front().rule, Rule::kMtpTensors);
}

TEST(lint, experts_in_two_forms) {
  test::EditedCheckpoint edited;
  const std::string expert = kLayer + "mlp.experts.3.down_proj.weight";
  edited.erase(expert + "_scale_inv");
  edited.at(expert).dtype = DType::kBF16;
  std::ranges::fill(edited.bytes_of(expert), std::byte{0x3C});
  EXPECT_EQ(expect_only(Rule::kExpertForms, expert, edited.write()),
            expert + ": expected e4m3 128x128, scales f32 as " + kLayer +
                "mlp.experts.0.gate_proj.weight, found bf16");
}

TEST(lint, faults_of_the_data_need_a_sample) {
  test::EditedCheckpoint bytes;
  for (float& scale : bytes.values_of<float>(kOScale)) scale = std::log2(scale) + 127.0f;
  EXPECT_THAT(expect_only(Rule::kScaleBytesAsNumbers, kOScale, bytes.write()),
              testing::HasSubstr("as an e8m0 byte"));
  EXPECT_TRUE(
      model::inspect(checkpoint::survey(bytes.directory()), model::Sampling::kHeadersOnly).findings.empty());

  test::EditedCheckpoint odd;
  odd.values_of<float>(kOScale)[4] *= 1.25f;
  EXPECT_THAT(expect_only(Rule::kScaleNotPowerOfTwo, kOScale, odd.write()),
              testing::HasSubstr("block [1, 0]"));

  test::EditedCheckpoint saturated;
  const auto codes = saturated.values_of<uint8_t>(kOWeight);
  for (size_t i = 0; i < 128 * 512; ++i)
    if ((codes[i] & 0x7F) > 0x68) codes[i] = static_cast<uint8_t>((codes[i] & 0x80) | 0x7E);
  expect_only(Rule::kSaturatedCodes, kOWeight, saturated.write());

  test::EditedCheckpoint outlier;
  outlier.values_of<float>(kOScale)[5] *= 4096.0f;
  EXPECT_THAT(expect_only(Rule::kBlockOutlier, kOScale, outlier.write()), testing::HasSubstr("block [1, 1]"));

  test::EditedCheckpoint code;
  code.values_of<uint8_t>(kOWeight)[0] = 0x7F;
  expect_only(Rule::kNotANumber, kOWeight, code.write());
  test::EditedCheckpoint scale;
  scale.values_of<float>(kOScale)[2] = std::nanf("");
  expect_only(Rule::kNotANumber, kOScale, scale.write());
  test::EditedCheckpoint half;
  half.values_of<uint16_t>(kGate)[3] = 0x7FC0;
  expect_only(Rule::kNotANumber, kGate, half.write());
  test::EditedCheckpoint norm;
  norm.values_of<float>(kNorm)[127] = INFINITY;
  EXPECT_EQ(expect_only(Rule::kNotANumber, kNorm, norm.write()), kNorm + ": element [127] is inf");
}

TEST(lint, an_indexer_in_part_in_a_layer_that_has_none) {
  test::EditedCheckpoint part;
  part.config["index_topk_pattern"] = "FFSF";
  part.erase(kWk);
  part.erase(kWk + "_scale_inv");
  EXPECT_EQ(expect_only(Rule::kSharedIndexer, kWk, part.write()),
            kWk +
                ": layer 2 shares the selection of the layer before it, and of the 5 weights of an indexer "
                "there are 4");
}

TEST(lint, json_holds_rule_severity_tensor_and_remedy) {
  test::EditedCheckpoint edited;
  edited.erase(kOScale);
  const test::ToolRun run = test::run_tool("inspect --json " + edited.write());
  EXPECT_EQ(run.exit_code, 1);
  const auto json = nlohmann::json::parse(run.out);
  ASSERT_EQ(json["findings"].size(), 1u);
  EXPECT_EQ(json["findings"][0]["rule"], "weight-without-scale");
  EXPECT_EQ(json["findings"][0]["severity"], "error");
  EXPECT_EQ(json["findings"][0]["tensor"], kOWeight);
  EXPECT_EQ(json["findings"][0]["remedy"], remedy(Rule::kWeightWithoutScale));
}

TEST(lint, a_table_of_experts_names_experts) {
  const std::string table = "layers.0.ffn.gate.tid2eid";
  test::EditedCheckpoint edited(test::kSource + "/models/tiny-v4");
  edited.values_of<int64_t>(table)[7] = 8;
  expect_only(Rule::kExpertTable, table, edited.write());
}

TEST(lint, docs_name_every_rule_with_its_severity_and_the_report_it_comes_from) {
  const std::string text(checkpoint::MappedFile(test::kSource + "/docs/lint.md").text());
  for (int i = 0; i < model::kRules; ++i) {
    const auto rule = static_cast<Rule>(i);
    const std::string row =
        "| `" + std::string(name(rule)) + "` | " + std::string(name(severity(rule))) + " |";
    EXPECT_NE(text.find(row), std::string::npos) << row;
  }
}

// The suite once more in a process of its own, which sees all its faults.
TEST(lint_coverage, every_rule_has_a_fault_that_fires_it) {
  const std::string both = "lint.*:lint_coverage.*";
  if (testing::GTEST_FLAG(filter) != both) {
    const std::string self = fs::read_symlink("/proc/self/exe");
    EXPECT_EQ(std::system(fmt::format("'{}' --gtest_filter='{}' >/dev/null", self, both).c_str()), 0);
    return;
  }
  for (int i = 0; i < model::kRules; ++i)
    EXPECT_TRUE(fired().contains(static_cast<Rule>(i))) << name(static_cast<Rule>(i));
}

}  // namespace
}  // namespace fulgurite
