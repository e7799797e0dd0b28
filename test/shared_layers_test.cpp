// Layers that attend to what the layer before them selected, with and without indexer tensors of their own.

#include <set>

#include "test/converted.h"
#include "test/edited_checkpoint.h"

namespace fulgurite {
namespace {

namespace fs = std::filesystem;
using test::Converted;

const std::string kShared = "model.layers.2.self_attn.indexer.";

// The tiny model, whose layer 2 shares the selection of layer 1.
struct Sharing : test::EditedCheckpoint {
  Sharing() { config["indexer_types"] = {"full", "full", "shared", "full"}; }
  void erase_indexer() {
    std::erase_if(tensors, [](const auto& tensor) { return tensor.name.starts_with(kShared); });
  }
};

// Some converters ship indexers of every layer of GLM-5.
struct GlmWithAllIndexers : test::EditedCheckpoint {
  GlmWithAllIndexers() : EditedCheckpoint(test::kTinyGlm5) {
    const std::string from = "model.layers.0.self_attn.indexer.";
    for (size_t i = 0, count = tensors.size(); i < count; ++i) {
      if (!tensors[i].name.starts_with(from)) continue;
      for (const char* const layer : {"1", "3"}) {
        checkpoint::TensorView copy = tensors[i];
        copy.name.replace(std::string("model.layers.").size(), 1, layer);
        tensors.push_back(copy);
      }
    }
  }
};

std::vector<model::Finding> findings(const fs::path& directory) {
  return model::inspect(checkpoint::survey(directory), model::Sampling::kSample).findings;
}

TEST(shared_layers, load_with_and_without_an_indexer_and_compute_the_same) {
  Sharing present, absent;
  absent.erase_indexer();
  for (const Numerics& numerics : test::kPresets) {
    const std::string expected = test::form_trace(present.write(), numerics);
    EXPECT_TRUE(findings(present.directory()).empty());
    const auto whole = checkpoint::open(present.directory());
    EXPECT_GT(model::bind(whole).left_out_bytes, 0);
    EXPECT_TRUE(test::form_trace(absent.write(), numerics) == expected);
    EXPECT_TRUE(findings(absent.directory()).empty());
    EXPECT_FALSE(test::form_trace(test::kTinyV32, numerics) == expected) << "layer 2 selects otherwise";
  }
}

TEST(shared_layers, of_glm_5_may_have_an_indexer_that_nobody_reads) {
  const GlmWithAllIndexers all;
  EXPECT_TRUE(test::form_trace(all.write()) == test::form_trace(test::kTinyGlm5));
  EXPECT_TRUE(findings(all.directory()).empty());
  const auto checkpoint = checkpoint::open(all.directory());
  EXPECT_GT(model::bind(checkpoint).left_out_bytes, 0);
}

// What the trace of all positions says, with layer 2 made to read what layer 1 selected if asked.
audit::Trace traced(const fs::path& directory, const Numerics& numerics, audit::Injection injection = {}) {
  const auto checkpoint = checkpoint::open(directory);
  const model::Model model = model::bind(checkpoint);
  execute::Session session(model, test::form_plan(model, numerics));
  audit::Trace trace(0, test::kFormPositions, test::kFormPositions, std::move(injection));
  const std::vector<int32_t> ids = test::golden_ids(0);
  session.forward(0, std::span(ids).first(test::kFormPositions), &trace);
  return trace;
}

TEST(shared_layers, attend_to_what_the_layer_before_selected) {
  Sharing sharing;
  const fs::path shared_file = test::scratch_file("shared"), plain_file = test::scratch_file("plain"),
                 selection_file = test::scratch_file("selection"), forced_file = test::scratch_file("forced");
  for (const Numerics& numerics : test::kPresets) {
    traced(sharing.write(), numerics).write(shared_file);
    traced(test::kTinyV32, numerics).write(plain_file);
    const auto plain = checkpoint::SafetensorsFile::open(plain_file);
    checkpoint::TensorView selection = plain.require("layer1.topk");
    selection.name = "layer2.topk";
    checkpoint::write_safetensors(selection_file, std::vector{selection});
    const auto injected = checkpoint::SafetensorsFile::open(selection_file);
    const auto config = model::parse_config(checkpoint::open(test::kTinyV32).config_text(), "config.json");
    traced(test::kTinyV32, numerics, {injected, "", {}, config, test::kFormPositions}).write(forced_file);
    const auto shared = checkpoint::SafetensorsFile::open(shared_file);
    const auto forced = checkpoint::SafetensorsFile::open(forced_file);
    for (const char* const name :
         {"layer2.topk", "layer2.attn_out", "layer3.topk", "layer3.hidden", "logits"}) {
      const auto expected = forced.require(name).bytes, found = shared.require(name).bytes;
      EXPECT_TRUE(std::ranges::equal(expected, found)) << name;
    }
    EXPECT_FALSE(
        std::ranges::equal(plain.require("layer2.attn_out").bytes, shared.require("layer2.attn_out").bytes));
  }
}

TEST(shared_layers, are_counted_by_inspect) {
  Sharing sharing;
  const test::ToolRun run = test::run_tool("inspect " + sharing.write());
  EXPECT_EQ(run.exit_code, 0);
  EXPECT_NE(run.out.find("indexer    8 heads of 128, top 128; in 3 of 4 layers"), std::string::npos)
      << run.out;
  EXPECT_EQ(test::run_tool("inspect " + test::kTinyV32).out.find(" of 4 layers"), std::string::npos);
}

TEST(shared_layers, take_no_index_cache_and_the_plan_says_so) {
  Sharing sharing;
  const test::ToolRun run = test::run_tool("plan " + sharing.write());
  EXPECT_NE(run.out.find("the same, in 3 of 4 layers"), std::string::npos) << run.out;
  EXPECT_EQ(test::run_tool("plan " + test::kTinyV32).out.find(" of 4 layers"), std::string::npos);
}

TEST(shared_layers, plan_no_indexer) {
  Sharing sharing;
  const auto checkpoint = checkpoint::open(sharing.write());
  const model::Model model = model::bind(checkpoint);
  for (const char* const numerics : {"fp32", "serving", "serving,gate_weight=fp8"}) {
    const plan::Plan plan = test::form_plan(model, parse_numerics(numerics));
    std::set<int64_t> selecting;
    for (const plan::Row& row : plan.rows)
      if (row.operation == "index_select") selecting.insert(row.layer);
    EXPECT_EQ(selecting, (std::set<int64_t>{0, 1, 3}));
    EXPECT_FALSE(plan.layers[2].attention->indexer.has_value());
    EXPECT_EQ(plan.bytes.index_layers, 3);
    plan::prepare(model, plan);  // asserts that its memory suffices
  }
}

TEST(shared_layers, are_converted_with_what_they_have) {
  Sharing absent, part;
  absent.erase_indexer();
  part.erase(kShared + "wk.weight");
  part.erase(kShared + "wk.weight_scale_inv");
  const std::string expected = test::form_trace(absent.write());
  for (const char* const form : {"bf16", "fp8-e8m0", "fused-bf16"}) {
    const Converted converted(absent.write(), form);
    EXPECT_TRUE(test::form_trace(converted.path()) == expected) << form;
    EXPECT_TRUE(findings(converted.path()).empty()) << form;
    const Converted of_part(part.write(), form);
    EXPECT_TRUE(test::form_trace(of_part.path()) == expected) << form << ", part of an indexer";
    EXPECT_EQ(findings(of_part.path()).size(), 1u) << form;
  }
}

// A layer that config.json calls full needs its indexer.
TEST(shared_layers, an_indexer_that_is_not_shared_must_be_there) {
  Sharing missing;
  missing.erase_indexer();
  missing.config.erase("indexer_types");
  const auto checkpoint = checkpoint::open(missing.write());
  EXPECT_THROW(model::bind(checkpoint), Error);
  for (const model::Finding& finding : findings(missing.directory()))
    EXPECT_EQ(finding.rule, model::Rule::kMissingTensor) << finding.message;
}

}  // namespace
}  // namespace fulgurite
