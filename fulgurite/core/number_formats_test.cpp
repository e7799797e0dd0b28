// bf16 and e4m3 against their definitions, every code.

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "fulgurite/core/bf16.h"
#include "fulgurite/core/fp8.h"
#include "fulgurite/core/random.h"

namespace fulgurite {
namespace {

// sign, 4 exponent bits with bias 7, 3 fraction bits; exponent 0 is subnormal; all ones is NaN.
double e4m3_by_definition(int code) {
  const int exponent = (code >> 3) & 15, fraction = code & 7;
  if (exponent == 15 && fraction == 7) return std::nan("");
  const double magnitude =
      exponent == 0 ? std::ldexp(fraction / 8.0, -6) : std::ldexp(1.0 + fraction / 8.0, exponent - 7);
  return (code & 0x80) != 0 ? -magnitude : magnitude;
}

TEST(e4m3, each_of_the_256_codes_has_the_value_of_its_definition) {
  for (int code = 0; code < 256; ++code) {
    const double expected = e4m3_by_definition(code);
    const float actual = to_float(e4m3{static_cast<uint8_t>(code)});
    EXPECT_EQ(std::isnan(actual), std::isnan(expected)) << code;
    if (std::isnan(expected)) continue;
    EXPECT_EQ(actual, expected) << code;
    EXPECT_EQ(std::signbit(actual), (code & 0x80) != 0) << code;
  }
  EXPECT_EQ(to_float(e4m3{0x7E}), 448.0f);
  EXPECT_EQ(to_float(e4m3{0x01}), 0x1p-9f);
}

// Among all 256 codes the nearest to clamp(value, +-448), of two the even one; zeros keep the sign.
uint8_t nearest_code(float value) {
  if (std::isnan(value)) return static_cast<uint8_t>(std::signbit(value) ? 0xFF : 0x7F);
  const double clamped = std::clamp(static_cast<double>(value), -448.0, 448.0);
  int best = -1;
  double least = 0.0;
  for (int code = std::signbit(value) ? 0x80 : 0; (code & 0x7F) != 0x7F; ++code) {
    const double distance = std::abs(e4m3_by_definition(code) - clamped);
    if (best < 0 || distance < least || (distance == least && code % 2 == 0)) {
      best = code;
      least = distance;
    }
  }
  return static_cast<uint8_t>(best);
}

TEST(e4m3, narrows_every_bf16_to_the_nearest_code) {
  for (uint32_t pattern = 0; pattern < 65536; ++pattern) {
    const float value = to_float(bf16{static_cast<uint16_t>(pattern)});
    ASSERT_EQ(to_e4m3(value).bits, nearest_code(value)) << value;
  }
}

TEST(e4m3, ties_go_to_the_even_code_and_a_step_beside_them_does_not) {
  for (int code = 0; code < 0x7E; ++code) {
    const auto middle = static_cast<float>((e4m3_by_definition(code) + e4m3_by_definition(code + 1)) / 2);
    for (const float sign : {1.0f, -1.0f}) {
      const int bit = sign < 0 ? 0x80 : 0;
      EXPECT_EQ(to_e4m3(sign * middle).bits, bit | (code + code % 2)) << middle;
      EXPECT_EQ(to_e4m3(sign * std::nextafter(middle, 0.0f)).bits, bit | code) << middle;
      EXPECT_EQ(to_e4m3(sign * std::nextafter(middle, 500.0f)).bits, bit | (code + 1)) << middle;
    }
  }
}

TEST(e4m3, saturates_and_keeps_NaN) {
  const float infinity = std::numeric_limits<float>::infinity();
  for (const float large : {448.0f, 449.0f, 464.0f, 480.0f, 1e30f, infinity}) {
    EXPECT_EQ(to_e4m3(large).bits, 0x7E) << large;
    EXPECT_EQ(to_e4m3(-large).bits, 0xFE) << large;
  }
  EXPECT_EQ(to_e4m3(std::nanf("")).bits, 0x7F);
  EXPECT_EQ(to_e4m3(-std::nanf("")).bits, 0xFF);
}

TEST(bf16, every_code_survives_widening_and_narrowing) {
  for (uint32_t code = 0; code < 65536; ++code) {
    const bf16 value{static_cast<uint16_t>(code)};
    const float wide = to_float(value);
    if (std::isnan(wide))
      EXPECT_TRUE(std::isnan(round_to_bf16(wide)));
    else
      EXPECT_EQ(to_bf16(wide).bits, code);
  }
}

TEST(bf16, rounds_to_the_nearest_and_ties_to_even) {
  EXPECT_EQ(round_to_bf16(1.0f + 0x1p-8f), 1.0f);                    // half way, even below
  EXPECT_EQ(round_to_bf16(1.0f + 3 * 0x1p-8f), 1.0f + 2 * 0x1p-7f);  // half way, even above
  EXPECT_EQ(round_to_bf16(1.0f + 0x1p-8f + 0x1p-20f), 1.0f + 0x1p-7f);
  EXPECT_EQ(round_to_bf16(std::numeric_limits<float>::max()), std::numeric_limits<float>::infinity());
  EXPECT_EQ(round_to_bf16(-std::numeric_limits<float>::infinity()), -std::numeric_limits<float>::infinity());
  Random random(1);
  for (int i = 0; i < 100000; ++i) {
    const auto value = static_cast<float>(random.normal() * std::exp2(random.uniform(-60, 60)));
    const float rounded = round_to_bf16(value);
    EXPECT_LE(std::abs(rounded - value), std::abs(value) * 0x1p-8f);
  }
}

// The nearest of the bf16 around `value`, of two the even one. Differences are exact in long double.
uint16_t nearest_bf16(double value) {
  const auto magnitude_of = [](uint32_t code) -> long double {
    return code == 0x7F80 ? 0x1p128L : static_cast<long double>(to_float(bf16{static_cast<uint16_t>(code)}));
  };
  const auto magnitude = static_cast<long double>(std::abs(value));
  uint32_t low = 0, high = 0x7F80;  // infinity takes the place of 2^128
  while (high - low > 1) {
    const uint32_t middle = (low + high) / 2;
    (magnitude_of(middle) <= magnitude ? low : high) = middle;
  }
  const long double below = magnitude - magnitude_of(low), above = magnitude_of(high) - magnitude;
  const uint32_t code = below < above || (below == above && low % 2 == 0) ? low : high;
  return static_cast<uint16_t>(code | (std::signbit(value) ? 0x8000u : 0u));
}

TEST(bf16, a_double_is_rounded_once) {
  // Through fp32 to nearest this would become a tie, and then 1.
  EXPECT_EQ(to_bf16(1.0 + 0x1p-8 + 0x1p-40).bits, to_bf16(1.0f + 0x1p-7f).bits);
  EXPECT_EQ(to_bf16(1.0 + 3 * 0x1p-8 - 0x1p-40).bits, to_bf16(1.0f + 0x1p-7f).bits);
  EXPECT_EQ(to_bf16(1.0 + 0x1p-8).bits, to_bf16(1.0f).bits);
  EXPECT_EQ(to_bf16(-1.0 - 0x1p-8 - 0x1p-40).bits, to_bf16(-1.0f - 0x1p-7f).bits);
  EXPECT_EQ(to_bf16(1e300).bits, 0x7F80);
  EXPECT_EQ(to_bf16(-1e-300).bits, 0x8000);
  EXPECT_EQ(to_bf16(0x1p-134).bits, 0x0000);  // half of the least: a tie
  EXPECT_EQ(to_bf16(0x1.0000000000001p-134).bits, 0x0001);
  EXPECT_EQ(to_bf16(std::numeric_limits<double>::infinity()).bits, 0x7F80);
  EXPECT_TRUE(std::isnan(to_float(to_bf16(std::nan("")))));
}

TEST(bf16, a_double_becomes_the_nearest) {
  Random random(2);
  for (int i = 0; i < 300000; ++i) {
    double value = random.normal() * std::exp2(random.uniform(-150, 130));
    // Half of them at a tie of two bf16, or as near to one as a double can be.
    if (i % 2 == 0) {
      const uint32_t code = static_cast<uint32_t>(random.below(0x7F7F));
      const double tie = (static_cast<double>(to_float(bf16{static_cast<uint16_t>(code)})) +
                          static_cast<double>(to_float(bf16{static_cast<uint16_t>(code + 1)}))) /
                         2;
      value = i % 3 == 0 ? tie : std::nextafter(tie, i % 3 == 1 ? 0.0 : 1e300);
    }
    ASSERT_EQ(to_bf16(value).bits, nearest_bf16(value)) << fmt::format("{:a}", value);
  }
}

}  // namespace
}  // namespace fulgurite
