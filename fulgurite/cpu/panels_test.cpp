// How every build rounds, codes and packs the operands of products.

#include <gtest/gtest.h>

#include <cmath>
#include <numeric>
#include <vector>

#include "fulgurite/core/bf16.h"
#include "fulgurite/core/fp8.h"
#include "fulgurite/core/quantize.h"
#include "fulgurite/core/random.h"
#include "fulgurite/cpu/kernels.h"
#include "test/op_test.h"

namespace fulgurite::cpu {
namespace {

constexpr uint32_t kUntouched = 0xDEADBEEF;

std::vector<uint8_t> all_codes(int64_t count) {
  std::vector<uint8_t> codes(static_cast<size_t>(count));
  for (size_t i = 0; i < codes.size(); ++i) codes[i] = static_cast<uint8_t>(i + i / 256);
  return codes;
}

uint16_t scaled(uint8_t code, float scale) {
  return to_bf16(static_cast<double>(to_float(e4m3{code})) * static_cast<double>(scale)).bits;
}

bool same(uint32_t a, uint32_t b) {
  const auto is_nan = [](uint32_t bits) { return (bits & 0x7FFFu) > 0x7F80u; };
  return a == b || (is_nan(a) && is_nan(b));
}

std::vector<float> hard_scales() {
  std::vector<float> scales{1.0f,           0x1p-7f,   0x1p20f,      0.37f,     1.0f / 448.0f,
                            1.0625f,        1.125f,    -0.3f,        0x1p-120f, 0x1.8p-134f,
                            0x1.2345p-126f, 0x1p-149f, 0x1.999p119f, 0x1p127f,  0.0f,
                            INFINITY,       NAN};
  Random random(1);
  for (int i = 0; i < 40; ++i)
    scales.push_back(
        std::ldexp(static_cast<float>(1.0 + random.uniform()), static_cast<int>(random.below(240)) - 120));
  // Products with 1.5 and more that lie beside a tie of bf16, closer than fp32 can tell.
  for (const uint32_t bits : {0x3F2AAAABu, 0x3F2B0000u, 0x3FAAFFFFu, 0x3F555555u, 0x3F808001u, 0x3F807FFFu})
    scales.push_back(std::bit_cast<float>(bits));
  return scales;
}

TEST(widen_e4m3, every_code_and_hard_scales_are_rounded_once) {
  const std::vector<uint8_t> codes = all_codes(256 + 5);
  for (const Isa isa : test::machine_isas()) {
    for (const float scale : hard_scales()) {
      std::vector<uint16_t> values(codes.size() + 1, 0xBEEF);
      kernels(isa).widen_e4m3(codes.data(), static_cast<int64_t>(codes.size()), scale, values.data());
      EXPECT_EQ(values.back(), 0xBEEF);
      for (size_t i = 0; i < codes.size(); ++i)
        ASSERT_TRUE(same(values[i], scaled(codes[i], scale)))
            << name(isa) << " code " << int{codes[i]} << " scale " << scale;
    }
  }
}

TEST(narrow_bf16, rounds_to_nearest_even_and_keeps_nan) {
  std::vector<float> values;
  for (uint32_t high = 0; high < 65536; high += 3)
    for (const uint32_t low : {0u, 1u, 0x7FFFu, 0x8000u, 0x8001u, 0xFFFFu})
      values.push_back(std::bit_cast<float>(high << 16 | low));
  for (const Isa isa : test::machine_isas()) {
    for (const size_t count : {size_t{0}, size_t{1}, size_t{17}, values.size()}) {
      std::vector<uint16_t> narrow(count + 1, 0xBEEF);
      kernels(isa).narrow_bf16(values.data(), static_cast<int64_t>(count), narrow.data());
      EXPECT_EQ(narrow.back(), 0xBEEF);
      for (size_t i = 0; i < count; ++i)
        ASSERT_EQ(narrow[i], to_bf16(values[i]).bits)
            << name(isa) << std::hex << std::bit_cast<uint32_t>(values[i]);
    }
  }
}

TEST(interleave, makes_pairs) {
  std::vector<uint16_t> first(301), second(301);
  std::iota(first.begin(), first.end(), uint16_t{1});
  std::iota(second.begin(), second.end(), uint16_t{40000});
  for (const Isa isa : test::machine_isas()) {
    for (const int64_t count : {0, 1, 15, 16, 33, 301}) {
      std::vector<uint32_t> pairs(static_cast<size_t>(count + 1), kUntouched);
      kernels(isa).interleave(first.data(), second.data(), count, pairs.data());
      EXPECT_EQ(pairs.back(), kUntouched);
      for (size_t i = 0; i + 1 < pairs.size(); ++i)
        ASSERT_EQ(pairs[i], first[i] | static_cast<uint32_t>(second[i]) << 16) << name(isa);
    }
  }
}

// --- the quantizer ---

void expect_codes_of_core(const std::vector<float>& values) {
  std::vector<e4m3> expected(values.size());
  for (const ScaleRounding rounding : {ScaleRounding::kNone, ScaleRounding::kPow2, ScaleRounding::kDivided}) {
    const float scale = quantize_e4m3(values, rounding, expected.data());
    for (const Isa isa : test::machine_isas()) {
      std::vector<uint8_t> codes(values.size() + 1, 0xA5);
      const float own = kernels(isa).quantize_e4m3(values.data(), static_cast<int64_t>(values.size()),
                                                   rounding, codes.data());
      EXPECT_EQ(codes.back(), 0xA5);
      ASSERT_EQ(std::bit_cast<uint32_t>(own), std::bit_cast<uint32_t>(scale)) << name(isa);
      for (size_t i = 0; i < values.size(); ++i)
        ASSERT_EQ(int{codes[i]}, int{expected[i].bits})
            << name(isa) << " of " << values.size() << ": " << values[i];
    }
  }
}

TEST(quantize_e4m3, every_build_gives_the_codes_of_core) {
  Random random(2);
  for (const int64_t count : {0, 1, 15, 16, 17, 64, 100, 127, 128, 512}) {
    for (const double scale : {1.0, 1e-6, 1e-42, 1e30}) {
      std::vector<float> values;
      for (int64_t i = 0; i < count; ++i)
        values.push_back(static_cast<float>(random.normal() * scale * std::exp(4 * random.normal())));
      expect_codes_of_core(values);
    }
  }
}

TEST(quantize_e4m3, ties_subnormal_codes_zeros_and_the_largest_floats) {
  std::vector<float> steps;  // half steps of every code, under scale 1
  for (int code = 0; code < 0x7E; ++code) {
    const float low = to_float(e4m3{static_cast<uint8_t>(code)}),
                high = to_float(e4m3{static_cast<uint8_t>(code + 1)});
    for (const float value :
         {low, (low + high) / 2, std::nextafter((low + high) / 2, 1e9f), std::nextafter(high, 0.0f)})
      steps.insert(steps.end(), {value, -value});
  }
  steps.push_back(448.0f);
  expect_codes_of_core(steps);
  expect_codes_of_core({0.0f, -0.0f, 0.0f});
  expect_codes_of_core({1e-4f, -1e-4f, 9.9e-5f, 1e-38f, -1e-45f});
  expect_codes_of_core({std::numeric_limits<float>::max(), -1.0f, -std::numeric_limits<float>::max()});
}

TEST(quantize_e4m3, nan_or_infinity_anywhere_makes_the_group_nan) {
  for (const float bad : {NAN, -NAN, INFINITY, -INFINITY}) {
    for (const size_t at : {size_t{0}, size_t{63}, size_t{99}}) {
      std::vector<float> values(100, 1.0f);
      values[at] = bad;
      expect_codes_of_core(values);
    }
  }
}

// --- panels ---

struct PanelCase {
  int64_t lanes, width, gap;
};
std::vector<PanelCase> panel_cases() {
  std::vector<PanelCase> cases;
  for (const int64_t lanes : {0, 1, 3, 15, 16})
    for (const int64_t width : {0, 1, 2, 3, 31, 32, 33, 63, 64, 65, 100, 127, 128, 130, 192})
      for (const int64_t gap : {0, 5}) cases.push_back({lanes, width, gap});
  return cases;
}

// pack(base, stride, panel) must write bits(element index) of each row and column, zeros beyond, and no more.
template <class Element, class Pack, class Bits>
void expect_panel(const PanelCase& c, const std::vector<Element>& source, const Pack& pack, const Bits& bits,
                  Isa isa) {
  const int64_t stride = c.width + c.gap, pairs = (c.width + 1) / 2;
  const int64_t size = c.lanes == 0 ? 0 : (c.lanes - 1) * stride + c.width;
  const std::vector<Element> rows(source.begin(), source.begin() + size);  // nothing readable beyond
  std::vector<uint32_t> panel(static_cast<size_t>(pairs * 16 + 1), kUntouched);
  pack(rows.data(), stride, panel.data());
  EXPECT_EQ(panel.back(), kUntouched);
  const auto element = [&](int64_t lane, int64_t column) -> uint32_t {
    if (lane >= c.lanes || column >= c.width) return 0;
    return bits(rows[static_cast<size_t>(lane * stride + column)]);
  };
  for (int64_t p = 0; p < pairs; ++p)
    for (int64_t l = 0; l < 16; ++l)
      ASSERT_EQ(panel[static_cast<size_t>(p * 16 + l)], element(l, 2 * p) | element(l, 2 * p + 1) << 16)
          << name(isa) << " " << c.lanes << " lanes of " << c.width << ", pair " << p << " lane " << l;
}

TEST(panels, of_codes_hold_their_exact_values) {
  const std::vector<uint8_t> codes = all_codes(16 * 200);
  for (const Isa isa : test::machine_isas())
    for (const PanelCase& c : panel_cases())
      expect_panel(
          c, codes,
          [&](const uint8_t* base, int64_t stride, uint32_t* panel) {
            kernels(isa).pack_e4m3(base, stride, c.lanes, c.width, panel);
          },
          [](uint8_t code) { return scaled(code, 1.0f); }, isa);
}

TEST(panels, of_bf16_hold_the_same_bits) {
  Random random(3);
  std::vector<uint16_t> values(16 * 200);
  for (uint16_t& value : values) value = static_cast<uint16_t>(random.bits());
  for (const Isa isa : test::machine_isas())
    for (const PanelCase& c : panel_cases())
      expect_panel(
          c, values,
          [&](const uint16_t* base, int64_t stride, uint32_t* panel) {
            kernels(isa).pack_bf16(base, stride, c.lanes, c.width, panel);
          },
          [](uint16_t value) { return value; }, isa);
}

}  // namespace
}  // namespace fulgurite::cpu
