// The 671-billion-parameter model's own dimensions, in a checkpoint of holes: the files have their real size
// and layout but no bytes on the disk (every weight is zero), so reading headers, binding, planning and a
// pass through real shapes can be tested anywhere.

#include <gtest/gtest.h>

#include <fstream>
#include <map>
#include <nlohmann/json.hpp>

#include "test/tool_run.h"

namespace fulgurite {
namespace {

namespace fs = std::filesystem;

nlohmann::json config_671b() {
  return {{"model_type", "deepseek_v32"},
          {"vocab_size", 129280},
          {"hidden_size", 7168},
          {"num_hidden_layers", 61},
          {"first_k_dense_replace", 3},
          {"intermediate_size", 18432},
          {"moe_intermediate_size", 2048},
          {"n_routed_experts", 256},
          {"n_shared_experts", 1},
          {"num_experts_per_tok", 8},
          {"n_group", 8},
          {"topk_group", 4},
          {"scoring_func", "sigmoid"},
          {"topk_method", "noaux_tc"},
          {"norm_topk_prob", true},
          {"routed_scaling_factor", 2.5},
          {"num_attention_heads", 128},
          {"num_key_value_heads", 128},
          {"q_lora_rank", 1536},
          {"kv_lora_rank", 512},
          {"qk_nope_head_dim", 128},
          {"qk_rope_head_dim", 64},
          {"v_head_dim", 128},
          {"index_n_heads", 64},
          {"index_head_dim", 128},
          {"index_topk", 2048},
          {"rms_norm_eps", 1e-6},
          {"rope_theta", 10000},
          {"rope_scaling",
           {{"type", "yarn"},
            {"factor", 40},
            {"original_max_position_embeddings", 4096},
            {"beta_fast", 32},
            {"beta_slow", 1},
            {"mscale", 1.0},
            {"mscale_all_dim", 1.0}}},
          {"max_position_embeddings", 163840},
          {"num_nextn_predict_layers", 1},
          {"hidden_act", "silu"},
          {"bos_token_id", 0},
          {"eos_token_id", 1},
          {"quantization_config",
           {{"quant_method", "fp8"},
            {"fmt", "e4m3"},
            {"activation_scheme", "dynamic"},
            {"weight_block_size", {128, 128}},
            {"scale_fmt", "ue8m0"}}}};
}

// One shard a layer, as the table of names says; MTP tensors included.
class HollowCheckpoint {
 public:
  explicit HollowCheckpoint(const nlohmann::json& config) : directory_(test::scratch_file("hollow")) {
    fs::remove_all(directory_);
    fs::create_directories(directory_);
    std::ofstream(directory_ / "config.json") << config.dump();
    const model::Config parsed = model::parse_config(config.dump(), "config.json");
    for (const model::TensorName& tensor : model::tensor_names(parsed)) add(tensor, *parsed.quantization);
    nlohmann::json weight_map;
    for (const auto& [layer, entries] : shards_) {
      const std::string file = fmt::format("layer{:02}.safetensors", layer + 1);
      for (const auto& [name, entry] : entries.items()) weight_map[name] = file;
      write(file, entries, sizes_[layer]);
    }
    std::ofstream(directory_ / "model.safetensors.index.json")
        << nlohmann::json{{"weight_map", weight_map}}.dump();
  }
  ~HollowCheckpoint() { fs::remove_all(directory_); }
  std::string path() const { return directory_; }

