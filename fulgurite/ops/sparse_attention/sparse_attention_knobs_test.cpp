// What each knob means, on examples small enough to compute by hand.

#include "fulgurite/ops/sparse_attention/sparse_attention.h"

#include <gtest/gtest.h>

#include "fulgurite/ops/sparse_attention/test_inputs.h"

namespace fulgurite::sparse_attention {
namespace {

TEST(sparse_attention, one_selected_row_is_the_output) {
  for (const Way& way : all_ways()) {
    Inputs in = make_inputs(3, {"", 1, 6, 35, 3, 4, 1, 9}, Values::kNormal, way.setting);
    in.selection.lists = {5, -1, -1, -1};
    const std::vector<float> out = result(*way.row, in);
    for (int64_t i = 0; i < 6 * 35; ++i)
      EXPECT_EQ(out[static_cast<size_t>(i)], in.cached(0, 5, i % 35)) << way.what();
  }
}

TEST(sparse_attention, equal_scores_give_the_mean_of_the_rows) {
  for (const Way& way : all_ways()) {
    Inputs in = make_inputs(4, {"", 1, 2, 5, 2, 4, 1, 9}, Values::kNormal, way.setting);
    std::fill(in.q.bytes->begin(), in.q.bytes->end(), std::byte{0});
    std::fill(in.q_rope.bytes->begin(), in.q_rope.bytes->end(), std::byte{0});
    in.selection.lists = {1, 3, 6, 8};
    for (const int64_t s : {1, 3, 6, 8}) in.write(0, s, {1.0f * s, 2.0f, -3.0f, 0.5f * s, 0, 7, 7});
    const std::vector<float> out = result(*way.row, in);
    EXPECT_EQ(std::vector(out.begin() + 5, out.end()), (std::vector{4.5f, 2.0f, -3.0f, 2.25f, 0.0f}))
        << way.what();
  }
}

TEST(sparse_attention, scores_far_apart_neither_overflow_nor_lose_the_largest) {
  for (const Way& way : all_ways()) {
    Inputs in = make_inputs(5, {"", 1, 1, 4, 0, 3, 1, 3}, Values::kConstant, way.setting);
    in.selection.lists = {0, 1, 2};
    const float large = in.q.view.dtype == DType::kF16 ? 0x1p15f : 0x1p50f;
    for (int64_t c = 0; c < 4; ++c) store(in.q.view, large, 0, 0, c);
    for (const int64_t s : {0, 1, 2})
      in.write(0, s, std::vector<float>(4, static_cast<float>(s % 2 * 2 - s / 2 - 1) * large));
    EXPECT_EQ(result(*way.row, in)[2], large) << way.what();
  }
}

// One head, 32 columns, scores and values free of each other: scores are the rotated part alone.
struct Entry {
  int64_t count;
  float score, value;
};
std::vector<float> attended(const Implementation& row, Numerics numerics, const std::vector<Entry>& entries) {
  int64_t count = 0;
  for (const Entry& entry : entries) count += entry.count;
  const Setting setting{test::serving_setting().target, numerics};
  Inputs in = make_inputs(1, {"", 1, 1, 32, 1, count, 1, count}, Values::kConstant, setting);
  in.problem.scale = 1.0f;
  std::fill(in.q.bytes->begin(), in.q.bytes->end(), std::byte{0});
  store(in.q_rope.view, 1.0f, 0, 0, 0);
  int64_t s = 0;
  for (const Entry& entry : entries) {
    for (const int64_t end = s + entry.count; s < end; ++s) {
      std::vector<float> values;
      for (int c = 0; c < 32; ++c) values.push_back(entry.value * (1.0f + static_cast<float>(c) / 32));
      values.push_back(entry.score);
      in.write(0, s, values);
    }
  }
  return result(row, in);
}
std::vector<float> columns(float first, DType dtype) {
  std::vector<float> values;
  for (int c = 0; c < 32; ++c) values.push_back(round_to(dtype, first * (1.0f + static_cast<float>(c) / 32)));
  return values;
}

const float kE = static_cast<float>(std::exp(-0.25));  // and as P holds it:
const float kP = round_to_bf16(kE);

TEST(sparse_attention, p_and_the_denominator_are_rounded_as_their_knobs_say) {
  const std::vector<Entry> entries{{1, 0.0f, 0.0f}, {1, -0.25f, 1.0f}};
  Numerics n = Numerics::fp32();
  EXPECT_EQ(attended(kReference, n, entries)[0], kE / (1 + kE));
  EXPECT_EQ(attended(kCpu, n, entries)[0], kE / (1 + kE));
  n.softmax_denominator = SoftmaxDenominator::kRounded;  // of p in fp32
  EXPECT_EQ(attended(kReference, n, entries)[0], kE / (1 + kE));
  n.softmax_p = SoftmaxP::kBf16;
  EXPECT_EQ(attended(kReference, n, entries)[0], kP / (1 + kP));
  n.softmax_denominator = SoftmaxDenominator::kUnrounded;
  EXPECT_EQ(attended(kReference, n, entries)[0], kP / (1 + kE));

  const std::vector<Entry> many{{1, 0.0f, 0.0f}, {63, -0.25f, 1.0f}};
  const auto quotient = [](float p, float e) {
    return 63 * p / static_cast<float>(1 + 63 * static_cast<double>(e));
  };
  const std::vector<float> unrounded = columns(quotient(kP, kE), DType::kBF16);
  const std::vector<float> rounded = columns(quotient(kP, kP), DType::kBF16);
  for (const Implementation* row : {&kReference, &kCpuPairs}) {
    EXPECT_EQ(attended(*row, serving_with(kBf16Cache).numerics, many), unrounded);
    EXPECT_EQ(attended(*row, serving_with(kBf16Cache, kRounded).numerics, many), rounded);
  }
  EXPECT_NE(unrounded, rounded);
}

// The last entry has the largest score: those before it are rounded against their own tile's largest, or its.
TEST(sparse_attention, the_tile_says_against_which_score_p_is_rounded) {
  const std::vector<Entry> entries{{64, 0.0f, 1.0f}, {1, 0.25f, 0.0f}};
  const float denominator = std::fma(64.0f, kE, 1.0f), alone = 64 * kE / denominator,
              together = 64 * kP / denominator;
  Numerics n = Numerics::fp32();
  n.softmax_p = SoftmaxP::kBf16;
  EXPECT_EQ(attended(kReference, n, entries)[0], together);
  n.softmax_tile = SoftmaxTile::k128;
  EXPECT_EQ(attended(kReference, n, entries)[0], together);
  n.softmax_tile = SoftmaxTile::k64;
  EXPECT_EQ(attended(kReference, n, entries)[0], alone);
  for (const Implementation* row : {&kReference, &kCpuPairs}) {
    EXPECT_EQ(attended(*row, serving_with(kBf16Cache).numerics, entries), columns(alone, DType::kBF16));
    EXPECT_EQ(attended(*row, serving_with(kBf16Cache, kTile128).numerics, entries),
              columns(together, DType::kBF16));
  }
  EXPECT_NE(columns(alone, DType::kBF16), columns(together, DType::kBF16));
}

// The last entry has the smaller score: it is rounded against the largest so far, or against its own.
TEST(sparse_attention, tiles_are_merged_as_the_knob_says) {
  const std::vector<Entry> entries{{64, 0.0f, 0.0f}, {1, -0.25f, 1.0f}};
  Numerics n = Numerics::fp32();
  n.softmax_p = SoftmaxP::kBf16;
  n.softmax_tile = SoftmaxTile::k64;
  EXPECT_EQ(attended(kReference, n, entries)[0], kP / (64 + kE));
  n.softmax_merge = SoftmaxMerge::kIndependent;
  EXPECT_EQ(attended(kReference, n, entries)[0], kE / (64 + kE));
}

TEST(sparse_attention, operands_and_cache_have_the_bits_that_their_knobs_give_them) {
  const float fine = 1.0f + 0x1p-10f, e = static_cast<float>(std::exp(static_cast<double>(1.0f - fine)));
  Numerics n = Numerics::fp32();
  EXPECT_EQ(attended(kReference, n, {{1, fine, 0.0f}, {1, 1.0f, 1.0f}})[0], e / (1 + e));
  EXPECT_EQ(attended(kReference, n, {{1, 0.0f, fine}})[0], fine);
  n.qk_operands = QkOperands::kBf16;
  EXPECT_EQ(attended(kReference, n, {{1, fine, 0.0f}, {1, 1.0f, 1.0f}})[0], 0.5f);
  EXPECT_EQ(attended(kReference, n, {{1, 0.0f, fine}})[0], fine);
  n.latent_cache = LatentCache::kBf16;
  EXPECT_EQ(attended(kReference, n, {{1, 0.0f, fine}})[0], 1.0f);
  EXPECT_EQ(attended(kReference, n, {{1, 0.0f, 1.0625f}})[0], 1.0625f);
  n.latent_cache = LatentCache::kFp8;  // three fraction bits
  EXPECT_EQ(attended(kReference, n, {{1, 0.0f, 1.0625f}})[0], 1.0f);
  n.latent_cache = LatentCache::kFp32;
  n.activation = Activation::kBf16;
  EXPECT_EQ(attended(kReference, n, {{1, 0.0f, fine}})[0], 1.0f);
}

TEST(sparse_attention, minus_infinity_weighs_nothing_and_alone_is_NaN) {
  for (const Implementation* row : {&kReference, &kCpuPairs}) {
    for (const auto& numerics :
         {serving_with(kBf16Cache).numerics, serving_with(kBf16Cache, kTile128).numerics}) {
      const std::vector<float> one = columns(1.0f, DType::kF32);
      EXPECT_EQ(attended(*row, numerics, {{70, -kInfinity, 9.0f}, {70, 0.5f, 1.0f}}), one);
      EXPECT_EQ(attended(*row, numerics, {{1, 0.5f, 1.0f}, {200, -kInfinity, 9.0f}}), one);
      EXPECT_TRUE(std::isnan(attended(*row, numerics, {{130, -kInfinity, 1.0f}})[31]));
    }
  }
}

TEST(sparse_attention, NaN_and_infinity_among_the_scores_make_the_head_NaN_wherever_they_stand) {
  for (const Implementation* row : {&kReference, &kCpuPairs}) {
    for (const float bad : {kNaN, kInfinity}) {
      for (const int64_t before : {0, 1, 64, 129}) {
        const std::vector<float> out = attended(*row, serving_with(kBf16Cache).numerics,
                                                {{before, 0.5f, 1.0f}, {1, bad, 1.0f}, {70, 0.25f, 1.0f}});
        EXPECT_TRUE(std::isnan(out[0]) && std::isnan(out[31])) << row->name << " " << bad << " " << before;
      }
      EXPECT_TRUE(std::isnan(attended(*row, serving_with(kBf16Cache).numerics, {{70, bad, 1.0f}})[0]));
    }
  }
}

}  // namespace
}  // namespace fulgurite::sparse_attention
