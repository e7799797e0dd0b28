// The softmax over tiles, on lists longer than one, small enough to compute by hand.

#include <gtest/gtest.h>

#include <cmath>

#include "fulgurite/ops/expanded_attention/test_inputs.h"

namespace fulgurite::expanded_attention {
namespace {

// So many entries of the list in a row, of one score, in steps of ln 2, and one value.
struct Entries {
  int64_t count;
  float score, value;
};

// One head. Scores come from the rotated part alone; column c of the values is the entry's times 1 + c / 32.
std::vector<float> attended(const Implementation& row, const Setting& setting,
                            const std::vector<Entries>& entries) {
  int64_t count = 0;
  for (const Entries& some : entries) count += some.count;
  Inputs in = make_inputs(1, {"", 1, 1, 1, 1, 32, 1, count, 1, count}, kF32, Values::kConstant, setting);
  in.problem.scale = static_cast<float>(std::log(2.0));
  store(in.q.view, 0.0f, 0, 0, 0);
  store(in.q.view, 1.0f, 0, 0, 1);
  auto* const weight = reinterpret_cast<float*>(in.weight.data->data()) + 1;  // beyond the key's row
  for (int c = 0; c < 32; ++c) weight[c] = 1.0f + static_cast<float>(c) / 32;
  int64_t position = 0;
  for (const Entries& some : entries)
    for (int64_t i = 0; i < some.count; ++i) in.write(0, position++, {some.value, some.score});
  return result(row, in);
}

Setting with(Setting setting, SoftmaxTile tile,
             SoftmaxDenominator denominator = SoftmaxDenominator::kUnrounded) {
  setting = expanded(setting);
  setting.numerics.softmax_tile = tile;
  setting.numerics.softmax_p = SoftmaxP::kBf16;
  setting.numerics.softmax_denominator = denominator;
  setting.numerics.latent_cache = LatentCache::kBf16;
  return setting;
}

// In fp32 to a few roundings (exp is a kernel's own), in serving to the bf16 of every column.
void expect(double first, const std::vector<Entries>& entries, SoftmaxTile tile,
            SoftmaxDenominator denominator = SoftmaxDenominator::kUnrounded) {
  for (const Implementation* const row : kBoth) {
    const auto wide = attended(*row, with(test::fp32_setting(), tile, denominator), entries);
    const auto narrow = attended(*row, with(test::serving_setting(), tile, denominator), entries);
    for (size_t c = 0; c < 32; ++c) {
      const double expected = first * (1.0 + static_cast<double>(c) / 32);
      EXPECT_NEAR(wide[c], expected, 8 * 0x1p-24 * expected) << row->name;
      EXPECT_EQ(narrow[c], to_float(to_bf16(expected))) << row->name;
    }
  }
}

// 2^-1/4, and as P holds it: 0.84090 and 0.83984.
const double kE = std::exp2(-0.25), kP = to_float(to_bf16(kE));

TEST(expanded_attention, weights_of_every_tile_enter_sums_and_denominator) {
  for (const SoftmaxTile tile : {SoftmaxTile::kNone, SoftmaxTile::k64, SoftmaxTile::k128}) {
    expect(4.0 / 65, {{1, 0, 4}, {64, 0, 0}}, tile);
    expect(4.0 / 65, {{64, 0, 0}, {1, 0, 4}}, tile);
    expect((64 * 0.5 + 4) / (64 * 0.5 + 1), {{64, 0, 1}, {1, 1, 4}}, tile);
    expect((64 * 0.5 * 1 + 64 * 0.25 * 2 + 4) / (64 * 0.5 + 64 * 0.25 + 1),
           {{64, 0, 1}, {64, -1, 2}, {1, 1, 4}}, tile);
  }
}

TEST(expanded_attention, p_is_rounded_against_the_largest_score_up_to_its_tile) {
  const std::vector<Entries> rising{{64, 0, 1}, {1, 0.25f, 0}};  // the last one is in a tile of its own
  expect(64 * kE / (64 * kE + 1), rising, SoftmaxTile::k64);
  expect(64 * kP / (64 * kE + 1), rising, SoftmaxTile::k128);
  expect(64 * kP / (64 * kE + 1), rising, SoftmaxTile::kNone);
  expect(kP / (64 + kE), {{64, 0, 0}, {1, -0.25f, 1}}, SoftmaxTile::k64);
  const std::vector<Entries> longer{{64, 0, 1}, {64, 0.25f, 1}, {1, 0.5f, 0}};
  const double denominator = 64 * kE * kE + 64 * kE + 1;
  expect((64 * kE * kE + 64 * kE) / denominator, longer, SoftmaxTile::k64);
  expect((64 * kP * kE + 64 * kE) / denominator, longer, SoftmaxTile::k128);
}

TEST(expanded_attention, the_denominator_sums_p_of_every_tile_as_its_knob_says) {
  for (const int64_t count : {64, 128}) {
    const std::vector<Entries> entries{{1, 0, 0}, {count, -0.25f, 1}};
    const auto n = static_cast<double>(count);
    expect(n * kP / (1 + n * kE), entries, SoftmaxTile::k64);
    expect(n * kP / (1 + n * kP), entries, SoftmaxTile::k64, SoftmaxDenominator::kRounded);
  }
}

}  // namespace
}  // namespace fulgurite::expanded_attention
