#include "fulgurite/core/kv_row.h"

#include <gtest/gtest.h>

#include <cmath>
#include <numeric>
#include <vector>

namespace fulgurite {
namespace {

constexpr LatentCache kForms[] = {LatentCache::kFp32, LatentCache::kBf16, LatentCache::kFp8};

struct Cache {
  Cache(const KvRow& form, int64_t sequences, int64_t rows)
      : bytes(static_cast<size_t>(form.cache_bytes(sequences, rows)), std::byte{0x5A}),
        view{form, {bytes.data(), {sequences, KvRow::blocks(rows), form.block_bytes()}}} {}
  std::vector<std::byte> bytes;
  KvRows view;
};

std::vector<float> values_of(const ConstKvRows& cache, int64_t sequence, int64_t index) {
  std::vector<float> values;
  for (int64_t i = 0; i < cache.row.width(); ++i) values.push_back(cache.value(sequence, index, i));
  return values;
}

// 512 values that differ, exact in bf16.
std::vector<float> ramp(int64_t width) {
  std::vector<float> values;
  for (int64_t i = 0; i < width; ++i)
    values.push_back(round_to_bf16(std::ldexp(1.0f + 0.37f * static_cast<float>((i + 1) % 3), i % 5 - 2)));
  return values;
}

TEST(kv_row, of_DeepSeek_V4_is_584_bytes_in_fp8_with_the_scales_behind_the_rows_of_a_block) {
  const KvRow row{LatentCache::kFp8, 448, 64};
  EXPECT_EQ(row.bytes(), 576);
  EXPECT_EQ(row.rope_offset(), 448);
  EXPECT_EQ(row.groups(), 7);
  EXPECT_EQ(row.scale_bytes(), 8);
  EXPECT_EQ(row.scales_offset(), 64 * 576);
  EXPECT_EQ(row.block_bytes(), 65 * 576);  // 64 * 584 = 37376, up to a multiple of 576
  EXPECT_EQ(row.cache_bytes(3, 65), 3 * 2 * 37440);
}

TEST(kv_row, without_codes_rows_stand_side_by_side) {
  EXPECT_EQ((KvRow{LatentCache::kFp32, 448, 64}).bytes(), 2048);
  EXPECT_EQ((KvRow{LatentCache::kFp32, 448, 64}).block_bytes(), 64 * 2048);
  EXPECT_EQ((KvRow{LatentCache::kBf16, 448, 64}).block_bytes(), 64 * 1024);
  EXPECT_EQ((KvRow{LatentCache::kBf16, 3, 2}).bytes(), 12);
}

// 1 and 448 of the first group, code by code.
TEST(kv_row, the_bytes_are_where_the_public_row_has_them) {
  Cache cache({LatentCache::kFp8, 448, 64}, 2, 70);
  std::vector<float> row(512, 0.0f);
  row[0] = 1.0f, row[63] = 448.0f, row[64] = -3.0f, row[511] = 1.5f;
  store_kv_row(cache.view, 1, 65, row, KvQuant::kE4m3);
  const std::byte* const block = cache.bytes.data() + 3 * 37440;  // of sequence 1 the second
  EXPECT_EQ(std::to_integer<int>(block[576]), 0x38);
  EXPECT_EQ(std::to_integer<int>(block[576 + 63]), 0x7E);
  EXPECT_EQ(KvRow::read<bf16>(block + 576 + 448 + 126).bits, to_bf16(1.5f).bits);
  EXPECT_EQ(std::to_integer<int>(block[64 * 576 + 8]), 127);           // 448 / 448
  EXPECT_EQ(std::to_integer<int>(block[64 * 576 + 8 + 1]), 127 - 7);   // 3 / 448 = 0.0067, up to 2^-7
  EXPECT_EQ(std::to_integer<int>(block[64 * 576 + 8 + 2]), 127 - 22);  // 1e-4 / 448, up
  EXPECT_EQ(std::to_integer<int>(block[64 * 576 + 8 + 7]), 0x5A);      // the pad
  EXPECT_EQ(std::to_integer<int>(block[64 * 576 + 7]), 0x5A);          // of the row before
  EXPECT_EQ(cache.view.value(1, 65, 64), -3.0f);
}

TEST(kv_row, with_kv_quant_every_form_holds_the_same_values) {
  for (const int64_t nope : {int64_t{448}, int64_t{67}, int64_t{1}}) {
    std::vector<std::vector<float>> held;
    for (const LatentCache form : kForms) {
      Cache cache({form, nope, 6}, 2, 130);
      store_kv_row(cache.view, 1, 129, ramp(nope + 6), KvQuant::kE4m3);
      held.push_back(values_of(cache.view, 1, 129));
    }
    EXPECT_EQ(held[0], held[1]);
    EXPECT_EQ(held[0], held[2]);
    EXPECT_NE(held[0], ramp(nope + 6));  // 3 fraction bits
    for (size_t i = static_cast<size_t>(nope); i < held[0].size(); ++i)
      EXPECT_EQ(held[0][i], ramp(nope + 6)[i]);
  }
}

TEST(kv_row, without_kv_quant_values_stay_and_fp8_is_refused) {
  for (const LatentCache form : {LatentCache::kFp32, LatentCache::kBf16}) {
    Cache cache({form, 448, 64}, 1, 1);
    store_kv_row(cache.view, 0, 0, ramp(512), KvQuant::kNone);
    EXPECT_EQ(values_of(cache.view, 0, 0), ramp(512));
  }
  Numerics numerics;
  numerics.latent_cache = LatentCache::kFp8;
  ASSERT_TRUE(takes_kv_row(numerics));
  EXPECT_EQ(takes_kv_row(numerics)->reason, "kv_quant = none, latent_cache = fp8 takes e4m3");
  numerics.kv_quant = KvQuant::kE4m3;
  EXPECT_FALSE(takes_kv_row(numerics));
}

TEST(kv_row, rows_do_not_overlap) {
  for (const LatentCache form : kForms) {
    Cache cache({form, 67, 6}, 2, 66);
    for (int64_t at = 0; at < 2 * 66; ++at)
      store_kv_row(cache.view, at / 66, at % 66, std::vector<float>(73, static_cast<float>(at)),
                   KvQuant::kE4m3);
    for (int64_t at = 0; at < 2 * 66; ++at)
      EXPECT_EQ(cache.view.value(at / 66, at % 66, 70), static_cast<float>(at));
    for (int64_t at = 1; at < 2 * 66; ++at)
      EXPECT_NEAR(cache.view.value(at / 66, at % 66, 66), static_cast<float>(at),
                  static_cast<float>(at) / 16);
  }
}

TEST(kv_row, NaN_spoils_its_group) {
  for (const LatentCache form : kForms) {
    Cache cache({form, 130, 2}, 1, 1);
    std::vector<float> row(132, 1.0f);
    row[70] = std::nanf("");
    store_kv_row(cache.view, 0, 0, row, KvQuant::kE4m3);
    for (int64_t i = 0; i < 132; ++i)
      EXPECT_EQ(std::isnan(cache.view.value(0, 0, i)), i >= 64 && i < 128) << i;
  }
}

}  // namespace
}  // namespace fulgurite
