// Kernels of e2m1 of every build: the bits of a plain loop in the order that kernels.h states.

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <vector>

#include "fulgurite/core/bf16.h"
#include "fulgurite/core/fp4.h"
#include "fulgurite/core/fp8.h"
#include "fulgurite/core/random.h"
#include "fulgurite/cpu/fp4_matmul.h"
#include "fulgurite/cpu/kernels.h"
#include "test/op_test.h"

namespace fulgurite::cpu {
namespace {

constexpr int64_t kMostGroups = 6, kMostRows = 19, kMostTokens = 17, kColumns = kMostGroups * 128;
constexpr int64_t kMostQuads = (kMostRows + 3) / 4;

uint32_t pattern(float value) { return value != value ? 0x7FC00000u : std::bit_cast<uint32_t>(value); }

// Where a column lies in its block of 32, and what lies at a place.
int64_t column_at(int64_t place) { return place / 32 * 32 + 4 * (place % 8) + place % 32 / 8; }

struct Operands {
  std::vector<uint16_t> x;
  std::vector<uint8_t> codes, powers, fine;
  std::vector<float> x_factors, there;

  Operands() {
    Random random(12);
    const auto value = [&] { return static_cast<float>(2.0 * random.uniform() - 1.0); };
    for (int64_t i = 0; i < kMostTokens * kColumns; ++i) x.push_back(to_bf16(value()).bits);
    for (int64_t i = 0; i < kMostRows * kColumns / 2; ++i)
      codes.push_back(static_cast<uint8_t>(random.below(256)));
    for (int64_t i = 0; i < kMostRows * kColumns / 32; ++i)
      powers.push_back(static_cast<uint8_t>(120 + random.below(16)));
    for (int64_t i = 0; i < kMostRows * kColumns / 16; ++i)
      fine.push_back(static_cast<uint8_t>(random.below(127) + 128 * random.below(2)));
    powers[3] = 0;
    powers[9] = 255;
    powers[kMostRows * kColumns / 32 - 1] = 254;
    fine[5] = 0x7F;
    for (int64_t i = 0; i < kMostGroups * kMostTokens; ++i) x_factors.push_back(value());
    for (int64_t i = 0; i < kMostQuads * kMostTokens * 16; ++i) there.push_back(value());
  }
};

struct Call {
  int64_t tokens, rows, groups;
  bool halves;
};

constexpr float kGlobal = 0.7f;

float scale_of(const Operands& operands, const Call& call, int64_t j, int64_t column) {
  if (call.halves)
    return to_float(e4m3{operands.fine[static_cast<size_t>((j * kColumns + column) / 16)]}) * kGlobal;
  return to_float(e8m0{operands.powers[static_cast<size_t>((j * kColumns + column) / 32)]});
}

float code_of(const Operands& operands, int64_t j, int64_t column) {
  return to_float(unpack(e2m1x2{operands.codes[static_cast<size_t>((j * kColumns + column) / 2)]}, column));
}

// x lies [groups][tokens][128], in the order of fp4.
float expected(const Operands& operands, const Call& call, int64_t i, int64_t j, int q, float there) {
  for (int64_t block = 0; block < call.groups * 4; ++block) {
    const int64_t g = block / 4;
    float sum = 0.0f;
    for (int64_t pair = q; pair < 16; pair += 4)
      for (const int64_t place : {block * 32 + 2 * pair + 1, block * 32 + 2 * pair}) {
        const int64_t at = (g * call.tokens + i) * 128 + place % 128;
        sum = std::fma(to_float(bf16{operands.x[static_cast<size_t>(at)]}),
                       code_of(operands, j, column_at(place)), sum);
      }
    const float scale = scale_of(operands, call, j, column_at(block * 32 + 2 * q));
    there = std::fma(sum, scale * operands.x_factors[static_cast<size_t>(g * call.tokens + i)], there);
  }
  return there;
}

E2m1Rows weight_of(const Operands& operands, const Call& call) {
  const std::vector<uint8_t>& scales = call.halves ? operands.fine : operands.powers;
  return {operands.codes.data(),
          kColumns / 2,
          call.rows,
          scales.data(),
          kColumns / (call.halves ? 16 : 32),
          call.halves,
          kGlobal,
          operands.codes.data()};
}

void expect_plain_loop(Isa isa, const Operands& operands, const Call& call) {
  SCOPED_TRACE(::testing::Message() << name(isa) << ' ' << call.tokens << " tokens, " << call.rows
                                    << " rows, " << call.groups << " groups"
                                    << (call.halves ? ", in halves" : ""));
  std::vector<float> sums = operands.there;
  kernels(isa).dots_e2m1({operands.x.data(), call.tokens * 128, 128, call.tokens}, weight_of(operands, call),
                         call.groups, {sums.data(), call.tokens, operands.x_factors.data()});
  for (int64_t j = 0; j < call.rows; ++j)
    for (int64_t i = 0; i < call.tokens; ++i)
      for (int q = 0; q < 4; ++q) {
        const auto at = static_cast<size_t>(16 * (j / 4 * call.tokens + i) + 4 * (j % 4) + q);
        ASSERT_EQ(pattern(sums[at]), pattern(expected(operands, call, i, j, q, operands.there[at])))
            << "row " << j << ", token " << i << ", quarter " << q;
      }
}

TEST(dots_e2m1, have_the_bits_of_a_plain_loop_on_every_instruction_set) {
  const Operands operands;
  for (const Isa isa : test::machine_isas())
    for (const bool halves : {false, true}) {
      for (int64_t tokens = 0; tokens <= kMostTokens; ++tokens)
        expect_plain_loop(isa, operands, {tokens, 17, 2, halves});
      for (int64_t rows = 0; rows <= kMostRows; ++rows)
        expect_plain_loop(isa, operands, {3, rows, 1, halves});
      for (int64_t groups = 0; groups <= kMostGroups; ++groups)
        for (const int64_t tokens : {1, 9}) expect_plain_loop(isa, operands, {tokens, 19, groups, halves});
    }
}

TEST(widen_e2m1, gives_every_code_at_its_place_on_every_instruction_set) {
  const Operands operands;
  for (const Isa isa : test::machine_isas()) {
    std::vector<uint16_t> out(96);
    kernels(isa).widen_e2m1(operands.codes.data(), 3, out.data());
    for (int64_t place = 0; place < 96; ++place)
      ASSERT_EQ(to_float(bf16{out[static_cast<size_t>(place)]}), code_of(operands, 0, column_at(place)));
  }
}

TEST(order_for_fp4, puts_every_column_at_its_place) {
  std::vector<uint16_t> group;
  for (uint16_t i = 0; i < 128; ++i) group.push_back(i);
  order_for_fp4(group.data());
  for (int64_t place = 0; place < 128; ++place)
    EXPECT_EQ(group[static_cast<size_t>(place)], column_at(place));
}

// Panels, which tiles prefer, sum in another order: no further from the exact sum than fp32 sums are.
TEST(fp4_sums, by_panels_are_those_along_rows_but_for_the_order) {
  constexpr int64_t kTokens = 5, kRows = 37, kIn = 224;
  Random random(13);
  const inputs::Weight weight =
      inputs::make_weight(random, kRows, kIn, {MatrixForm::kMxfp4, {1, 32}, ScaleFormat::kE8M0});
  const auto x = inputs::make_tensor(random, inputs::Values::kNormal, DType::kF32, std::array{kTokens, kIn});
  for (const Isa isa : test::machine_isas()) {
    std::vector<float> found[2];
    for (const bool panels : {false, true}) {
      Kernels own = kernels(isa);
      own.prefers_panels = panels;
      const auto bytes = [](Cutter& cutter, OperandMemory& memory, SumTiles& tiles) {
        memory = cut_operand_memory(cutter, kTokens, kIn);
        tiles = cut_sum_tiles(cutter, 1, kTokens);
        return cutter.bytes();
      };
      OperandMemory memory;
      SumTiles tiles;
      Cutter counter(nullptr);
      const test::ExactBytes workspace(bytes(counter, memory, tiles));
      Cutter cutter(workspace.bytes().data());
      bytes(cutter, memory, tiles);
      const OperandRows rows =
          code_rows(own, Lane{}, {x.view, kTokens}, ScaleRounding::kPow2, memory, ColumnOrder::kFp4);
      fp4_sums(own, rows, weight.matrix, {0, kRows}, tiles[0]);
      for (int64_t t = 0; t < kTokens; ++t)
        for (int64_t l = 0; l < kRows; ++l)
          found[panels].push_back(tiles[0].sums[t * tile_lanes(kTokens) + l]);
    }
    float largest = 0.0f;
    for (const float sum : found[0]) largest = std::max(largest, std::abs(sum));
    EXPECT_GT(largest, 0.0f);
    for (size_t i = 0; i < found[0].size(); ++i)
      EXPECT_NEAR(found[0][i], found[1][i], 1e-5f * largest) << name(isa);
  }
}

TEST(silu_mul_limited, clamps_both_sides_and_multiplies_last_in_every_build) {
  for (const Isa isa : test::machine_isas()) {
    float gate[] = {12.0f, -12.0f, 3.0f, 3.0f, NAN, 1.0f, 10.0f};
    const float up[] = {1.0f, 1.0f, 11.0f, -11.0f, 1.0f, NAN, 0.25f};
    float limited[7], plain[7];
    const float g[] = {10.0f, -12.0f, 3.0f, 3.0f, NAN, 1.0f, 10.0f}, u[] = {1, 1, 10, -10, 1, NAN, 0.25f};
    kernels(isa).silu_mul(g, u, 7, plain);
    kernels(isa).silu_mul_limited(gate, up, 7, 10.0f, 0.3f, limited);
    for (size_t i = 0; i < 7; ++i)
      EXPECT_EQ(pattern(limited[i]), pattern(plain[i] * 0.3f)) << name(isa) << ' ' << i;
  }
}

}  // namespace
}  // namespace fulgurite::cpu
