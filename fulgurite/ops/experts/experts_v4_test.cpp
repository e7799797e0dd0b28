// What DeepSeek-V4 asks of experts: weights of fp4, the clamp, a weight before down.

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>

#include "fulgurite/core/quantize.h"
#include "fulgurite/ops/experts/experts_audit.h"
#include "fulgurite/ops/experts/experts_cases.h"
#include "test/op_test.h"

namespace fulgurite::experts {
namespace {

using inputs::Values;

constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
constexpr MatrixFormat kF32{MatrixForm::kF32, {}, ScaleFormat::kF32};
constexpr MatrixFormat kBlocks{MatrixForm::kE4M3Blocks, {128, 128}, ScaleFormat::kF32};
constexpr MatrixFormat kMx{MatrixForm::kMxfp4, {1, 32}, ScaleFormat::kE8M0};
constexpr MatrixFormat kNv{MatrixForm::kNvfp4, {1, 16}, ScaleFormat::kE4M3};

struct Row {
  const Implementation& implementation;
  Setting (*setting)(Isa);
  MatrixFormat weight, shared;
};
const Row kServing{kCpuFp8, test::serving_setting, kMx, kBlocks};
const Row kRows[] = {kServing,
                     {kCpuFp8, test::serving_setting, kNv, kMx},
                     {kCpuFp8, test::fp16_setting, kMx, kBlocks},
                     {kCpu, test::fp32_setting, kMx, kBlocks}};

struct Inputs {
  inputs::TensorBuffer<2> x;
  std::vector<int32_t> ids;
  std::vector<float> weights;
  std::vector<inputs::Weight> owners;  // gate, up, down of each expert, then of the shared one
  std::vector<Mlp> experts;
  Mlp shared;
  Problem problem;
};

Mlp make_mlp(Random& random, int64_t hidden, int64_t width, const MatrixFormat& format, Inputs& in) {
  for (int i = 0; i < 2; ++i) in.owners.push_back(inputs::make_weight(random, width, hidden, format));
  in.owners.push_back(inputs::make_weight(random, hidden, width, format));
  const auto* const last = in.owners.data() + in.owners.size();
  return {last[-3].matrix, last[-2].matrix, last[-1].matrix};
}

// Experts t, t + 1, ... of token t. The limit stands near what gate and up are.
Inputs make_inputs(const Case& shape, const Row& row, Values values = Values::kNormal,
                   Isa isa = cpu::best_isa()) {
  Random random(1);
  Inputs in;
  in.problem = {row.setting(isa),
                shape.hidden,
                shape.experts,
                shape.experts_per_token,
                shape.width,
                shape.shared_width,
                row.weight,
                row.shared,
                shape.tokens,
                0.5f,
                true};
  in.x = inputs::make_tensor(random, values, activation_type(in.problem),
                             std::array{shape.tokens, shape.hidden});
  for (int64_t t = 0; t < shape.tokens; ++t)
    for (int64_t j = 0; j < shape.experts_per_token; ++j) {
      const int64_t most = shape.experts - shape.experts_per_token;
      in.ids.push_back(static_cast<int32_t>((most > 0 ? t % most : 0) + j));
      in.weights.push_back(static_cast<float>(random.uniform(0.0, 2.5)));
    }
  for (int64_t e = 0; e < shape.experts; ++e)
    in.experts.push_back(make_mlp(random, shape.hidden, shape.width, row.weight, in));
  if (shape.shared_width > 0) in.shared = make_mlp(random, shape.hidden, shape.shared_width, row.shared, in);
  return in;
}

Args args_of(const Inputs& in, const Tensor<2>& out, int64_t first, int64_t count) {
  const int64_t chosen = in.problem.experts_per_token;
  const auto at = static_cast<size_t>(first * chosen);
  return {in.x.view.slice(0, first, count),
          {in.ids.data() + at, {count, chosen}},
          {in.weights.data() + at, {count, chosen}},
          in.experts,
          in.problem.shared_width > 0 ? &in.shared : nullptr,
          out};
}

std::vector<float> result(const Implementation& row, const Inputs& in, int64_t first, int64_t count,
                          int threads = 1) {
  const auto out = inputs::unwritten<2>(activation_type(in.problem), {count, in.problem.hidden});
  test::run(row, in.problem, args_of(in, out.view, first, count), threads);
  return out.values();
}
std::vector<float> result(const Implementation& row, const Inputs& in) {
  return result(row, in, 0, in.x.view.extent[0]);
}

audit::OpReport judged(const Implementation& row, const Inputs& in) {
  const auto out =
      inputs::unwritten<2>(activation_type(in.problem), {in.x.view.extent[0], in.problem.hidden});
  const test::ExactBytes workspace(row.workspace_bytes(in.problem, 1));
  std::ranges::fill(workspace.bytes(), std::byte{0xFF});
  return judge(row, in.problem, args_of(in, out.view, 0, in.x.view.extent[0]),
               {1, nullptr, workspace.bytes()});
}

void expect_agreement(const Case& shape, const Row& row, Values values, Isa isa) {
  for (const SharedClamp clamp : {SharedClamp::kOff, SharedClamp::kOn}) {
    Inputs in = make_inputs(shape, row, values, isa);
    in.problem.setting.numerics.shared_clamp = clamp;
    SCOPED_TRACE(fmt::format("{}, {}, {}, {}, {}", shape.what, row.implementation.name, describe(row.weight),
                             inputs::name(values), name(isa)));
    ASSERT_EQ(test::refusal(row.implementation, in.problem), "");
    const audit::OpReport report = judged(row.implementation, in);
    EXPECT_TRUE(report.within()) << describe(report);
  }
}

TEST(experts_v4, agree_with_the_reference_at_awkward_sizes_on_hard_values) {
  for (const Case& shape : kFp4Cases)
    for (const Row& row : kRows)
      for (const Values values : inputs::kAllValues) expect_agreement(shape, row, values, cpu::best_isa());
}

TEST(experts_v4, agree_with_the_reference_on_every_instruction_set) {
  for (const Isa isa : test::machine_isas())
    for (const Row& row : kRows) expect_agreement(kFp4Cases[3], row, Values::kOutliers, isa);
}

TEST(experts_v4, agree_with_the_reference_at_the_sizes_of_flash_and_pro) {
  for (const Case& shape : kV4Cases) expect_agreement(shape, kServing, Values::kNormal, cpu::best_isa());
}

TEST(experts_v4, give_the_same_bits_for_any_batch_threads_and_instruction_set) {
  const Case shape{"", 11, 160, 6, 3, 288, 32};
  for (const Row& row : kRows) {
    const Inputs in = make_inputs(shape, row);
    const std::vector<float> whole = result(row.implementation, in);
    for (const Isa isa : test::machine_isas()) {
      if (isa == Isa::kAmx) continue;  // tiles sum in another order
      Inputs own = in;
      own.problem.setting.target.isa = isa;
      for (const int threads : {1, 2, 3})
        EXPECT_TRUE(test::identical(result(row.implementation, own, 0, 11, threads), whole)) << name(isa);
      for (int64_t t = 0; t < 11; ++t)
        EXPECT_TRUE(test::identical(result(row.implementation, own, t, 1),
                                    {&whole[static_cast<size_t>(t * 160)], 160}))
            << name(isa);
    }
  }
}

// Scalars all, fp32: two routed experts and the shared one with gate, up and down each.
struct Scalars {
  float gate, up, down;
};
Inputs scalars(const Row& row, const std::vector<Scalars>& values, const std::vector<float>& weights) {
  Inputs in = make_inputs({"", 1, 1, 2, 2, 1, 1}, row);
  in.weights = weights;
  store(in.x.view, 1.0f, 0, 0);
  for (size_t e = 0; e < 3; ++e) {
    const float of[] = {values[e].gate, values[e].up, values[e].down};
    for (size_t i = 0; i < 3; ++i) std::memcpy(in.owners[3 * e + i].data->data(), &of[i], sizeof(float));
  }
  in.problem.limit = 10.0f;
  return in;
}

float silu(float g) { return g / (1.0f + static_cast<float>(std::exp(-static_cast<double>(g)))); }

const Row kScalarRows[] = {{kCpu, test::fp32_setting, kF32, kF32},
                           {kReference, test::fp32_setting, kF32, kF32}};

TEST(experts_v4, the_gate_is_clamped_above_alone_and_up_on_both_sides) {
  for (const Row& row : kScalarRows) {
    // Above: 12 becomes 10. Below: -12 stays. Up: -11 becomes -10.
    Inputs in = scalars(row, {{12, 11, 1}, {-12, -11, 1}, {0, 0, 0}}, {1, 1});
    EXPECT_NEAR(result(row.implementation, in)[0], silu(10) * 10 + silu(-12) * -10, 1e-5);
    in.problem.limit.reset();
    EXPECT_NEAR(result(row.implementation, in)[0], silu(12) * 11 + silu(-12) * -11, 2e-5);
  }
}

TEST(experts_v4, the_shared_expert_is_clamped_as_shared_clamp_says) {
  for (const Row& row : kScalarRows) {
    Inputs in = scalars(row, {{0, 0, 0}, {0, 0, 0}, {12, 11, 1}}, {1, 1});
    in.problem.setting.numerics.shared_clamp = SharedClamp::kOn;
    EXPECT_NEAR(result(row.implementation, in)[0], silu(10) * 10, 1e-4);
    in.problem.setting.numerics.shared_clamp = SharedClamp::kOff;
    EXPECT_NEAR(result(row.implementation, in)[0], silu(12) * 11, 1e-4);
  }
}

TEST(experts_v4, a_NaN_passes_the_clamp) {
  for (const Row& row : kScalarRows) {
    EXPECT_TRUE(std::isnan(
        result(row.implementation, scalars(row, {{kNaN, 1, 1}, {1, 1, 1}, {0, 0, 0}}, {1, 1}))[0]));
    EXPECT_TRUE(std::isnan(
        result(row.implementation, scalars(row, {{1, kNaN, 1}, {1, 1, 1}, {0, 0, 0}}, {1, 1}))[0]));
  }
}

// Serving, by hand, on scalars of MXFP4 padded to a block: x = 1, gate = 6, up = 1: silu(6) = 5.985 is 6 in bf16's
// step of 1/32, times a weight that shows where it is rounded.
TEST(experts_v4, the_weight_is_multiplied_before_down_and_rounded_with_the_product) {
  const float weight = 0.7f;
  for (const Implementation* const row : {&kCpuFp8, &kReference}) {
    Inputs in = make_inputs({"", 1, 32, 1, 1, 32, 0}, {*row, test::serving_setting, kMx, kMx});
    for (int64_t i = 0; i < 32; ++i) store(in.x.view, i == 0 ? 1.0f : 0.0f, 0, i);
    in.problem.limit = 10.0f;
    in.weights = {weight};
    for (size_t m = 0; m < 3; ++m) {
      std::fill_n(in.owners[m].data->begin(), 512, std::byte{0});
      (*in.owners[m].data)[0] = std::byte{static_cast<uint8_t>(m == 0 ? 7 : 2)};  // 6, 1, 1
      std::fill_n(in.owners[m].data->begin() + 512, 32, std::byte{127});
    }
    const auto coded = [](float a) {  // the only one of its group
      e4m3 code;
      const float scale = quantize_e4m3(std::span(&a, 1), ScaleRounding::kPow2, &code);
      return to_float(code) * scale;
    };
    const float product = silu(6.0f) * 1.0f;
    EXPECT_EQ(result(*row, in)[0], coded(round_to_bf16(product * weight))) << row->name;
    in.problem.weight_before_down = false;
    EXPECT_EQ(result(*row, in)[0], round_to_bf16(weight * coded(round_to_bf16(product)))) << row->name;
  }
}

void with_another_limit(const Problem& problem, const Args& args, const Lane& lane) {
  Problem other = problem;
  other.limit = 0.6f;
  kReference.run(other, args, lane);
}
void with_the_shared_one_clamped(const Problem& problem, const Args& args, const Lane& lane) {
  Problem other = problem;
  other.setting.numerics.shared_clamp = SharedClamp::kOn;
  kReference.run(other, args, lane);
}
void with_weights_after_down(const Problem& problem, const Args& args, const Lane& lane) {
  Problem other = problem;
  other.weight_before_down = false;
  kReference.run(other, args, lane);
}

TEST(experts_v4, their_audit_sees_another_limit_another_clamp_and_another_order) {
  const Inputs in = make_inputs({"", 4, 256, 6, 3, 128, 128}, kServing);
  Implementation wrong = kReference;
  EXPECT_TRUE(judged(wrong, in).within());
  for (const auto run : {with_another_limit, with_the_shared_one_clamped, with_weights_after_down}) {
    wrong.run = run;
    EXPECT_FALSE(judged(wrong, in).within());
  }
}

}  // namespace
}  // namespace fulgurite::experts
