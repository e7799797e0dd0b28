#include "fulgurite/ops/rotary/rotary_table.h"

#include <gtest/gtest.h>

#include <vector>

namespace fulgurite::rotary {
namespace {

constexpr Frequencies kDeepSeek{1e4, 64, Yarn{40.0, 4096.0, 32.0, 1.0}};

// How many times slower than without YaRN frequency i turns.
double slowdown(const Frequencies& frequencies, int64_t i) {
  const Frequencies plain{frequencies.base, frequencies.dim, std::nullopt};
  return static_cast<double>(frequency(plain, i)) / frequency(frequencies, i);
}

TEST(rotary_table, plain_frequencies_are_powers_of_the_base) {
  const Frequencies plain{1e4, 64, std::nullopt};
  EXPECT_EQ(frequency(plain, 0), 1.0f);
  EXPECT_EQ(frequency(plain, 8), 0.1f);
  EXPECT_EQ(frequency(plain, 16), 0.01f);
  EXPECT_EQ(frequency(plain, 24), 0.001f);
}

// DeepSeek-V3.2: low = 10, high = 23.
TEST(rotary_table, yarn_keeps_fast_frequencies_and_divides_slow_ones) {
  for (int64_t i = 0; i <= 10; ++i) EXPECT_NEAR(slowdown(kDeepSeek, i), 1.0, 1e-6) << i;
  for (int64_t i = 11; i <= 22; ++i) {
    EXPECT_GT(slowdown(kDeepSeek, i), 1.01) << i;
    EXPECT_LT(slowdown(kDeepSeek, i), 39.0) << i;
  }
  for (int64_t i = 23; i < 32; ++i) EXPECT_NEAR(slowdown(kDeepSeek, i), 40.0, 1e-5) << i;
}

// Computed with the formula of model.py in Python's doubles, rounded to fp32.
TEST(rotary_table, yarn_frequencies_are_those_of_the_published_code) {
  EXPECT_EQ(frequency(kDeepSeek, 10), 0x1.ccab86p-5f);
  EXPECT_EQ(frequency(kDeepSeek, 11), 0x1.3f8b74p-5f);
  EXPECT_EQ(frequency(kDeepSeek, 16), 0x1.6872bp-8f);
  EXPECT_EQ(frequency(kDeepSeek, 22), 0x1.74eea6p-13f);
  EXPECT_EQ(frequency(kDeepSeek, 23), 0x1.17a8e4p-15f);
  EXPECT_EQ(frequency(kDeepSeek, 31), 0x1.bf749ep-19f);
}

// 64 original positions: low would be negative, high is 3.
TEST(rotary_table, the_ramp_starts_at_dimension_zero_at_the_earliest) {
  const Frequencies tiny{1e4, 16, Yarn{40.0, 64.0, 32.0, 1.0}};
  EXPECT_EQ(frequency(tiny, 0), 1.0f);
  EXPECT_EQ(frequency(tiny, 1), static_cast<float>(0.21345374206136564));
  EXPECT_EQ(frequency(tiny, 2), 0.035f);
  EXPECT_EQ(frequency(tiny, 3), static_cast<float>(0.0007905694150420947));
}

// dim 8, base 2: low is 1, high would be 38 and is 7.
TEST(rotary_table, the_ramp_ends_at_the_last_dimension_at_the_latest) {
  const Frequencies wide{2.0, 8, Yarn{40.0, 4096.0, 500.0, 1.0}};
  for (int64_t i = 0; i < 4; ++i) {
    const double ramp = i < 1 ? 0.0 : static_cast<double>(i - 1) / 6.0;
    EXPECT_NEAR(slowdown(wide, i), 1.0 / (1.0 - ramp + ramp / 40.0), 1e-6) << i;
  }
}

// dim 8, base 2: low would be 17 and is 7, so that no frequency is slow.
TEST(rotary_table, a_ramp_beyond_the_last_dimension_changes_nothing) {
  const Frequencies beyond{2.0, 8, Yarn{40.0, 4096.0, 32.0, 1.0}};
  for (int64_t i = 0; i < 4; ++i) EXPECT_EQ(slowdown(beyond, i), 1.0) << i;
}

// 4 original positions: low and high are both clamped to 0.
TEST(rotary_table, a_ramp_without_width_is_a_step) {
  const Frequencies step{1e4, 64, Yarn{40.0, 4.0, 32.0, 1.0}};
  EXPECT_EQ(frequency(step, 0), 1.0f);
  for (int64_t i = 1; i < 32; ++i) EXPECT_NEAR(slowdown(step, i), 40.0, 1e-5) << i;
}

struct Filled {
  std::vector<float> cosine, sine;
};
Filled fill(const Frequencies& frequencies, int64_t positions) {
  const int64_t pairs = frequencies.dim / 2;
  Filled filled{std::vector<float>(static_cast<size_t>(positions * pairs)), {}};
  filled.sine = filled.cosine;
  fill_table(frequencies, {filled.cosine.data(), {positions, pairs}},
             {filled.sine.data(), {positions, pairs}});
  return filled;
}

TEST(rotary_table, position_zero_does_not_turn) {
  const Filled filled = fill(kDeepSeek, 1);
  EXPECT_EQ(filled.cosine, std::vector<float>(32, 1.0f));
  EXPECT_EQ(filled.sine, std::vector<float>(32, 0.0f));
}

// The angle is an fp32 product: at position 5000 its rounding is seen in sine and cosine.
TEST(rotary_table, sine_and_cosine_are_those_of_the_rounded_angle) {
  const Filled filled = fill(kDeepSeek, 5001);
  EXPECT_EQ(filled.cosine[1 * 32 + 0], 0x1.14a28p-1f);
  EXPECT_EQ(filled.sine[1 * 32 + 0], 0x1.aed548p-1f);
  EXPECT_EQ(filled.cosine[100 * 32 + 10], 0x1.948c2ap-1f);
  EXPECT_EQ(filled.sine[100 * 32 + 10], -0x1.39d2dep-1f);
  EXPECT_EQ(filled.cosine[5000 * 32 + 16], -0x1.6e05aap-1f);
  EXPECT_EQ(filled.sine[5000 * 32 + 16], 0x1.6602cap-1f);
}

}  // namespace
}  // namespace fulgurite::rotary
