// Traces and injection through the library: what was injected stands in the trace, and what follows is
// computed from it.

#include "fulgurite/audit/trace.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "fulgurite/checkpoint/writer.h"
#include "test/op_test.h"
#include "test/tiny_model.h"

namespace fulgurite {
namespace {

constexpr int64_t kPositions = 160, kLast = 8;

checkpoint::SafetensorsFile traced(const std::string& file, int64_t chunk, audit::Injection injection = {},
                                   const Numerics& numerics = Numerics::fp32()) {
  const test::TinyModel tiny;
  const std::vector<int32_t> ids = test::golden_ids(0);
  execute::Session session(
      tiny.model, plan::make(tiny.model, test::device(2), test::trace_options(numerics, kPositions, chunk)));
  audit::Trace trace(0, kPositions, kLast, std::move(injection));
  for (int64_t at = 0; at < kPositions; at += chunk)
    session.forward(0,
                    std::span(ids).subspan(static_cast<size_t>(at),
                                           static_cast<size_t>(std::min(chunk, kPositions - at))),
                    &trace);
  trace.write(test::scratch_file(file));
  return checkpoint::SafetensorsFile::open(test::scratch_file(file));
}

std::vector<float> values(const checkpoint::SafetensorsFile& file, const std::string& name) {
  const auto span = checkpoint::f32_values(file.require(name));
  return {span.begin(), span.end()};
}

checkpoint::SafetensorsFile written(const checkpoint::TensorView& tensor) {
  checkpoint::write_safetensors(test::scratch_file("inject.safetensors"), std::span(&tensor, 1));
  return checkpoint::SafetensorsFile::open(test::scratch_file("inject.safetensors"));
}

checkpoint::SafetensorsFile file_with(const std::string& name, std::vector<int64_t> shape,
                                      const std::vector<float>& data) {
  return written({name, DType::kF32, std::move(shape), std::as_bytes(std::span(data))});
}

audit::Injection injection_of(const checkpoint::SafetensorsFile& file) {
  const test::TinyModel tiny;
  return audit::Injection(file, "", {}, tiny.model.config, kPositions);
}

TEST(trace, holds_every_tensor_of_its_format_page) {
  const auto trace = traced("all.safetensors", kPositions);
  EXPECT_EQ(trace.tensors().size(), 4u * 12 + 3u * 2 + 1);
  const auto shape = [&](const std::string& name) { return trace.require(name).shape; };
  using Shape = std::vector<int64_t>;
  EXPECT_EQ(shape("layer0.q"), (Shape{kLast, 8, 128}));
  EXPECT_EQ(shape("layer0.kv_latent"), (Shape{kLast, 512}));
  EXPECT_EQ(shape("layer0.k_rope"), (Shape{kLast, 64}));
  EXPECT_EQ(shape("layer0.index_q"), (Shape{kLast, 8, 128}));
  EXPECT_EQ(shape("layer0.index_scores"), (Shape{kLast, kPositions}));
  EXPECT_EQ(shape("layer0.topk"), (Shape{kLast, 128}));
  EXPECT_EQ(shape("layer0.attn_heads"), (Shape{kLast, 8, 64}));
  EXPECT_EQ(shape("layer1.expert_ids"), (Shape{kLast, 2}));
  EXPECT_EQ(shape("logits"), (Shape{kLast, 2048}));
  EXPECT_EQ(trace.find("layer0.expert_ids"), nullptr) << "a dense layer has no experts to choose";
}

TEST(trace, scores_explain_the_selection) {
  const auto trace = traced("scores.safetensors", kPositions);
  const std::vector<float> scores = values(trace, "layer2.index_scores");
  const auto selected = checkpoint::i32_values(trace.require("layer2.topk"));
  for (int64_t row = 0; row < kLast; ++row) {
    const int64_t position = kPositions - kLast + row;
    std::vector<int32_t> order(static_cast<size_t>(position + 1));
    for (size_t i = 0; i < order.size(); ++i) order[i] = static_cast<int32_t>(i);
    const auto score = [&](int32_t at) { return scores[static_cast<size_t>(row * kPositions + at)]; };
    std::ranges::stable_sort(order, [&](int32_t a, int32_t b) { return score(a) > score(b); });
    order.resize(128);
    std::ranges::sort(order);
    EXPECT_TRUE(std::ranges::equal(order, selected.subspan(static_cast<size_t>(row * 128), 128)))
        << "row " << row;
    for (int64_t s = position + 1; s < kPositions; ++s)
      EXPECT_EQ(score(static_cast<int32_t>(s)), -std::numeric_limits<float>::infinity());
  }
}

TEST(trace, injecting_its_own_tensors_changes_nothing) {
  const auto plain = traced("plain.safetensors", kPositions);
  const auto again = traced("again.safetensors", kPositions, injection_of(plain));
  for (const audit::TensorDifference& d : audit::compare_files(again, "", plain, "").tensors)
    EXPECT_EQ(d.distance(), 0.0) << d.name;
}

TEST(trace, an_injected_hidden_replaces_the_layers_output_for_what_follows) {
  const auto plain = traced("plain.safetensors", kPositions);
  std::vector<float> hidden = values(plain, "layer1.hidden");
  for (float& value : hidden) value = value * 1.25f + 0.5f;
  for (const int64_t chunk : {kPositions, int64_t{37}, int64_t{1}}) {
    const auto trace =
        traced("hidden.safetensors", chunk, injection_of(file_with("layer1.hidden", {kLast, 384}, hidden)));
    EXPECT_EQ(values(trace, "layer1.hidden"), hidden) << "chunk " << chunk;
    EXPECT_EQ(values(trace, "layer1.attn_out"), values(plain, "layer1.attn_out"));
    EXPECT_NE(values(trace, "layer2.q_latent"), values(plain, "layer2.q_latent"));
    EXPECT_NE(values(trace, "logits"), values(plain, "logits"));
  }
}

// In `serving` the stream is bf16: an injected hidden is the residual sum, read by the next norm as it is given;
// what is stored is its rounding.
TEST(trace, an_injected_hidden_is_read_unrounded_and_stored_rounded) {
  const Numerics serving = Numerics::serving();
  const std::vector<float> hidden = values(traced("plain.safetensors", kPositions), "layer1.hidden");
  std::vector<float> rounded = hidden;
  for (float& value : rounded) value = round_to_bf16(value);
  ASSERT_NE(rounded, hidden);
  const auto with = [&](const std::vector<float>& injected) {
    return traced("serving.safetensors", kPositions,
                  injection_of(file_with("layer1.hidden", {kLast, 384}, injected)), serving);
  };
  const auto given = with(hidden);
  EXPECT_EQ(values(given, "layer1.hidden"), rounded);
  const std::vector<float> next = values(given, "layer2.q_latent");
  EXPECT_NE(values(with(rounded), "layer2.q_latent"), next);
}

TEST(trace, an_injected_attention_output_enters_the_residual) {
  const auto plain = traced("plain.safetensors", kPositions);
  const std::vector<float> zeros(static_cast<size_t>(kLast * 384), 0.0f);
  const auto trace =
      traced("attn.safetensors", kPositions, injection_of(file_with("layer3.attn_out", {kLast, 384}, zeros)));
  EXPECT_EQ(values(trace, "layer3.attn_out"), zeros);
  EXPECT_NE(values(trace, "layer3.hidden"), values(plain, "layer3.hidden"));
  EXPECT_EQ(values(trace, "layer2.hidden"), values(plain, "layer2.hidden"));
}

TEST(trace, an_injected_selection_is_what_attention_reads) {
  const auto plain = traced("plain.safetensors", kPositions);
  // Every token attends to the first 5 positions, given in falling order.
  std::vector<int32_t> selection(static_cast<size_t>(kLast * 128), -1);
  for (int64_t row = 0; row < kLast; ++row)
    for (int32_t j = 0; j < 5; ++j) selection[static_cast<size_t>(row * 128 + j)] = 4 - j;
  const auto file = written({"layer0.topk", DType::kI32, {kLast, 128}, std::as_bytes(std::span(selection))});
  const auto trace = traced("topk.safetensors", kPositions, injection_of(file));
  const auto kept = checkpoint::i32_values(trace.require("layer0.topk"));
  EXPECT_EQ(std::vector<int32_t>(kept.begin(), kept.begin() + 6), (std::vector<int32_t>{0, 1, 2, 3, 4, -1}));
  EXPECT_NE(values(trace, "layer0.attn_heads"), values(plain, "layer0.attn_heads"));
}

TEST(trace, injections_that_the_model_cannot_have_are_refused) {
  const auto refusal = [&](const checkpoint::TensorView& tensor) {
    return test::message_of([&] { injection_of(written(tensor)); });
  };
  const std::vector<float> f32(static_cast<size_t>(kLast * 385));
  const auto bytes = std::as_bytes(std::span(f32));
  EXPECT_NE(refusal({"layer0.hidden", DType::kF32, {kLast, 385}, bytes})
                .find("layer0.hidden: expected F32 [1 to 160, 384]"),
            std::string::npos);
  EXPECT_NE(refusal({"layer9.hidden", DType::kF32, {kLast, 385}, bytes}).find("no tensor"),
            std::string::npos);
  for (const int32_t bad : {-2, 156, 1000, 0}) {
    std::vector<int32_t> selection(128, -1);
    selection[0] = 0;
    selection[1] = bad;  // 0 stands twice; one row is of position 159, where 156 is visible
    const bool good = bad == 156;
    EXPECT_EQ(refusal({"layer0.topk", DType::kI32, {1, 128}, std::as_bytes(std::span(selection))}).empty(),
              good)
        << bad;
  }
  const std::vector<int32_t> none(128, -1);
  EXPECT_NE(refusal({"layer0.topk", DType::kI32, {1, 128}, std::as_bytes(std::span(none))}), "");
}

}  // namespace
}  // namespace fulgurite
