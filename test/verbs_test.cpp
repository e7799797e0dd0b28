// Every verb takes every family; what each prints is held by tests of its own, and bisect by bisect_test.cpp.

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "test/tool_run.h"

namespace fulgurite {
namespace {

void expect_success(const std::string& arguments) {
  const test::ToolRun run = test::run_tool(arguments);
  EXPECT_EQ(run.exit_code, 0) << arguments << "\n" << run.error;
}

TEST(verbs, run_on_a_model_of_every_family) {
  for (const test::Recorded& model : test::kRecorded) {
    const std::string of = model.directory();
    const auto trace = test::scratch_file("verbs.safetensors"), converted = test::scratch_file("verbs_bf16"),
               synthetic = test::scratch_file("verbs_synthetic");
    const test::ToolRun generated =
        test::run_tool("generate " + of + " --prompt 'The sea' --greedy --max-new-tokens 6 --json");
    EXPECT_EQ(generated.exit_code, 0) << generated.error;
    EXPECT_EQ(nlohmann::json::parse(generated.out)["ids"].size(), 6u) << of;
    expect_success("eval " + of + " --text " + test::kSource +
                   "/golden/text/public.txt --window 64 --windows 1");
    expect_success("inspect " + of);
    expect_success("plan " + of);
    expect_success(
        fmt::format("trace {} --ids {}:seq0.input_ids --out {}", of, model.golden(), trace.string()));
    expect_success(fmt::format("compare {0} {0}", trace.string()));
    expect_success("audit " + of + " --text " + test::kSource + "/golden/text/public.txt --context 16");
    expect_success(fmt::format("convert {} {} --form bf16", of, converted.string()));
    expect_success("generate " + converted.string() + " --prompt 'The sea' --greedy --max-new-tokens 1");
    expect_success(fmt::format("synth {}/config.json --layers 2 --out {}", of, synthetic.string()));
    expect_success("inspect " + synthetic.string());
    for (const auto& directory : {converted, synthetic}) std::filesystem::remove_all(directory);
  }
  for (const char* const shape : {"v32-671b", "glm5", "v4-flash", "v4-pro"})
    expect_success(std::string("bench --list --shape ") + shape);
}

}  // namespace
}  // namespace fulgurite
