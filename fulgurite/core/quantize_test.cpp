#include "fulgurite/core/quantize.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <limits>
#include <vector>

#include "fulgurite/core/bf16.h"
#include "fulgurite/core/random.h"

namespace fulgurite {
namespace {

constexpr ScaleRounding kRoundings[] = {ScaleRounding::kNone, ScaleRounding::kPow2, ScaleRounding::kDivided};

struct Group {
  std::vector<e4m3> codes;
  float scale;
};
Group quantize(const std::vector<float>& x, ScaleRounding rounding) {
  Group group{std::vector<e4m3>(x.size()), 0.0f};
  group.scale = quantize_e4m3(x, rounding, group.codes.data());
  return group;
}

// Of the definition: max(amax, 1e-4) * fp32(1 / 448), the smallest power of two that is not below it, and the
// quotient.
float scale_by_definition(float amax, ScaleRounding rounding) {
  if (rounding == ScaleRounding::kDivided) return std::fmax(amax, 1e-4f) / 448.0f;
  const float scale = std::fmax(amax, 1e-4f) * static_cast<float>(1.0 / 448.0);
  if (rounding == ScaleRounding::kNone) return scale;
  int exponent = 0;
  const float fraction = std::frexp(scale, &exponent);  // in [0.5, 1)
  return std::ldexp(1.0f, fraction == 0.5f ? exponent - 1 : exponent);
}

TEST(quantize, the_scale_is_the_definition_s_for_every_magnitude) {
  Random random(1);
  for (int i = 0; i < 100000; ++i) {
    const auto amax = static_cast<float>(std::exp2(random.uniform(-20.0, 120.0)));
    for (const ScaleRounding rounding : kRoundings)
      ASSERT_EQ(e4m3_scale(amax, rounding), scale_by_definition(amax, rounding)) << amax;
  }
}

// So scale_form says nothing of scales that are powers of two; of fp32 scales it moves half.
TEST(quantize, product_and_quotient_differ_but_not_up_to_a_power_of_two) {
  int64_t differing = 0;
  for (uint32_t mantissa = 0; mantissa < (1u << 23); mantissa += 5) {
    const float amax = std::bit_cast<float>(0x40800000u | mantissa);
    const float product = e4m3_scale(amax, ScaleRounding::kNone);
    const float quotient = e4m3_scale(amax, ScaleRounding::kDivided);
    differing += product != quotient;
    ASSERT_EQ(round_up_to_pow2(product), round_up_to_pow2(quotient)) << amax;
  }
  EXPECT_NEAR(static_cast<double>(differing) * 5 / (1 << 23), 0.5476, 0.001);
}

TEST(quantize, codes_are_the_quotients_clamped_and_rounded) {
  Random random(2);
  for (int i = 0; i < 500; ++i) {
    std::vector<float> x;
    for (int64_t n = 1 + random.below(200); n > 0; --n)
      x.push_back(static_cast<float>(random.normal() * std::exp2(random.uniform(-12.0, 6.0))));
    float amax = 0.0f;
    for (const float value : x) amax = std::fmax(amax, std::abs(value));
    for (const ScaleRounding rounding : kRoundings) {
      const Group group = quantize(x, rounding);
      ASSERT_EQ(group.scale, scale_by_definition(amax, rounding));
      for (size_t k = 0; k < x.size(); ++k) ASSERT_EQ(group.codes[k].bits, to_e4m3(x[k] / group.scale).bits);
    }
  }
}

// 448 * 2^k fits a scale of 2^k exactly; the next fp32 above needs the next power where its product shows it.
TEST(quantize, a_largest_value_of_448_times_a_power_of_two_is_the_largest_code) {
  for (int k = -18; k < 100; ++k) {
    const Group group = quantize({std::ldexp(448.0f, k), -std::ldexp(1.0f, k)}, ScaleRounding::kPow2);
    EXPECT_EQ(group.scale, std::ldexp(1.0f, k));
    EXPECT_EQ(group.codes[0].bits, 0x7E);
    EXPECT_EQ(to_float(group.codes[1]), -1.0f);
  }
  EXPECT_EQ(e4m3_scale(448.001f, ScaleRounding::kPow2), 2.0f);
}

TEST(quantize, the_scale_of_small_and_zero_groups_has_a_floor) {
  for (const std::vector<float>& x :
       {std::vector<float>{0.0f, -0.0f}, {1e-40f, -1e-45f}, {1e-4f, -1e-5f}, {0x1p-149f, 9e-5f}}) {
    EXPECT_EQ(quantize(x, ScaleRounding::kNone).scale, 1e-4f * static_cast<float>(1.0 / 448.0));
    EXPECT_EQ(quantize(x, ScaleRounding::kPow2).scale, 0x1p-22f);  // 1e-4 / 448 = 0.94 * 2^-22
  }
  const Group zeros = quantize({0.0f, -0.0f, 1e-40f, -1e-40f}, ScaleRounding::kPow2);
  EXPECT_EQ(zeros.codes[0].bits, 0x00);
  EXPECT_EQ(zeros.codes[1].bits, 0x80);
  EXPECT_EQ(zeros.codes[2].bits, 0x00);
  EXPECT_EQ(zeros.codes[3].bits, 0x80);
  EXPECT_EQ(quantize({}, ScaleRounding::kPow2).scale, 0x1p-22f);
}

TEST(quantize, a_group_with_NaN_or_infinity_has_NaN_codes_and_scale_1) {
  const float infinity = std::numeric_limits<float>::infinity();
  for (const float bad : {std::nanf(""), -std::nanf(""), infinity, -infinity}) {
    for (const ScaleRounding rounding : kRoundings) {
      const Group group = quantize({1.0f, 2.0f, bad, 4.0f}, rounding);
      EXPECT_EQ(group.scale, 1.0f);
      for (const e4m3 code : group.codes) EXPECT_TRUE(std::isnan(to_float(code)));
    }
  }
}

TEST(quantize, the_largest_fp32_is_a_number) {
  for (const ScaleRounding rounding : kRoundings) {
    const Group group = quantize({std::numeric_limits<float>::max(), 1.0f}, rounding);
    EXPECT_TRUE(std::isfinite(group.scale));
    EXPECT_GE(to_float(group.codes[0]), 224.0f);
  }
}

TEST(quantize, rounds_up_to_a_power_of_two_and_leaves_one) {
  for (int k = -126; k < 127; ++k) {
    const float power = std::ldexp(1.0f, k);
    EXPECT_EQ(round_up_to_pow2(power), power);
    EXPECT_EQ(round_up_to_pow2(std::nextafter(power, 1e38f)), 2.0f * power);
    EXPECT_EQ(round_up_to_pow2(1.5f * power), 2.0f * power);
  }
}

std::vector<float> fp4(std::vector<float> x) {
  round_to_fp4(x);
  return x;
}

TEST(quantize, fp4_keeps_its_eight_values_of_either_sign) {
  for (const float scale : {1.0f, 0x1p-100f, 0x1p100f}) {
    std::vector<float> x;
    for (const float value : {0.0f, 0.5f, 1.0f, 1.5f, 2.0f, 3.0f, 4.0f, 6.0f}) {
      x.push_back(value * scale);
      x.push_back(-value * scale);
    }
    EXPECT_EQ(fp4(x), x);
    EXPECT_TRUE(std::signbit(fp4(x)[1]));
  }
}

TEST(quantize, fp4_ties_go_to_the_even_code) {
  EXPECT_EQ(fp4({6.0f, 0.25f, 0.75f, 1.25f, 1.75f, 2.5f, 3.5f, 5.0f}),
            (std::vector<float>{6.0f, 0.0f, 1.0f, 1.0f, 2.0f, 2.0f, 4.0f, 4.0f}));
  EXPECT_EQ(fp4({-6.0f, -0.26f, -0.74f, -1.26f, -1.74f, -2.6f, -3.4f, -5.1f}),
            (std::vector<float>{-6.0f, -0.5f, -0.5f, -1.5f, -1.5f, -3.0f, -3.0f, -6.0f}));
}

// Beyond 6 the scale doubles: 6.5 / 2 = 3.25 is 3.
TEST(quantize, fp4_scales_are_powers_of_two_that_hold_the_largest) {
  EXPECT_EQ(fp4({6.5f, 1.0f}), (std::vector<float>{6.0f, 1.0f}));
  EXPECT_EQ(fp4({12.0f, 1.0f}), (std::vector<float>{12.0f, 1.0f}));
  EXPECT_EQ(fp4({12.5f, 3.0f}), (std::vector<float>{12.0f, 4.0f}));  // 3 / 4 is a tie of 0.5 and 1
}

TEST(quantize, fp4_has_a_floor_and_values_that_are_exact_in_bf16) {
  EXPECT_EQ(fp4({0.0f, -0.0f}), (std::vector<float>{0.0f, 0.0f}));
  EXPECT_EQ(fp4({0x1p-126f, 0x1p-127f, 0x1p-149f}), (std::vector<float>{0x1p-126f, 0x1p-127f, 0.0f}));
  Random random(3);
  std::vector<float> x;
  for (int i = 0; i < 3200; ++i)
    x.push_back(static_cast<float>(random.normal() * std::exp2(random.uniform(-130.0, 120.0))));
  for (const float value : fp4(x)) EXPECT_EQ(value, round_to_bf16(value));
}

TEST(quantize, fp4_groups_are_32_apart_and_NaN_spoils_its_own) {
  std::vector<float> x(70, 1.0f);
  x[0] = 600.0f;
  x[40] = std::nanf("");
  x[69] = 6.0f;
  const std::vector<float> y = fp4(x);
  EXPECT_EQ(y[0], 512.0f);  // scale 128: 600 / 128 = 4.69
  EXPECT_EQ(y[31], 0.0f);
  for (size_t i = 32; i < 64; ++i) EXPECT_TRUE(std::isnan(y[i])) << i;
  EXPECT_EQ(y[64], 1.0f);
  EXPECT_EQ(y[69], 6.0f);
  std::vector<float> infinite(33, std::numeric_limits<float>::infinity());
  for (const float value : fp4(infinite)) EXPECT_TRUE(std::isnan(value));
}

}  // namespace
}  // namespace fulgurite
