#include "fulgurite/core/cache_layout.h"

#include <gtest/gtest.h>

#include <vector>

namespace fulgurite {
namespace {

template <class T>
void put(std::vector<std::byte>& row, int64_t at, T value) {
  std::memcpy(row.data() + at, &value, sizeof value);
}

TEST(latent_row, of_DeepSeek_V32_is_656_bytes_in_fp8) {
  const LatentRow row{LatentCache::kFp8, 512, 64};
  EXPECT_EQ(row.groups(), 4);
  EXPECT_EQ(row.scales_offset(), 512);
  EXPECT_EQ(row.rope_offset(), 528);
  EXPECT_EQ(row.bytes(), 656);
}

TEST(latent_row, without_codes_is_latent_and_rope_side_by_side) {
  EXPECT_EQ((LatentRow{LatentCache::kFp32, 512, 64}).rope_offset(), 2048);
  EXPECT_EQ((LatentRow{LatentCache::kFp32, 512, 64}).bytes(), 2304);
  EXPECT_EQ((LatentRow{LatentCache::kBf16, 512, 64}).rope_offset(), 1024);
  EXPECT_EQ((LatentRow{LatentCache::kBf16, 512, 64}).bytes(), 1152);
}

TEST(latent_row, keeps_scales_and_rows_at_multiples_of_four) {
  const LatentRow row{LatentCache::kFp8, 131, 26};
  EXPECT_EQ(row.groups(), 2);
  EXPECT_EQ(row.scales_offset(), 132);
  EXPECT_EQ(row.rope_offset(), 140);
  EXPECT_EQ(row.bytes(), 192);
  EXPECT_EQ((LatentRow{LatentCache::kFp8, 1, 2}).bytes(), 12);
  EXPECT_EQ((LatentRow{LatentCache::kFp8, 128, 1}).bytes(), 136);
  EXPECT_EQ((LatentRow{LatentCache::kBf16, 3, 2}).bytes(), 12);
}

TEST(latent_row, reads_codes_times_the_scale_of_their_group) {
  const LatentRow form{LatentCache::kFp8, 131, 2};
  std::vector<std::byte> row(static_cast<size_t>(form.bytes()));
  put(row, 127, e4m3{0x7E});  // 448
  put(row, 128, e4m3{0xB8});  // -1
  put(row, 130, e4m3{0x01});  // 2^-9
  put(row, 132, 0.25f);
  put(row, 136, 3.0f);
  put(row, 140, to_bf16(1.5f));
  put(row, 142, to_bf16(-2.0f));
  EXPECT_EQ(form.latent_value(row.data(), 0), 0.0f);
  EXPECT_EQ(form.latent_value(row.data(), 127), 112.0f);
  EXPECT_EQ(form.latent_value(row.data(), 128), -3.0f);
  EXPECT_EQ(form.latent_value(row.data(), 130), 3 * 0x1p-9f);
  EXPECT_EQ(form.rope_value(row.data(), 0), 1.5f);
  EXPECT_EQ(form.rope_value(row.data(), 1), -2.0f);
}

TEST(latent_row, reads_fp32_and_bf16_where_they_stand) {
  for (const LatentCache form : {LatentCache::kFp32, LatentCache::kBf16}) {
    const LatentRow layout{form, 3, 2};
    std::vector<std::byte> row(static_cast<size_t>(layout.bytes()));
    for (int i = 0; i < 5; ++i) {
      const float value = 1.0f + static_cast<float>(i);
      if (form == LatentCache::kFp32)
        put(row, 4 * i, value);
      else
        put(row, 2 * i, to_bf16(value));
    }
    for (int i = 0; i < 3; ++i) EXPECT_EQ(layout.latent_value(row.data(), i), 1.0f + static_cast<float>(i));
    for (int i = 0; i < 2; ++i) EXPECT_EQ(layout.rope_value(row.data(), i), 4.0f + static_cast<float>(i));
  }
}

TEST(index_cache, is_made_of_what_index_quant_says) {
  const auto operand = [](Activation activation, IndexQuant quant) {
    Numerics numerics;
    numerics.activation = activation;
    numerics.index_quant = quant;
    return index_operand(numerics);
  };
  EXPECT_EQ(operand(Activation::kFp32, IndexQuant::kNone), DType::kF32);
  EXPECT_EQ(operand(Activation::kBf16, IndexQuant::kNone), DType::kBF16);
  EXPECT_EQ(operand(Activation::kFp32, IndexQuant::kFp8), DType::kF8_E4M3);
  EXPECT_EQ(operand(Activation::kBf16, IndexQuant::kFp8), DType::kF8_E4M3);
  EXPECT_EQ(operand(Activation::kFp32, IndexQuant::kFp4), DType::kBF16);
}

}  // namespace
}  // namespace fulgurite
