// mma = hopper: the reference's head against the same head taken apart here.

#include <gtest/gtest.h>

#include <algorithm>

#include "fulgurite/core/tensor_core.h"
#include "fulgurite/ops/sparse_attention/test_inputs.h"

namespace fulgurite::sparse_attention {
namespace {

constexpr Case kShape{"", 2, 2, 40, 8, 150, 1, 200};  // three tiles, the last of 22

template <class Value>
std::vector<MmaFactor> factors(int64_t count, const Value& value) {
  return mma_factors(MmaType::kBf16, count, value);
}

float score(const Inputs& in, int64_t t, int64_t h, int64_t s) {
  const std::byte* const row =
      in.cache.rows[in.selection.token_places[static_cast<size_t>(t)].sequence][s].data;
  const int64_t latent = kShape.latent, width = latent + kShape.rope;
  const auto q = factors(width, [&](int64_t i) {
    return i < latent ? load(in.q.view, t, h, i) : load(in.q_rope.view, t, h, i - latent);
  });
  const auto key = factors(width, [&](int64_t i) {
    return i < latent ? in.cache.row.latent_value(row, i) : in.cache.row.rope_value(row, i - latent);
  });
  return mma_sum(MmaType::kBf16, q, key) * in.problem.scale;
}

float exponential(float x) { return static_cast<float>(std::exp(static_cast<double>(x))); }

std::vector<int64_t> chosen(const Inputs& in, int64_t t) {
  std::vector<int64_t> rows;
  for (int64_t j = 0; j < selected_rows(in.selection.selected()[t]); ++j)
    rows.push_back(in.selection.selected()(t, j));
  return rows;
}

// Running tiles of 64: the products of a tile are added to what stands in the accumulators, rescaled.
std::vector<float> head(const Inputs& in, int64_t t, int64_t h) {
  const std::vector<int64_t> rows = chosen(in, t);
  std::vector<float> o(static_cast<size_t>(kShape.latent), 0.0f);
  float m = -kInfinity, l = 0.0f;
  for (size_t first = 0; first < rows.size(); first += 64) {
    const auto tile = std::span(rows).subspan(first, std::min<size_t>(64, rows.size() - first));
    std::vector<float> scores;
    for (const int64_t s : tile) scores.push_back(score(in, t, h, s));
    const float largest = std::max(m, *std::max_element(scores.begin(), scores.end()));
    const float alpha = first == 0 ? 0.0f : exponential(m - largest);
    double sum = 0.0;
    for (const float s : scores) sum += exponential(s - largest);
    l = std::fma(l, alpha, static_cast<float>(sum));
    const auto count = static_cast<int64_t>(tile.size());
    const auto p = factors(count, [&](int64_t j) {
      return round_to_bf16(exponential(scores[static_cast<size_t>(j)] - largest));
    });
    for (int64_t c = 0; c < kShape.latent; ++c) {
      const auto v = factors(count, [&](int64_t j) { return in.cached(0, tile[static_cast<size_t>(j)], c); });
      float& at = o[static_cast<size_t>(c)];
      at = mma_sum(MmaType::kBf16, p, v, at * alpha);
    }
    m = largest;
  }
  for (float& x : o) x = round_to_bf16(x / l);
  return o;
}

Inputs inputs_with(auto... change) {
  return make_inputs(8, kShape, Values::kNormal,
                     serving_with([](Numerics& n) { n.mma = Mma::kHopper; }, change...));
}

TEST(sparse_attention_mma, a_tile_is_added_to_the_rescaled_sums) {
  for (const Inputs& in : {inputs_with(), inputs_with(kBf16Cache)}) {
    std::vector<float> expected;
    for (int64_t t = 0; t < kShape.tokens; ++t)
      for (int64_t h = 0; h < kShape.heads; ++h) {
        const std::vector<float> one = head(in, t, h);
        expected.insert(expected.end(), one.begin(), one.end());
      }
    EXPECT_TRUE(test::identical(result(kReference, in), expected));
  }
}

std::vector<float> unrounded(Inputs in, Mma mma) {
  in.problem.setting.numerics.mma = mma;
  const auto out = inputs::unwritten<3>(DType::kF32, {kShape.tokens, kShape.heads, kShape.latent});
  kReference.run(in.problem, in.args(out.view), {});
  return out.values();
}

TEST(sparse_attention_mma, is_near_the_exact_sums_and_is_not_them) {
  const auto independent = [](Numerics& n) { n.softmax_merge = SoftmaxMerge::kIndependent; };
  const auto one_tile = [](Numerics& n) { n.softmax_tile = SoftmaxTile::kNone; };
  for (const Inputs& in : {inputs_with(), inputs_with(independent), inputs_with(one_tile)}) {
    const std::vector<float> hopper = unrounded(in, Mma::kHopper), exact = unrounded(in, Mma::kExact);
    EXPECT_FALSE(test::identical(hopper, exact));
    for (size_t i = 0; i < exact.size(); ++i) EXPECT_NEAR(hopper[i], exact[i], 2e-3);
  }
}

TEST(sparse_attention_mma, takes_what_tensor_cores_multiply) {
  EXPECT_EQ(test::refusal(kReference, inputs_with().problem), "");
  EXPECT_EQ(test::refusal(kReference, inputs_with(kFp16).problem), "") << "operands are rounded to bf16";
  EXPECT_EQ(test::refusal(kReference, inputs_with(kFp32Operands).problem),
            "mma = hopper with qk_operands = fp32, takes bf16");
  EXPECT_EQ(
      test::refusal(kReference, inputs_with([](Numerics& n) { n.softmax_p = SoftmaxP::kFp32; }).problem),
      "mma = hopper with softmax_p = fp32, takes bf16");
}

}  // namespace
}  // namespace fulgurite::sparse_attention
