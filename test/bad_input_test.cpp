// Longer than other tests: one case for each kind of damage.
// Bad input has one line that names the object, what was expected and what was found, and exit code 1:
// through the command, as a user meets it. The readers' own tests go further into each rule.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>

#include "fulgurite/checkpoint/writer.h"
#include "test/dequantized.h"
#include "test/paths.h"
#include "test/tool_run.h"

namespace fulgurite {
namespace {

using test::Dequantized;

namespace fs = std::filesystem;
const std::string kShard1 = "model-00001-of-00002.safetensors";
const std::string kShard2 = "model-00002-of-00002.safetensors";

// The tiny checkpoint, of which single files may be replaced: a directory of links.
class BrokenModel {
 public:
  BrokenModel() : directory_(test::scratch_file("broken")) {
    fs::remove_all(directory_);
    fs::create_directories(directory_);
    for (const auto& entry : fs::directory_iterator(test::kTinyV32))
      fs::create_symlink(entry.path(), directory_ / entry.path().filename());
  }
  ~BrokenModel() { fs::remove_all(directory_); }

  std::string read(const std::string& file) const {
    return std::string(checkpoint::MappedFile(directory_ / file).text());
  }
  void write(const std::string& file, const std::string& text) const {
    fs::remove(directory_ / file);
    std::ofstream(directory_ / file, std::ios::binary) << text;
  }
  void restore(const std::string& file) const {
    write(file, std::string(checkpoint::MappedFile(test::kTinyV32 + "/" + file).text()));
  }
  void remove(const std::string& file) const { fs::remove_all(directory_ / file); }
  void edit_config(const std::function<void(nlohmann::json&)>& edit) const {
    nlohmann::json json = nlohmann::json::parse(read("config.json"));
    edit(json);
    write("config.json", json.dump());
  }
  // Rewrites shard 1 with its tensors edited; the index keeps what it says.
  void edit_tensors(const std::function<void(std::vector<checkpoint::TensorView>&)>& edit) const {
    const auto shard = checkpoint::SafetensorsFile::open(test::kTinyV32 + "/" + kShard1);
    std::vector<checkpoint::TensorView> tensors(shard.tensors().begin(), shard.tensors().end());
    edit(tensors);
    fs::remove(directory_ / kShard1);
    checkpoint::write_safetensors(directory_ / kShard1, tensors);
  }
  // Shard 1 as published, with `from` in its header replaced by `to`.
  void edit_header(const std::string& from, const std::string& to) const {
    std::string text(checkpoint::MappedFile(test::kTinyV32 + "/" + kShard1).text());
    uint64_t length = 0;
    std::memcpy(&length, text.data(), sizeof length);
    const size_t at = text.find(from);
    ASSERT_LT(at, length) << from;
    text.replace(at, from.size(), to);
    length += to.size() - from.size();
    std::memcpy(text.data(), &length, sizeof length);
    write(kShard1, text);
  }
  std::string path() const { return directory_; }

