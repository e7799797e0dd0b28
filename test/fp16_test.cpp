// Activations of fp16 on the whole model: planned kernels against the same graph of references, the same bits
// for any chunking and threads, values that overflow, and the option that asks for all this.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "fulgurite/core/element.h"
#include "test/tool_run.h"

namespace fulgurite {
namespace {

constexpr int64_t kTokens = 150;  // more than index_topk

plan::Options options_of(int64_t chunk, const std::string& also = "") {
  return test::trace_options(parse_numerics("serving,activation=fp16" + also), kTokens, chunk);
}

std::vector<float> logits_of(const model::Model& model, const plan::Options& options, int threads) {
  execute::Session session(model, plan::make(model, test::device(threads), options));
  const std::vector<int32_t> ids = test::golden_ids(1);
  std::vector<float> all;
  for (int64_t at = 0; at < kTokens; at += options.chunk_tokens) {
    const int64_t count = std::min(options.chunk_tokens, kTokens - at);
    const auto logits =
        session.forward(0, std::span(ids).subspan(static_cast<size_t>(at), static_cast<size_t>(count)));
    all.insert(all.end(), logits.data, logits.data + logits.size());
  }
  return all;
}

double relative_distance(std::span<const float> a, std::span<const float> b) {
  double difference = 0.0, norm = 0.0;
  for (size_t i = 0; i < a.size(); ++i) {
    difference += (static_cast<double>(a[i]) - b[i]) * (static_cast<double>(a[i]) - b[i]);
    norm += static_cast<double>(b[i]) * b[i];
  }
  return std::sqrt(difference / norm);
}

// The inner tensors of a pass over all tokens.
checkpoint::SafetensorsFile traced(const model::Model& model, const std::string& numerics,
                                   plan::Candidates candidates) {
  plan::Options options = test::trace_options(parse_numerics(numerics), kTokens, kTokens);
  options.candidates = candidates;
  execute::Session session(model, plan::make(model, test::device(2), options));
  audit::Trace trace(0, kTokens, kTokens);
  const std::vector<int32_t> ids = test::golden_ids(1);
  session.forward(0, std::span(ids).first(static_cast<size_t>(kTokens)), &trace);
  const auto path = test::scratch_file("fp16.trace");
  trace.write(path);
  return checkpoint::SafetensorsFile::open(path);
}

// Of one tensor of two passes.
double distance(const checkpoint::SafetensorsFile& a, const checkpoint::SafetensorsFile& b,
                const std::string& tensor) {
  return relative_distance(checkpoint::f32_values(a.require(tensor)),
                           checkpoint::f32_values(b.require(tensor)));
}

// Where nothing has come through a block yet, sums in another order tip a rounding to fp16 here and there, by
// a step of at most 2^-10 of the value: one element in a hundred makes 2^-10 / 10 of a tensor. Had any
// activation on the way been a bf16, every element would be off by some of 2^-8.
TEST(fp16, planned_kernels_and_references_agree_but_for_a_rounding_in_a_hundred) {
  constexpr double kOneInAHundred = 0x1p-10 / 10.0;
  const test::TinyModel tiny;
  for (const std::string also : {"", ",qk_operands=fp32,latent_cache=bf16"}) {
    const auto reference =
        traced(tiny.model, "serving,activation=fp16" + also, plan::Candidates::kReferencesOnly);
    const auto planned = traced(tiny.model, "serving,activation=fp16" + also, plan::Candidates::kAll);
    const auto bf16 = traced(tiny.model, "serving" + also, plan::Candidates::kAll);
    for (const std::string tensor :
         {"q_latent", "q", "kv_latent", "k_rope", "index_q", "index_k", "index_weights", "attn_heads"}) {
      EXPECT_LT(distance(planned, reference, "layer0." + tensor), kOneInAHundred) << tensor << also;
      EXPECT_GT(distance(bf16, reference, "layer0." + tensor), 5.0 * kOneInAHundred) << tensor << also;
    }
  }
}

// Behind it a tipped rounding tips e4m3 codes, each by up to 2^-3 of its value, layer after layer: of the
// logits a bound can only say that this is the same model, nearer than one with bf16 activations is.
TEST(fp16, planned_kernels_and_references_predict_alike) {
  const test::TinyModel tiny;
  plan::Options options = options_of(kTokens);
  const std::vector<float> planned = logits_of(tiny.model, options, 2);
  options.candidates = plan::Candidates::kReferencesOnly;
  const std::vector<float> reference = logits_of(tiny.model, options, 2);
  const std::vector<float> bf16 =
      logits_of(tiny.model, test::trace_options(parse_numerics("serving"), kTokens, kTokens), 2);
  std::vector<double> apart, apart_of_bf16;
  int64_t same_first = 0;
  const size_t width = planned.size() / kTokens;
  for (size_t at = 0; at < planned.size(); at += width) {
    const auto a = std::span(planned).subspan(at, width), b = std::span(reference).subspan(at, width);
    apart.push_back(relative_distance(a, b));
    apart_of_bf16.push_back(relative_distance(std::span(bf16).subspan(at, width), b));
    same_first += std::ranges::max_element(a) - a.begin() == std::ranges::max_element(b) - b.begin();
  }
  std::ranges::sort(apart);
  std::ranges::sort(apart_of_bf16);
  EXPECT_LT(apart[kTokens / 2], 0.8 * apart_of_bf16[kTokens / 2]);
  EXPECT_LT(apart[kTokens / 2], 0.03);
  EXPECT_GE(same_first, kTokens * 90 / 100);
}

TEST(fp16, no_bit_depends_on_chunking_or_threads) {
  const test::TinyModel tiny;
  for (const char* const also : {"", ",qk_operands=fp32", ",activation_quant=none"}) {
    const std::vector<float> whole = logits_of(tiny.model, options_of(kTokens, also), 1);
    for (const auto& [chunk, threads] : {std::pair{kTokens, 3}, {int64_t{37}, 2}, {int64_t{1}, 2}})
      EXPECT_TRUE(logits_of(tiny.model, options_of(chunk, also), threads) == whole)
          << also << ", " << chunk << " tokens at a time, " << threads << " threads";
  }
}

// Replaces the residual stream after layer 1 and sees what is stored of it, and the logits.
struct Flood : execute::Tap {
  std::vector<float> rows;
  int64_t width;
  std::vector<float> stored, logits;

