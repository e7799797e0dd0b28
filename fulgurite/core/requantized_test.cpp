#include "fulgurite/core/requantized.h"

#include <gtest/gtest.h>

#include <cmath>
#include <type_traits>

#include "test/op_test.h"

namespace fulgurite {
namespace {

constexpr MatrixFormat kBlocks{MatrixForm::kE4M3Blocks, {128, 128}, ScaleFormat::kF32};

StoredMatrix stored(const inputs::Weight& weight) {
  return {weight.matrix.as, weight.matrix.out, weight.matrix.in};
}

const BlockScaled& blocks(const StoredMatrix& matrix) { return std::get<BlockScaled>(matrix.as); }

bool same_codes(const StoredMatrix& a, const StoredMatrix& b) {
  for (int64_t r = 0; r < a.out; ++r)
    for (int64_t c = 0; c < a.in; ++c)
      if (blocks(a).data(r, c).bits != blocks(b).data(r, c).bits) return false;
  return true;
}

// Scales without codes of their own would be this: every value of the block larger.
double worst_ratio(const StoredMatrix& from, const StoredMatrix& to) {
  double worst = 1.0;
  for (int64_t r = 0; r < from.out; ++r)
    for (int64_t c = 0; c < from.in; ++c) {
      const double a = exact_element(from, r, c), b = exact_element(to, r, c);
      if (std::fabs(code_of(to.as, r, c)) >= 1.0f) worst = std::max(worst, std::fabs(b / a));
    }
  return worst;
}

TEST(requantized, codes_follow_their_scales) {
  Random random(1);
  const inputs::Weight weight = inputs::make_weight(random, 200, 300, kBlocks);
  const StoredMatrix original = stored(weight);
  const Requantized requantized(original);
  const StoredMatrix made = requantized.stored();
  EXPECT_EQ(describe(format_of(made)), "e4m3 128x128, scales e8m0");
  EXPECT_FALSE(same_codes(original, made));
  EXPECT_LT(worst_ratio(original, made), 1.0 + 0x1p-4 + 1e-6) << "half a step of three fraction bits";
  EXPECT_EQ(requantized.kept_blocks(), 0);
}

TEST(requantized, reports_what_it_costs_and_leaves_the_original_as_it_is) {
  Random random(2);
  const inputs::Weight weight = inputs::make_weight(random, 128, 256, kBlocks);
  const StoredMatrix original = stored(weight);
  const std::vector<std::byte> before = *weight.data;
  const Requantized requantized(original);
  const auto values = MatrixValues{original.out, original.in,
                                   [&](int64_t row, double* out) { exact_row(original, row, out); }};
  const EncodingError expected = encoding_error(values, requantized.stored());
  EXPECT_EQ(requantized.error().relative, expected.relative);
  EXPECT_GT(requantized.error().relative, 0.005);
  EXPECT_LT(requantized.error().relative, 0.04);
  EXPECT_GE(requantized.error().worst_block, requantized.error().relative);
  EXPECT_EQ(requantized.error().saturated, 0);
  EXPECT_EQ(*weight.data, before);
  EXPECT_EQ(blocks(requantized.original()).data.data, blocks(original).data.data);
}

TEST(requantized, powers_of_two_keep_codes_and_scales) {
  Random random(3);
  const inputs::Weight weight = inputs::make_weight(random, 130, 140, kBlocks, inputs::Scales::kPow2);
  const Requantized requantized(stored(weight));
  EXPECT_TRUE(same_codes(stored(weight), requantized.stored()));
  EXPECT_EQ(requantized.kept_blocks(), 4);
  EXPECT_FALSE(requantized.error().any());
  for (int64_t r = 0; r < 130; ++r)
    EXPECT_EQ(blocks(requantized.stored()).scale_at(r, r), blocks(stored(weight)).scale_at(r, r));
}

TEST(requantized, twice_is_once_byte_for_byte) {
  Random random(4);
  for (const BlockShape block :
       {BlockShape{128, 128}, BlockShape{32, 32}, BlockShape{1, kWhole}, BlockShape{kWhole, kWhole}}) {
    const MatrixFormat format{MatrixForm::kE4M3Blocks, block, ScaleFormat::kF32};
    const inputs::Weight weight = inputs::make_weight(random, 70, 200, format);
    const Requantized once(stored(weight));
    const Requantized twice(once.stored());
    EXPECT_TRUE(same_codes(once.stored(), twice.stored())) << describe(format);
    EXPECT_FALSE(twice.error().any()) << describe(format);
    const View<const e8m0, 2> first = blocks(once.stored()).exponents,
                              second = blocks(twice.stored()).exponents;
    for (int64_t r = 0; r < first.extent[0]; ++r)
      for (int64_t c = 0; c < first.extent[1]; ++c) EXPECT_EQ(first(r, c).bits, second(r, c).bits);
  }
}

TEST(requantized, packs_the_exponents_of_each_row_four_columns_a_word) {
  Random random(5);
  const inputs::Weight weight = inputs::make_weight(random, 130, 5 * 128 + 1, kBlocks);
  const Requantized requantized(stored(weight));
  const PreparedMatrix prepared = requantized.packed();
  const PackedScales& packed = *prepared.packed;
  const View<const e8m0, 2> exponents = blocks(requantized.stored()).exponents;
  EXPECT_EQ(packed.groups(), 2);
  EXPECT_EQ(packed.column_words(), 132);
  EXPECT_EQ(static_cast<int64_t>(packed.words().size()) * 4, PackedScales::bytes(130, 641, {128, 128}));
  for (int64_t row = 0; row < 130; ++row)
    for (int64_t column = 0; column < 8; ++column) {
      const uint32_t byte = packed.word(row, column / 4) >> (column % 4 * 8) & 0xFF;
      EXPECT_EQ(byte, column < 6 ? exponents(row / 128, column).bits : 0u);
    }
}

// Scales that were rounded without new codes have no way into a packed weight: nothing else makes one.
TEST(requantized, is_the_only_source_of_packed_scales) {
  static_assert(!std::is_constructible_v<PackedScales, BlockScaled, int64_t, int64_t>);
  static_assert(!std::is_default_constructible_v<PackedScales>);
  static_assert(std::is_constructible_v<Requantized, StoredMatrix>);
  Random random(6);
  const inputs::Weight weight = inputs::make_weight(random, 128, 128, kBlocks, inputs::Scales::kPow2);
  EXPECT_EQ(format_of(weight.matrix).layout, ScaleLayout::kRowMajor);
  const Requantized requantized(stored(weight));
  EXPECT_EQ(describe(format_of(requantized.packed())), "e4m3 128x128, scales e8m0 packed in int32");
}

TEST(requantized, other_forms_are_refused) {
  Random random(7);
  const inputs::Weight weight = inputs::make_weight(random, 8, 8, {MatrixForm::kBF16, {}, ScaleFormat::kF32});
  EXPECT_EQ(test::message_of([&] { Requantized requantized(stored(weight)); }),
            "requantize: expected e4m3 blocks, found bf16");
}

}  // namespace
}  // namespace fulgurite
