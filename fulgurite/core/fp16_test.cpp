// fp16 against its definition, every code.

#include "fulgurite/core/fp16.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "fulgurite/core/random.h"

namespace fulgurite {
namespace {

constexpr uint32_t kInfinity = 0x7C00;

// Magnitude of a code without sign: 5 exponent bits with bias 15, 10 fraction bits; exponent 0 is denormal.
// Infinity takes the place of 2^16.
double magnitude_by_definition(uint32_t code) {
  const int exponent = static_cast<int>(code >> 10);
  const double fraction = (code & 0x3FF) / 1024.0;
  return exponent == 0 ? std::ldexp(fraction, -14) : std::ldexp(1.0 + fraction, exponent - 15);
}

TEST(fp16, each_of_the_65536_codes_has_the_value_of_its_definition_and_comes_back) {
  for (uint32_t code = 0; code < 65536; ++code) {
    const uint32_t magnitude = code & 0x7FFF;
    const float value = to_float(fp16{static_cast<uint16_t>(code)});
    EXPECT_EQ(std::signbit(value), code >= 0x8000) << code;
    if (magnitude > kInfinity) {
      EXPECT_TRUE(std::isnan(value)) << code;
      EXPECT_EQ(to_fp16(value).bits, code | 0x0200) << "quiet";
      continue;
    }
    EXPECT_EQ(std::abs(value), magnitude == kInfinity
                                   ? std::numeric_limits<float>::infinity()
                                   : static_cast<float>(magnitude_by_definition(magnitude)))
        << code;
    EXPECT_EQ(to_fp16(value).bits, code);
    EXPECT_EQ(to_fp16(static_cast<double>(value)).bits, code);
  }
}

// Half way between two neighbours the even one, a step beside it the nearer one; beyond the largest infinity.
TEST(fp16, rounds_to_the_nearest_and_ties_to_even_between_all_neighbours) {
  for (uint32_t code = 0; code < kInfinity; ++code) {
    const double tie = (magnitude_by_definition(code) + magnitude_by_definition(code + 1)) / 2;
    const auto wide = static_cast<float>(tie);  // twelve significant bits
    for (const uint32_t sign : {0u, 0x8000u}) {
      const double one = sign != 0 ? -1.0 : 1.0;
      const auto narrow = [&](float magnitude) { return to_fp16(static_cast<float>(one) * magnitude).bits; };
      ASSERT_EQ(narrow(wide), sign | (code + code % 2));
      ASSERT_EQ(narrow(std::nextafter(wide, 0.0f)), sign | code);
      ASSERT_EQ(narrow(std::nextafter(wide, 1e30f)), sign | (code + 1));
      ASSERT_EQ(to_fp16(one * tie).bits, sign | (code + code % 2));
      ASSERT_EQ(to_fp16(one * std::nextafter(tie, 0.0)).bits, sign | code) << "a double is rounded once";
      ASSERT_EQ(to_fp16(one * std::nextafter(tie, 1e30)).bits, sign | (code + 1))
          << "a double is rounded once";
    }
  }
}

TEST(fp16, overflows_to_infinity_from_65520_and_keeps_denormals_down_to_2_to_the_minus_24) {
  EXPECT_EQ(round_to_fp16(65504.0f), 65504.0f);
  EXPECT_EQ(round_to_fp16(65519.996f), 65504.0f);
  EXPECT_EQ(to_fp16(65520.0f).bits, kInfinity);
  EXPECT_EQ(to_fp16(-3e38f).bits, 0x8000 | kInfinity);
  EXPECT_EQ(to_fp16(1e300).bits, kInfinity);
  EXPECT_EQ(round_to_fp16(0x1p-24f), 0x1p-24f);
  EXPECT_EQ(to_fp16(0x1p-25f).bits, 0) << "a tie";
  EXPECT_EQ(to_fp16(-0x1.000002p-25f).bits, 0x8001);
  EXPECT_EQ(to_fp16(-1e-40f).bits, 0x8000) << "zero keeps its sign";
  EXPECT_EQ(to_fp16(-1e-300).bits, 0x8000);
  EXPECT_TRUE(std::isnan(to_float(to_fp16(std::nan("")))));
}

}  // namespace
}  // namespace fulgurite
