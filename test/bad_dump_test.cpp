// Dumps that are wrong have one line that names the tensor, what was expected and what was found, and exit code
// 1: through the command, as a user meets it.

#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <limits>

#include "test/dump_files.h"
#include "test/tool_run.h"

namespace fulgurite {
namespace {

constexpr int64_t kPositions = 12;

test::DumpFile good() {
  static const test::DumpFile kGood = test::dump_of(test::kRecordedV32, Numerics::fp32(), kPositions);
  return kGood;
}

void expect_line(const std::string& arguments, std::initializer_list<std::string> parts) {
  const test::ToolRun run = test::run_tool(arguments);
  EXPECT_EQ(run.exit_code, 1) << run.error;
  EXPECT_EQ(std::ranges::count(run.error, '\n'), 1) << run.error;
  EXPECT_EQ(run.out, "");
  for (const std::string& part : parts)
    EXPECT_NE(run.error.find(part), std::string::npos) << part << "\n in " << run.error;
}

std::string command(const test::DumpFile& file, const std::string& more = "") {
  return fmt::format("bisect {} --numerics fp32 --dump {} {}", test::kTinyV32, file.write("bad").string(),
                     more);
}

void expect_refused(const test::DumpFile& file, std::initializer_list<std::string> parts) {
  expect_line(command(file), parts);
}

std::string with_map(const test::DumpFile& file, const std::string& map) {
  std::ofstream(test::scratch_file("map.json")) << map;
  return command(file, "--map " + test::scratch_file("map.json").string());
}

TEST(bad_dump, the_good_one_passes_and_an_exit_code_says_when_it_does_not) {
  EXPECT_EQ(test::run_tool(command(good(), "--no-search")).exit_code, 0);
  test::DumpFile file = good();
  file["layer1.q"].as<float>()[7] += 1.0f;
  const test::ToolRun run = test::run_tool(command(file, "--no-search"));
  EXPECT_EQ(run.exit_code, 1);
  EXPECT_NE(run.out.find("First beyond its gate: layer1.q"), std::string::npos) << run.out;
  EXPECT_EQ(run.error, "");
}

TEST(bad_dump, a_file_that_is_none) {
  expect_line("bisect " + test::kTinyV32 + " --dump /nonexistent.npz", {"/nonexistent.npz"});
  std::ofstream(test::scratch_file("text.safetensors")) << "text";
  expect_line("bisect " + test::kTinyV32 + " --dump " + test::scratch_file("text.safetensors").string(),
              {"text.safetensors"});
}

TEST(bad_dump, tensors_of_which_none_is_known) {
  test::DumpFile file;
  file.tensors["input_ids"] = good()["input_ids"];
  file.tensors["hidden"] = good()["layer0.hidden"];
  expect_refused(file, {"no tensor \"layerL.NAME\"", "bad.safetensors"});
}

TEST(bad_dump, no_ids_or_others_than_were_given) {
  test::DumpFile file = good();
  file.tensors.erase("input_ids");
  expect_refused(file, {"input_ids", "no ids or text given"});
  expect_line(command(good(), "--ids " + test::kGolden + ":seq1.input_ids"),
              {"input_ids", "not those that were given"});
}

TEST(bad_dump, ids_that_the_model_has_not) {
  test::DumpFile file = good();
  file["input_ids"].as<int32_t>()[5] = 99'999;
  expect_refused(file, {"input_ids", "position 5", "99999", "2048"});
  file["input_ids"].dtype = DType::kF32;
  expect_refused(file, {"input_ids", "expected I32 or I64", "F32 [12]"});
}

TEST(bad_dump, fewer_ids_than_rows) {
  test::DumpFile file = good();
  file["input_ids"].shape = {kPositions - 1};
  file["input_ids"].bytes.resize(4 * (kPositions - 1));
  expect_refused(file, {"[1 to 11, ", "F32 [12, "});
}

TEST(bad_dump, a_shape_or_type_that_the_model_has_not) {
  test::DumpFile file = good();
  file["layer2.q_latent"].shape = {kPositions / 2, 2 * file["layer2.q_latent"].shape[1]};
  expect_refused(file, {"layer2.q_latent", "expected F32 [1 to 12, ", "F32 [6, "});
  file = good();
  file["layer2.k_rope"].dtype = DType::kI32;
  expect_refused(file, {"layer2.k_rope", "expected F32, F64, F16 or BF16", "I32 [12, 64]"});
  file = good();
  file["layer1.expert_ids"].dtype = DType::kF32;
  expect_refused(file, {"layer1.expert_ids", "expected I32 or I64", "F32 [12, 2]"});
}

TEST(bad_dump, layers_and_tensors_that_the_model_has_not) {
  test::DumpFile file = good();
  file.rename("layer3.q", "layer7.q");
  expect_refused(file, {"layer7.q", "layers 0 to 3"});
  file = good();
  file.rename("layer3.attn_out", "layer3.attn_in");
  expect_refused(file, {"layer3.attn_in", "no such tensor"});
  file = good();
  file.tensors["layer0.expert_ids"] = file["layer1.expert_ids"];
  expect_refused(file, {"layer0.expert_ids", "no such tensor"});
}

TEST(bad_dump, nan_and_infinity_with_their_place) {
  test::DumpFile file = good();
  file["layer1.attn_out"].as<float>()[3 * 384 + 17] = std::numeric_limits<float>::quiet_NaN();
  file["layer2.attn_out"].as<float>()[0] = std::numeric_limits<float>::quiet_NaN();
  expect_refused(file, {"layer1.attn_out", "NaN", "row 3, column 17", "position 3"});
  file = good();
  file["logits"].as<float>()[1] = -std::numeric_limits<float>::infinity();
  expect_refused(file, {"logits", "-infinity", "row 0, column 1"});
}

TEST(bad_dump, names_that_map_twice) {
  expect_line(with_map(good(), R"({"layer0.q": "layer1.q"})"), {"layer0.q maps twice"});
  expect_line(with_map(good(), R"({"layer0.q": "layer1.q", "layer2.q": "layer1.q"})"),
              {"layer1.q", "maps twice"});
  expect_line(with_map(good(), R"({"layer*.q": "layer*.q", "layer0.q": "x"})"),
              {"map.json", "layer0.q maps twice"});
  expect_line(with_map(good(), R"({"layer0.q": "a", "layer0.q": "b"})"), {"map.json", "stands twice"});
}

TEST(bad_dump, a_map_that_says_what_cannot_be) {
  test::DumpFile file = good();
  file.tensors.erase("layer0.q");
  expect_line(with_map(file, R"({"layer0.q": "nothing"})"), {"layer0.q", "no tensor \"nothing\""});
  expect_line(with_map(good(), R"({"layer0.qq": "layer0.q"})"), {"layer0.qq", "docs/formats/trace.md"});
  expect_line(with_map(good(), R"({"layer0.q": {"from": "layer0.q", "order": 1}})"),
              {"map.json", "\"order\""});
  expect_line(with_map(good(), R"({"layer0.q": {"from": "layer0.q", "rows": [0, 0]}})"),
              {"rows", "0 stands twice"});
  expect_line(with_map(good(), R"({"layer0.q": {"from": "layer0.q", "rows": [12]}})"),
              {"layer0.q", "row 12"});
  expect_line(with_map(good(), R"({"layer0.q": {"from": "layer0.q", "transpose": [0, 1, 1]}})"),
              {"transpose"});
  expect_line(with_map(good(), R"({"layer0.q": {"from": "layer0.q", "columns": [120, 9]}})"),
              {"layer0.q", "[120, 129)"});
  expect_line(
      with_map(good(),
               R"({"layer0.q": {"from": "layer0.q", "rope": {"first": 64, "dims": 66, "pairs": "halves"}}})"),
      {"layer0.q", "[64, 130)"});
  expect_line(with_map(good(), R"({"layer0.q": {"from": ["layer0.q", "layer0.k_rope"]}})"),
              {"layer0.q", "side by side", "F32 [12, 64]"});
  expect_line(with_map(good(), "[]"), {"map.json", "expected an object"});
  expect_line(with_map(good(), "{"), {"map.json", "not valid JSON"});
}

TEST(bad_dump, a_profile_that_says_nothing_of_the_model) {
  expect_line(
      fmt::format("bisect {} --profile pypto --dump {}", test::kTinyV32, good().write("bad").string()),
      {"profile pypto", "DeepSeek-V4 alone", "deepseek_v32"});
}

}  // namespace
}  // namespace fulgurite
