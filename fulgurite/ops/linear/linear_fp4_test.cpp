// Weights of fp4 in the fp8 linear.

#include <gtest/gtest.h>

#include <cmath>

#include "fulgurite/ops/linear/linear_audit.h"
#include "fulgurite/ops/linear/linear_cases.h"
#include "test/op_test.h"

namespace fulgurite::linear {
namespace {

using inputs::Values;

constexpr MatrixFormat kMx{MatrixForm::kMxfp4, {1, 32}, ScaleFormat::kE8M0};
constexpr MatrixFormat kNv{MatrixForm::kNvfp4, {1, 16}, ScaleFormat::kE4M3};
constexpr MatrixFormat kFormats[] = {kMx, kNv};

std::vector<Setting> settings(Isa isa = cpu::best_isa()) {
  std::vector<Setting> all{test::serving_setting(isa), test::serving_setting(isa), test::fp16_setting(isa)};
  all[1].numerics.activation_scale = ActivationScale::kFp32;
  return all;
}

struct Inputs {
  inputs::TensorBuffer<2> x;
  inputs::Weight weight;
  Problem problem;
};

Inputs make_inputs(const Setting& setting, const Case& shape, const MatrixFormat& format, Values values) {
  Random random(1);
  const DType type = activation_type(setting.numerics);
  return {inputs::make_tensor(random, values, type, std::array{shape.tokens, shape.in}),
          inputs::make_weight(random, shape.out, shape.in, format),
          {setting, shape.in, shape.out, format, Output::kActivation, shape.tokens}};
}

std::vector<float> result(const Implementation& row, const Inputs& in, const ConstTensor<2>& x,
                          int threads = 1) {
  const auto y = inputs::unwritten<2>(in.x.view.dtype, {x.extent[0], in.problem.out});
  test::run(row, in.problem, Args{x, &in.weight.matrix, y.view}, threads);
  return y.values();
}

void expect_agreement(const Implementation& row, const Inputs& in) {
  const auto y = inputs::unwritten<2>(in.x.view.dtype, {in.x.view.extent[0], in.problem.out});
  const test::ExactBytes workspace(row.workspace_bytes(in.problem, 1));
  const audit::OpReport report =
      judge(row, in.problem, {in.x.view, &in.weight.matrix, y.view}, {1, nullptr, workspace.bytes()});
  EXPECT_TRUE(report.within()) << describe(report);
}

TEST(linear_fp4, agrees_with_the_reference_on_every_instruction_set_on_hard_values) {
  for (const Isa isa : test::machine_isas())
    for (const Setting& setting : settings(isa))
      for (const Case& shape : kFp4Cases)
        for (const MatrixFormat& format : kFormats)
          for (const Values values : inputs::kAllValues) {
            if (shape.tokens * shape.in * shape.out > 500000 && values != Values::kOutliers)
              continue;  // time
            SCOPED_TRACE(
                fmt::format("{}, {}, {}, {}", shape.what, describe(format), inputs::name(values), name(isa)));
            const Inputs in = make_inputs(setting, shape, format, values);
            ASSERT_EQ(test::refusal(kCpuFp8, in.problem), "");
            expect_agreement(kCpuFp8, in);
          }
}

TEST(linear_fp4, a_block_is_promoted_by_its_own_scale) {
  // One token of ones (codes 256, scale 2^-8) and a row of ones, blocks at 1, 2, 4, 2^-127 and NaN.
  const Setting setting = test::serving_setting();
  for (const Implementation* const row : {&kCpuFp8, &kReference}) {
    Inputs in = make_inputs(setting, {"", 1, 160, 1}, kMx, Values::kConstant);
    for (int64_t i = 0; i < 160; ++i) store(in.x.view, 1.0f, 0, i);
    std::fill_n(in.weight.data->begin(), 80, std::byte{0x22});
    const uint8_t powers[] = {127, 128, 129, 0, 127};
    std::memcpy(in.weight.data->data() + 80, powers, 5);
    EXPECT_EQ(result(*row, in, in.x.view)[0], 32.0f * 8) << row->name;
    (*in.weight.data)[84] = std::byte{255};
    EXPECT_TRUE(std::isnan(result(*row, in, in.x.view)[0])) << row->name;
  }
}

TEST(linear_fp4, gives_the_same_bits_for_any_batch_threads_and_instruction_set) {
  for (const MatrixFormat& format : kFormats)
    for (const Case& shape : {Case{"", 21, 288, 147}, Case{"", 9, 2208, 20}}) {
      const Inputs in = make_inputs(test::serving_setting(), shape, format, Values::kNormal);
      const std::vector<float> whole = result(kCpuFp8, in, in.x.view);
      for (const Isa isa : test::machine_isas()) {
        if (isa == Isa::kAmx && format == kMx) continue;  // tiles sum in another order
        Inputs own = in;
        own.problem.setting.target.isa = isa;
        for (const int threads : {1, 2, 3})
          EXPECT_TRUE(test::identical(result(kCpuFp8, own, in.x.view, threads), whole)) << name(isa);
        for (const int64_t count : {1, 3, 8})
          for (int64_t t = 0; t + count <= shape.tokens; t += count)
            EXPECT_TRUE(test::identical(
                result(kCpuFp8, own, in.x.view.slice(0, t, count)),
                {&whole[static_cast<size_t>(t * shape.out)], static_cast<size_t>(count * shape.out)}));
      }
    }
}

TEST(linear_fp4, a_NaN_or_infinity_stays_in_its_token) {
  for (const MatrixFormat& format : kFormats) {
    const Inputs in = make_inputs(test::serving_setting(), {"", 3, 160, 20}, format, Values::kNormal);
    store(in.x.view, std::numeric_limits<float>::infinity(), 1, 150);
    const std::vector<float> y = result(kCpuFp8, in, in.x.view);
    for (size_t i = 0; i < 60; ++i) EXPECT_EQ(std::isnan(y[i]), i / 20 == 1);
  }
}

// The reference, with the scales of blocks of 64 columns instead of 32.
void with_scales_of_neighbours(const Problem& problem, const Args& args, const Lane& lane) {
  PreparedMatrix other = *args.weight;
  Mxfp4 mx = std::get<Mxfp4>(other.as);
  std::vector<e8m0> scales;
  for (int64_t r = 0; r < mx.scale.extent[0]; ++r)
    for (int64_t c = 0; c < mx.scale.extent[1]; ++c) scales.push_back(mx.scale(r, c / 2 * 2));
  mx.scale.data = scales.data();
  other.as = mx;
  kReference.run(problem, {args.x, &other, args.y}, lane);
}

TEST(linear_fp4, its_audit_sees_the_scale_of_a_neighbour) {
  const Inputs in = make_inputs(test::serving_setting(), {"", 3, 256, 20}, kMx, Values::kNormal);
  Implementation wrong = kReference;
  wrong.run = with_scales_of_neighbours;
  const auto y = inputs::unwritten<2>(in.x.view.dtype, {3, 20});
  EXPECT_FALSE(judge(wrong, in.problem, {in.x.view, &in.weight.matrix, y.view}, {}).within());
}

}  // namespace
}  // namespace fulgurite::linear