  Flood(const model::Model& model, float value) : width(model.config.hidden) {
    rows.assign(static_cast<size_t>(width), value);
  }
  void begin(std::span<const TokenPlace>) override {}
  void at(execute::TapPoint point, int64_t layer, const execute::TapTensor& tensor) override {
    std::vector<float>* const seen = point == execute::TapPoint::kLogits                 ? &logits
                                     : point == execute::TapPoint::kHidden && layer == 1 ? &stored
                                                                                         : nullptr;
    if (seen == nullptr) return;
    for (int64_t i = 0; i < tensor.view.extent[2]; ++i) seen->push_back(load(tensor.view, 0, 0, i));
  }
  Replacement replaced_hidden(int64_t layer) override {
    if (layer != 1) return {};
    return {0, View<const float, 2>(rows.data(), {1, width})};
  }
};

// 65504 is the largest fp16: what lies beyond stays infinity, and is no number that looks like one.
TEST(fp16, a_stream_that_overflows_is_infinite_and_its_logits_are_nan) {
  const test::TinyModel tiny;
  const std::vector<int32_t> ids = test::golden_ids(0);
  const auto flooded = [&](const char* numerics, float value) {
    Flood flood(tiny.model, value);
    execute::Session session(tiny.model, plan::make(tiny.model, test::device(1),
                                                    test::trace_options(parse_numerics(numerics), 4, 4)));
    session.forward(0, std::span(ids).first(1), &flood);
    return flood;
  };
  const Flood below = flooded("serving,activation=fp16", 60000.0f),
              above = flooded("serving,activation=fp16", 66000.0f), bf16 = flooded("serving", 66000.0f);
  EXPECT_EQ(below.stored.at(0), 60000.0f);
  EXPECT_TRUE(std::ranges::all_of(above.stored, [](float x) { return x == INFINITY; }));
  EXPECT_TRUE(std::ranges::all_of(above.logits, [](float x) { return std::isnan(x); }));
  for (const Flood* const finite : {&below, &bf16})
    EXPECT_TRUE(std::ranges::all_of(finite->logits, [](float x) { return std::isfinite(x); }));
}

TEST(fp16, the_option_is_short_for_the_knob_and_may_not_contradict_it) {
  const std::string model = test::kTinyV32;
  const auto plan = [&](const std::string& options) {
    return test::run_tool("plan " + model + " " + options);
  };
  const test::ToolRun knob = plan("--numerics serving,activation=fp16");
  ASSERT_EQ(knob.exit_code, 0) << knob.error;
  for (const char* const same : {"--activation fp16", "--activation fp16 --numerics serving,activation=fp16",
                                 "--numerics serving --activation fp16"})
    EXPECT_EQ(plan(same).out, knob.out) << same;
  EXPECT_EQ(knob.out.find("reference"), std::string::npos) << knob.out;

  for (const std::string& verb :
       {"plan " + model, "generate " + model + " --prompt It", "eval " + model + " --text x",
        "trace " + model + " --ids x:y --out z", std::string("bench norm")}) {
    const test::ToolRun run = test::run_tool(verb + " --activation fp16 --numerics serving,activation=bf16");
    EXPECT_EQ(run.exit_code, 2) << verb;
    EXPECT_NE(run.error.find("--activation: fp16 contradicts activation=bf16 of --numerics"),
              std::string::npos)
        << run.error;
    EXPECT_EQ(test::run_tool(verb + " --activation fp8").exit_code, 2) << verb;
  }
}

TEST(fp16, generate_trace_compare_and_bench_run_with_it) {
  const std::string model = test::kTinyV32;
  const test::ToolRun text = test::run_tool(
      "generate " + model + " --prompt 'It was' --greedy --max-new-tokens 4 --activation fp16");
  EXPECT_EQ(text.exit_code, 0) << text.error;
  EXPECT_EQ(text.error.find("reference"), std::string::npos) << text.error;
  const auto ours = test::scratch_file("fp16.safetensors"), again = test::scratch_file("fp16_1.safetensors");
  for (const auto& [path, chunk] : {std::pair{ours, 0}, {again, 1}}) {
    const test::ToolRun run = test::run_tool(
        fmt::format("trace {} --ids {}:seq0.input_ids --last 8 --activation fp16 --chunk {} --out {}", model,
                    test::kGolden, chunk, path.string()));
    ASSERT_EQ(run.exit_code, 0) << run.error;
  }
  EXPECT_TRUE(checkpoint::MappedFile(ours).text() == checkpoint::MappedFile(again).text());
  const auto file = checkpoint::SafetensorsFile::open(ours);
  for (const float value : checkpoint::f32_values(file.require("layer0.attn_out")))
    ASSERT_EQ(value, round_to_fp16(value)) << "every fp16 is an f32";
  const test::ToolRun same = test::run_tool("compare " + ours.string() + " " + again.string());
  EXPECT_EQ(same.exit_code, 0) << same.out << same.error;
  const test::ToolRun timed =
      test::run_tool("bench norm linear.q_a --shape tiny-v32 --tokens 2 --seconds 0.01 --activation fp16");
  EXPECT_EQ(timed.exit_code, 0) << timed.error;
}

}  // namespace
}  // namespace fulgurite
