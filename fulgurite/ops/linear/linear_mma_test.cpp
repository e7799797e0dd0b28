// mma = hopper: the reference's sums against the same sums taken apart here.

#include <gtest/gtest.h>

#include <cmath>

#include "fulgurite/core/quantize.h"
#include "fulgurite/ops/linear/linear.h"
#include "fulgurite/ops/linear/linear_cuda_bf16_order.h"
#include "fulgurite/ops/linear/linear_cuda_hopper_order.h"
#include "test/op_test.h"

namespace fulgurite::linear {
namespace {

using inputs::Values;

constexpr MatrixFormat kF32{MatrixForm::kF32, {}, ScaleFormat::kF32};
constexpr MatrixFormat kBF16{MatrixForm::kBF16, {}, ScaleFormat::kF32};
constexpr MatrixFormat kBlocks{MatrixForm::kE4M3Blocks, {128, 128}, ScaleFormat::kF32};
constexpr MatrixFormat kGroups{MatrixForm::kE4M3Blocks, {1, 32}, ScaleFormat::kF32};
constexpr int64_t kTokens = 3, kIn = 416, kOut = 5;  // a last group of 32 columns

// The logits' problem: nothing is rounded after the sum.
struct Sums {
  Problem problem;
  inputs::TensorBuffer<2> x;
  inputs::Weight weight;

