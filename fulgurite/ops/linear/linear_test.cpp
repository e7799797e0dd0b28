#include "fulgurite/ops/linear/linear.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "fulgurite/ops/linear/linear_audit.h"
#include "fulgurite/ops/linear/linear_cases.h"
#include "test/op_test.h"

namespace fulgurite::linear {
namespace {

using inputs::TensorBuffer;
using inputs::Values;

constexpr const Implementation* kCpuRows[] = {&kCpuFp8, &kCpuBf16, &kCpu};
constexpr const Implementation* kRows[] = {&kCpuFp8, &kCpuBf16, &kCpu, &kReference};
constexpr MatrixFormat kF32{MatrixForm::kF32, {}, ScaleFormat::kF32};
constexpr MatrixFormat kBF16{MatrixForm::kBF16, {}, ScaleFormat::kF32};
constexpr MatrixFormat kBlocks{MatrixForm::kE4M3Blocks, {128, 128}, ScaleFormat::kF32};

// The presets, and their knobs that concern a linear one by one.
std::vector<Setting> settings(Isa isa = cpu::best_isa()) {
  std::vector<Setting> all{test::fp32_setting(isa), test::serving_setting(isa)};
  all.push_back(all[1]);
  all.back().numerics.activation_quant = ActivationQuant::kNone;
  all.push_back(all[1]);
  all.back().numerics.activation_scale = ActivationScale::kFp32;
  all.push_back(all[1]);
  all.back().numerics.activation = Activation::kFp32;
  all.push_back(test::fp16_setting(isa));
  all.push_back(all.back());
  all.back().numerics.activation_quant = ActivationQuant::kNone;
  return all;
}

DType activation_of(const Setting& setting) { return activation_type(setting.numerics); }

TensorBuffer<2> make_x(Random& random, Values values, DType type, int64_t tokens, int64_t in) {
  return inputs::make_tensor(random, values, type, std::array{tokens, in});
}

Problem problem_of(const Setting& setting, const Case& shape, const MatrixFormat& format,
                   Output output = Output::kActivation) {
  return {setting, shape.in, shape.out, format, output, shape.tokens};
}

TensorBuffer<2> output_of(const Problem& problem, int64_t tokens) {
  const DType type = problem.output == Output::kF32 ? DType::kF32 : activation_of(problem.setting);
  return inputs::unwritten<2>(type, {tokens, problem.out});
}

std::vector<float> result(const Implementation& row, const Problem& problem, const ConstTensor<2>& x,
                          const PreparedMatrix& weight, int threads = 1) {
  const TensorBuffer<2> y = output_of(problem, x.extent[0]);
  test::run(row, problem, Args{x, &weight, y.view}, threads);
  return y.values();
}

std::string judged(const Implementation& row, const Problem& problem, const ConstTensor<2>& x,
                   const PreparedMatrix& weight) {
  const TensorBuffer<2> y = output_of(problem, x.extent[0]);
  const test::ExactBytes workspace(row.workspace_bytes(problem, 1));
  const audit::OpReport report = judge(row, problem, {x, &weight, y.view}, {1, nullptr, workspace.bytes()});
  return report.within() ? "" : describe(report);
}

// Every row that takes the problem; there is one wherever the definition covers it.
void expect_agreement(const Problem& problem, const ConstTensor<2>& x, const PreparedMatrix& weight) {
  if (kReference.supports(problem)) return;
  int rows = 0;
  for (const Implementation* const row : kCpuRows) {
    if (row->supports(problem)) continue;
    ++rows;
    EXPECT_EQ(judged(*row, problem, x, weight), "") << row->name;
  }
  EXPECT_GT(rows, 0);
}

void expect_agreement(const Setting& setting, const Case& shape, const MatrixFormat& format, Values values) {
  SCOPED_TRACE(fmt::format("{} [{}, {}] -> {}, {}, {}, {}, {}, seed 1", shape.what, shape.tokens, shape.in,
                           shape.out, describe(format), inputs::name(values), summary(setting.numerics),
                           name(setting.target.isa)));
  Random random(1);
  const TensorBuffer<2> x = make_x(random, values, activation_of(setting), shape.tokens, shape.in);
  const inputs::Weight weight = inputs::make_weight(random, shape.out, shape.in, format);
  for (const Output output : {Output::kActivation, Output::kF32})
    expect_agreement(problem_of(setting, shape, format, output), x.view, weight.matrix);
}

std::vector<MatrixFormat> formats() {
  std::vector<MatrixFormat> all = inputs::all_formats();
  for (const BlockShape& block : {BlockShape{5, 64}, BlockShape{128, 256}, BlockShape{7, 50}})
    all.push_back({MatrixForm::kE4M3Blocks, block, ScaleFormat::kF32});
  return all;
}

TEST(linear, agrees_with_the_reference_at_awkward_sizes_on_hard_values) {
  for (const Setting& setting : settings())
    for (const Case& shape : kAwkwardCases)
      for (const MatrixFormat& format : formats())
        for (const Values values : inputs::kAllValues) {
          const bool usual = values == Values::kOutliers && (format == kBF16 || format == kBlocks);
          if (shape.in * shape.out > 50000 && !usual) continue;  // time
          expect_agreement(setting, shape, format, values);
        }
}

TEST(linear, agrees_with_the_reference_on_every_instruction_set) {
  for (const Isa isa : test::machine_isas())
    for (const Setting& setting : settings(isa))
      for (const MatrixFormat& format : formats())
        for (const Values values : {Values::kOutliers, Values::kDenormal})
          expect_agreement(setting, {"", 7, 333, 67}, format, values);
}

TEST(linear, agrees_with_the_reference_at_real_sizes) {
  for (const Setting& setting : {test::fp32_setting(), test::serving_setting()})
    for (const Case& shape : kRealCases)
      for (const MatrixFormat& format : {kBF16, kBlocks})
        for (const Values values : {Values::kNormal, Values::kOutliers, Values::kConstant}) {
          if (setting.numerics == Numerics::fp32() && values != Values::kNormal) continue;  // time
          expect_agreement(setting, shape, format, values);
        }
}

TEST(linear, agrees_with_the_reference_where_tokens_fill_more_than_a_chunk) {
  for (const Setting& setting : settings())
    for (const MatrixFormat& format : {kBF16, kBlocks})
      expect_agreement(setting, {"", 261, 140, 18}, format, Values::kNormal);
}

// One token and a weight of one row, by hand.
float by_hand(const Implementation& row, const Setting& setting, std::vector<float> values,
              const PreparedMatrix& weight, Output output = Output::kF32) {
  const auto in = static_cast<int64_t>(values.size());
  const TensorBuffer<2> x = inputs::unwritten<2>(activation_of(setting), {1, in});
  for (int64_t i = 0; i < in; ++i) store(x.view, values[static_cast<size_t>(i)], 0, i);
  const Problem problem{setting, in, 1, format_of(weight), output, 1};
  return result(row, problem, x.view, weight)[0];
}

struct OneRow {
  std::vector<e4m3> codes;
  std::vector<float> scales;
  int64_t block;
  PreparedMatrix matrix() const {
    const auto in = static_cast<int64_t>(codes.size()), blocks = static_cast<int64_t>(scales.size());
    return {BlockScaled{{codes.data(), {1, in}}, {scales.data(), {1, blocks}}, {1, block}, ScaleFormat::kF32},
            1, in};
  }
};

constexpr e4m3 kOne{0x38}, kMinusOne{0xB8}, kTwo{0x40};

TEST(linear, of_fp32_is_the_product_of_the_exact_weights) {
  const OneRow row{{kOne, kMinusOne, kTwo}, {0.5f, 4.0f}, 2};
  EXPECT_EQ(by_hand(kReference, test::fp32_setting(), {3.0f, 5.0f, 7.0f}, row.matrix()),
            3 * 0.5f - 5 * 0.5f + 7 * 8.0f);
  EXPECT_EQ(by_hand(kCpu, test::fp32_setting(), {3.0f, 5.0f, 7.0f}, row.matrix()),
            3 * 0.5f - 5 * 0.5f + 7 * 8.0f);
}

// 3 / 448 rounded up to a power of two is 2^-7: the codes are 384 and e4m3(1.03125 * 128 = 132) = 128.
TEST(linear, of_fp8_quantizes_the_activations_and_promotes_the_sum_of_codes) {
  const OneRow row{{kOne, kTwo}, {0.5f}, 2};
  for (const Implementation* const implementation : {&kReference, &kCpuFp8})
    EXPECT_EQ(by_hand(*implementation, test::serving_setting(), {3.0f, 1.03125f}, row.matrix()),
              (384 + 2 * 128) * 0x1p-7f * 0.5f);
}

// With the scale as it is the codes are 448 and e4m3(1.03125 / 3 * 448 = 154) = 160.
TEST(linear, of_fp8_takes_the_scale_that_activation_scale_says) {
  const OneRow row{{kOne, kTwo}, {0.5f}, 2};
  Setting setting = test::serving_setting();
  setting.numerics.activation_scale = ActivationScale::kFp32;
  const float scale = 3.0f * static_cast<float>(1.0 / 448.0);
  for (const Implementation* const implementation : {&kReference, &kCpuFp8})
    EXPECT_EQ(by_hand(*implementation, setting, {3.0f, 1.03125f}, row.matrix()),
              (448.0f + 2 * 160.0f) * (scale * 0.5f));
  setting.numerics.scale_form = ScaleForm::kDivided;
  for (const Implementation* const implementation : {&kReference, &kCpuFp8})
    EXPECT_EQ(by_hand(*implementation, setting, {3.0f, 1.03125f}, row.matrix()),
              (448.0f + 2 * 160.0f) * (3.0f / 448.0f * 0.5f));
}

// 129 columns: the last is a group of its own, whose scale it fills: 1.03125 / 2^-8 = 264, a tie, is 256.
TEST(linear, of_fp8_gives_every_128_columns_a_scale_of_their_own) {
  OneRow row{std::vector<e4m3>(129, kOne), {1.0f, 1.0f}, 128};
  std::vector<float> x(129, 0.0f);
  x[0] = 3.0f;
  x[128] = 1.03125f;
  for (const Implementation* const implementation : {&kReference, &kCpuFp8})
    EXPECT_EQ(by_hand(*implementation, test::serving_setting(), x, row.matrix()), 3.0f + 256 * 0x1p-8f);
}

// The weights are 1 + 2^-9 and 1; bf16 has no 1 + 2^-9.
TEST(linear, of_bf16_operands_reads_scaled_codes_rounded_to_bf16_and_the_head_reads_exact_values) {
  const OneRow row{{kOne, kMinusOne}, {1.0f + 0x1p-9f, 1.0f}, 1};
  Setting setting = test::serving_setting();
  setting.numerics.activation_quant = ActivationQuant::kNone;
  const std::vector<float> x{1024.0f, 1024.0f};
  EXPECT_EQ(by_hand(kReference, setting, x, row.matrix(), Output::kActivation), 0.0f);
  EXPECT_EQ(by_hand(kReference, setting, x, row.matrix(), Output::kF32), 2.0f);
  EXPECT_EQ(by_hand(kCpu, setting, x, row.matrix(), Output::kF32), 2.0f);
  const float stored[] = {1.0f + 0x1p-9f, -1.0f};
  const PreparedMatrix f32{View<const float, 2>(stored, {1, 2}), 1, 2};
  EXPECT_EQ(by_hand(kReference, setting, x, f32, Output::kActivation), 0.0f);
  EXPECT_EQ(by_hand(kCpuBf16, setting, x, f32, Output::kActivation), 0.0f);
  EXPECT_EQ(by_hand(kCpu, setting, x, f32, Output::kF32), 2.0f);
}

TEST(linear, rounds_to_bf16_once_and_not_where_the_output_is_f32) {
  const float stored[] = {1.0f, 1.0f};
  const PreparedMatrix weight{View<const float, 2>(stored, {1, 2}), 1, 2};
  for (const Implementation* const row : {&kReference, &kCpuBf16}) {
    const float sum = by_hand(*row, test::serving_setting(), {256.0f, 1.5f}, weight, Output::kActivation);
    EXPECT_EQ(sum, 258.0f);  // 257.5; bf16 has 256 and 258
  }
  EXPECT_EQ(by_hand(kCpu, test::serving_setting(), {256.0f, 1.5f}, weight), 257.5f);
}

// 257.5 is an fp16, 4098.5 is none: they are 4 apart there. 65504 is the largest, 65520 rounds beyond it.
TEST(linear, rounds_to_fp16_once_and_overflows_to_infinity) {
  const float stored[] = {1.0f, 1.0f};
  const PreparedMatrix weight{View<const float, 2>(stored, {1, 2}), 1, 2};
  for (const Implementation* const row : {&kReference, &kCpu}) {
    const auto sum = [&](float a, float b) {
      return by_hand(*row, test::fp16_setting(), {a, b}, weight, Output::kActivation);
    };
    EXPECT_EQ(sum(256.0f, 1.5f), 257.5f);
    EXPECT_EQ(sum(4096.0f, 2.5f), 4100.0f);
    EXPECT_EQ(sum(65504.0f, 15.0f), 65504.0f);
    EXPECT_EQ(sum(65504.0f, 16.0f), std::numeric_limits<float>::infinity());
    EXPECT_EQ(sum(-65504.0f, -16.0f), -std::numeric_limits<float>::infinity());
  }
}

void expect_same_bits(const Setting& setting, const Case& shape) {
  Random random(2);
  const TensorBuffer<2> x = make_x(random, Values::kNormal, activation_of(setting), shape.tokens, shape.in);
  for (const MatrixFormat& format : {kBF16, kBlocks}) {
    const inputs::Weight weight = inputs::make_weight(random, shape.out, shape.in, format);
    for (const Implementation* const row : kCpuRows) {
      Problem problem = problem_of(setting, shape, format);
      if (row->supports(problem)) continue;
      const std::vector<float> whole = result(*row, problem, x.view, weight.matrix);
      for (const Isa isa : test::machine_isas()) {
        SCOPED_TRACE(fmt::format("{}, {}, {}", row->name, summary(setting.numerics), name(isa)));
        problem.setting.target.isa = isa;
        EXPECT_TRUE(test::identical(result(*row, problem, x.view, weight.matrix, 3), whole));
        for (const int64_t tokens : {1, 2, 5, 8, 9, 16, 17}) {
          const auto part = result(*row, problem, x.view.slice(0, 4, tokens), weight.matrix, 2);
          EXPECT_TRUE(test::identical(
              part, std::span(whole).subspan(static_cast<size_t>(4 * shape.out), part.size())));
        }
      }
    }
  }
}

TEST(linear, gives_the_same_bits_for_any_batch_threads_and_instruction_set) {
  for (const Setting& setting : settings()) {
    expect_same_bits(setting, {"", 21, 777, 135});
    expect_same_bits(setting, {"many tokens of few rows", 133, 260, 37});
  }
}

TEST(linear, treats_NaN_infinity_and_huge_values_as_the_reference_does_and_keeps_them_in_their_rows) {
  const Case shape{"", 4, 130, 35};
  for (const Setting& setting : settings()) {
    for (const MatrixFormat& format : {kBF16, kBlocks}) {
      Random random(3);
      const TensorBuffer<2> x =
          make_x(random, Values::kNormal, activation_of(setting), shape.tokens, shape.in);
      store(x.view, std::numeric_limits<float>::quiet_NaN(), 1, 129);
      store(x.view, -std::numeric_limits<float>::infinity(), 2, 0);
      store(x.view, 3e38f, 3, 7);
      const inputs::Weight weight = inputs::make_weight(random, shape.out, shape.in, format);
      const Problem problem = problem_of(setting, shape, format);
      expect_agreement(problem, x.view, weight.matrix);
      const std::vector<float> y = result(kReference, problem, x.view, weight.matrix);
      for (size_t n = 0; n < 35; ++n) {
        EXPECT_TRUE(std::isfinite(y[n]));
        EXPECT_TRUE(std::isnan(y[35 + n]));
        EXPECT_FALSE(std::isfinite(y[70 + n]));
      }
    }
  }
}

TEST(linear, a_NaN_code_of_the_weight_stays_in_its_output) {
  Random random(4);
  const inputs::Weight weight = inputs::make_weight(random, 20, 200, kBlocks);
  reinterpret_cast<e4m3*>(weight.data->data())[7 * 200 + 150] = {0xFF};
  for (const Setting& setting : settings()) {
    const TensorBuffer<2> x = make_x(random, Values::kNormal, activation_of(setting), 3, 200);
    const Problem problem = problem_of(setting, {"", 3, 200, 20}, kBlocks);
    expect_agreement(problem, x.view, weight.matrix);
    const std::vector<float> y = result(kReference, problem, x.view, weight.matrix);
    for (size_t i = 0; i < y.size(); ++i) EXPECT_EQ(std::isnan(y[i]), i % 20 == 7);
  }
}

TEST(linear, reads_and_writes_rows_of_any_stride) {
  for (const Setting& setting : settings()) {
    for (const MatrixFormat& format : {kBF16, kBlocks}) {
      Random random(5);
      const TensorBuffer<2> wide = make_x(random, Values::kNormal, activation_of(setting), 3, 200);
      const inputs::Weight weight = inputs::make_weight(random, 7, 99, format);
      const Problem problem = problem_of(setting, {"", 3, 99, 7}, format);
      const ConstTensor<2> x = wide.view.slice(1, 41, 99);
      for (const Implementation* const row : kRows) {
        if (row->supports(problem)) continue;
        const TensorBuffer<2> both = inputs::unwritten<2>(activation_of(setting), {3, 12});
        const std::vector<float> before = both.values();
        test::run(*row, problem, Args{x, &weight.matrix, both.view.slice(1, 3, 7)});
        const std::vector<float> expected = result(*row, problem, x, weight.matrix), after = both.values();
        for (size_t t = 0; t < 3; ++t) {
          EXPECT_TRUE(test::identical(std::span(after).subspan(t * 12 + 3, 7), {&expected[t * 7], 7}));
          EXPECT_EQ(after[t * 12 + 2], before[0]);
          EXPECT_EQ(after[t * 12 + 10], before[0]);
        }
      }
    }
  }
}

TEST(linear, names_the_tensor_of_a_wrong_shape) {
  Random random(6);
  const TensorBuffer<2> x = make_x(random, Values::kNormal, DType::kF32, 2, 9);
  const TensorBuffer<2> y = inputs::unwritten<2>(DType::kF32, {2, 4});
  const inputs::Weight weight = inputs::make_weight(random, 4, 8, kF32);
  const Problem problem{test::fp32_setting(), 8, 4, kF32, Output::kActivation, 2};
  const auto message = [&](const ConstTensor<2>& in, const Tensor<2>& out) {
    return test::message_of([&] { check(problem, {in, &weight.matrix, out}); });
  };
  EXPECT_EQ(message(x.view, y.view), "linear: x: expected shape [2, 8], found [2, 9]");
  EXPECT_EQ(message(x.view.slice(1, 0, 8), y.view.slice(0, 0, 1)),
            "linear: y: expected shape [2, 4], found [1, 4]");
}

TEST(linear, refuses_what_it_does_not_do) {
  const auto refusal = [](const Implementation& row, Setting setting, const MatrixFormat& format,
                          const auto& choose) {
    Problem problem{setting, 8, 4, format, Output::kActivation, 1};
    choose(problem, problem.setting.numerics);
    return test::refusal(row, problem);
  };
  const auto nothing = [](Problem&, Numerics&) {};
  const Setting serving = test::serving_setting(), fp32 = test::fp32_setting();
  for (const Implementation* const row : kCpuRows) {
    EXPECT_NE(refusal(*row, serving, kBlocks, [](Problem&, Numerics& n) { n.mma = Mma::kHopper; }), "");
  }
  const auto unresolved = [](Problem&, Numerics& n) { n.activation_scale = ActivationScale::kCheckpoint; };
  const auto unquantized = [](Problem&, Numerics& n) { n.activation_quant = ActivationQuant::kNone; };
  for (const Implementation* const row : {&kReference, &kCpuFp8}) {
    EXPECT_EQ(refusal(*row, serving, kBlocks, nothing), "");
    EXPECT_EQ(refusal(*row, serving, kBlocks, unresolved),
              "activation_scale = checkpoint, takes fp32 or pow2");
    EXPECT_NE(refusal(*row, serving, {MatrixForm::kE4M3Blocks, {32, 48}, {}}, nothing), "");
  }
  EXPECT_EQ(refusal(kReference, serving, {MatrixForm::kE4M3Blocks, {32, 1}, {}}, nothing), "");
  EXPECT_NE(refusal(kCpuFp8, serving, {MatrixForm::kE4M3Blocks, {32, 1}, {}}, nothing), "");
  EXPECT_EQ(refusal(kCpuFp8, serving, kBlocks, unquantized), "activation_quant = none, takes e4m3");
  EXPECT_EQ(refusal(kCpuFp8, serving, kBF16, nothing), "weight in bf16, takes e4m3 blocks or e2m1");
  for (const Implementation* const row : {&kCpuBf16, &kCpu})
    EXPECT_EQ(refusal(*row, serving, kBlocks, nothing), "activation_quant = e4m3, takes none");
  EXPECT_EQ(refusal(kCpuBf16, fp32, kBF16, nothing), "activation = fp32, takes bf16");
  const auto head = [](Problem& problem, Numerics&) { problem.output = Output::kF32; };
  EXPECT_EQ(refusal(kCpuBf16, serving, kF32, head), "weight in f32 read at its exact value, takes bf16");
  EXPECT_EQ(refusal(kCpuBf16, serving, kBF16, head), "");
  EXPECT_EQ(refusal(kCpu, serving, kF32, head), "");
  EXPECT_EQ(refusal(kCpu, serving, kF32, nothing), "");
  const Setting fp16 = test::fp16_setting();
  EXPECT_EQ(refusal(kCpuBf16, fp16, kBF16, nothing), "activation = fp16, takes bf16");
  EXPECT_EQ(refusal(kCpu, fp16, kBF16, nothing), "");
  EXPECT_EQ(refusal(kCpuFp8, fp16, kBlocks, nothing), "");
}

}  // namespace
}  // namespace fulgurite::linear
