#pragma once
// What the tests of accidents share: a checkpoint with a fault is loaded, planned and run as a user would.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "test/edited_checkpoint.h"
#include "test/tool_run.h"

namespace fulgurite::test {

inline const std::string kIndexer = "model.layers.1.self_attn.indexer.";
inline const std::string kWk = kIndexer + "wk.weight";

// More than index_topk: below that every position is selected, and a broken indexer stays unseen.
constexpr int64_t kAccidentPositions = 150;

// The last logits of a prompt.
inline std::vector<float> logits_of(const std::string& directory, const Numerics& numerics = Numerics::fp32(),
                                    int64_t positions = kAccidentPositions) {
  const auto checkpoint = checkpoint::open(directory);
  const model::Model model = model::bind(checkpoint);
  plan::Options options;
  options.numerics = numerics;
  options.context = options.chunk_tokens = positions;
  execute::Session session(model, plan::make(model, device(2), options));
  const std::vector<int32_t> ids = golden_ids(0);
  const View<const float, 2> logits =
      session.forward(0, std::span(ids).first(static_cast<size_t>(positions)));
  return {logits.data, logits.data + logits.size()};
}

inline const std::vector<float>& tiny_logits() {
  static const std::vector<float> logits = logits_of(kTinyV32);
  return logits;
}

// The one line with which the command refuses to plan the checkpoint.
inline std::string refusal(const std::string& directory) {
  const ToolRun run = run_tool("plan " + directory);
  EXPECT_EQ(run.exit_code, 1);
  EXPECT_EQ(std::ranges::count(run.error, '\n'), 1) << run.error;
  return run.error;
}

inline std::string convert(const std::string& from, const std::string& form) {
  const std::string out = scratch_file("accident_" + form);
  std::filesystem::remove_all(out);
  const ToolRun run = run_tool("convert " + from + " " + out + " --form " + form);
  EXPECT_EQ(run.exit_code, 0) << run.error;
  return out;
}

// The scales of every quantized weight for other blocks: `value` of the scales that were there, at a block's
// first element.
template <class Value>
void set_blocks(EditedCheckpoint& edited, int64_t block_rows, int64_t block_columns, const Value& value) {
  edited.config["quantization_config"]["weight_block_size"] = {block_rows, block_columns};
  for (size_t i = 0, count = edited.tensors.size(); i < count; ++i) {
    const checkpoint::TensorView scale = edited.tensors[i];
    if (!scale.name.ends_with("_scale_inv")) continue;
    const auto& weight =
        edited.at(scale.name.substr(0, scale.name.size() - std::string("_scale_inv").size()));
    const int64_t rows = (weight.shape[0] + block_rows - 1) / block_rows,
                  columns = (weight.shape[1] + block_columns - 1) / block_columns;
    const std::vector<float> old(checkpoint::f32_values(scale).begin(), checkpoint::f32_values(scale).end());
    edited.at(scale.name).shape = {rows, columns};
    const auto values = edited.values_of<float>(scale.name);
    for (int64_t j = 0; j < rows * columns; ++j) {
      const int64_t row = j / columns * block_rows, column = j % columns * block_columns;
      values[static_cast<size_t>(j)] =
          value(old[static_cast<size_t>(row / 128 * scale.shape[1] + column / 128)]);
    }
  }
}

}  // namespace fulgurite::test
