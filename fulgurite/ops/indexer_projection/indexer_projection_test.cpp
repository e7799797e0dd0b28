#include "fulgurite/ops/indexer_projection/indexer_projection.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "fulgurite/ops/indexer_projection/indexer_projection_audit.h"
#include "fulgurite/ops/indexer_projection/indexer_projection_cases.h"
#include "test/op_test.h"

namespace fulgurite::indexer_projection {
namespace {

using inputs::TensorBuffer;
using inputs::Values;

constexpr const Implementation* kCpuRows[] = {&kCpuFp8, &kCpuBf16, &kCpu};
constexpr const Implementation* kRows[] = {&kCpuFp8, &kCpuBf16, &kCpu, &kReference};
constexpr MatrixFormat kF32{MatrixForm::kF32, {}, ScaleFormat::kF32};
constexpr MatrixFormat kBF16{MatrixForm::kBF16, {}, ScaleFormat::kF32};
constexpr MatrixFormat kBlocks{MatrixForm::kE4M3Blocks, {128, 128}, ScaleFormat::kF32};

// Both presets with every value of the knobs that the operation reads.
std::vector<Setting> settings(Isa isa = cpu::best_isa()) {
  std::vector<Setting> all;
  for (const Setting& preset : {test::fp32_setting(isa), test::serving_setting(isa), test::fp16_setting(isa)})
    for (const IndexerWk wk : {IndexerWk::kFp32, IndexerWk::kBf16, IndexerWk::kFp8})
      for (const GateWeight weight : {GateWeight::kStored, GateWeight::kFp8})
        for (const Gate gate : {Gate::kFp32, Gate::kBf16}) {
          all.push_back(preset);
          Numerics& n = all.back().numerics;
          n.activation_scale = ActivationScale::kPow2;
          n.indexer_wk = wk;
          n.gate_weight = weight;
          n.gate = gate;
        }
  return all;
}

DType activation_of(const Setting& setting) { return activation_type(setting.numerics); }

struct Batch {
  TensorBuffer<2> x;
  inputs::Weight wk, gate_weight;
};

Batch make_batch(const Setting& setting, const Case& shape, const MatrixFormat& wk,
                 Values values = Values::kNormal, MatrixForm stored_gate = MatrixForm::kBF16) {
  Random random(1);
  const bool fp8_gate = setting.numerics.gate_weight == GateWeight::kFp8, f32_gate = wk == kF32;
  const MatrixFormat gate_weight =
      fp8_gate ? kBlocks : MatrixFormat{f32_gate ? MatrixForm::kF32 : stored_gate, {}, ScaleFormat::kF32};
  return {inputs::make_tensor(random, values, activation_of(setting), std::array{shape.tokens, shape.hidden}),
          inputs::make_weight(random, shape.head_dim, shape.hidden, wk),
          inputs::make_weight(random, shape.heads, shape.hidden, gate_weight)};
}

Problem problem_of(const Setting& setting, const Batch& batch) {
  return {setting,
          batch.wk.matrix.in,
          batch.wk.matrix.out,
          batch.gate_weight.matrix.out,
          format_of(batch.wk.matrix),
          format_of(batch.gate_weight.matrix),
          std::max<int64_t>(1, batch.x.view.extent[0])};
}

struct Result {
  std::vector<float> k, gate;
};

Result result(const Implementation& row, const Problem& problem, const Batch& batch, const ConstTensor<2>& x,
              int threads = 1) {
  const auto k = inputs::unwritten<2>(x.dtype, {x.extent[0], problem.head_dim});
  const auto gate = inputs::unwritten<2>(DType::kF32, {x.extent[0], problem.heads});
  test::run(row, problem, Args{x, &batch.wk.matrix, &batch.gate_weight.matrix, k.view, gate.view.as<float>()},
            threads);
  return {k.values(), gate.values()};
}

void expect_agreement(const Problem& problem, const Batch& batch) {
  if (kReference.supports(problem)) return;
  const ConstTensor<2> x = batch.x.view;
  for (const Implementation* const row : kCpuRows) {
    if (row->supports(problem)) continue;
    const auto k = inputs::unwritten<2>(x.dtype, {x.extent[0], problem.head_dim});
    const auto gate = inputs::unwritten<2>(DType::kF32, {x.extent[0], problem.heads});
    const test::ExactBytes workspace(row->workspace_bytes(problem, 1));
    const audit::OpReport report =
        judge(*row, problem, {x, &batch.wk.matrix, &batch.gate_weight.matrix, k.view, gate.view.as<float>()},
              {1, nullptr, workspace.bytes()});
    EXPECT_TRUE(report.within()) << row->name << "\n" << describe(report);
  }
}

void expect_agreement(const Setting& setting, const Case& shape, const MatrixFormat& wk, Values values) {
  SCOPED_TRACE(fmt::format("{}, wk {}, {}, {}, {}, seed 1", shape.what, describe(wk), inputs::name(values),
                           summary(setting.numerics), name(setting.target.isa)));
  const Batch batch = make_batch(setting, shape, wk, values);
  expect_agreement(problem_of(setting, batch), batch);
}

TEST(indexer_projection, agrees_with_the_reference_on_hard_values) {
  for (const Setting& setting : settings())
    for (const Case& shape : kCases)
      for (const MatrixFormat& wk : inputs::all_formats())
        for (const Values values : inputs::kAllValues) {
          if (shape.hidden > 300 && values != Values::kOutliers) continue;  // time
          if (shape.hidden > 1000) continue;
          expect_agreement(setting, shape, wk, values);
        }
}

TEST(indexer_projection, agrees_with_the_reference_at_real_sizes) {
  Setting fp8 = test::serving_setting();
  fp8.numerics.indexer_wk = IndexerWk::kFp8;
  fp8.numerics.gate_weight = GateWeight::kFp8;
  for (const Setting& setting : {test::fp32_setting(), test::serving_setting(), fp8})
    for (const Values values : {Values::kNormal, Values::kOutliers, Values::kConstant})
      expect_agreement(setting, kCases.back(), kBlocks, values);
}

TEST(indexer_projection, agrees_with_the_reference_on_every_instruction_set) {
  for (const Isa isa : test::machine_isas())
    for (const Setting& setting : settings(isa))
      for (const Values values : {Values::kOutliers, Values::kDenormal})
        expect_agreement(setting, {"", 5, 300, 35, 19}, kBlocks, values);
}

TEST(indexer_projection, has_a_row_for_every_use_of_a_checkpoint_s_weights) {
  for (const Setting& setting : settings()) {
    for (const MatrixForm gate : {MatrixForm::kF32, MatrixForm::kBF16}) {
      const Batch batch = make_batch(setting, {"", 1, 128, 16, 16}, kBlocks, Values::kNormal, gate);
      const Problem problem = problem_of(setting, batch);
      int rows = 0;
      for (const Implementation* const row : kCpuRows) rows += !row->supports(problem);
      EXPECT_GT(rows, 0) << summary(setting.numerics);
    }
  }
}

// One token of two columns; wk and the gate's weight have a row each.
struct ByHand {
  Setting setting = test::serving_setting();
  e4m3 ones[2] = {{0x38}, {0x38}};
  float scale = 1.0f;
  bf16 bf16_ones[2] = {to_bf16(1.0f), to_bf16(1.0f)};
  std::vector<float> f32_gate;  // the gate's weight, where it is stored so
  bool gate_in_codes = false;

