// Every form of the checkpoint, made by `fulgurite convert` from the tiny model: it loads, says what it is,
// has no finding, and computes what its exact values say.

#include <gtest/gtest.h>
#include <signal.h>
#include <spawn.h>

#include <chrono>
#include <thread>

#include "test/converted.h"
#include "test/edited_checkpoint.h"
#include "test/independent_reader.h"
#include "test/paths.h"

namespace fulgurite {
namespace {

namespace fs = std::filesystem;

using test::Converted;

const std::string& tiny_trace() {
  static const std::string trace = test::form_trace(test::kTinyV32);
  return trace;
}

// What `inspect` says of a tensor of the form.
void expect_form(const nlohmann::json& inspected, const std::string& tensor, const std::string& form) {
  for (const auto& entry : inspected["tensors"])
    if (entry["name"] == tensor) {
      EXPECT_EQ(entry["form"], form) << tensor;
      return;
    }
  ADD_FAILURE() << "there is no " << tensor;
}

nlohmann::json inspect(const fs::path& directory) {
  const test::ToolRun run = test::run_tool("inspect --json --sample " + directory.string());
  EXPECT_EQ(run.exit_code, 0) << run.out << run.error;
  auto json = nlohmann::json::parse(run.out);
  EXPECT_TRUE(json["findings"].empty()) << json["findings"].dump(1);
  return json;
}

const std::string kLayer = "model.layers.2.";
const std::string kExpert = kLayer + "mlp.experts.3.down_proj.weight";
const std::string kO = kLayer + "self_attn.o_proj.weight";
const std::string kWk = kLayer + "self_attn.indexer.wk.weight";
const std::string kGate = kLayer + "self_attn.indexer.weights_proj.weight";
const std::string kFused = kLayer + "self_attn.indexer.wk_weights_proj.weight";

TEST(convert, lossless_forms_give_byte_identical_traces) {
  for (const char* const form : {"bf16", "fp8", "fp8-e8m0", "fused-bf16"})
    EXPECT_TRUE(test::form_trace(Converted(test::kTinyV32, form).path()) == tiny_trace()) << form;
}

// Its scales are no powers of two: code * scale is no bf16, and e8m0 is a requantization.
TEST(convert, glm_5_in_any_form_loads_and_only_fp8_loses_nothing) {
  const std::string expected = test::form_trace(test::kTinyGlm5);
  for (const char* const form : {"fp8", "bf16", "fp8-e8m0", "fused-bf16", "mxfp4-experts"}) {
    const Converted converted(test::kTinyGlm5, form);
    inspect(converted.path());
    EXPECT_EQ(test::form_trace(converted.path()) == expected, form == std::string("fp8")) << form;
  }
}

TEST(convert, lossy_forms_give_what_an_independent_reader_dequantizes) {
  for (const char* const form : {"fp8-channel", "gate-fp8", "fused-fp8", "mxfp4-experts", "nvfp4-experts"}) {
    SCOPED_TRACE(form);
    const Converted converted(test::kTinyV32, form);
    const fs::path exact = test::scratch_file("exact");
    test::IndependentReader(converted.path()).write(exact);
    const std::string trace = test::form_trace(converted.path());
    EXPECT_TRUE(trace == test::form_trace(exact));
    EXPECT_FALSE(trace == tiny_trace()) << "the form loses something";
    fs::remove_all(exact);
  }
}

TEST(convert, inspect_reports_each_form_and_finds_nothing) {
  const std::string fp8 = "e4m3 128x128, scales f32", e8m0 = "e4m3 128x128, scales e8m0";
  const std::vector<std::pair<std::string, std::map<std::string, std::string>>> forms{
      {"bf16", {{kO, "bf16"}, {kExpert, "bf16"}, {kWk, "bf16"}, {kGate, "bf16"}}},
      {"fp8", {{kO, fp8}, {kExpert, fp8}, {kWk, fp8}, {kGate, "bf16"}}},
      {"fp8-e8m0", {{kO, e8m0}, {kExpert, e8m0}, {kWk, e8m0}, {kGate, "bf16"}}},
      {"fp8-channel", {{kO, "e4m3 per channel, scales f32"}, {kGate, "bf16"}}},
      {"gate-fp8", {{kWk, fp8}, {kGate, fp8}}},
      {"fused-bf16", {{kFused, "bf16"}, {kO, fp8}}},
      {"fused-fp8", {{kFused, fp8}, {kO, fp8}}},
      {"mxfp4-experts", {{kExpert, "e2m1 1x32, scales e8m0"}, {kO, fp8}}},
      {"nvfp4-experts", {{kExpert, "e2m1 1x16, scales e4m3 x f32"}, {kO, fp8}}}};
  ASSERT_EQ(forms.size(), model::form_names().size());
  for (const auto& [form, tensors] : forms) {
    SCOPED_TRACE(form);
    const Converted converted(test::kTinyV32, form, "--shard-size 2MB");
    const nlohmann::json json = inspect(converted.path());
    for (const auto& [tensor, expected] : tensors) expect_form(json, tensor, expected);
    EXPECT_GT(json["shards"].size(), 2u);
    EXPECT_TRUE(fs::exists(converted.path() / "tokenizer.json"));
    EXPECT_FALSE(fs::exists(converted.path() / "fulgurite-writes-here.lock"));
  }
}

TEST(convert, a_pre_fused_checkpoint_becomes_any_other_form) {
  const Converted fused(test::kTinyV32, "fused-bf16");
  EXPECT_TRUE(test::form_trace(Converted(fused.path(), "bf16").path()) == tiny_trace());
  const Converted half(fused.path(), "fp8-e8m0");
  EXPECT_TRUE(test::form_trace(half.path()) == tiny_trace());
  expect_form(inspect(half.path()), kWk, "e4m3 128x128, scales e8m0");
}

// The largest code of a block, by its bits.
int largest_code(const checkpoint::TensorView& weight, int64_t block_row, int64_t block_column) {
  int largest = 0;
  for (int64_t r = block_row * 128; r < std::min(weight.shape[0], block_row * 128 + 128); ++r)
    for (int64_t c = block_column * 128; c < std::min(weight.shape[1], block_column * 128 + 128); ++c)
      largest = std::max(largest,
                         static_cast<int>(weight.bytes[static_cast<size_t>(r * weight.shape[1] + c)]) & 0x7F);
  return largest;
}

TEST(convert, fp8_to_bf16_to_fp8_e8m0_keeps_values_and_codes_above_224) {
  const Converted half(test::kTinyV32, "bf16");
  const Converted again(half.path(), "fp8-e8m0");
  EXPECT_TRUE(test::form_trace(again.path()) == tiny_trace());
  const test::TinyModel tiny;
  const auto made = checkpoint::open(again.path());
  int64_t kept = 0, smaller = 0;
  for (const model::TensorName& name : tiny.model.names) {
    if (name.form != model::Form::kLinear) continue;
    const checkpoint::TensorView& before = *tiny.checkpoint.find(name.name);
    const checkpoint::TensorView& after = *made.find(name.name);
    const auto scales = checkpoint::f32_values(*tiny.checkpoint.find(model::scale_name(name)));
    const auto exponents = made.find(model::part_names(name).scales[2])->bytes;
    const int64_t columns = (name.columns + 127) / 128;
    for (int64_t b = 0; b < static_cast<int64_t>(scales.size()); ++b) {
      const auto at = static_cast<size_t>(b);
      if (largest_code(before, b / columns, b % columns) <= 0x76) {  // 224
        ++smaller;
        continue;
      }
      ++kept;
      EXPECT_EQ(std::ldexp(1.0, static_cast<int>(exponents[at]) - 127), scales[at]) << name.name;
      for (int64_t r = b / columns * 128; r < std::min(name.rows, b / columns * 128 + 128); ++r) {
        const auto row = static_cast<size_t>(r * name.columns + b % columns * 128);
        const auto width = static_cast<size_t>(std::min<int64_t>(128, name.columns - b % columns * 128));
        ASSERT_EQ(std::memcmp(&before.bytes[row], &after.bytes[row], width), 0) << name.name << " row " << r;
      }
    }
  }
  EXPECT_GT(kept, 100) << smaller << " blocks have no code above 224";
}

TEST(convert, mtp_tensors_are_converted_too) {
  test::EditedCheckpoint edited;
  edited.add_mtp();
  const std::string source = edited.write();
  const Converted converted(source, "mxfp4-experts");
  const auto made = checkpoint::open(converted.path());
  EXPECT_EQ(made.find("model.layers.4.mlp.experts.0.up_proj.weight")->dtype, DType::kI8);
  EXPECT_EQ(made.find("model.layers.4.eh_proj.weight")->dtype, DType::kBF16);
  EXPECT_GT(inspect(converted.path())["left_out_bytes"].get<int64_t>(), 1'000'000);
}

TEST(convert, shard_size_one_gives_every_tensor_a_file) {
  const Converted converted(test::kTinyV32, "fp8", "--shard-size 1");
  EXPECT_EQ(checkpoint::open(converted.path()).shard_names().size(), 261u);
  EXPECT_TRUE(test::form_trace(converted.path()) == tiny_trace());
}

TEST(convert, refuses_what_exists_what_is_unknown_and_what_cannot_be_written) {
  const fs::path out = test::scratch_file("exists");
  fs::create_directories(out);
  const std::string command = "convert " + test::kTinyV32 + " ";
  const test::ToolRun exists = test::run_tool(command + out.string() + " --form bf16");
  EXPECT_EQ(exists.exit_code, 1);
  EXPECT_NE(exists.error.find("exists already; nothing is overwritten"), std::string::npos) << exists.error;
  EXPECT_TRUE(fs::is_empty(out));
  const test::ToolRun nowhere = test::run_tool(command + "/nonexistent/x --form bf16");
  EXPECT_EQ(nowhere.exit_code, 1);
  EXPECT_NE(nowhere.error.find("/nonexistent"), std::string::npos) << nowhere.error;
  EXPECT_EQ(test::run_tool(command + out.string() + "x --form int4").exit_code, 2);
  EXPECT_EQ(test::run_tool(command + out.string() + "x").exit_code, 2);
  test::EditedCheckpoint bad;
  bad.values_of<uint8_t>(kExpert)[0] = 0x7F;
  const test::ToolRun nan =
      test::run_tool("convert " + bad.write() + " " + out.string() + "3 --form mxfp4-experts");
  EXPECT_NE(nan.error.find(kExpert + ": NaN or infinity has no fp4 code"), std::string::npos) << nan.error;
  EXPECT_FALSE(fs::exists(out.string() + "3") || fs::exists(out.string() + "3.partial"));
  const fs::path foreign = out.string() + "2.partial";
  fs::create_directories(foreign);
  std::ofstream(foreign / "mine") << "x";
  const test::ToolRun partial = test::run_tool(command + out.string() + "2 --form bf16");
  EXPECT_NE(partial.error.find("not as what a stopped conversion left"), std::string::npos) << partial.error;
  EXPECT_TRUE(fs::exists(foreign / "mine"));
  fs::remove(foreign / "mine");  // as it stands where a conversion was stopped before it had its lock
  EXPECT_EQ(test::run_tool(command + out.string() + "2 --form bf16").exit_code, 0);
  fs::remove_all(out);
  fs::remove_all(out.string() + "2");
}

pid_t start_convert(const fs::path& out) {
  const std::string tool = test::kTool, path = out;
  const char* const arguments[] = {tool.c_str(),   "convert", test::kTinyV32.c_str(),
                                   path.c_str(),   "--form",  "bf16",
                                   "--shard-size", "1MB",     nullptr};
  pid_t process = 0;
  EXPECT_EQ(
      posix_spawn(&process, tool.c_str(), nullptr, nullptr, const_cast<char* const*>(arguments), environ), 0);
  return process;
}

TEST(convert, killed_at_any_moment_leaves_no_half_written_checkpoint) {
  const fs::path out = test::scratch_file("killed");
  const auto begin = std::chrono::steady_clock::now();
  int status = 0;
  waitpid(start_convert(out), &status, 0);
  const auto whole = std::chrono::steady_clock::now() - begin;
  ASSERT_TRUE(fs::exists(out));
  int killed = 0;
  for (int i = 0; i < 50; ++i) {
    fs::remove_all(out);
    const pid_t process = start_convert(out);
    std::this_thread::sleep_for(whole * i / 50);
    kill(process, SIGKILL);
    waitpid(process, &status, 0);
    killed += WIFSIGNALED(status);
    if (fs::exists(out)) {
      EXPECT_EQ(checkpoint::open(out).tensors().size(), 149u);
    }
  }
  EXPECT_GT(killed, 20);
  fs::remove_all(out);
  waitpid(start_convert(out), &status, 0);
  EXPECT_EQ(status, 0) << "what the killed ones left is taken over";
  EXPECT_TRUE(fs::exists(out));
  EXPECT_FALSE(fs::exists(out.string() + ".partial"));
}

}  // namespace
}  // namespace fulgurite
