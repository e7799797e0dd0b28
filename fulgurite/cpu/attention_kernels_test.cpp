// The kernels that attention's tiles are made of, in every build, against what they stand for.

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "fulgurite/core/bf16.h"
#include "fulgurite/core/random.h"
#include "fulgurite/cpu/kernels.h"
#include "test/op_test.h"

namespace fulgurite::cpu {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

TEST(widen_two, is_widen_e4m3_of_each_row_and_their_pairs) {
  Random random(1);
  const std::vector<std::vector<float>> scales{{0.25f, 2.0f, 0x1p-90f, 1.0f},  // powers of two
                                               {0.25f, 0.3f, -2.0f, 1.0f},
                                               {0x1p-120f, 2.0f, 0.0f, 0x1p120f}};
  for (const Isa isa : test::machine_isas()) {
    const Kernels& k = kernels(isa);
    for (const int64_t width : {0, 1, 64, 128, 130, 384, 512}) {
      for (const std::vector<float>& second_scales : scales) {
        std::vector<uint8_t> first(512), second(512);
        for (size_t i = 0; i < 512; ++i) {
          first[i] = static_cast<uint8_t>(i);  // each code, also NaN
          second[i] = static_cast<uint8_t>(random.below(256));
        }
        const auto bytes = [](const std::vector<float>& some) {
          return reinterpret_cast<const uint8_t*>(some.data());
        };
        std::vector<uint16_t> out[2] = {std::vector<uint16_t>(513, 0xBEEF),
                                        std::vector<uint16_t>(513, 0xBEEF)};
        std::vector<uint32_t> pairs(513, 0xDEADBEEF);
        k.widen_two({first.data(), bytes(scales[0])}, {second.data(), bytes(second_scales)}, width,
                    out[0].data(), out[1].data(), pairs.data());
        const auto end = static_cast<size_t>(width);
        std::vector<uint16_t> wanted[2] = {std::vector<uint16_t>(513), std::vector<uint16_t>(513)};
        for (size_t i = 0; i < end; i += 128) {
          const auto count = static_cast<int64_t>(std::min<size_t>(128, end - i));
          k.widen_e4m3(first.data() + i, count, scales[0][i / 128], wanted[0].data() + i);
          k.widen_e4m3(second.data() + i, count, second_scales[i / 128], wanted[1].data() + i);
        }
        for (size_t i = 0; i < end; ++i) {
          EXPECT_EQ(out[0][i], wanted[0][i]) << name(isa) << " at " << i;
          EXPECT_EQ(out[1][i], wanted[1][i]) << name(isa) << " at " << i;
          EXPECT_EQ(pairs[i], wanted[0][i] | static_cast<uint32_t>(wanted[1][i]) << 16) << name(isa);
        }
        EXPECT_TRUE(out[0][end] == 0xBEEF && out[1][end] == 0xBEEF && pairs[end] == 0xDEADBEEF);
      }
    }
  }
}

TEST(largest_scores, is_what_the_softmax_finds_and_nan_is_none) {
  Random random(2);
  for (const Isa isa : test::machine_isas()) {
    for (const int64_t keys : {0, 1, 7, 64}) {
      std::vector<float> scores(64 * 20);
      for (float& score : scores) {
        score = static_cast<float>(random.normal() * 9);
        if (random.below(9) == 0) score = random.below(2) == 0 ? -kInfinity : std::nanf("");
      }
      std::vector<float> largest(17, -kInfinity);
      largest[3] = 100.0f;
      std::vector<float> wanted = largest;
      for (int64_t j = 0; j < keys; ++j)
        for (int64_t l = 0; l < 16; ++l)
          wanted[static_cast<size_t>(l)] =
              std::fmax(wanted[static_cast<size_t>(l)], scores[static_cast<size_t>(j * 20 + l)] * 0.3f);
      ScoreTile tile;
      tile.scores = scores.data();
      tile.stride = 20;
      tile.keys = keys;
      tile.scale = 0.3f;
      kernels(isa).largest_scores(tile, largest.data());
      EXPECT_EQ(largest, wanted) << name(isa);
    }
  }
}

TEST(rescaled_products, are_products_part_by_part_of_what_was_rescaled_before) {
  constexpr int64_t kPart = 5, kParts = 3, kFactorStride = 40;
  Random random(3);
  const auto normal = [&] { return static_cast<float>(random.normal()); };
  std::vector<uint32_t> left(kParts * kPart * 32), right(kParts * kPart * 170);
  for (auto* const side : {&left, &right})
    for (uint32_t& pair : *side)
      pair = to_bf16(normal()).bits | static_cast<uint32_t>(to_bf16(normal()).bits) << 16;
  std::vector<float> factors(kParts * kFactorStride);
  for (float& factor : factors) factor = random.below(2) == 0 ? 1.0f : std::fabs(normal());
  const auto* const a = reinterpret_cast<const uint16_t*>(left.data());
  for (const Isa isa : test::machine_isas()) {
    const Kernels& k = kernels(isa);
    for (const int64_t rows : {0, 1, 5, 6, 7, 12, 16, 24, 31}) {
      for (const int64_t panels : {0, 1, 2, 3, 4, 7, 10}) {
        for (const int64_t pairs : {int64_t{1}, kPart, kPart + 1, kParts * kPart}) {
          for (const Ending ending : {Ending::kStore, Ending::kAccumulate}) {
            std::vector<float> sums(31 * 165, 0.5f), wanted = sums;
            k.rescaled_products({a, 2, 64, rows}, pairs, kPart, factors.data(), kFactorStride,
                                {right.data(), 16, 170, panels}, {sums.data(), 165, ending});
            for (int64_t first = 0; first < pairs; first += kPart) {
              for (int64_t i = 0; i < rows; ++i) {
                const float factor = factors[static_cast<size_t>(first / kPart * kFactorStride + i)];
                float* const row = wanted.data() + i * 165;
                if (first == 0 && ending == Ending::kStore) std::fill_n(row, panels * 16, 0.0f);
                k.multiply(row, factor, panels * 16);
              }
              k.products({a + first * 64, 2, 64, rows}, std::min(kPart, pairs - first),
                         {right.data() + first * 170, 16, 170, panels},
                         {wanted.data(), 165, Ending::kAccumulate});
            }
            EXPECT_EQ(sums, wanted) << name(isa) << ": " << rows << " rows, " << panels << " panels, "
                                    << pairs << " pairs";
          }
        }
      }
    }
  }
}

TEST(multiply_add, rounds_once) {
  const float tiny = 0x1p-12f, value = 1.0f + tiny, factor = 1.0f - tiny;  // the product is 1 - 2^-24
  for (const Isa isa : test::machine_isas()) {
    std::vector<float> values(37, value);
    const std::vector<float> factors(37, factor), addends(37, -1.0f);
    kernels(isa).multiply_add(factors.data(), addends.data(), 36, values.data());
    for (size_t i = 0; i < 36; ++i) EXPECT_EQ(values[i], -0x1p-24f) << name(isa);
    EXPECT_EQ(values[36], value);
  }
}

}  // namespace
}  // namespace fulgurite::cpu
