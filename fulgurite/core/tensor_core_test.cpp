#include "fulgurite/core/tensor_core.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

#include "fulgurite/checkpoint/safetensors.h"
#include "fulgurite/core/bf16.h"
#include "fulgurite/core/fp16.h"
#include "fulgurite/core/fp8.h"
#include "test/op_test.h"
#include "test/paths.h"

namespace fulgurite {
namespace {

using checkpoint::SafetensorsFile;
using checkpoint::TensorView;

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

// --- what an H100 computed ---

MmaType type_of(DType dtype) {
  if (dtype == DType::kBF16) return MmaType::kBf16;
  EXPECT_TRUE(dtype == DType::kF16 || dtype == DType::kF8_E4M3) << name(dtype);
  return dtype == DType::kF16 ? MmaType::kFp16 : MmaType::kE4m3;
}

template <class T>
T read(const TensorView& tensor, int64_t i) {
  T value;
  std::memcpy(&value, tensor.bytes.data() + i * static_cast<int64_t>(sizeof(T)), sizeof(T));
  return value;
}

std::vector<MmaFactor> factors_of(const TensorView& tensor) {
  const MmaType type = type_of(tensor.dtype);
  return mma_factors(type, tensor.shape[0] * tensor.shape[1], [&](int64_t i) {
    if (type == MmaType::kE4m3) return to_float(read<e4m3>(tensor, i));
    return type == MmaType::kBf16 ? to_float(read<bf16>(tensor, i)) : to_float(read<fp16>(tensor, i));
  });
}

// C = A B^T, one accumulation over K from zero. Returns how many results were compared.
int64_t expect_recorded(const TensorView& a, const TensorView& b, const TensorView& c) {
  const std::vector<MmaFactor> rows = factors_of(a), columns = factors_of(b);
  const auto k = static_cast<size_t>(a.shape[1]);
  int64_t differ = 0;
  for (int64_t i = 0; i < c.shape[0] * c.shape[1]; ++i) {
    const auto row = static_cast<size_t>(i / c.shape[1]), column = static_cast<size_t>(i % c.shape[1]);
    const float sum = mma_sum(type_of(a.dtype), std::span(rows).subspan(row * k, k),
                              std::span(columns).subspan(column * k, k));
    differ += std::bit_cast<uint32_t>(sum) != read<uint32_t>(c, i);
  }
  EXPECT_EQ(differ, 0) << "of the results in " << c.name;
  return c.shape[0] * c.shape[1];
}

int64_t expect_all_recorded(const std::string& file_name) {
  const auto file = SafetensorsFile::open(std::string(test::kSourceDir) + "/golden/" + file_name);
  int64_t compared = 0;
  for (const TensorView& a : file.tensors()) {
    if (!a.name.ends_with(".a")) continue;
    const std::string product = a.name.substr(0, a.name.size() - 1);
    compared += expect_recorded(a, file.require(product + "b"), file.require(product + "c"));
  }
  return compared;
}

TEST(tensor_core, every_recorded_sum_of_an_h100_is_met_to_the_last_bit) {
  EXPECT_EQ(expect_all_recorded("hopper_mma.safetensors"), 106'752);
}

TEST(tensor_core, recorded_nan_infinities_zeros_and_denormals_are_met_to_the_last_bit) {
  EXPECT_EQ(expect_all_recorded("hopper_mma_edges.safetensors"), 50 * 128 * 16);
}

// The recording holds what it is for.
TEST(tensor_core, the_recorded_edges_are_there) {
  const auto file =
      SafetensorsFile::open(std::string(test::kSourceDir) + "/golden/hopper_mma_edges.safetensors");
  const auto holds = [&](const std::string& product, const auto& is) {
    const TensorView& c = file.require(product + ".c");
    for (int64_t i = 0; i < c.shape[0] * c.shape[1]; ++i)
      if (is(read<float>(c, i))) return true;
    return false;
  };
  const auto is_infinity = [](float x) { return std::isinf(x); };
  const auto is_nan = [](float x) { return std::isnan(x); };
  const auto is_denormal = [](float x) { return std::fpclassify(x) == FP_SUBNORMAL; };
  for (const char* const product : {"bf16.inf.32", "bf16.huge.32", "fp16.inf.32"})
    EXPECT_TRUE(holds(product, is_infinity)) << product;
  for (const char* const product : {"bf16.nan.32", "fp16.nan.32", "fp8.nan.32", "bf16.inf_zero.128"})
    EXPECT_TRUE(holds(product, is_nan)) << product;
  for (const char* const product : {"bf16.tiny.32", "bf16.subnormal.32"})
    EXPECT_TRUE(holds(product, is_denormal)) << product;
}

// --- by hand ---

float sum_of(MmaType type, std::vector<float> a, std::vector<float> b, float accumulator = 0.0f) {
  const auto factors = [&](const std::vector<float>& values) {
    return mma_factors(type, static_cast<int64_t>(values.size()),
                       [&](int64_t i) { return values[static_cast<size_t>(i)]; });
  };
  return mma_sum(type, factors(a), factors(b), accumulator);
}

TEST(tensor_core, terms_are_cut_below_the_largest_of_their_group) {
  // e4m3 keeps 13 bits below the top: 2^8 leaves multiples of 2^-5.
  EXPECT_EQ(sum_of(MmaType::kE4m3, {256, 0.03125f}, {1, 1}), 256.03125f);
  EXPECT_EQ(sum_of(MmaType::kE4m3, {256, 0.015625f}, {1, 1}), 256.0f);
  EXPECT_EQ(sum_of(MmaType::kE4m3, {256, -0.015625f}, {1, 1}), 256.0f) << "toward zero: the term alone";
  EXPECT_EQ(sum_of(MmaType::kE4m3, {0.015625f, 0.015625f}, {1, 1}, 256.0f), 256.0f) << "each term alone";
  // bf16 keeps 25: two bits more than fp32 has, so that two halves of its last step make one.
  const float step = 0x1p-23f, half = 0x1p-24f;
  EXPECT_EQ(sum_of(MmaType::kBf16, {1, half}, {1, 1}), 1.0f);
  EXPECT_EQ(sum_of(MmaType::kBf16, {1, half, half}, {1, 1, 1}), 1.0f + step);
  EXPECT_EQ(sum_of(MmaType::kBf16, {1, 0x1p-26f}, {1, 1}, 0), 1.0f);
  EXPECT_EQ(sum_of(MmaType::kBf16, {1, -0x1p-25f}, {1, 1}), std::nextafter(1.0f, 0.0f))
      << "truncated, not rounded";
  EXPECT_EQ(sum_of(MmaType::kFp16, {1, half}, {1, 1}), 1.0f);
}

TEST(tensor_core, the_largest_exponent_is_that_of_the_factors_not_of_the_product) {
  // 1.75 * 1.75 = 3.0625 counts as 2^0: what it leaves are multiples of 2^-13, not of 2^-12.
  EXPECT_EQ(sum_of(MmaType::kE4m3, {1.75f, 0x1p-9f}, {1.75f, 0x1p-4f}), 3.0625f)
      << "14 bits of the sum: steps of 2^-12";
  EXPECT_EQ(sum_of(MmaType::kE4m3, {1.75f, -1.75f, 0x1p-9f}, {1.75f, 1.75f, 0x1p-4f}), 0x1p-13f);
  EXPECT_EQ(sum_of(MmaType::kE4m3, {1.75f, -1.75f, 0x1p-9f}, {1.75f, 1.75f, 0x1p-5f}), 0.0f);
  // A subnormal code counts as 2^-6, whatever its leading bit.
  EXPECT_EQ(sum_of(MmaType::kE4m3, {0x1p-9f}, {0x1p-9f}, 0x1p-26f), 0x1p-18f) << "cut at 2^-25, not 2^-31";
  EXPECT_EQ(sum_of(MmaType::kE4m3, {0x1p-9f}, {0x1p-6f}), 0x1p-15f);
}

TEST(tensor_core, what_cancels_keeps_what_was_not_cut) {
  EXPECT_EQ(sum_of(MmaType::kBf16, {0x1p30f, 1, -0x1p30f}, {1, 1, 1}), 0.0f);
  EXPECT_EQ(sum_of(MmaType::kBf16, {0x1p25f, 1, -0x1p25f}, {1, 1, 1}), 1.0f);
  EXPECT_EQ(sum_of(MmaType::kBf16, {0x1p30f, 1}, {1, 1}, -0x1p30f), 0.0f) << "the accumulator is a term";
  std::vector<float> apart(17, 0.0f);
  apart[0] = 0x1p30f, apart[15] = -0x1p30f, apart[16] = 1.0f;
  EXPECT_EQ(sum_of(MmaType::kBf16, apart, std::vector<float>(17, 1.0f)), 1.0f) << "in a group of its own";
}

TEST(tensor_core, zeros_are_positive_and_denormals_count) {
  const auto bits = [](float x) { return std::bit_cast<uint32_t>(x); };
  EXPECT_EQ(bits(sum_of(MmaType::kBf16, {-0.0f, 0.0f}, {1, -1})), 0u);
  EXPECT_EQ(bits(sum_of(MmaType::kBf16, {1, 1}, {1, -1})), 0u);
  EXPECT_EQ(bits(sum_of(MmaType::kE4m3, {}, {})), 0u);
  EXPECT_EQ(sum_of(MmaType::kBf16, {0x1p-133f}, {1}), 0x1p-133f);
  EXPECT_EQ(sum_of(MmaType::kBf16, {0x1p-80f}, {-0x1p-69f}), -0x1p-149f);
  EXPECT_EQ(sum_of(MmaType::kBf16, {0x1p-80f}, {0x1p-70f}), 0.0f);
  EXPECT_EQ(sum_of(MmaType::kFp16, {0x1p-24f}, {0x1p-24f}), 0x1p-48f);
  EXPECT_EQ(sum_of(MmaType::kFp16, {65504.0f}, {65504.0f}), 65504.0f * 65504.0f);
}

TEST(tensor_core, infinities_and_nan_pass_through) {
  const auto bits = [](float x) { return std::bit_cast<uint32_t>(x); };
  constexpr uint32_t kCanonical = 0x7FFFFFFFu;
  EXPECT_EQ(sum_of(MmaType::kBf16, {1, -kInfinity}, {1, 2}), -kInfinity);
  EXPECT_EQ(sum_of(MmaType::kBf16, {-kInfinity, kInfinity}, {-1, 1}), kInfinity);
  EXPECT_EQ(bits(sum_of(MmaType::kBf16, {kInfinity, kInfinity}, {1, -1})), kCanonical);
  EXPECT_EQ(bits(sum_of(MmaType::kBf16, {kInfinity}, {0})), kCanonical);
  EXPECT_EQ(bits(sum_of(MmaType::kBf16, {kInfinity}, {1}, -kInfinity)), kCanonical);
  EXPECT_EQ(bits(sum_of(MmaType::kE4m3, {1, kNan}, {1, 0})), kCanonical);
  EXPECT_EQ(bits(sum_of(MmaType::kBf16, {1}, {1}, kNan)), kCanonical);
  EXPECT_EQ(sum_of(MmaType::kBf16, {1}, {1}, kInfinity), kInfinity);
  EXPECT_EQ(sum_of(MmaType::kBf16, {0x1p127f}, {2}), kInfinity);
}

// --- orders of K ---

std::vector<float> merged_parts(const SumOrder& order, int64_t columns, int64_t unit) {
  std::vector<float> parts;
  for (int64_t k = 0; k < columns; k += unit)
    parts.push_back(static_cast<float>(order.part_of(k, columns, unit)));
  return parts;
}

TEST(tensor_core, an_order_deals_columns_to_its_parts) {
  EXPECT_EQ(merged_parts({1, 0}, 64, 16), (std::vector<float>{0, 0, 0, 0}));
  EXPECT_EQ(merged_parts({2, 0}, 80, 16), (std::vector<float>{0, 0, 0, 1, 1}));
  EXPECT_EQ(merged_parts({2, 16}, 80, 16), (std::vector<float>{0, 1, 0, 1, 0}));
  EXPECT_EQ(merged_parts({3, 32}, 112, 16), (std::vector<float>{0, 0, 1, 1, 2, 2, 0}));
  EXPECT_EQ(merged_parts({8, 0}, 32, 16), (std::vector<float>{0, 1}));
}

TEST(tensor_core, parts_are_sums_of_their_own_merged_in_fp32) {
  const float big = 0x1p24f;
  std::vector<float> a(64, 0.0f);
  a[0] = big, a[16] = 1.0f, a[32] = 1.0f, a[48] = 1.0f;
  const auto factors = mma_factors(MmaType::kBf16, 64, [&](int64_t i) { return a[static_cast<size_t>(i)]; });
  const auto ones = mma_factors(MmaType::kBf16, 64, [](int64_t) { return 1.0f; });
  const auto sum = [&](const SumOrder& order) { return mma_sum(MmaType::kBf16, factors, ones, order); };
  EXPECT_EQ(sum({}), big) << "each 1 is cut where the sum is 2^24";
  EXPECT_EQ(sum({2, 0}), big + 2.0f);
  EXPECT_EQ(sum({4, 0, SumOrder::Merge::kAscending}), big) << "to even, three times";
  EXPECT_EQ(sum({4, 0, SumOrder::Merge::kPairwise}), big + 2.0f);
  EXPECT_EQ(takes_order({2, 24}, 16)->reason,
            "order of K = 2 parts, step 24, takes a step that is a multiple of 16");
  EXPECT_TRUE(takes_order({0, 16}, 16));
  EXPECT_FALSE(takes_order({4, 32}, 16));
}

}  // namespace
}  // namespace fulgurite