 private:
  void add(const model::TensorName& tensor, const model::Quantization& quantization) {
    const std::vector<int64_t> shape = tensor.form == model::Form::kVector
                                           ? std::vector<int64_t>{tensor.columns}
                                           : std::vector<int64_t>{tensor.rows, tensor.columns};
    if (tensor.form == model::Form::kLinear) {
      const auto blocks = [](int64_t n, int64_t block) { return (n + block - 1) / block; };
      add(tensor.layer, model::scale_name(tensor), "F32", 4,
          {blocks(tensor.rows, quantization.block.rows), blocks(tensor.columns, quantization.block.columns)});
      add(tensor.layer, tensor.name, "F8_E4M3", 1, shape);
    } else if (tensor.form == model::Form::kVector) {
      add(tensor.layer, tensor.name, "F32", 4, shape);
    } else {
      add(tensor.layer, tensor.name, "BF16", 2, shape);
    }
  }
  void add(int64_t layer, const std::string& name, const char* dtype, int64_t element,
           const std::vector<int64_t>& shape) {
    int64_t bytes = element;
    for (const int64_t extent : shape) bytes *= extent;
    int64_t& size = sizes_[layer];
    shards_[layer][name] = {{"dtype", dtype}, {"shape", shape}, {"data_offsets", {size, size + bytes}}};
    size += bytes;
  }
  void write(const std::string& file, const nlohmann::json& header, int64_t bytes) const {
    std::string text = header.dump();
    text.resize((text.size() + 7) / 8 * 8, ' ');
    const uint64_t length = text.size();
    std::ofstream stream(directory_ / file, std::ios::binary);
    stream.write(reinterpret_cast<const char*>(&length), sizeof length);
    stream << text;
    stream.close();
    fs::resize_file(directory_ / file, sizeof length + length + static_cast<uint64_t>(bytes));
  }

  fs::path directory_;
  std::map<int64_t, nlohmann::json> shards_;
  std::map<int64_t, int64_t> sizes_;
};

TEST(real_size, the_whole_671b_model_is_inspected_and_planned_from_its_headers) {
  const HollowCheckpoint checkpoint(config_671b());
  const test::ToolRun inspect = test::run_tool("inspect " + checkpoint.path() + " --json");
  ASSERT_EQ(inspect.exit_code, 0) << inspect.error;
  const auto json = nlohmann::json::parse(inspect.out);
  EXPECT_EQ(json["tensors"].size(), 92425u) << "as many as the official index names";
  EXPECT_NEAR(json["dimensions"]["softmax_scale"].get<double>(), 0.13523378, 1e-7);
  EXPECT_GT(json["left_out_bytes"].get<int64_t>(), 0) << "the MTP layer";
  const auto expect_caches = [&](const std::string& numerics, int64_t latent_row, int64_t index_row) {
    const test::ToolRun plan =
        test::run_tool("plan " + checkpoint.path() + " --context 163840 --json --numerics " + numerics);
    ASSERT_EQ(plan.exit_code, 0) << plan.error;
    const auto bytes = nlohmann::json::parse(plan.out)["bytes"];
    EXPECT_EQ(bytes["latent_cache"].get<int64_t>(), int64_t{61} * 163840 * latent_row);
    EXPECT_EQ(bytes["index_cache"].get<int64_t>(), int64_t{61} * 163840 * index_row);
  };
  expect_caches("fp32", 576 * 4, 128 * 4);
  expect_caches("serving", 656, 128 + 4);
  expect_caches("serving,latent_cache=bf16,index_quant=none", 576 * 2, 128 * 2);
}

// A dense layer and one of experts: every operation takes its real shapes. Zero weights give zero logits, so
// this says nothing of values; the operations' own tests do.
TEST(real_size, a_pass_through_layers_of_real_dimensions_ends_with_zero_logits) {
  nlohmann::json config = config_671b();
  config["num_hidden_layers"] = 2;
  config["first_k_dense_replace"] = 1;
  config["num_nextn_predict_layers"] = 0;
  const HollowCheckpoint hollow(config);
  const auto checkpoint = checkpoint::open(hollow.path());
  const model::Model model = model::bind(checkpoint);
  for (const Numerics& numerics : test::kPresets) {
    plan::Options options;
    options.numerics = numerics;
    options.context = 2500;
    options.chunk_tokens = 3;
    execute::Session session(model, plan::make(model, test::device(2), options));
    const std::vector<int32_t> ids{0, 129279, 7};
    const View<const float, 2> logits = session.forward(0, ids);
    EXPECT_EQ(logits.extent[1], 129280);
    for (int64_t i = 0; i < logits.extent[1]; ++i) ASSERT_EQ(logits(0, i), 0.0f) << i;
  }
}

}  // namespace
}  // namespace fulgurite
