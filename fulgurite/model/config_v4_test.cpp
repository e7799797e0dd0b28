#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <set>

#include "fulgurite/model/config.h"
#include "fulgurite/model/weight_names.h"
#include "test/op_test.h"
#include "test/tiny_model.h"

namespace fulgurite::model {
namespace {

nlohmann::json json_of(const std::string& file) {
  return nlohmann::json::parse(checkpoint::MappedFile(test::kSource + "/models/" + file).text());
}
nlohmann::json tiny() { return json_of("tiny-v4/config.json"); }
Config parsed(const nlohmann::json& json) { return parse_config(json.dump(), "config.json"); }
std::string refusal(const nlohmann::json& json) {
  return test::message_of([&] { parsed(json); });
}

// The same model in the keys of Hugging Face's configuration.
nlohmann::json hugging_face() {
  nlohmann::json json = tiny();
  for (const char* const key : {"compress_ratios", "num_hash_layers", "rope_scaling", "qk_rope_head_dim",
                                "quantization_config", "expert_dtype", "topk_method"})
    json.erase(key);
  json["layer_types"] = {"sliding_attention", "compressed_sparse_attention", "heavily_compressed_attention"};
  json["compress_rates"] = {{"compressed_sparse_attention", 4}, {"heavily_compressed_attention", 128}};
  json["mlp_layer_types"] = {"hash_moe", "moe", "moe"};
  json["partial_rotary_factor"] = 0.125;
  json["rope_parameters"] = {
      {"main", {{"rope_type", "default"}, {"rope_theta", 10000.0}, {"partial_rotary_factor", 0.125}}},
      {"compress",
       {{"rope_type", "yarn"},
        {"rope_theta", 160000.0},
        {"partial_rotary_factor", 0.125},
        {"attention_factor", 1.0},
        {"factor", 16},
        {"original_max_position_embeddings", 256},
        {"beta_fast", 32},
        {"beta_slow", 1}}}};
  return json;
}

TEST(config_v4, the_tiny_model_has_its_numbers) {
  const Config c = parsed(tiny());
  EXPECT_EQ(c.family, Family::kDeepseekV4);
  EXPECT_EQ(c.nope, 448);
  EXPECT_EQ(c.rope, 64);
  EXPECT_EQ(c.value, 512);
  EXPECT_EQ(c.kv_lora, 0);
  EXPECT_EQ(c.dense_layers, 0);
  EXPECT_EQ(c.expert_groups, 1);
  EXPECT_EQ(c.scoring, Scoring::kSqrtSoftplus);
  EXPECT_EQ(c.swiglu_limit, 10.0f);
  EXPECT_TRUE(c.hashed(0));
  EXPECT_FALSE(c.hashed(1));
  EXPECT_FLOAT_EQ(c.softmax_scale(), 0.044194174f) << "512^-1/2, nothing of YaRN";
  ASSERT_TRUE(c.window);
  EXPECT_EQ(c.window->ratios, (std::vector<int64_t>{0, 4, 128}));
  EXPECT_EQ(c.ratio(3), 0) << "what follows the layers has a window alone";
  EXPECT_FALSE(c.has_indexer(0));
  EXPECT_TRUE(c.has_indexer(1));
  EXPECT_FALSE(c.has_indexer(2));
  EXPECT_EQ(c.window->compressed_rope_base, 160000.0);
  EXPECT_EQ(c.rope_base, 10000.0);
  ASSERT_TRUE(c.yarn);
  EXPECT_EQ(c.yarn->original_positions, 256.0);
  ASSERT_TRUE(c.streams);
  EXPECT_EQ(c.streams->count, 4);
  EXPECT_EQ(c.streams->sinkhorn_iterations, 20);
  ASSERT_TRUE(c.quantization);
  EXPECT_EQ(c.quantization->experts, Fp4::kMxfp4);
  EXPECT_EQ(c.quantization->scales, ScaleFormat::kE8M0);
}

TEST(config_v4, the_keys_of_hugging_face_say_the_same) {
  for (const bool flat : {false, true}) {
    nlohmann::json json = hugging_face();
    if (flat) {
      json["rope_parameters"] = json["rope_parameters"]["compress"];
      json["rope_parameters"].erase("rope_theta");
    }
    const Config theirs = parsed(json), ours = parsed(tiny());
    EXPECT_EQ(theirs.window->ratios, ours.window->ratios);
    EXPECT_EQ(theirs.rope, ours.rope);
    EXPECT_EQ(theirs.hash_layers, ours.hash_layers);
    EXPECT_EQ(theirs.rope_base, ours.rope_base);
    EXPECT_EQ(theirs.window->compressed_rope_base, ours.window->compressed_rope_base);
    EXPECT_EQ(theirs.yarn->factor, ours.yarn->factor);
    EXPECT_EQ(theirs.yarn->original_positions, ours.yarn->original_positions);
    EXPECT_FALSE(theirs.quantization);
  }
}

TEST(config_v4, two_spellings_of_one_thing_must_agree) {
  for (const auto& [key, value] :
       std::vector<std::pair<std::string, nlohmann::json>>{{"compress_ratios", {0, 128, 4}},
                                                           {"num_hash_layers", 2},
                                                           {"qk_rope_head_dim", 32},
                                                           {"compress_rate_csa", 8},
                                                           {"compress_rope_theta", 10000.0},
                                                           {"rope_scaling", {{"type", "yarn"}}}}) {
    nlohmann::json json = hugging_face();
    json[key] = value;
    const std::string named = key == "compress_ratios" ? "layer_types" : key;
    EXPECT_NE(refusal(json).find(named), std::string::npos) << key << ": " << refusal(json);
  }
}

TEST(config_v4, what_would_change_the_mathematics_is_refused_by_name) {
  for (const auto& [key, value] : std::vector<std::pair<std::string, nlohmann::json>>{
           {"compress_ratios", {0, 8, 128, 0}},
           {"compress_ratios", {0, 4}},
           {"compress_ratios", {0, 4, "128"}},
           {"scoring_func", "sigmoid"},
           {"norm_topk_prob", false},
           {"num_key_value_heads", 8},
           {"n_group", 2},
           {"first_k_dense_replace", 1},
           {"o_groups", 3},
           {"tie_word_embeddings", true},
           {"kv_source_layer_ids", {1}},
           {"index_source_layer_ids", {1}},
           {"engram_layer_ids", {1}},
           {"indexer_types", {"full"}},
           {"dspark_n_routed_experts", 128},
           {"mlp_layer_types", {"moe", "hash_moe", "moe"}},
           {"layer_types", {"sliding_attention", "full_attention", "sliding_attention"}},
           {"expert_dtype", "int4"}}) {
    nlohmann::json json = tiny();
    json[key] = value;
    EXPECT_NE(refusal(json).find("\"" + key + "\""), std::string::npos) << key << ": " << refusal(json);
  }
  for (const char* const key : {"mscale", "mscale_all_dim", "attention_factor"}) {
    nlohmann::json json = tiny();
    json["rope_scaling"][key] = 0.707;
    EXPECT_NE(refusal(json).find(key), std::string::npos) << refusal(json);
  }
  for (const char* const key :
       {"swiglu_limit", "hc_mult", "sliding_window", "compress_ratios", "index_topk"}) {
    nlohmann::json json = tiny();
    json.erase(key);
    EXPECT_NE(refusal(json).find(key), std::string::npos) << refusal(json);
  }
  nlohmann::json next = tiny();
  next["model_type"] = "deepseek_v41";
  EXPECT_NE(refusal(next).find("shares keys and selections across layers"), std::string::npos);
}

// How many of each.
std::string ratios_of(const Config& c) {
  int64_t none = 0, four = 0, many = 0;
  for (int64_t i = 0; i < c.layers; ++i) ++(c.ratio(i) == 0 ? none : c.ratio(i) == 4 ? four : many);
  return fmt::format("{} {} {}", none, four, many);
}

// Weights and their scales, as the official files hold them.
int64_t tensors_of(const Config& config) {
  int64_t tensors = 0;
  for (const TensorName& name : tensor_names(config)) tensors += name.form == Form::kLinear ? 2 : 1;
  return tensors;
}

TEST(config_v4, the_published_models_have_as_many_tensors_as_their_files) {
  const Config flash = parsed(json_of("configs/deepseek-v4-flash.json"));
  EXPECT_EQ(ratios_of(flash), "2 21 20");
  EXPECT_EQ(tensors_of(flash), 69187);
  const Config pro = parsed(json_of("configs/deepseek-v4-pro.json"));
  EXPECT_EQ(ratios_of(pro), "0 30 31");
  EXPECT_EQ(tensors_of(pro), 145116);
}

TEST(config_v4, the_later_revision_drafts_with_three_stages) {
  nlohmann::json json = json_of("configs/deepseek-v4-flash.json");
  json["compress_ratios"].push_back(0);
  json["compress_ratios"].push_back(0);
  json.update({{"dspark_block_size", 5},
               {"dspark_noise_token_id", 128799},
               {"dspark_target_layer_ids", {40, 41, 42}},
               {"dspark_markov_rank", 256}});
  const Config c = parsed(json);
  EXPECT_EQ(ratios_of(c), "2 21 20");
  EXPECT_EQ(c.mtp_layers, 3);
  // Of what is not read the table does not know which has scales: main_proj has.
  EXPECT_EQ(tensors_of(c) + 1, 72317);
}

TEST(config_v4, every_name_stands_once_in_each_spelling) {
  for (const Spelling spelling : {Spelling::kOfficial, Spelling::kSaved, Spelling::kModules}) {
    std::set<std::string> seen;
    nlohmann::json json = tiny();
    json["num_nextn_predict_layers"] = 1;
    for (const TensorName& tensor : tensor_names(parsed(json), spelling)) {
      EXPECT_TRUE(seen.insert(tensor.name).second) << tensor.name;
      EXPECT_EQ(tensor.required, !tensor.name.starts_with("mtp.")) << tensor.name;
    }
    EXPECT_TRUE(seen.contains("mtp.0.e_proj.weight"));
  }
}

}  // namespace
}  // namespace fulgurite::model