  explicit Sums(const MatrixFormat& format, Mma mma = Mma::kHopper, SumOrder order = {}) {
    Random random(11);
    Setting setting = test::serving_setting();
    setting.numerics.mma = mma;
    problem = {setting, kIn, kOut, format, Output::kF32, kTokens, std::nullopt, order};
    x = inputs::make_tensor(random, Values::kOutliers, DType::kBF16, std::array{kTokens, kIn});
    weight = inputs::make_weight(random, kOut, kIn, format);
  }
  std::vector<float> result() const {
    const auto y = inputs::unwritten<2>(DType::kF32, {kTokens, kOut});
    test::run(kReference, problem, Args{x.view, &weight.matrix, y.view});
    return y.values();
  }
  std::vector<MmaFactor> weights(MmaType type, int64_t n, int64_t first, int64_t count) const {
    return mma_factors(type, count, [&](int64_t i) {
      return type == MmaType::kE4m3 ? code_of(weight.matrix.as, n, first + i)
                                    : static_cast<float>(exact_element(weight.matrix, n, first + i));
    });
  }
};

// One promotion after another, each partial from zero.
float promoted(const Sums& sums, int64_t t, int64_t n, int64_t columns, int64_t begin, int64_t end) {
  float acc = 0.0f;
  for (int64_t first = begin; first < end; first += columns) {
    const int64_t group = first / kActivationGroup * kActivationGroup;
    std::vector<float> values;
    for (int64_t i = group; i < std::min(kIn, group + kActivationGroup); ++i)
      values.push_back(load(sums.x.view, t, i));
    std::vector<e4m3> codes(values.size());
    const float scale = quantize_e4m3(values, ScaleRounding::kPow2, codes.data());
    const int64_t count = std::min(columns, kIn - first);
    const auto x = mma_factors(MmaType::kE4m3, count, [&](int64_t i) {
      return to_float(codes[static_cast<size_t>(first - group + i)]);
    });
    const float partial = mma_sum(MmaType::kE4m3, x, sums.weights(MmaType::kE4m3, n, first, count));
    acc = std::fma(partial, scale * scale_of(sums.weight.matrix.as, n, first), acc);
  }
  return acc;
}

template <class Value>
std::vector<float> all(const Value& value) {
  std::vector<float> values;
  for (int64_t t = 0; t < kTokens; ++t)
    for (int64_t n = 0; n < kOut; ++n) values.push_back(value(t, n));
  return values;
}

TEST(linear_mma, codes_are_summed_from_zero_in_each_group_and_promoted_by_fma) {
  const Sums blocks(kBlocks);
  EXPECT_TRUE(test::identical(
      blocks.result(), all([&](int64_t t, int64_t n) { return promoted(blocks, t, n, 128, 0, kIn); })));
  const Sums groups(kGroups);
  EXPECT_TRUE(test::identical(groups.result(),
                              all([&](int64_t t, int64_t n) { return promoted(groups, t, n, 32, 0, kIn); })));
}

TEST(linear_mma, bf16_is_one_accumulation) {
  const Sums sums(kBF16);
  EXPECT_TRUE(test::identical(sums.result(), all([&](int64_t t, int64_t n) {
                                const auto x = mma_factors(
                                    MmaType::kBf16, kIn, [&](int64_t i) { return load(sums.x.view, t, i); });
                                return mma_sum(MmaType::kBf16, x, sums.weights(MmaType::kBf16, n, 0, kIn));
                              })));
}

TEST(linear_mma, a_kernel_that_splits_k_is_repeated) {
  const Sums split(kBlocks, Mma::kHopper, {2, 0});  // groups 0 and 1, then 2 and 3
  EXPECT_TRUE(test::identical(split.result(), all([&](int64_t t, int64_t n) {
                                return promoted(split, t, n, 128, 0, 256) +
                                       promoted(split, t, n, 128, 256, kIn);
                              })));
  EXPECT_FALSE(test::identical(split.result(), Sums(kBlocks).result()));
  EXPECT_FALSE(test::identical(Sums(kBF16, Mma::kHopper, {4, 16}).result(), Sums(kBF16).result()));
}

TEST(linear_mma, hopper_kernels_deal_k_to_parts_that_are_not_empty) {
  EXPECT_EQ(hopper::parts_of(7168, 2112), 4);
  EXPECT_EQ(hopper::parts_of(7168, 4096), 2);
  EXPECT_EQ(hopper::parts_of(1536, 8192), 1);
  EXPECT_EQ(hopper::parts_of(16384, 7168), 1);
  for (int64_t out = 64; out <= 8192; out += 64) {
    for (int64_t in = 128; in <= 7168; in += 128) {
      const SumOrder order = hopper::order_of(in, out);
      EXPECT_EQ(order.part_of(in - 128, in, 128), order.parts - 1) << in << " columns, " << out << " rows";
    }
  }
}

TEST(linear_mma, hopper_kernels_of_bf16_deal_whole_boxes_to_parts_that_are_not_empty) {
  EXPECT_EQ(hopper::bf16_order_of(4096, 64), (SumOrder{8, 512}));
  EXPECT_EQ(hopper::bf16_order_of(136, 72), (SumOrder{2, 128}));
  EXPECT_EQ(hopper::bf16_order_of(7168, 129280), SumOrder{});
  for (int64_t out = 8; out <= 8192; out += 56) {
    for (int64_t in = 8; in <= 7168; in += 56) {
      const SumOrder order = hopper::bf16_order_of(in, out);
      EXPECT_EQ(order.part_of(in - 1, in, 16), order.parts - 1) << in << " columns, " << out << " rows";
    }
  }
}

// Truncated to 14 bits a group of 32 (fp8), to fp32 a group of 16 (bf16).
TEST(linear_mma, is_near_the_exact_sum_and_is_not_it) {
  const auto apart = [](const MatrixFormat& format) {
    const std::vector<float> hopper = Sums(format).result(), exact = Sums(format, Mma::kExact).result();
    double difference = 0.0, norm = 0.0;
    for (size_t i = 0; i < exact.size(); ++i) {
      difference += std::pow(static_cast<double>(hopper[i]) - exact[i], 2);
      norm += std::pow(static_cast<double>(exact[i]), 2);
    }
    return std::sqrt(difference / norm);
  };
  EXPECT_GT(apart(kBlocks), 1e-6);
  EXPECT_LT(apart(kBlocks), 1e-3);
  EXPECT_GT(apart(kBF16), 0.0);
  EXPECT_LT(apart(kBF16), 1e-5);
  EXPECT_EQ(apart(kF32), 0.0) << "no tensor core's products";
}

TEST(linear_mma, takes_what_tensor_cores_multiply) {
  const auto refusal = [](const MatrixFormat& format, const auto& change) {
    Problem problem = Sums(format).problem;
    change(problem, problem.setting.numerics);
    return test::refusal(kReference, problem);
  };
  const auto nothing = [](Problem&, Numerics&) {};
  const auto fp32 = [](Problem&, Numerics& n) { n.activation = Activation::kFp32; };
  for (const MatrixFormat& format : {kF32, kBF16, kBlocks, kGroups}) EXPECT_EQ(refusal(format, nothing), "");
  EXPECT_EQ(refusal(kBlocks, fp32), "") << "of codes";
  EXPECT_EQ(refusal(kBF16, fp32), "mma = hopper with activation = fp32, takes bf16");
  EXPECT_EQ(refusal(kBlocks, [](Problem&, Numerics& n) { n.activation_quant = ActivationQuant::kNone; }),
            "mma = hopper with weight in e4m3 128x128, scales f32 read at its exact value");
  EXPECT_EQ(refusal(kBlocks,
                    [](Problem& p, Numerics&) {
                      p.order = {2, 64};
                    }),
            "order of K = 2 parts, step 64, takes a step that is a multiple of 128");
  EXPECT_EQ(refusal(kBlocks,
                    [](Problem& p, Numerics& n) {
                      p.order = {2, 128};
                      n.mma = Mma::kExact;
                    }),
            "an order of K, takes mma = hopper");
}

}  // namespace
}  // namespace fulgurite::linear
