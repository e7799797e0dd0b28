#include "fulgurite/model/config.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <set>

#include "fulgurite/model/weight_names.h"
#include "test/op_test.h"
#include "test/tiny_model.h"

namespace fulgurite::model {
namespace {

nlohmann::json json_of(const std::string& file) {
  return nlohmann::json::parse(checkpoint::MappedFile(file).text());
}
nlohmann::json tiny_json() { return json_of(test::kTinyV32 + "/config.json"); }
nlohmann::json glm_json() { return json_of(test::kTinyGlm5 + "/config.json"); }

Config parsed(const nlohmann::json& json) { return parse_config(json.dump(), "config.json"); }

TEST(config, the_tiny_model_has_its_numbers) {
  const Config c = parsed(tiny_json());
  EXPECT_EQ(c.layers, 4);
  EXPECT_EQ(c.dense_layers, 1);
  EXPECT_EQ(c.index_topk, 128);
  EXPECT_EQ(c.rope_base, 10000.0);
  ASSERT_TRUE(c.yarn);
  EXPECT_EQ(c.yarn->factor, 4.0);
  ASSERT_TRUE(c.quantization);
  EXPECT_EQ(c.quantization->block, (BlockShape{128, 128}));
  EXPECT_EQ(c.quantization->activation_scale, ScaleRounding::kPow2);
  EXPECT_EQ(c.eos, std::vector<int32_t>{1});
}

TEST(config, glm_5_has_its_own) {
  const Config c = parsed(glm_json());
  EXPECT_EQ(c.family, Family::kGlm5);
  EXPECT_TRUE(c.index_rope_interleaved);
  EXPECT_FALSE(parsed(tiny_json()).index_rope_interleaved);
  EXPECT_EQ(c.shares_index, (std::vector<bool>{false, true, false, true}));
  EXPECT_EQ(c.rope_base, 1e6);
  EXPECT_FALSE(c.yarn);
  EXPECT_EQ(c.norm_eps, 1e-5f);
  EXPECT_EQ(c.latent_norm_eps, 1e-6f) << "of the q_a and kv_a norms";
  EXPECT_EQ(c.expert_groups, 1);
  EXPECT_EQ(c.quantization->activation_scale, ScaleRounding::kNone) << "no scale_fmt";
  nlohmann::json json = glm_json();
  json["quantization_config"]["scale_fmt"] = "fp32";
  EXPECT_EQ(parsed(json).quantization->activation_scale, ScaleRounding::kNone);
  json["quantization_config"]["scale_fmt"] = "int8";
  EXPECT_NE(test::message_of([&] { parsed(json); }).find("scale_fmt"), std::string::npos);
}

// model_spec: GLM-5's published numbers, and those of 5.2 where they differ.
TEST(config, glm_5_of_real_size_is_read) {
  const Config c = parsed(json_of(test::kSource + "/models/configs/glm-5.json"));
  EXPECT_EQ(c.softmax_scale(), 0.0625f);  // 256^-1/2
  EXPECT_TRUE(c.shares_index.empty());
  EXPECT_FALSE(c.bos) << "it has none";
  EXPECT_EQ(c.eos.size(), 3u);
  const Config later = parsed(json_of(test::kSource + "/models/configs/glm-5.2.json"));
  EXPECT_EQ(later.rope_base, 8e6);
  std::vector<int64_t> full;
  for (int64_t i = 0; i < later.layers; ++i)
    if (later.has_indexer(i)) full.push_back(i);
  std::vector<int64_t> expected{0, 1};
  for (int64_t i = 2; i < 78; i += 4) expected.push_back(i);
  EXPECT_EQ(full, expected);
}

TEST(config, an_indexer_that_rotates_as_another_family_does_is_refused) {
  nlohmann::json json = glm_json();
  json["indexer_rope_interleave"] = false;
  EXPECT_NE(test::message_of([&] { parsed(json); }).find("\"indexer_rope_interleave\": expected true"),
            std::string::npos);
  json.erase("indexer_rope_interleave");
  EXPECT_TRUE(parsed(json).index_rope_interleaved);
}

TEST(config, layer_types_must_be_those_of_first_k_dense_replace) {
  nlohmann::json json = glm_json();
  json["mlp_layer_types"] = {"dense", "sparse", "sparse", "sparse"};
  EXPECT_EQ(parsed(json).dense_layers, 1);
  json["mlp_layer_types"] = {"dense", "dense", "sparse", "sparse"};
  EXPECT_NE(test::message_of([&] { parsed(json); }).find("mlp_layer_types"), std::string::npos);
}

TEST(config, the_softmax_scale_carries_the_square_of_yarns_mscale) {
  nlohmann::json json = tiny_json();
  json["qk_nope_head_dim"] = 128;
  json["rope_scaling"]["factor"] = 40;
  EXPECT_NEAR(parsed(json).softmax_scale(), 0.13523378, 1e-8);
  json.erase("rope_scaling");
  EXPECT_FLOAT_EQ(parsed(json).softmax_scale(), 0.07216878f);  // 192^-1/2
}

TEST(config, rope_parameters_are_another_spelling) {
  nlohmann::json json = tiny_json();
  json["rope_parameters"] = json["rope_scaling"];
  json["rope_parameters"].erase("type");
  json["rope_parameters"]["rope_type"] = "yarn";
  json["rope_parameters"]["rope_theta"] = 10000.0;
  json.erase("rope_scaling");
  json.erase("rope_theta");
  EXPECT_EQ(parsed(json).softmax_scale(), parsed(tiny_json()).softmax_scale());
  json["rope_scaling"] = json["rope_parameters"];
  EXPECT_NE(test::message_of([&] { parsed(json); }), "");
}

TEST(config, several_end_of_text_ids_are_a_list) {
  nlohmann::json json = tiny_json();
  json["eos_token_id"] = {1, 5};
  EXPECT_EQ(parsed(json).eos, (std::vector<int32_t>{1, 5}));
  json["eos_token_id"] = nlohmann::json::array({1, -5});
  EXPECT_NE(test::message_of([&] { parsed(json); }), "");
}

TEST(config, what_would_change_the_mathematics_is_refused_by_name) {
  for (const auto& [key, value] :
       std::vector<std::pair<std::string, nlohmann::json>>{{"index_init_tokens", 4},
                                                           {"index_k_norm_type", "rms"},
                                                           {"norm_topk_prob", false},
                                                           {"topk_method", "greedy"},
                                                           {"attention_bias", true},
                                                           {"tie_word_embeddings", true},
                                                           {"moe_layer_freq", 2},
                                                           {"mlp_layer_types", {"dense"}},
                                                           {"num_key_value_heads", 1}}) {
    nlohmann::json json = tiny_json();
    json[key] = value;
    EXPECT_NE(test::message_of([&] { parsed(json); }).find(key), std::string::npos) << key;
  }
}

// Which layers have an indexer.
std::string full_layers(const nlohmann::json& json) {
  const Config config = parsed(json);
  std::string layers;
  for (int64_t i = 0; i < config.layers; ++i) layers += config.has_indexer(i) ? 'F' : 'S';
  return layers;
}

TEST(config, layers_that_share_a_selection_are_told_in_three_ways) {
  nlohmann::json json = tiny_json();
  EXPECT_EQ(full_layers(json), "FFFF");
  json["index_topk_freq"] = 2;
  EXPECT_EQ(full_layers(json), "FFSF");  // index_skip_topk_offset is 2
  json["index_skip_topk_offset"] = 1;
  EXPECT_EQ(full_layers(json), "FSFS");
  json["index_topk_pattern"] = "FSFS";
  json["indexer_types"] = {"full", "shared", "full", "shared"};
  EXPECT_EQ(full_layers(json), "FSFS");
  json["indexer_types"] = {"full", "shared", "shared", "full"};
  EXPECT_NE(test::message_of([&] { parsed(json); }).find("the same layers as indexer_types"),
            std::string::npos);
  nlohmann::json long_json = tiny_json();  // GLM-5.2
  long_json.update({{"num_hidden_layers", 78}, {"index_topk_freq", 4}, {"index_skip_topk_offset", 3}});
  std::string expected = "FF";
  for (int i = 2; i < 78; ++i) expected += i % 4 == 2 ? 'F' : 'S';
  EXPECT_EQ(full_layers(long_json), expected);
}

TEST(config, a_selection_that_nobody_makes_cannot_be_shared) {
  for (const auto& [key, value] : std::vector<std::pair<std::string, nlohmann::json>>{
           {"indexer_types", {"shared", "full", "full", "full"}},
           {"indexer_types", {"full", "full", "full"}},
           {"indexer_types", {"full", "full", "full", "sharde"}},
           {"indexer_types", "full"},
           {"index_topk_pattern", "SFFF"},
           {"index_topk_pattern", "FFFFF"},
           {"index_topk_pattern", "FfFF"},
           {"index_topk_freq", 0}}) {
    nlohmann::json json = tiny_json();
    json[key] = value;
    EXPECT_NE(test::message_of([&] { parsed(json); }).find(key), std::string::npos) << key << value;
  }
}

TEST(weight_names, every_name_stands_once_and_mtp_is_not_required) {
  nlohmann::json json = tiny_json();
  json["num_nextn_predict_layers"] = 1;
  const std::vector<TensorName> names = tensor_names(parsed(json));
  std::set<std::string> seen;
  for (const TensorName& tensor : names) {
    EXPECT_TRUE(seen.insert(tensor.name).second) << tensor.name;
    EXPECT_EQ(tensor.required, !tensor.name.starts_with("model.layers.4.")) << tensor.name;
  }
  EXPECT_TRUE(seen.contains("model.layers.4.eh_proj.weight"));
  EXPECT_TRUE(seen.contains("model.layers.3.self_attn.indexer.weights_proj.weight"));
}

}  // namespace
}  // namespace fulgurite::model
