// The operations that read weights, over every form beyond those of their own tests and in both presets: each
// row that takes a form against the reference, within its contract's tolerance.

#include <gtest/gtest.h>

#include <array>
#include <cmath>

#include "fulgurite/core/encode.h"
#include "fulgurite/ops/expanded_attention/expanded_attention_audit.h"
#include "fulgurite/ops/expanded_attention/test_inputs.h"
#include "fulgurite/ops/head_projection/head_projection_audit.h"
#include "fulgurite/ops/indexer_projection/indexer_projection_audit.h"
#include "fulgurite/ops/linear/linear_audit.h"
#include "test/op_test.h"

namespace fulgurite {
namespace {

using inputs::TensorBuffer;
using inputs::Values;

// A prepared matrix in one of the forms, with its bytes.
struct Encoded {
  EncodedMatrix bytes;
  PreparedMatrix matrix;
};

std::vector<std::unique_ptr<Encoded>> every_form(int64_t out, int64_t in) {
  Random random(1);
  std::vector<double> x(static_cast<size_t>(out * in));
  for (double& value : x) value = random.normal();
  const MatrixValues values{out, in,
                            [&](int64_t row, double* to) { std::copy_n(x.begin() + row * in, in, to); }};
  std::vector<std::unique_ptr<Encoded>> forms;
  const auto add = [&](EncodedMatrix bytes, const MatrixFormat& format) {
    forms.push_back(std::make_unique<Encoded>(Encoded{std::move(bytes), {{}, out, in}}));
    forms.back()->matrix.as = view_of(forms.back()->bytes, format, out, in).as;
  };
  for (const BlockShape block : {BlockShape{128, 128}, {32, 32}, {1, 32}, {1, kWhole}, {kWhole, kWhole}}) {
    add(encode_e4m3(values, block, ScaleFormat::kE8M0, ScaleRounding::kPow2),
        {MatrixForm::kE4M3Blocks, block, ScaleFormat::kE8M0});
    add(encode_e4m3(values, block, ScaleFormat::kF32, ScaleRounding::kNone),
        {MatrixForm::kE4M3Blocks, block, ScaleFormat::kF32});
  }
  add(encode_mxfp4(values), {MatrixForm::kMxfp4, {1, 32}, ScaleFormat::kE8M0});
  add(encode_nvfp4(values), {MatrixForm::kNvfp4, {1, 16}, ScaleFormat::kE4M3});
  return forms;
}

// The presets and fp16, and without codes of activations.
std::vector<Setting> settings() {
  std::vector<Setting> all{test::fp32_setting()};
  for (const Setting& setting : {test::serving_setting(), test::fp16_setting()}) {
    all.insert(all.end(), 2, setting);
    all.back().numerics.activation_quant = ActivationQuant::kNone;
  }
  return all;
}

DType activation_of(const Setting& setting) { return activation_type(setting.numerics); }

// Judges each row that takes the problem; returns how many there are.
template <class Problem, class Args, class Judge>
int judge_rows(std::initializer_list<const Implementation<Problem, Args>*> rows, const Problem& problem,
               const Args& args, const Judge& judge) {
  int taken = 0;
  for (const Implementation<Problem, Args>* const row : rows) {
    if (row->supports(problem)) continue;
    ++taken;
    const test::ExactBytes workspace(row->workspace_bytes(problem, 1));
    const audit::OpReport report = judge(*row, problem, args, {1, nullptr, workspace.bytes()});
    EXPECT_TRUE(report.within()) << row->name << "\n" << audit::describe(report);
  }
  return taken;
}

// Kernels of bf16 operands read no fp4; those of fp32 operands and of the fp8 linear read every form.
bool bf16_fp4(const Setting& setting, const MatrixFormat& weight) {
  return setting.numerics.activation == Activation::kBf16 && is_fp4(weight);
}

TEST(weight_forms, linear_reads_each) {
  constexpr int64_t kTokens = 3, kOut = 133, kIn = 192;
  for (const auto& form : every_form(kOut, kIn)) {
    for (const Setting& setting : settings()) {
      SCOPED_TRACE(describe(format_of(form->matrix)) + ", " + summary(setting.numerics));
      Random random(2);
      const auto type = activation_of(setting);
      const auto x = inputs::make_tensor(random, Values::kNormal, type, std::array{kTokens, kIn});
      const auto y = inputs::unwritten<2>(type, {kTokens, kOut});
      const linear::Problem problem{setting, kIn, kOut, format_of(form->matrix), linear::Output::kActivation,
                                    kTokens};
      const linear::Args args{x.view, &form->matrix, y.view};
      const int rows =
          judge_rows({&linear::kCpuFp8, &linear::kCpuBf16, &linear::kCpu}, problem, args, linear::judge);
      EXPECT_GT(rows, 0);
      EXPECT_EQ(test::refusal(linear::kReference, problem), "");
    }
  }
}

TEST(weight_forms, head_projection_reads_each_in_both_directions) {
  using head_projection::Direction;
  constexpr int64_t kTokens = 2, kHeads = 2, kRows = 72, kLatent = 160;
  for (const auto& form : every_form(kHeads * kRows, kLatent)) {
    for (const Setting& setting : settings()) {
      for (const Direction direction : {Direction::kFromRows, Direction::kToRows}) {
        SCOPED_TRACE(describe(format_of(form->matrix)) + ", " + summary(setting.numerics));
        Random random(3);
        const head_projection::Problem problem{
            setting, direction, kHeads, kRows, 30, 42, kLatent, format_of(form->matrix), kTokens};
        const bool from_rows = direction == Direction::kFromRows;
        const auto type = activation_of(setting);
        const auto x = inputs::make_tensor(random, Values::kNormal, type,
                                           std::array{kTokens, kHeads, from_rows ? problem.rows : kLatent});
        const auto y = inputs::unwritten<3>(type, {kTokens, kHeads, from_rows ? kLatent : problem.rows});
        const head_projection::Args args{x.view, &form->matrix, y.view};
        const int rows = judge_rows({&head_projection::kCpuBf16, &head_projection::kCpu}, problem, args,
                                    head_projection::judge);
        EXPECT_EQ(rows == 0, bf16_fp4(setting, problem.weight));
        EXPECT_EQ(test::refusal(head_projection::kReference, problem), "");
      }
    }
  }
}

TEST(weight_forms, expanded_attention_reads_each_as_kv_b) {
  namespace op = expanded_attention;
  const op::Case shape{"", 2, 2, 13, 6, 20, 160, 5, 1, 20};
  for (const auto& form : every_form(shape.heads * (shape.nope + shape.value), shape.latent)) {
    for (const Setting& setting : settings()) {
      SCOPED_TRACE(describe(format_of(form->matrix)) + ", " + summary(setting.numerics));
      op::Inputs in = op::make_inputs(5, shape, op::kF32, Values::kNormal, op::expanded(setting));
      in.problem.weight = format_of(form->matrix);
      in.weight.matrix = form->matrix;
      const auto out = in.unwritten();
      const int rows = judge_rows({&op::kCpu}, in.problem, in.args(out.view), op::judge);
      EXPECT_EQ(rows, is_fp4(in.problem.weight) ? 0 : 1) << "kv_b is fp4 in no checkpoint";
      EXPECT_EQ(test::refusal(op::kReference, in.problem), "");
    }
  }
}

TEST(weight_forms, indexer_projection_reads_each_as_wk_and_as_the_gate_s_weight) {
  namespace op = indexer_projection;
  constexpr int64_t kTokens = 2, kDim = 48, kHeads = 16, kHidden = 160;
  const auto keys = every_form(kDim, kHidden), gates = every_form(kHeads, kHidden);
  for (size_t i = 0; i < keys.size(); ++i) {
    for (const Setting& setting : settings()) {
      const op::Problem problem{
          setting, kHidden, kDim, kHeads, format_of(keys[i]->matrix), format_of(gates[i]->matrix), kTokens};
      SCOPED_TRACE(describe(problem.wk) + ", " + summary(setting.numerics));
      Random random(4);
      const auto type = activation_of(setting);
      const auto x = inputs::make_tensor(random, Values::kNormal, type, std::array{kTokens, kHidden});
      const auto k = inputs::unwritten<2>(type, {kTokens, kDim});
      const auto gate = inputs::unwritten<2>(DType::kF32, {kTokens, kHeads});
      const op::Args args{x.view, &keys[i]->matrix, &gates[i]->matrix, k.view, gate.view.as<float>()};
      // The row of fp32 operands; and where both halves are met as bf16, one pass and two linears, which
      // read no fp4.
      const bool one_pass = !op::one_pass(problem);
      EXPECT_EQ(one_pass, setting.numerics.activation == Activation::kBf16);
      EXPECT_EQ(judge_rows({&op::kCpuBf16, &op::kCpuFp8, &op::kCpu}, problem, args, op::judge),
                one_pass && !is_fp4(problem.wk) ? 3 : 1);
      EXPECT_EQ(test::refusal(op::kReference, problem), "");
    }
  }
}

TEST(weight_forms, code_times_scale_is_the_exact_element_but_for_nvfp4_s_rounded_scale) {
  for (const auto& form : every_form(48, 160)) {
    const PreparedMatrix& matrix = form->matrix;
    SCOPED_TRACE(describe(format_of(matrix)));
    const bool rounded = format_of(matrix).form == MatrixForm::kNvfp4;
    for (int64_t row = 0; row < 48; ++row)
      for (int64_t column = 0; column < 160; ++column) {
        const double product =
            static_cast<double>(code_of(matrix.as, row, column)) * scale_of(matrix.as, row, column);
        const double exact = exact_element(matrix, row, column);
        ASSERT_NEAR(product, exact, rounded ? std::abs(exact) * 0x1p-24 : 0.0);
      }
  }
}

// y of one row of codes 6 at the first column of each group, met by x of 448 there (its group's scale is 1).
template <class Weight>
float by_hand(Weight weight, int64_t in, int64_t group) {
  std::vector<e2m1x2> codes(static_cast<size_t>(in / 2), e2m1x2{0});
  TensorBuffer<2> x = inputs::unwritten<2>(DType::kBF16, {1, in});
  for (int64_t i = 0; i < in; ++i) store(x.view, i % group == 0 ? 448.0f : 0.0f, 0, i);
  for (int64_t i = 0; i < in; i += group) codes[static_cast<size_t>(i / 2)] = e2m1x2{0x07};
  weight.data = {codes.data(), {1, in / 2}};
  const PreparedMatrix matrix{weight, 1, in};
  const auto y = inputs::unwritten<2>(DType::kF32, {1, 1});
  const linear::Problem problem{test::serving_setting(), in, 1, format_of(matrix), linear::Output::kF32, 1};
  test::run(linear::kReference, problem, linear::Args{x.view, &matrix, y.view});
  return y.values()[0];
}

// fma(2688, sb, fma(2688, sb, 0)): 448 * 6 = 2688.
TEST(weight_forms, the_fp8_linear_promotes_once_a_group_of_fp4) {
  const e8m0 powers[] = {{127}, {125}};  // 1, 1/4
  EXPECT_EQ(by_hand(Mxfp4{{}, {powers, {1, 2}}}, 64, 32), 2688.0f + 672.0f);
  const e4m3 scales[] = {{0x39}, {0x38}};  // 1.125, 1
  const float global = 1.0f / 3.0f, first = 1.125f * global;
  const float once = std::fma(2688.0f, global, 2688.0f * first);
  EXPECT_EQ(by_hand(Nvfp4{{}, {scales, {1, 2}}, {&global, {1}}}, 32, 16), once);
  EXPECT_NE(static_cast<double>(first), 1.125 * static_cast<double>(global)) << "the scale is rounded";
}

}  // namespace
}  // namespace fulgurite
