// bf16 and e4m3 against their definitions, every code.

#include <gtest/gtest.h>

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

}  // namespace
}  // namespace fulgurite