 private:
  fs::path directory_;
};

checkpoint::TensorView& named(std::vector<checkpoint::TensorView>& tensors, const std::string& name) {
  return *std::ranges::find(tensors, name, &checkpoint::TensorView::name);
}

// One line on stderr that holds every part, nothing on stdout, exit code 1.
void expect_one_line(const test::ToolRun& run, std::initializer_list<std::string> parts) {
  EXPECT_EQ(run.exit_code, 1) << run.error;
  EXPECT_EQ(std::ranges::count(run.error, '\n'), 1) << run.error;
  EXPECT_EQ(run.out, "");
  for (const std::string& part : parts)
    EXPECT_NE(run.error.find(part), std::string::npos) << part << "\n in " << run.error;
}

void expect_refused(const BrokenModel& model, std::initializer_list<std::string> parts) {
  expect_one_line(test::run_tool("plan " + model.path()), parts);
}

TEST(bad_input, a_directory_that_is_none) {
  expect_one_line(test::run_tool("plan /nonexistent/model"), {"/nonexistent/model"});
  expect_one_line(test::run_tool("plan " + test::kGolden), {"tiny-v32.safetensors"});
}

TEST(bad_input, a_shard_that_is_truncated_empty_or_gone) {
  const BrokenModel model;
  model.write(kShard1, model.read(kShard1).substr(0, 1'000'000));
  expect_refused(model, {kShard1, "model.embed_tokens.weight", "[3492, 1576356]", "987888 bytes"});
  model.write(kShard1, "");
  expect_refused(model, {kShard1});
  model.remove(kShard1);
  expect_refused(model, {kShard1});
}

TEST(bad_input, a_header_longer_than_the_file) {
  const BrokenModel model;
  std::string text = model.read(kShard1);
  const uint64_t length = 99'000'000;
  std::memcpy(text.data(), &length, sizeof length);
  model.write(kShard1, text);
  expect_refused(model, {kShard1, "99000000"});
}

TEST(bad_input, offsets_that_overlap_reverse_or_leave_the_file) {
  const BrokenModel model;
  model.edit_header("\"data_offsets\":[96,192]", "\"data_offsets\":[92,188]");
  expect_refused(model, {kShard1, "model.layers.0.mlp.gate_proj.weight_scale_inv", "overlap"});
  model.edit_header("\"data_offsets\":[96,192]", "\"data_offsets\":[192,96]");
  expect_refused(model, {kShard1, "[192, 96]"});
  model.edit_header("\"data_offsets\":[1601700,1994916]", "\"data_offsets\":[91601700,91994916]");
  expect_refused(model, {kShard1, "91994916"});
}

TEST(bad_input, a_shape_that_overflows) {
  const BrokenModel model;
  model.edit_header("\"shape\":[2048,384]", "\"shape\":[9223372036854775807,4]");
  expect_refused(model, {kShard1, "model.embed_tokens.weight", "9223372036854775807"});
}

TEST(bad_input, keys_that_stand_twice) {
  const BrokenModel model;
  model.edit_header("model.layers.0.mlp.gate_proj.weight_scale_inv",
                    "model.layers.0.mlp.down_proj.weight_scale_inv");
  expect_refused(model, {kShard1, "down_proj.weight_scale_inv", "twice"});
  model.restore(kShard1);
  model.write("config.json", "{\"hidden_size\": 384, \"hidden_size\": 384}");
  expect_refused(model, {"config.json", "hidden_size", "twice"});
}

TEST(bad_input, a_tensor_of_the_wrong_type_or_shape) {
  const BrokenModel model;
  model.edit_tensors([](auto& tensors) {
    named(tensors, "model.layers.0.self_attn.q_a_proj.weight").dtype = DType::kF8_E5M2;
  });
  expect_refused(
      model, {"model.layers.0.self_attn.q_a_proj.weight: expected F8_E4M3", "file has F8_E5M2 [256, 384]"});
  model.edit_tensors([](auto& tensors) {
    named(tensors, "model.layers.0.self_attn.q_a_proj.weight").shape = {384, 256};
  });
  expect_refused(model, {"q_a_proj.weight: expected F8_E4M3", "[256, 384]", "file has F8_E4M3 [384, 256]"});
}

TEST(bad_input, scales_that_are_missing_or_of_another_shape) {
  const BrokenModel model;
  const std::string scales = "model.layers.0.self_attn.kv_a_proj_with_mqa.weight_scale_inv";
  model.edit_tensors([&](auto& tensors) { named(tensors, scales).shape = {3, 5}; });
  expect_refused(model, {scales + ": expected F32 or F8_E8M0 [5, 3], file has F32 [3, 5]"});
  model.edit_tensors([&](auto& tensors) {
    named(tensors, scales).name = "model.layers.0.self_attn.kv_a_proj_with_mqa.scales";
  });
  nlohmann::json index = nlohmann::json::parse(model.read("model.safetensors.index.json"));
  index["weight_map"].erase(scales);
  index["weight_map"]["model.layers.0.self_attn.kv_a_proj_with_mqa.scales"] = kShard1;
  model.write("model.safetensors.index.json", index.dump());
  expect_refused(model, {"kv_a_proj_with_mqa.weight: F8_E4M3 [576, 384] needs scales", "none of " + scales});
}

TEST(bad_input, tensors_that_are_missing_or_unknown) {
  const BrokenModel model;
  nlohmann::json index = nlohmann::json::parse(model.read("model.safetensors.index.json"));
  model.edit_tensors([](auto& tensors) { named(tensors, "model.norm.weight").name = "model.norm.wait"; });
  expect_refused(model, {kShard1, "model.norm.wait", "is not in model.safetensors.index.json"});
  index["weight_map"].erase("model.norm.weight");
  index["weight_map"]["model.norm.wait"] = kShard1;
  model.write("model.safetensors.index.json", index.dump());
  expect_refused(model, {"model.norm.weight: expected BF16 or F32 [384], the checkpoint has no such tensor"});
  model.edit_tensors([](auto& tensors) {
    checkpoint::TensorView extra = named(tensors, "model.norm.weight");
    extra.name = "model.layers.0.self_attn.indexer.wk_weights.weight";
    tensors.push_back(extra);
  });
  index["weight_map"].erase("model.norm.wait");
  index["weight_map"]["model.norm.weight"] = kShard1;
  index["weight_map"]["model.layers.0.self_attn.indexer.wk_weights.weight"] = kShard1;
  model.write("model.safetensors.index.json", index.dump());
  expect_refused(
      model, {"wk_weights.weight: BF16 [384]: no tensor of deepseek_v32 has this name (1 unknown in all)"});
}

TEST(bad_input, a_model_type_that_is_unknown_or_has_no_indexer) {
  const BrokenModel model;
  model.edit_config([](auto& json) { json["model_type"] = "llama"; });
  expect_refused(model, {"config.json: \"model_type\": expected \"deepseek_v32\"", "found \"llama\""});
  model.edit_config([](auto& json) { json["model_type"] = "deepseek_v3"; });
  expect_refused(model, {"\"deepseek_v3\" has no sparse-attention indexer"});
  model.edit_config([](auto& json) {
    json["model_type"] = "deepseek_v32";
    json.erase("index_topk");
  });
  expect_refused(model, {"\"index_topk\" is missing"});
}

TEST(bad_input, configuration_that_is_missing_of_wrong_type_zero_negative_or_absurd) {
  const BrokenModel model;
  const std::string original = model.read("config.json");
  const auto refused = [&](const std::string& key, const nlohmann::json& value, const std::string& part) {
    model.write("config.json", original);
    model.edit_config([&](auto& json) { json[key] = value; });
    SCOPED_TRACE(key + " = " + value.dump());
    expect_refused(model, {"config.json", key, part});
  };
  refused("hidden_size", "384", "expected an integer");
  refused("hidden_size", 384.5, "expected an integer");
  refused("hidden_size", 0, "found 0");
  refused("hidden_size", -1, "found -1");
  refused("hidden_size", 1'000'000'000'000, "found 1000000000000");
  refused("num_hidden_layers", 18446744073709551615u, "found 18446744073709551615");
  refused("rms_norm_eps", 0, "expected a number");
  refused("n_group", 3, "a divisor of n_routed_experts, 8");
  refused("topk_group", 5, "found 5");
  refused("num_experts_per_tok", 5, "at most the 4 experts");
  refused("index_head_dim", 96, "a power of two");
  refused("hidden_act", "gelu", "expected \"silu\"");
  refused("scoring_func", "softmax", "expected \"sigmoid\"");
  refused("rope_scaling", {{"type", "linear"}, {"factor", 2}}, "\"yarn\" or \"default\"");
  refused("quantization_config", {{"quant_method", "awq"}}, "expected \"fp8\"");
  refused("eos_token_id", 5000, "found 5000");
  refused("eos_token_id", nlohmann::json::array(), "at least one id");
  refused("rope_interleave", false, "expected true");
  refused("partial_rotary_factor", 0.5, "no such key");
  const nlohmann::json yarn = nlohmann::json::parse(original)["rope_scaling"];
  const auto yarn_with = [&](const char* key, const nlohmann::json& value) {
    nlohmann::json changed = yarn;
    changed[key] = value;
    return changed;
  };
  refused("rope_scaling", yarn_with("attention_factor", 5.0), "no such key");
  refused("rope_scaling", yarn_with("mscale", 0.5), "expected mscale_all_dim");
  refused("rope_scaling", yarn_with("mscale_all_dim", nullptr), "mscale_all_dim");
  refused("rope_scaling", yarn_with("beta_fast", 1), "more than beta_slow");
  refused("indexer_rope_interleave", true, "expected false");
  model.write("config.json", original);
  model.edit_config([](auto& json) { json.erase("kv_lora_rank"); });
  expect_refused(model, {"key \"kv_lora_rank\" is missing"});
  model.write("config.json", original.substr(0, 300));
  expect_refused(model, {"config.json", "not valid JSON"});
  model.write("config.json", "[1]");
  expect_refused(model, {"config.json", "expected an object"});
  model.remove("config.json");
  expect_refused(model, {"config.json"});
}

TEST(bad_input, configuration_and_weights_that_disagree) {
  const BrokenModel model;
  const std::string original = model.read("config.json");
  model.edit_config([](auto& json) { json["num_attention_heads"] = json["num_key_value_heads"] = 16; });
  expect_refused(model, {"q_b_proj.weight: expected F8_E4M3", "[2048, 256]", "file has F8_E4M3 [1024, 256]"});
  model.write("config.json", original);
  model.edit_config([](auto& json) { json.erase("quantization_config"); });
  expect_refused(model, {"q_a_proj.weight: expected BF16 or F32", "file has F8_E4M3"});
  model.write("config.json", original);
  model.edit_config([](auto& json) { json["num_hidden_layers"] = 5; });
  expect_refused(model, {"model.layers.4.input_layernorm.weight"});
  model.write("config.json", original);
  model.edit_config([](auto& json) { json["num_hidden_layers"] = 3; });
  expect_refused(model, {"model.layers.3.", "no tensor of deepseek_v32 has this name"});
}

TEST(bad_input, a_tokenizer_that_is_broken) {
  const BrokenModel model;
  const auto refused = [&](const std::string& text, const std::string& part) {
    model.write("tokenizer.json", text);
    expect_one_line(test::run_tool("generate " + model.path() + " --prompt x"), {"tokenizer.json", part});
  };
  nlohmann::json json = nlohmann::json::parse(model.read("tokenizer.json"));
  refused("{", "not valid JSON");
  json["pre_tokenizer"]["pretokenizers"][0]["type"] = "Metaspace";
  refused(json.dump(), "Metaspace");
  model.remove("tokenizer.json");
  expect_one_line(test::run_tool("generate " + model.path() + " --prompt x"), {"tokenizer.json"});
}

TEST(bad_input, a_context_or_prompt_beyond_the_maximum) {
  expect_one_line(test::run_tool("plan " + test::kTinyV32 + " --context 2049"),
                  {"context: expected 1 to 2048 positions (max_position_embeddings), asked for 2049"});
  const auto prompt = test::scratch_file("long_prompt");
  std::ofstream(prompt) << std::string(20000, 'x');
  expect_one_line(test::run_tool("generate " + test::kTinyV32 + " --prompt-file " + prompt.string()),
                  {"prompt", "2048"});
}

TEST(bad_input, a_prompt_that_is_empty_or_no_utf8) {
  expect_one_line(test::run_tool("generate " + test::kTinyV32 + " --prompt ''"),
                  {"prompt: expected text, found none"});
  const auto prompt = test::scratch_file("bad_prompt");
  std::ofstream(prompt) << "good \xC3\x28 bad";
  expect_one_line(test::run_tool("generate " + test::kTinyV32 + " --prompt-file " + prompt.string()),
                  {"UTF-8", "5"});
  expect_one_line(test::run_tool("eval " + test::kTinyV32 + " --text " + prompt.string()), {"UTF-8", "5"});
}

TEST(bad_input, ids_beyond_the_vocabulary) {
  const auto file = test::scratch_file("ids.safetensors");
  for (const int32_t bad : {2048, -1}) {
    const std::vector<int32_t> ids{0, bad};
    const checkpoint::TensorView tensor{"ids", DType::kI32, {2}, std::as_bytes(std::span(ids))};
    checkpoint::write_safetensors(file, std::span(&tensor, 1));
    expect_one_line(test::run_tool("trace " + test::kTinyV32 + " --ids " + file.string() + ":ids --out " +
                                   file.string() + ".out"),
                    {fmt::format("token id {} is outside the vocabulary of 2048", bad)});
  }
  expect_one_line(test::run_tool("trace " + test::kTinyV32 + " --ids " + file.string() + ":none --out " +
                                 file.string() + ".out"),
                  {"none"});
}

TEST(bad_input, an_output_that_would_destroy_something) {
  const std::string ids = " --ids " + test::kGolden + ":seq0.input_ids --out ";
  const BrokenModel model;
  expect_one_line(test::run_tool("trace " + test::kTinyV32 + ids + "/dev/null"), {"--out", "/dev/null"});
  expect_one_line(test::run_tool("trace " + test::kTinyV32 + ids + "/nonexistent/x"),
                  {"--out", "/nonexistent/x"});
  expect_one_line(test::run_tool("trace " + test::kTinyV32 + ids + model.path() + "/config.json/x"),
                  {"--out", "expected a file in a directory"});
  expect_one_line(test::run_tool("trace " + model.path() + ids + model.path() + "/" + kShard1),
                  {"--out", "is an input"});
}

TEST(bad_input, an_output_that_takes_nothing) {
  const auto error = test::scratch_file("full");
  const std::string model = test::kTinyV32;
  for (const std::string& verb :
       {"inspect " + model, "inspect --all --json " + model, "plan " + model, std::string("--help"),
        std::string("--version"), "generate --greedy --max-new-tokens 2 --prompt x " + model}) {
    const std::string command = fmt::format("'{}' {} >/dev/full 2>'{}'", test::kTool, verb, error.string());
    EXPECT_EQ(WEXITSTATUS(std::system(command.c_str())), 1) << verb;
    const std::string said(checkpoint::MappedFile(error).text());
    EXPECT_TRUE(said.ends_with("fulgurite: stdout: not everything could be written\n")) << verb << said;
  }
}

TEST(bad_input, threads_that_the_system_does_not_give) {
#if defined(__SANITIZE_ADDRESS__)
  GTEST_SKIP() << "AddressSanitizer needs the address space that this test takes away";
#endif
  const auto error = test::scratch_file("threads");
  const std::string command =
      fmt::format("ulimit -v 3000000; '{}' generate {} --prompt hi --threads 1024 >/dev/null 2>'{}'",
                  test::kTool, test::kTinyV32, error.string());
  const int status = std::system(command.c_str());
  ASSERT_TRUE(WIFEXITED(status));
  EXPECT_EQ(WEXITSTATUS(status), 1);
  const std::string said(checkpoint::MappedFile(error).text());
  EXPECT_TRUE(said.ends_with("fulgurite: the system gives no 1024 threads\n")) << said;
}

TEST(bad_input, experts_of_one_layer_in_two_formats) {
  const BrokenModel model;
  model.edit_config([](auto& json) { json.erase("quantization_config"); });
  const test::TinyModel tiny;
  const Dequantized f32(tiny, DType::kF32), half(tiny, DType::kBF16);
  std::vector<checkpoint::TensorView> tensors(f32.tensors().begin(), f32.tensors().end());
  const std::string name = "model.layers.2.mlp.experts.3.down_proj.weight";
  named(tensors, name) = *std::ranges::find(half.tensors(), name, &checkpoint::TensorView::name);
  for (const char* const file : {"model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors",
                                 "model.safetensors.index.json"})
    model.remove(file);
  checkpoint::write_safetensors(fs::path(model.path()) / "model.safetensors", tensors);
  expect_refused(model, {"layer 2 experts expert 3", "expected gate, up and down as f32", "found bf16"});
}

TEST(bad_input, weights_that_are_no_numbers_are_no_result) {
  const BrokenModel model;
  std::vector<float> scales(6, std::nanf(""));
  model.edit_tensors([&](auto& tensors) {
    named(tensors, "model.layers.0.self_attn.q_a_proj.weight_scale_inv").bytes =
        std::as_bytes(std::span(scales));
  });
  const std::string text = " --text " + test::kSource + "/golden/text/public.txt --windows 1 --window 16";
  expect_one_line(test::run_tool("eval " + model.path() + text), {"logits", "nan"});
}

TEST(bad_input, not_enough_memory_is_known_before_it_is_allocated) {
  if (cpu::machine().available_bytes > int64_t{700} << 30) GTEST_SKIP() << "this machine has enough";
  const BrokenModel model;
  model.edit_config([](auto& json) { json["max_position_embeddings"] = 1 << 26; });
  const test::ToolRun run = test::run_tool("generate " + model.path() + " --prompt x --context 67108864");
  expect_one_line(run, {"context 67108864 for 1 sequence(s) needs", "GiB", "available"});
  const test::ToolRun plan = test::run_tool("plan " + model.path() + " --context 67108864 --batch 1048576");
  EXPECT_EQ(plan.exit_code, 0) << "a plan may be looked at on any machine";
  EXPECT_NE(plan.out.find("does NOT fit"), std::string::npos);
}

}  // namespace
}  // namespace fulgurite
