// mma = hopper: the reference's logits against the same logits taken apart here.

#include <gtest/gtest.h>

#include "fulgurite/core/tensor_core.h"
#include "fulgurite/ops/index_select/test_inputs.h"

namespace fulgurite::index_select {
namespace {

constexpr Case kShape{"", 2, 3, 128, 5, 1, 40};

std::vector<MmaFactor> row(const Tensor<1>& values) {
  const bool codes = values.dtype == DType::kF8_E4M3;
  return mma_factors(codes ? MmaType::kE4m3 : MmaType::kBf16, values.extent[0],
                     [&](int64_t i) { return codes ? to_float(values.as<e4m3>()(i)) : load(values, i); });
}

float logit(const Inputs& in, int64_t t, int64_t s) {
  const bool codes = in.q.view.dtype == DType::kF8_E4M3;
  float sum = 0.0f;
  for (int64_t h = 0; h < kShape.heads; ++h) {
    const float dot =
        mma_sum(codes ? MmaType::kE4m3 : MmaType::kBf16, row(in.q.view[t][h]), row(in.key_cache.view[0][s]));
    sum = std::fma(in.weights.view(t, h), dot < 0.0f ? 0.0f : dot, sum);
  }
  return codes ? in.scales.view(0, s) * sum : sum;
}

TEST(index_select_mma, a_dot_product_is_one_accumulation) {
  for (const std::string numerics : {"serving", "serving,index_quant=none", "serving,index_quant=fp4"}) {
    const Inputs in = make_inputs(3, kShape, Values::kNormal, numerics.c_str());
    const Result hopper = result(kReference, problem_of(kShape, numerics + ",mma=hopper"), in);
    const Result exact = result(kReference, problem_of(kShape, numerics), in);
    int64_t differ = 0;
    for (int64_t t = 0; t < kShape.tokens; ++t)
      for (int64_t s = 0; s <= in.places[static_cast<size_t>(t)].position; ++s) {
        const auto at = static_cast<size_t>(t * kShape.context + s);
        EXPECT_EQ(hopper.scores[at], logit(in, t, s)) << numerics << " " << t << " " << s;
        EXPECT_NEAR(hopper.scores[at], exact.scores[at], 0.02f * std::fabs(exact.scores[at]) + 0.1f);
        differ += hopper.scores[at] != exact.scores[at];
      }
    EXPECT_GT(differ, 0) << numerics;
  }
}

}  // namespace
}  // namespace fulgurite::index_select
