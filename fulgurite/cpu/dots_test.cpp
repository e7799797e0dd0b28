// Kernels::dots of every build: the bits of a plain loop in the order that kernels.h states.

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <vector>

#include "fulgurite/core/bf16.h"
#include "fulgurite/core/fp8.h"
#include "fulgurite/core/random.h"
#include "fulgurite/cpu/kernels.h"
#include "test/op_test.h"

namespace fulgurite::cpu {
namespace {

constexpr int64_t kMostGroups = 11, kMostRows = 19, kMostTokens = 17, kColumns = kMostGroups * 128;
constexpr int64_t kMostQuads = (kMostRows + 3) / 4, kFactorStride = 20;

uint32_t pattern(float value) { return value != value ? 0x7FC00000u : std::bit_cast<uint32_t>(value); }

// What any of the calls reads.
struct Operands {
  std::vector<uint16_t> x, halves;
  std::vector<uint8_t> codes;
  std::vector<float> scales, x_factors, w_factors, there;

  Operands() {
    Random random(11);
    const auto value = [&] { return static_cast<float>(2.0 * random.uniform() - 1.0); };
    for (int64_t i = 0; i < kMostTokens * kColumns; ++i) x.push_back(to_bf16(value()).bits);
    for (int64_t i = 0; i < kMostRows * kColumns; ++i) halves.push_back(to_bf16(value()).bits);
    for (int64_t i = 0; i < kMostRows * kColumns; ++i) {
      const auto code = static_cast<uint8_t>(random.below(256));
      codes.push_back((code & 0x7F) == 0x7F ? uint8_t{0x01} : code);
    }
    for (int64_t g = 0; g < kMostGroups; ++g) scales.push_back(g % 2 == 0 ? 0.37f * value() : 0x1p-3f);
    for (int64_t i = 0; i < kMostGroups * kMostTokens; ++i) x_factors.push_back(value());
    for (int64_t i = 0; i < kMostGroups * kFactorStride; ++i) w_factors.push_back(value());
    for (int64_t i = 0; i < kMostQuads * kMostTokens * 16; ++i) there.push_back(value());
  }
};

enum class Weight { kHalves, kCodes, kScaledCodes };

struct Call {
  int64_t tokens, rows, groups;
  Weight weight;
  bool promotes;
};

WeightRows weight_of(const Operands& operands, const Call& call) {
  WeightRows rows;
  const bool half = call.weight == Weight::kHalves;
  rows.base = half ? reinterpret_cast<const uint8_t*>(operands.halves.data()) : operands.codes.data();
  rows.stride = half ? 2 * kColumns : kColumns;
  rows.count = call.rows;
  rows.coded = !half;
  if (call.weight == Weight::kScaledCodes) rows.scales = operands.scales.data();
  rows.next = rows.base;
  return rows;
}

float element(const Operands& operands, const Call& call, int64_t j, int64_t column) {
  if (call.weight == Weight::kHalves)
    return to_float(bf16{operands.halves[static_cast<size_t>(j * kColumns + column)]});
  const float value = to_float(e4m3{operands.codes[static_cast<size_t>(j * kColumns + column)]});
  if (call.weight == Weight::kCodes) return value;
  return round_to_bf16(value * operands.scales[static_cast<size_t>(column / 128)]);
}

// x lies [groups][tokens][128].
float activation(const Operands& operands, const Call& call, int64_t i, int64_t column) {
  const int64_t at = (column / 128 * call.tokens + i) * 128 + column % 128;
  return to_float(bf16{operands.x[static_cast<size_t>(at)]});
}

// Quarter q of row i and row j.
float expected(const Operands& operands, const Call& call, int64_t i, int64_t j, int q, float there) {
  for (int64_t g = 0; g < call.groups; ++g) {
    float sum = call.promotes ? 0.0f : there;
    for (int64_t pair = q; pair < 64; pair += 4)
      for (const int64_t column : {g * 128 + 2 * pair + 1, g * 128 + 2 * pair})
        sum = std::fma(activation(operands, call, i, column), element(operands, call, j, column), sum);
    if (call.promotes) {
      const float factor = operands.x_factors[static_cast<size_t>(g * call.tokens + i)] *
                           operands.w_factors[static_cast<size_t>(g * kFactorStride + j)];
      sum = std::fma(sum, factor, there);
    }
    there = sum;
  }
  return there;
}

void expect_plain_loop(Isa isa, const Operands& operands, const Call& call) {
  SCOPED_TRACE(::testing::Message() << name(isa) << ' ' << call.tokens << " tokens, " << call.rows
                                    << " rows, " << call.groups << " groups, weight "
                                    << static_cast<int>(call.weight) << (call.promotes ? ", promoted" : ""));
  std::vector<float> sums = operands.there;
  QuarterSums to{sums.data(), call.tokens};
  if (call.promotes)
    to = {sums.data(), call.tokens, operands.x_factors.data(), operands.w_factors.data(), kFactorStride};
  kernels(isa).dots({operands.x.data(), call.tokens * 128, 128, call.tokens}, weight_of(operands, call),
                    call.groups, to);
  for (int64_t j = 0; j < call.rows; ++j)
    for (int64_t i = 0; i < call.tokens; ++i)
      for (int q = 0; q < 4; ++q) {
        const auto at = static_cast<size_t>(16 * (j / 4 * call.tokens + i) + 4 * (j % 4) + q);
        ASSERT_EQ(pattern(sums[at]), pattern(expected(operands, call, i, j, q, operands.there[at])))
            << "row " << j << ", token " << i << ", quarter " << q;
      }
}

TEST(dots, have_the_bits_of_a_plain_loop_on_every_instruction_set) {
  const Operands operands;
  for (const Isa isa : test::machine_isas())
    for (const Weight weight : {Weight::kHalves, Weight::kCodes, Weight::kScaledCodes})
      for (const bool promotes : {false, true}) {
        for (int64_t tokens = 1; tokens <= kMostTokens; ++tokens)
          expect_plain_loop(isa, operands, {tokens, 17, 2, weight, promotes});
        for (int64_t rows = 0; rows <= kMostRows; ++rows)
          expect_plain_loop(isa, operands, {3, rows, 1, weight, promotes});
        for (const int64_t groups : {0, 1, 7, 8, 9, 11})
          for (const int64_t tokens : {1, 9})
            expect_plain_loop(isa, operands, {tokens, 5, groups, weight, promotes});
      }
}

// What is summed is one code: token i is 1 in column first + i, and 0 elsewhere.
std::vector<float> single_codes(Isa isa, Operands& operands, int64_t first) {
  const Call call{8, 4, 2, Weight::kCodes, false};
  std::fill(operands.x.begin(), operands.x.end(), uint16_t{0});
  for (int64_t i = 0; i < call.tokens; ++i)
    operands.x[static_cast<size_t>((first / 128 * call.tokens + i) * 128 + first % 128 + i)] =
        to_bf16(1.0f).bits;
  std::vector<float> sums(operands.there.size(), 0.0f), y(4), found;
  kernels(isa).dots({operands.x.data(), call.tokens * 128, 128, call.tokens}, weight_of(operands, call), 2,
                    {sums.data(), call.tokens});
  for (int64_t i = 0; i < call.tokens; ++i) {
    kernels(isa).sum_quarters(sums.data() + 16 * i, 16 * call.tokens, 4, y.data());
    found.push_back(y[0]);
  }
  return found;
}

TEST(dots, read_every_code_as_its_value) {
  Operands operands;
  const auto is_nan = [](int64_t code) { return (code & 0x7F) == 0x7F; };
  for (int64_t i = 0; i < kColumns; ++i)
    operands.codes[static_cast<size_t>(i)] = is_nan(i % 256) ? uint8_t{0} : static_cast<uint8_t>(i % 256);
  for (const Isa isa : test::machine_isas())
    for (int64_t first = 0; first < 256; first += 8) {
      const std::vector<float> found = single_codes(isa, operands, first);
      for (int64_t i = 0; i < 8; ++i) {
        const float value = is_nan(first + i) ? 0.0f : to_float(e4m3{static_cast<uint8_t>(first + i)});
        ASSERT_EQ(found[static_cast<size_t>(i)], value) << name(isa) << " code " << first + i;
      }
    }
  for (const uint8_t nan : {0x7F, 0xFF}) {
    operands.codes[5] = nan;
    for (const Isa isa : test::machine_isas()) EXPECT_TRUE(std::isnan(single_codes(isa, operands, 0)[5]));
  }
}

TEST(dots, of_codes_with_any_scale_are_those_of_the_rounded_products) {
  Operands operands;
  for (const float scale : {0x1p-9f, 1.75f * 0x1p-20f, 0.7f, -0.3f, 0.0f, 0x1p-140f, 0x1p120f, INFINITY}) {
    std::fill(operands.scales.begin(), operands.scales.end(), scale);
    for (const Isa isa : test::machine_isas()) {
      kernels(isa).widen_e4m3(operands.codes.data(), kMostRows * kColumns, scale, operands.halves.data());
      std::vector<uint32_t> bits[2];
      for (const Weight weight : {Weight::kScaledCodes, Weight::kHalves}) {
        const Call call{3, 7, 9, weight, false};
        std::vector<float> sums = operands.there;
        kernels(isa).dots({operands.x.data(), call.tokens * 128, 128, call.tokens}, weight_of(operands, call),
                          call.groups, {sums.data(), call.tokens});
        for (const float sum : sums) bits[weight == Weight::kHalves].push_back(pattern(sum));
      }
      EXPECT_EQ(bits[0], bits[1]) << name(isa) << ' ' << scale;
    }
  }
}

TEST(sum_quarters, adds_the_first_to_the_third_and_the_second_to_the_fourth) {
  std::vector<float> quarters(16 * 3 * 9);
  Random random(3);
  for (float& value : quarters) value = static_cast<float>(random.uniform()) * 1e3f - 500.0f;
  for (const Isa isa : test::machine_isas())
    for (const int64_t count : {0, 1, 4, 15, 16, 17, 31, 33, 36}) {
      std::vector<float> sums(static_cast<size_t>(count) + 1, -1.0f);
      kernels(isa).sum_quarters(quarters.data(), 48, count, sums.data());
      for (int64_t j = 0; j < count; ++j) {
        const float* const q = quarters.data() + j / 4 * 48 + 4 * (j % 4);
        ASSERT_EQ(sums[static_cast<size_t>(j)], (q[0] + q[2]) + (q[1] + q[3])) << name(isa) << ' ' << j;
      }
      ASSERT_EQ(sums.back(), -1.0f);
    }
}

}  // namespace
}  // namespace fulgurite::cpu
