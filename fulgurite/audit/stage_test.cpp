// The comparator of bisect on data that it must reject, and on data that it must not.

#include "fulgurite/audit/stage.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>

namespace fulgurite {
namespace {

using audit::ComputedRows;
using audit::DumpTensor;
using audit::StageDistance;

constexpr int64_t kRows = 1000, kWidth = 64;
constexpr float kNaN = std::numeric_limits<float>::quiet_NaN(),
                kInfinity = std::numeric_limits<float>::infinity();
const audit::StageGate kGate{1e-6, 4e-6, 0x1p-25, true};

// Rows of noise, the same on both sides but for units in the last place.
struct Pair {
  ComputedRows ours;
  DumpTensor theirs;
  Pair() {
    std::mt19937 random(7);
    std::normal_distribution<float> normal;
    theirs.name = "layer0.q";
    theirs.row_shape = {kWidth};
    theirs.rows = kRows;
    for (int64_t i = 0; i < kRows * kWidth; ++i) {
      const float value = normal(random);
      ours.f32.push_back(value);
      theirs.f32.push_back(value * (1.0f + 0x1p-23f * static_cast<float>(i % 3 - 1)));
    }
  }
  StageDistance distance() const { return audit::values_distance(ours, theirs, kGate); }
  bool within() const { return distance().within(kGate); }
};

TEST(stage, rows_that_differ_in_their_last_bits_are_within) {
  const Pair pair;
  EXPECT_TRUE(pair.within());
  EXPECT_EQ(pair.distance().rows, kRows);
}

TEST(stage, nan_on_either_side_is_beyond_every_gate) {
  const audit::StageGate wide{1e30, 1e30, 0.0, true};
  Pair theirs, ours;
  theirs.theirs.f32[77 * kWidth + 5] = kNaN;
  ours.ours.f32[77 * kWidth + 5] = kNaN;
  for (const Pair& pair : {theirs, ours}) {
    const StageDistance d = audit::values_distance(pair.ours, pair.theirs, wide);
    EXPECT_FALSE(d.within(wide));
    EXPECT_EQ(d.worst_row, 77);
    EXPECT_EQ(d.worst_column, 5);
    EXPECT_EQ(d.rows_beyond, 1);
  }
}

TEST(stage, an_infinity_on_one_side_or_of_the_other_sign_is_beyond) {
  Pair pair;
  pair.theirs.f32[9] = kInfinity;
  EXPECT_FALSE(pair.within());
  pair.ours.f32[9] = -kInfinity;
  EXPECT_FALSE(pair.within());
}

TEST(stage, a_tensor_of_nan_alone_is_beyond) {
  Pair pair;
  std::ranges::fill(pair.theirs.f32, kNaN);
  EXPECT_FALSE(pair.within());
  std::ranges::fill(pair.theirs.f32, 0.0f);
  EXPECT_FALSE(pair.within());
}

TEST(stage, two_rows_that_are_swapped_are_both_beyond) {
  Pair pair;
  std::swap_ranges(pair.theirs.f32.begin() + 40 * kWidth, pair.theirs.f32.begin() + 41 * kWidth,
                   pair.theirs.f32.begin() + 500 * kWidth);
  const StageDistance d = pair.distance();
  EXPECT_FALSE(d.within(kGate));
  EXPECT_EQ(d.rows_beyond, 2);
  EXPECT_EQ(d.first_beyond, 40);
  EXPECT_EQ(d.last_beyond, 500);
}

TEST(stage, flipped_signs_are_beyond) {
  Pair all, one;
  for (float& value : all.theirs.f32) value = -value;
  EXPECT_NEAR(all.distance().relative_l2, 2.0, 1e-6);
  EXPECT_FALSE(all.within());
  float& element = one.theirs.f32[123 * kWidth + 11];
  element = -element;
  EXPECT_FALSE(one.within());
  EXPECT_EQ(one.distance().worst_column, 11);
}

// Its share of the whole would be within a gate of a thousandth.
TEST(stage, one_wrong_row_in_a_thousand_is_beyond) {
  Pair pair;
  for (int64_t i = 0; i < kWidth; ++i) pair.theirs.f32[static_cast<size_t>(314 * kWidth + i)] *= 1.01f;
  const StageDistance d = pair.distance();
  EXPECT_LT(d.relative_l2, 1e-3);
  EXPECT_FALSE(d.within({1e-3, 4e-6, 0x1p-25, true}));
  EXPECT_EQ(d.worst_row, 314);
  EXPECT_EQ(d.rows_beyond, 1);
}

TEST(stage, a_small_error_of_every_row_is_beyond_though_no_row_is) {
  Pair pair;
  for (float& value : pair.theirs.f32) value *= 1.0f + 0x1p-19f;
  const StageDistance d = pair.distance();
  EXPECT_EQ(d.rows_beyond, 0);
  EXPECT_FALSE(d.within(kGate));
}

TEST(stage, a_row_of_zeros_has_to_stay_one) {
  Pair pair;
  for (int64_t i = 0; i < kWidth; ++i)
    pair.ours.f32[static_cast<size_t>(i)] = pair.theirs.f32[static_cast<size_t>(i)] = 0.0f;
  EXPECT_TRUE(pair.within());
  pair.theirs.f32[3] = 1e-4f;
  EXPECT_FALSE(pair.within());
}

TEST(stage, one_element_may_be_a_step_of_its_storage_off) {
  Pair pair;
  pair.theirs.f32 = pair.ours.f32;
  const audit::StageGate bf16{1e-4, 1e-5, 0x1p-9, false};
  float* const row = pair.theirs.f32.data() + 20 * kWidth;
  float& largest =
      *std::max_element(row, row + kWidth, [](float a, float b) { return std::abs(a) < std::abs(b); });
  largest *= 1.0f + 0x1p-8f;
  EXPECT_TRUE(audit::values_distance(pair.ours, pair.theirs, bf16).within(bf16));
  largest *= 1.0f + 0x1p-7f;
  EXPECT_FALSE(audit::values_distance(pair.ours, pair.theirs, bf16).within(bf16));
}

// What a token does not see says nothing.
TEST(stage, scores_are_compared_where_they_are_visible) {
  Pair pair;
  pair.theirs.f32[kWidth - 1] = kNaN;  // of position 0
  EXPECT_TRUE(audit::values_distance(pair.ours, pair.theirs, kGate, 1).within(kGate));
  EXPECT_FALSE(audit::values_distance(pair.ours, pair.theirs, kGate, 0).within(kGate));
}

struct Sets {
  ComputedRows ours{{}, {3, 1, -1, 5, 6, 7}};
  DumpTensor theirs;
  Sets() {
    theirs.row_shape = {3};
    theirs.rows = 2;
    theirs.i32 = {1, 3, -1, 7, 6, 5};
  }
};

TEST(stage, sets_are_the_same_in_any_order) {
  Sets sets;
  EXPECT_TRUE(audit::sets_distance(sets.ours, sets.theirs, {}).within({}));
  sets.theirs.i32 = {1, 3, -1, 7, 6, 4};
  EXPECT_FALSE(audit::sets_distance(sets.ours, sets.theirs, {}).within({}));
  EXPECT_TRUE(audit::sets_distance(sets.ours, sets.theirs, {false, true}).within({}));
  sets.theirs.i32 = {1, 1, 3, 7, 6, 5};
  EXPECT_EQ(audit::sets_distance(sets.ours, sets.theirs, {}).problem, "names 1 twice");
}

TEST(stage, a_selection_is_held_against_its_own_scores) {
  const std::vector<float> scores{5, 1, 3, 3, 9};
  DumpTensor theirs;
  theirs.row_shape = {3};
  theirs.rows = 1;
  theirs.first_row = 4;
  const auto within = [&](std::vector<int32_t> members, Ties ties, double slack = 0.0) {
    theirs.i32 = std::move(members);
    return audit::selection_distance({scores.data(), 5, 3, 1, ties, slack}, theirs).within({});
  };
  EXPECT_TRUE(within({4, 0, 2}, Ties::kLower));
  EXPECT_FALSE(within({4, 0, 3}, Ties::kLower)) << "equal scores go to the lower position";
  EXPECT_TRUE(within({4, 0, 3}, Ties::kHigher));
  EXPECT_TRUE(within({4, 0, 3}, Ties::kLower, 1e-6)) << "a near tie";
  EXPECT_FALSE(within({4, 0, 1}, Ties::kLower, 1e-6));
  EXPECT_FALSE(within({4, 0, -1}, Ties::kLower, 1e-6)) << "one too few";
  EXPECT_FALSE(within({4, 0, 5}, Ties::kLower, 1e9)) << "not visible";
  EXPECT_FALSE(within({4, 4, 0}, Ties::kLower, 1e9)) << "twice";
}

}  // namespace
}  // namespace fulgurite