  Result operator()(const Implementation& row, std::vector<float> values) {
    Batch batch;
    batch.x = inputs::unwritten<2>(activation_of(setting), {1, 2});
    for (int64_t i = 0; i < 2; ++i) store(batch.x.view, values[static_cast<size_t>(i)], 0, i);
    const BlockScaled blocks{{ones, {1, 2}}, {&scale, {1, 1}}, {128, 128}, ScaleFormat::kF32};
    batch.wk.matrix = {blocks, 1, 2};
    batch.gate_weight.matrix = {View<const bf16, 2>(bf16_ones, {1, 2}), 1, 2};
    if (!f32_gate.empty()) batch.gate_weight.matrix.as = View<const float, 2>(f32_gate.data(), {1, 2});
    if (gate_in_codes || setting.numerics.gate_weight == GateWeight::kFp8)
      batch.gate_weight.matrix = batch.wk.matrix;
    return result(row, problem_of(setting, batch), batch, batch.x.view);
  }
};

// As an operand of an fp8 linear this x is 3 and 1: the codes of its group count steps of 2^-7, and 132
// becomes 128.
const std::vector<float> kX{3.0f, 1.03125f};

TEST(indexer_projection, the_gate_reads_the_norm_s_output_and_never_a_dequantized_copy_of_it) {
  ByHand example;  // activation_quant = e4m3 is in force
  ASSERT_EQ(example.setting.numerics.activation_quant, ActivationQuant::kE4m3);
  for (const Implementation* const row : {&kReference, &kCpuBf16}) {
    EXPECT_EQ(example(*row, kX).gate[0], 4.03125f);
    EXPECT_EQ(example(*row, kX).k[0], 4.03125f);
  }
  example.setting.numerics.indexer_wk = IndexerWk::kFp8;  // k reads codes; the gate does not
  for (const Implementation* const row : {&kReference, &kCpuFp8}) {
    EXPECT_EQ(example(*row, kX).k[0], 4.0f);
    EXPECT_EQ(example(*row, kX).gate[0], 4.03125f);
  }
}

TEST(indexer_projection, gate_weight_of_fp8_makes_the_gate_an_fp8_linear_and_leaves_k) {
  ByHand example;
  example.setting.numerics.gate_weight = GateWeight::kFp8;
  for (const Implementation* const row : {&kReference, &kCpuFp8}) {
    EXPECT_EQ(example(*row, kX).gate[0], 4.0f);
    EXPECT_EQ(example(*row, kX).k[0], 4.03125f);
  }
}

// The gate's weight is 1 + 2^-9, of which bf16 makes 1. Its codes say nothing of how x is read.
TEST(indexer_projection, a_gate_stored_in_codes_is_read_as_bf16_of_code_times_scale) {
  ByHand example;
  example.gate_in_codes = true;
  for (const auto& [scale, read] : {std::pair{1.0f + 0x1p-9f, 1.0f}, std::pair{1.5f, 1.5f}}) {
    example.scale = scale;
    for (const Implementation* const row : {&kReference, &kCpuBf16})
      EXPECT_EQ(example(*row, kX).gate[0], 4.03125f * read) << scale;
  }
}

TEST(indexer_projection, k_is_rounded_to_bf16_and_the_gate_only_where_its_knob_says_so) {
  ByHand example;  // 256 + 1.5: bf16 has 256 and 258
  for (const Implementation* const row : {&kReference, &kCpuBf16}) {
    example.setting.numerics.gate = Gate::kFp32;
    EXPECT_EQ(example(*row, {256.0f, 1.5f}).k[0], 258.0f);
    EXPECT_EQ(example(*row, {256.0f, 1.5f}).gate[0], 257.5f);
    example.setting.numerics.gate = Gate::kBf16;
    EXPECT_EQ(example(*row, {256.0f, 1.5f}).gate[0], 258.0f);
  }
}

// wk is 1 + 2^-9, of which bf16 makes 1; k is 385.25 or 384.5, and bf16 has 384 and 386.
TEST(indexer_projection, indexer_wk_says_whether_wk_is_rounded_to_bf16) {
  ByHand example;
  example.scale = 1.0f + 0x1p-9f;
  for (const Implementation* const row : {&kReference, &kCpuBf16})
    EXPECT_EQ(example(*row, {384.0f, 0.5f}).k[0], 384.0f);
  example.setting.numerics.indexer_wk = IndexerWk::kFp32;
  for (const Implementation* const row : {&kReference, &kCpu})
    EXPECT_EQ(example(*row, {384.0f, 0.5f}).k[0], 386.0f);
}

// Halfway between two bf16, whose even ones are 1 and 1 + 2^-6; the gate itself is not rounded.
TEST(indexer_projection, an_f32_weight_of_the_gate_is_rounded_to_bf16_unless_activations_are_fp32) {
  ByHand example;
  example.f32_gate = {1.0f + 0x1p-8f, 1.0f + 0x3p-8f};
  const float exact = 256 + 1 + 0.5f + 0x3p-9f, rounded = 256 + 0.5f + 0x1p-7f;
  for (const Implementation* const row : {&kReference, &kCpuBf16})
    EXPECT_EQ(example(*row, {256.0f, 0.5f}).gate[0], rounded);
  example.setting.numerics.indexer_wk = IndexerWk::kFp8;
  for (const Implementation* const row : {&kReference, &kCpuFp8})
    EXPECT_EQ(example(*row, {256.0f, 0.5f}).gate[0], rounded);
  example.setting = test::fp32_setting();
  for (const Implementation* const row : {&kReference, &kCpu})
    EXPECT_EQ(example(*row, {256.0f, 0.5f}).gate[0], exact);
}

TEST(indexer_projection, gives_the_same_bits_for_any_batch_threads_and_instruction_set) {
  const Case shape{"", 9, 777, 135, 41};
  for (const Setting& setting : settings()) {
    const Batch batch = make_batch(setting, shape, kBlocks);
    Problem problem = problem_of(setting, batch);
    for (const Implementation* const row : kCpuRows) {
      if (row->supports(problem)) continue;
      const Result whole = result(*row, problem, batch, batch.x.view);
      for (const Isa isa : test::machine_isas()) {
        SCOPED_TRACE(fmt::format("{}, {}, {}", row->name, summary(setting.numerics), name(isa)));
        problem.setting.target.isa = isa;
        const Result split = result(*row, problem, batch, batch.x.view, 3);
        EXPECT_TRUE(test::identical(split.k, whole.k));
        EXPECT_TRUE(test::identical(split.gate, whole.gate));
        const Result one = result(*row, problem, batch, batch.x.view.slice(0, 4, 1), 2);
        EXPECT_TRUE(test::identical(one.k, std::span(whole.k).subspan(4 * 135, 135)));
        EXPECT_TRUE(test::identical(one.gate, std::span(whole.gate).subspan(4 * 41, 41)));
      }
    }
  }
}

TEST(indexer_projection, a_NaN_or_infinity_stays_in_its_row) {
  for (const Setting& setting : settings()) {
    const Batch batch = make_batch(setting, {"", 4, 40, 5, 3}, kBlocks);
    store(batch.x.view, std::numeric_limits<float>::quiet_NaN(), 1, 39);
    store(batch.x.view, std::numeric_limits<float>::infinity(), 2, 0);
    store(batch.x.view, 3e38f, 3, 0);
    const Problem problem = problem_of(setting, batch);
    expect_agreement(problem, batch);
    const Result made = result(kReference, problem, batch, batch.x.view);
    for (size_t i = 0; i < 15; ++i) EXPECT_EQ(std::isfinite(made.k[i]), i < 5);
    for (size_t i = 0; i < 9; ++i) EXPECT_EQ(std::isfinite(made.gate[i]), i < 3);
  }
}

TEST(indexer_projection, reads_and_writes_rows_of_any_stride_and_no_tokens) {
  for (const Setting& setting : settings()) {
    const Batch batch = make_batch(setting, {"", 3, 150, 7, 5}, kBlocks);
    Batch narrow = make_batch(setting, {"", 3, 99, 7, 5}, kBlocks);
    const ConstTensor<2> x = batch.x.view.slice(1, 21, 99);
    const Problem problem = problem_of(setting, narrow);
    for (const Implementation* const row : kRows) {
      if (row->supports(problem)) continue;
      narrow.x = inputs::unwritten<2>(x.dtype, {3, 99});
      for (int64_t t = 0; t < 3; ++t)
        for (int64_t i = 0; i < 99; ++i) store(narrow.x.view, load(x, t, i), t, i);
      const Result expected = result(*row, problem, narrow, narrow.x.view);
      const auto k = inputs::unwritten<2>(x.dtype, {3, 9}), gate = inputs::unwritten<2>(DType::kF32, {3, 8});
      const float k_before = k.values()[0], gate_before = gate.values()[0];
      const Args args{x, &narrow.wk.matrix, &narrow.gate_weight.matrix, k.view.slice(1, 1, 7),
                      gate.view.as<float>().slice(1, 2, 5)};
      test::run(*row, problem, args, 2);
      const std::vector<float> k_after = k.values(), gate_after = gate.values();
      for (size_t t = 0; t < 3; ++t) {
        EXPECT_TRUE(test::identical(std::span(k_after).subspan(t * 9 + 1, 7), {&expected.k[t * 7], 7}));
        EXPECT_TRUE(test::identical(std::span(gate_after).subspan(t * 8 + 2, 5), {&expected.gate[t * 5], 5}));
        EXPECT_EQ(k_after[t * 9 + 8], k_before);
        EXPECT_EQ(gate_after[t * 8 + 7], gate_before);
      }
      EXPECT_TRUE(result(*row, problem, narrow, x.slice(0, 1, 0)).k.empty());
    }
  }
}

TEST(indexer_projection, names_the_tensor_of_a_wrong_shape) {
  const Batch batch = make_batch(test::fp32_setting(), {"", 2, 8, 4, 3}, kF32);
  const Problem problem = problem_of(test::fp32_setting(), batch);
  const auto k = inputs::unwritten<2>(DType::kF32, {2, 4}), gate = inputs::unwritten<2>(DType::kF32, {2, 3});
  const auto message = [&](const auto& spoil) {
    Args args{batch.x.view, &batch.wk.matrix, &batch.gate_weight.matrix, k.view, gate.view.as<float>()};
    spoil(args);
    return test::message_of([&] { check(problem, args); });
  };
  EXPECT_EQ(message([](Args&) {}), "");
  EXPECT_EQ(message([&](Args& args) { args.x = args.x.slice(1, 0, 7); }),
            "indexer_projection: x: expected shape [2, 8], found [2, 7]");
  EXPECT_EQ(message([&](Args& args) { args.k = args.k.slice(0, 0, 1); }),
            "indexer_projection: k: expected shape [2, 4], found [1, 4]");
  EXPECT_EQ(message([](Args& args) { args.gate = args.gate.slice(1, 0, 2); }),
            "indexer_projection: gate: expected shape [2, 3], found [2, 2]");
}

TEST(indexer_projection, refuses_numerics_and_weights_that_it_does_not_do) {
  const auto refusal = [](const Implementation& row, Setting setting, const auto& choose) {
    Problem problem{setting, 8, 4, 3, kBlocks, kBF16, 1};
    choose(problem, problem.setting.numerics);
    return test::refusal(row, problem);
  };
  const auto nothing = [](Problem&, Numerics&) {};
  const auto fp8_k = [](Problem&, Numerics& n) { n.indexer_wk = IndexerWk::kFp8; };
  const Setting serving = test::serving_setting(), fp32 = test::fp32_setting();
  for (const Implementation* const row : kRows) {
    EXPECT_EQ(refusal(*row, serving, [](Problem&, Numerics& n) { n.mma = Mma::kHopper; }) == "",
              row == &kReference);
    EXPECT_NE(refusal(*row, serving, [](Problem&, Numerics& n) { n.gate_weight = GateWeight::kFp8; }), "");
  }
  EXPECT_EQ(
      refusal(kReference, serving,
              [](Problem& problem, Numerics& n) { problem.wk = kBF16, n.indexer_wk = IndexerWk::kFp8; }),
      "wk in bf16, the fp8 linear takes a quantized weight");
  const auto stored_in_codes = [](Problem& problem, Numerics&) { problem.gate_weight = kBlocks; };
  EXPECT_EQ(refusal(kReference, serving, stored_in_codes), "");
  EXPECT_EQ(refusal(kCpuFp8, serving, stored_in_codes), "");
  EXPECT_EQ(refusal(kCpuBf16, serving, stored_in_codes), "");
  EXPECT_EQ(refusal(kCpu, fp32, stored_in_codes), "");
  EXPECT_EQ(refusal(kCpuFp8, fp32, stored_in_codes), "indexer_wk = fp32, takes fp8");
  EXPECT_EQ(refusal(kCpuBf16, serving, nothing), "");
  const std::string needs = "one pass needs wk and gate in bf16: ";
  EXPECT_EQ(refusal(kCpuBf16, fp32, nothing), needs + "activation = fp32, takes bf16");
  EXPECT_EQ(refusal(kCpuBf16, serving, fp8_k), needs + "indexer_wk = fp8, takes fp32 or bf16");
  const auto exact_k = [](Problem&, Numerics& n) { n.indexer_wk = IndexerWk::kFp32; };
  EXPECT_EQ(refusal(kCpuBf16, serving, exact_k),
            needs + "wk in e4m3 128x128, scales f32 read at its exact value, takes bf16");
  const auto f32_gate = [](Problem& problem, Numerics&) { problem.wk = kBF16, problem.gate_weight = kF32; };
  EXPECT_EQ(refusal(kCpuBf16, serving, f32_gate), "");
  EXPECT_EQ(refusal(kCpu, serving, f32_gate), "");
  EXPECT_EQ(refusal(kCpu, fp32, nothing), "");
  EXPECT_EQ(refusal(kCpu, serving, fp8_k), "indexer_wk = fp8, takes fp32 or bf16");
  EXPECT_EQ(refusal(kCpu, serving, nothing), "");
  EXPECT_EQ(refusal(kCpu, test::fp16_setting(), nothing), "");
  EXPECT_EQ(refusal(kCpuBf16, test::fp16_setting(), nothing), needs + "activation = fp16, takes bf16");
  EXPECT_EQ(refusal(kCpuFp8, serving, fp8_k), "");
  EXPECT_EQ(refusal(kCpuFp8, serving, nothing), "") << "two linears of what one pass takes";
  EXPECT_EQ(refusal(kCpuFp8, serving, exact_k), "indexer_wk = fp32, takes fp8");
}

}  // namespace
}  // namespace fulgurite::indexer_projection
