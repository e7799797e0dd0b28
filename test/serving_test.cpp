// The preset `serving` on the whole model: planned kernels against the same graph of references. Their sums
// differ in the last bits of fp32, which now and then tips a rounding to bf16 or e4m3, and what follows moves
// with it; so they are held together by what a user sees, and operation by operation in the operations' tests.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "fulgurite/core/element.h"
#include "test/tiny_model.h"

namespace fulgurite {
namespace {

constexpr int64_t kTokens = 160;  // more than index_topk

struct Result {
  std::vector<float> logits;  // [kTokens, vocabulary]
  int64_t vocabulary;

  std::span<const float> row(int64_t t) const {
    return std::span(logits).subspan(static_cast<size_t>(t * vocabulary), static_cast<size_t>(vocabulary));
  }
};

Result result_of(const model::Model& model, plan::Candidates candidates) {
  plan::Options options;
  options.context = kTokens;
  options.chunk_tokens = kTokens;
  options.logits = plan::LogitRows::kAll;
  options.candidates = candidates;
  execute::Session session(model, plan::make(model, test::device(2), options));
  const std::vector<int32_t> ids = test::golden_ids(1);
  const View<const float, 2> logits = session.forward(0, std::span(ids).first(kTokens));
  return {{logits.data, logits.data + logits.size()}, logits.extent[1]};
}

double log_sum_exp(std::span<const float> logits) {
  const double top = *std::ranges::max_element(logits);
  double sum = 0.0;
  for (const float logit : logits) sum += std::exp(logit - top);
  return top + std::log(sum);
}

// KL divergence of two rows of logits, in nats.
double divergence(std::span<const float> p, std::span<const float> q) {
  const double log_p = log_sum_exp(p), log_q = log_sum_exp(q);
  double sum = 0.0;
  for (size_t i = 0; i < p.size(); ++i) sum += std::exp(p[i] - log_p) * ((p[i] - log_p) - (q[i] - log_q));
  return sum;
}

TEST(serving, planned_kernels_and_references_predict_alike) {
  const test::TinyModel tiny;
  const Result planned = result_of(tiny.model, plan::Candidates::kAll),
               reference = result_of(tiny.model, plan::Candidates::kReferencesOnly);
  double mean = 0.0;
  int64_t same_first = 0;
  for (int64_t t = 0; t < kTokens; ++t) {
    mean += divergence(reference.row(t), planned.row(t)) / kTokens;
    same_first += std::ranges::max_element(planned.row(t)) - planned.row(t).begin() ==
                  std::ranges::max_element(reference.row(t)) - reference.row(t).begin();
  }
  EXPECT_LT(mean, 2e-3);
  EXPECT_GT(mean, 0.0) << "kernels and references cannot sum in the same order";
  EXPECT_GE(same_first, kTokens * 95 / 100);
  RecordProperty("mean_divergence", fmt::format("{:.2e}", mean));
}

// The head gate reads the norm's bf16 output and not the codes that the fp8 linears beside it read.
TEST(serving, the_head_gate_does_not_see_the_quantization_of_activations) {
  const test::TinyModel tiny;
  const std::vector<int32_t> ids = test::golden_ids(0);
  const auto gate_of = [&](const char* numerics) {
    struct First : execute::Tap {
      std::vector<float> weights;
      void begin(std::span<const TokenPlace>) override {}
      void at(execute::TapPoint point, int64_t layer, const execute::TapTensor& tensor) override {
        if (point != execute::TapPoint::kIndexWeights || layer != 0) return;
        for (int64_t h = 0; h < tensor.view.extent[2]; ++h) weights.push_back(load(tensor.view, 0, 0, h));
      }
    } tap;
    execute::Session session(tiny.model, plan::make(tiny.model, test::device(1),
                                                    test::trace_options(parse_numerics(numerics), 16, 16)));
    session.forward(0, std::span(ids).first(1), &tap);
    return tap.weights;
  };
  // Without q_scale (index_quant = none) the weights are the gate and constants.
  const std::vector<float> expected = gate_of("serving,index_quant=none");
  EXPECT_EQ(gate_of("serving,index_quant=none,activation_quant=none"), expected);
  EXPECT_NE(gate_of("serving,index_quant=none,gate_weight=fp8"), expected);
}

}  // namespace
}  // namespace fulgurite
