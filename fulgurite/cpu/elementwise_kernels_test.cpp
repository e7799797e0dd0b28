// The kernels of the norms, of the indexer and of the choice, against plain loops: every build, counts on both
// sides of every register width, and nothing beyond the last element.

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "fulgurite/cpu/kernels.h"
#include "test/op_test.h"

namespace fulgurite::cpu {
namespace {

constexpr int64_t kCounts[] = {0, 1, 3, 7, 8, 15, 16, 17, 31, 33, 64, 129};
constexpr float kInfinity = std::numeric_limits<float>::infinity(), kUntouched = -7.25f;

// Normal values with outliers, denormals and zeros among them; the last one is not the kernel's.
std::vector<float> hard_values(uint64_t seed, int64_t count) {
  Random random(seed);
  std::vector<float> values = inputs::make(random, inputs::Values::kOutliers, count).elements;
  const std::vector<float> tiny = inputs::make(random, inputs::Values::kDenormal, count).elements;
  for (size_t i = 0; i < values.size(); i += 5) values[i] = tiny[i];
  values.push_back(kUntouched);
  return values;
}

// Calls body(kernels, count) for every build and count.
template <class Body>
void for_every_build(const Body& body) {
  for (const Isa isa : test::machine_isas()) {
    for (const int64_t count : kCounts) {
      SCOPED_TRACE(fmt::format("{}, count {}", name(isa), count));
      body(kernels(isa), count);
    }
  }
}

// Every code is widened and comes back; every tie between two and what lies beside it is narrowed, as in core.
TEST(elementwise_kernels, fp16_is_widened_and_narrowed_as_core_does) {
  std::vector<uint16_t> codes;
  std::vector<float> values;
  for (uint32_t code = 0; code < 65536; ++code) {
    codes.push_back(static_cast<uint16_t>(code));
    const float value = to_float(fp16{codes.back()}), next = to_float(fp16{static_cast<uint16_t>(code + 1)});
    const float tie = value / 2 + next / 2;
    for (const float one : {value, tie, std::nextafter(tie, 0.0f), std::nextafter(tie, 1e30f)})
      values.push_back(one);
  }
  for (const float hard : {65520.0f, 3e38f, kInfinity, 1e-40f, 0x1p-25f})
    values.insert(values.end(), {hard, -hard});
  for (const Isa isa : test::machine_isas()) {
    std::vector<float> wide(codes.size());
    std::vector<uint16_t> narrow(values.size());
    kernels(isa).decode_fp16(codes.data(), 65536, wide.data());
    kernels(isa).narrow_fp16(values.data(), static_cast<int64_t>(values.size()), narrow.data());
    for (size_t i = 0; i < codes.size(); ++i) {
      const float expected = to_float(fp16{codes[i]});
      ASSERT_EQ(std::memcmp(&wide[i], &expected, sizeof expected), 0) << name(isa) << ", " << codes[i];
    }
    for (size_t i = 0; i < values.size(); ++i)
      ASSERT_EQ(narrow[i], to_fp16(values[i]).bits) << name(isa) << ", " << values[i];
  }
}

TEST(elementwise_kernels, fp16_of_any_count_leaves_what_lies_beyond) {
  for_every_build([](const Kernels& kernels, int64_t count) {
    const std::vector<float> x = hard_values(4, count);
    std::vector<uint16_t> narrow(x.size(), 0x5A5A), expected = narrow;
    std::vector<float> wide(x.size(), kUntouched), rounded = wide;
    for (size_t i = 0; i + 1 < x.size(); ++i) {
      expected[i] = to_fp16(x[i]).bits;
      rounded[i] = round_to_fp16(x[i]);
    }
    kernels.narrow_fp16(x.data(), count, narrow.data());
    kernels.decode_fp16(narrow.data(), count, wide.data());
    EXPECT_EQ(narrow, expected);
    EXPECT_TRUE(test::identical(wide, rounded));
  });
}

TEST(elementwise_kernels, add_adds_and_may_write_to_either_of_its_inputs) {
  for_every_build([](const Kernels& kernels, int64_t count) {
    const std::vector<float> a = hard_values(1, count), b = hard_values(2, count);
    std::vector<float> expected(a.size(), kUntouched), out = expected, left = a, right = b;
    for (size_t i = 0; i + 1 < a.size(); ++i) expected[i] = a[i] + b[i];
    kernels.add(a.data(), b.data(), count, out.data());
    kernels.add(left.data(), b.data(), count, left.data());
    kernels.add(a.data(), right.data(), count, right.data());
    for (const auto& sum : {out, left, right}) EXPECT_TRUE(test::identical(sum, expected));
  });
}

TEST(elementwise_kernels, sum_squares_is_sixteen_lanes_of_double_added_in_order) {
  for_every_build([](const Kernels& kernels, int64_t count) {
    const std::vector<float> x = hard_values(3, count);
    double lanes[16] = {}, sum = 0.0;
    for (size_t i = 0; i + 1 < x.size(); ++i)
      lanes[i % 16] += static_cast<double>(x[i]) * static_cast<double>(x[i]);
    for (const double lane : lanes) sum += lane;
    EXPECT_EQ(kernels.sum_squares(x.data(), count), sum);
  });
}

TEST(elementwise_kernels, scale_rounds_the_product_with_the_factor_first) {
  for_every_build([](const Kernels& kernels, int64_t count) {
    const std::vector<float> x = hard_values(4, count), weight = hard_values(5, count);
    std::vector<float> expected(x.size(), kUntouched), out = expected, own = x;
    for (size_t i = 0; i + 1 < x.size(); ++i) expected[i] = weight[i] * (x[i] * 0.37f);
    kernels.scale(x.data(), 0.37f, weight.data(), count, out.data());
    kernels.scale(own.data(), 0.37f, weight.data(), count, own.data());
    EXPECT_TRUE(test::identical(out, expected));
    EXPECT_TRUE(test::identical(own, expected));
  });
}

TEST(elementwise_kernels, round_bf16_is_the_nearest_even_and_keeps_NaN_and_infinity) {
  const float special[] = {1.0f + 0x1p-8f, 1.0f + 0x3p-8f, -0.0f, kInfinity, -kInfinity, 3.4e38f, 0x1p-140f};
  for_every_build([&](const Kernels& kernels, int64_t count) {
    std::vector<float> values = hard_values(6, count), expected = values;
    for (size_t i = 0; i + 1 < values.size() && i < std::size(special); ++i) values[i] = special[i];
    for (size_t i = 0; i + 1 < values.size(); ++i) expected[i] = round_to_bf16(values[i]);
    kernels.round_bf16(values.data(), count);
    EXPECT_TRUE(test::identical(values, expected));
    std::vector<float> bad(static_cast<size_t>(count), std::nanf(""));
    kernels.round_bf16(bad.data(), count);
    for (const float value : bad) EXPECT_TRUE(std::isnan(value));
  });
}

TEST(elementwise_kernels, rotate_is_two_products_and_one_add_on_pairs_of_either_layout) {
  for_every_build([](const Kernels& kernels, int64_t pairs) {
    const std::vector<float> cosine = hard_values(7, pairs), sine = hard_values(8, pairs);
    const std::vector<float> x = hard_values(9, 2 * pairs);
    for (const bool interleaved : {true, false}) {
      std::vector<float> expected = x, rotated = x;
      for (int64_t i = 0; i < pairs; ++i) {
        const auto a = static_cast<size_t>(interleaved ? 2 * i : i);
        const auto b = static_cast<size_t>(interleaved ? 2 * i + 1 : i + pairs), at = static_cast<size_t>(i);
        expected[a] = x[a] * cosine[at] - x[b] * sine[at];
        expected[b] = x[a] * sine[at] + x[b] * cosine[at];
      }
      kernels.rotate(cosine.data(), sine.data(), pairs, interleaved, rotated.data());
      EXPECT_TRUE(test::identical(rotated, expected)) << (interleaved ? "interleaved" : "half-split");
    }
  });
}

TEST(elementwise_kernels, hadamard_is_butterflies_of_rising_stride_each_add_rounded) {
  for (const Isa isa : test::machine_isas()) {
    for (int64_t count = 1; count <= 256; count *= 2) {
      std::vector<float> x = hard_values(10, count), expected = x;
      for (int64_t stride = 1; stride < count; stride *= 2) {
        for (int64_t i = 0; i < count; ++i) {
          if ((i & stride) != 0) continue;
          float &left = expected[static_cast<size_t>(i)], &right = expected[static_cast<size_t>(i + stride)];
          const float sum = left + right, difference = left - right;
          left = sum, right = difference;
        }
      }
      for (int64_t i = 0; i < count; ++i) expected[static_cast<size_t>(i)] *= 0.088388348f;
      kernels(isa).hadamard(x.data(), count, 0.088388348f);
      EXPECT_TRUE(test::identical(x, expected)) << name(isa) << " count " << count;
    }
  }
}

struct Admitted {
  std::vector<uint32_t> codes;
  std::vector<int32_t> positions;
};

Admitted admitted(const Kernels& kernels, const std::vector<float>& scores, int32_t first, uint32_t least) {
  Admitted all{std::vector<uint32_t>(scores.size()), std::vector<int32_t>(scores.size())};
  const auto count = static_cast<size_t>(kernels.admit(scores.data(), static_cast<int64_t>(scores.size()),
                                                       first, least, all.codes.data(), all.positions.data()));
  all.codes.resize(count);
  all.positions.resize(count);
  return all;
}

// NaN lowest, then -infinity; -0 equals +0.
bool ranks_below(float a, float b) { return a < b || (std::isnan(a) && !std::isnan(b)); }

TEST(elementwise_kernels, codes_of_scores_rank_as_the_scores_do) {
  std::vector<float> scores = hard_values(11, 49);
  const float special[] = {0.0f,          -0.0f,          kInfinity, -kInfinity,
                           std::nanf(""), -std::nanf(""), -1e-45f,   1e-45f};
  scores.insert(scores.begin() + 13, std::begin(special), std::end(special));
  for (const Isa isa : test::machine_isas()) {
    const std::vector<uint32_t> codes = admitted(kernels(isa), scores, 0, 0).codes;
    ASSERT_EQ(codes.size(), scores.size());
    for (size_t i = 0; i < scores.size(); ++i) {
      EXPECT_EQ(codes[i] == 0, std::isnan(scores[i])) << name(isa);
      for (size_t j = 0; j < scores.size(); ++j)
        EXPECT_EQ(codes[i] < codes[j], ranks_below(scores[i], scores[j])) << scores[i] << ", " << scores[j];
    }
  }
}

TEST(elementwise_kernels, admit_writes_those_of_at_least_a_code_in_order_with_their_positions) {
  for_every_build([](const Kernels& kernels, int64_t count) {
    std::vector<float> scores = hard_values(12, count);
    scores.pop_back();
    const Admitted all = admitted(kernels, scores, 1000, 0);
    ASSERT_EQ(all.codes.size(), scores.size());
    for (const float bound : {-kInfinity, 0.0f, 1.5f, kInfinity}) {
      const uint32_t least = admitted(kernels, {bound}, 0, 0).codes[0];
      Admitted expected;
      for (size_t i = 0; i < scores.size(); ++i) {
        if (ranks_below(scores[i], bound)) continue;
        expected.codes.push_back(all.codes[i]);
        expected.positions.push_back(1000 + static_cast<int32_t>(i));
      }
      const Admitted some = admitted(kernels, scores, 1000, least);
      EXPECT_EQ(some.codes, expected.codes);
      EXPECT_EQ(some.positions, expected.positions);
    }
  });
}

TEST(elementwise_kernels, count_at_least_counts_unsigned_values) {
  for_every_build([](const Kernels& kernels, int64_t count) {
    Random random(13);
    std::vector<uint32_t> values;
    for (int64_t i = 0; i < count; ++i)
      values.push_back(static_cast<uint32_t>(random.below(4)) * 0x55555555u);  // 0 ... the largest
    values.push_back(~0u);                                                     // not the kernel's
    for (const uint32_t least : {0u, 1u, 0x55555555u, 0x80000000u, ~0u}) {
      int64_t expected = 0;
      for (int64_t i = 0; i < count; ++i) expected += values[static_cast<size_t>(i)] >= least ? 1 : 0;
      EXPECT_EQ(kernels.count_at_least(values.data(), count, least), expected) << least;
    }
  });
}

}  // namespace
}  // namespace fulgurite::cpu
