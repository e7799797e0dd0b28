// mma = hopper on a whole model: it runs on references, near the exact sums and apart from them.

#include <gtest/gtest.h>

#include "test/op_test.h"
#include "test/tiny_model.h"

namespace fulgurite {
namespace {

constexpr int64_t kTokens = 150;  // more than index_topk

std::vector<float> logits_of(const model::Model& model, const std::string& numerics, int64_t chunk = kTokens,
                             int64_t tokens = kTokens) {
  plan::Options options;
  options.candidates = plan::Candidates::kReferencesOnly;
  options.numerics = parse_numerics(numerics);
  options.context = tokens;
  options.chunk_tokens = chunk;
  execute::Session session(model, plan::make(model, test::device(2), options));
  const std::vector<int32_t> ids = test::golden_ids(0);
  std::vector<float> last;
  for (int64_t first = 0; first < tokens; first += chunk) {
    const auto count = static_cast<size_t>(std::min(chunk, tokens - first));
    const auto logits = session.forward(0, std::span(ids).subspan(static_cast<size_t>(first), count));
    last.assign(logits.data, logits.data + logits.size());
  }
  return last;
}

TEST(hopper, the_whole_model_runs_near_the_exact_sums_and_apart_from_them) {
  const test::TinyModel tiny;
  for (const auto& [base, tokens] : {std::pair<std::string, int64_t>{"serving", kTokens},
                                     {"serving,mla=expanded", 16}}) {  // slow: keys are expanded anew
    const std::vector<float> exact = logits_of(tiny.model, base, tokens, tokens);
    const std::vector<float> hopper = logits_of(tiny.model, base + ",mma=hopper", tokens, tokens);
    const double apart = test::distance(hopper, exact);
    EXPECT_GT(apart, 0.0) << base;
    EXPECT_LT(apart, 0.1) << base;
    RecordProperty("distance of " + base, std::to_string(apart));
  }
}

TEST(hopper, sums_do_not_depend_on_chunking) {
  const test::TinyModel tiny;
  EXPECT_TRUE(test::identical(logits_of(tiny.model, "serving,mma=hopper"),
                              logits_of(tiny.model, "serving,mma=hopper", 37)));
}

TEST(hopper, a_glm_5_runs_too) {
  const test::TinyModel glm(test::kTinyGlm5);
  const double apart =
      test::distance(logits_of(glm.model, "serving,mma=hopper"), logits_of(glm.model, "serving"));
  EXPECT_GT(apart, 0.0);
  EXPECT_LT(apart, 0.1);
}

}  // namespace
}  // namespace fulgurite
