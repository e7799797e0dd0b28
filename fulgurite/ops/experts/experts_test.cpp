// Longer than other tests: the whole contract of the operation, claim by claim.

#include "fulgurite/ops/experts/experts.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "fulgurite/ops/experts/experts_audit.h"
#include "fulgurite/ops/experts/experts_cases.h"
#include "test/op_test.h"

namespace fulgurite::experts {
namespace {

using inputs::TensorBuffer;
using inputs::Values;

constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr MatrixFormat kF32{MatrixForm::kF32, {}, ScaleFormat::kF32};
constexpr MatrixFormat kBF16{MatrixForm::kBF16, {}, ScaleFormat::kF32};
constexpr MatrixFormat kBlocks{MatrixForm::kE4M3Blocks, {128, 128}, ScaleFormat::kF32};
constexpr MatrixFormat kNarrowBlocks{MatrixForm::kE4M3Blocks, {48, 32}, ScaleFormat::kF32};

Setting serving_with_fp32_scales(Isa isa) {
  Setting setting = test::serving_setting(isa);
  setting.numerics.activation_scale = ActivationScale::kFp32;
  return setting;
}
Setting coded_fp32(Isa isa) {
  Setting setting = serving_with_fp32_scales(isa);
  setting.numerics.scale_form = ScaleForm::kDivided;
  setting.numerics.activation = Activation::kFp32;
  return setting;
}
Setting serving_without_codes(Isa isa) {
  Setting setting = test::serving_setting(isa);
  setting.numerics.activation_quant = ActivationQuant::kNone;
  return setting;
}

Setting fp16_without_codes(Isa isa) {
  Setting setting = test::fp16_setting(isa);
  setting.numerics.activation_quant = ActivationQuant::kNone;
  return setting;
}

// A row, the numerics that it is tried in, and the weights that it reads.
struct Row {
  const Implementation& implementation;
  Setting (*setting)(Isa);
  MatrixFormat weight, shared;
  DType type() const { return fulgurite::activation_type(setting(Isa::kPortable).numerics); }
};
const Row kFp32{kCpu, test::fp32_setting, kBlocks, kF32};
const Row kServing{kCpuFp8, test::serving_setting, kBlocks, kBlocks};
const Row kRows[] = {kFp32,
                     {kCpu, test::fp32_setting, kBF16, kNarrowBlocks},
                     kServing,
                     {kCpuFp8, serving_with_fp32_scales, kNarrowBlocks, kBlocks},
                     {kCpuFp8, coded_fp32, kBlocks, kNarrowBlocks},
                     {kCpuFp8, test::serving_setting, kBlocks, kBF16},
                     {kCpuFp8, test::serving_setting, kF32, kBlocks},
                     {kCpuFp8, serving_without_codes, kBlocks, kBF16},
                     {kCpuFp8, test::fp16_setting, kBlocks, kNarrowBlocks},
                     {kCpu, fp16_without_codes, kBlocks, kF32},
                     {kCpu, test::fp16_setting, kBF16, kBF16}};

std::string describe(const Row& row) {
  return fmt::format("{}, {}, {} and {}", row.implementation.name,
                     summary(row.setting(Isa::kPortable).numerics), describe(row.weight),
                     describe(row.shared));
}
Row reference_of(const Row& row) { return {kReference, row.setting, row.weight, row.shared}; }

struct Inputs {
  TensorBuffer<2> x;
  std::vector<int32_t> ids;
  std::vector<float> weights;
  std::vector<inputs::Weight> owners;  // gate, up, down of each expert, then of the shared one
  std::vector<Mlp> experts;
  Mlp shared;
  int64_t experts_per_token = 0;

  // Token t alone.
  Inputs token(int64_t t) const {
    Inputs one = *this;
    one.x.view = x.view.slice(0, t, 1);
    if (experts.empty()) return one;
    one.ids.assign(ids.begin() + t * experts_per_token, ids.begin() + (t + 1) * experts_per_token);
    one.weights.assign(weights.begin() + t * experts_per_token,
                       weights.begin() + (t + 1) * experts_per_token);
    return one;
  }
};

Mlp make_mlp(Random& random, int64_t hidden, int64_t width, const MatrixFormat& format,
             std::vector<inputs::Weight>& owners) {
  for (int i = 0; i < 2; ++i) owners.push_back(inputs::make_weight(random, width, hidden, format));
  owners.push_back(inputs::make_weight(random, hidden, width, format));
  const auto* const last = owners.data() + owners.size();
  return {last[-3].matrix, last[-2].matrix, last[-1].matrix};
}

std::vector<int32_t> random_ids(Random& random, int64_t experts, int64_t count) {
  std::vector<int32_t> ids;
  while (static_cast<int64_t>(ids.size()) < count) {
    const auto id = static_cast<int32_t>(random.below(experts));
    if (std::find(ids.begin(), ids.end(), id) == ids.end()) ids.push_back(id);
  }
  std::sort(ids.begin(), ids.end());
  return ids;
}

Inputs make_inputs(uint64_t seed, const Case& shape, const Row& row, Values values = Values::kNormal) {
  Random random(seed);
  Inputs in;
  in.x = inputs::make_tensor(random, values, row.type(), std::array{shape.tokens, shape.hidden});
  in.experts_per_token = shape.experts_per_token;
  for (int64_t t = 0; t < shape.tokens; ++t)
    for (const int32_t id : random_ids(random, shape.experts, shape.experts_per_token)) {
      in.ids.push_back(id);
      in.weights.push_back(static_cast<float>(random.uniform(0.0, 2.5)));
    }
  for (int64_t e = 0; e < shape.experts; ++e)
    in.experts.push_back(make_mlp(random, shape.hidden, shape.width, row.weight, in.owners));
  if (shape.shared_width > 0)
    in.shared = make_mlp(random, shape.hidden, shape.shared_width, row.shared, in.owners);
  return in;
}

Problem problem_of(const Case& shape, const Row& row, Isa isa = cpu::best_isa()) {
  return {row.setting(isa), shape.hidden,       shape.experts, shape.experts_per_token,
          shape.width,      shape.shared_width, row.weight,    row.shared,
          shape.tokens};
}

Args args_of(const Problem& problem, const Inputs& in, const Tensor<2>& out) {
  const std::array<int64_t, 2> routed{in.experts.empty() ? 0 : in.x.view.extent[0], in.experts_per_token};
  return {in.x.view,
          {in.ids.data(), routed},
          {in.weights.data(), routed},
          in.experts,
          problem.shared_width > 0 ? &in.shared : nullptr,
          out};
}

std::vector<float> result(const Row& row, const Problem& problem, const Inputs& in, int threads = 1) {
  const auto out = inputs::unwritten<2>(row.type(), {in.x.view.extent[0], problem.hidden});
  test::run(row.implementation, problem, args_of(problem, in, out.view), threads);
  return out.values();
}

audit::OpReport judged(const Row& row, const Problem& problem, const Inputs& in) {
  const auto out = inputs::unwritten<2>(row.type(), {in.x.view.extent[0], problem.hidden});
  const test::ExactBytes workspace(row.implementation.workspace_bytes(problem, 1));
  std::ranges::fill(workspace.bytes(), std::byte{0xFF});  // NaN, whatever it is read as
  return judge(row.implementation, problem, args_of(problem, in, out.view), {1, nullptr, workspace.bytes()});
}

void expect_agreement(const Case& shape, const Row& row, Values values, Isa isa = cpu::best_isa()) {
  const Problem problem = problem_of(shape, row, isa);
  ASSERT_EQ(test::refusal(row.implementation, problem), "") << describe(row);
  const audit::OpReport report = judged(row, problem, make_inputs(1, shape, row, values));
  EXPECT_TRUE(report.within()) << fmt::format("{}, {}, {}, {}, seed 1: {}", shape.what, describe(row),
                                              inputs::name(values), name(isa), audit::describe(report));
}

TEST(experts, agrees_with_the_reference_at_awkward_sizes_on_hard_values) {
  for (const Case& shape : kAwkwardCases)
    for (const Row& row : kRows)
      for (const Values values : inputs::kAllValues) expect_agreement(shape, row, values);
}

TEST(experts, agrees_with_the_reference_on_denormals_on_every_instruction_set) {
  for (const Isa isa : test::machine_isas())
    for (const Row& row : kRows) expect_agreement(kAwkwardCases[2], row, Values::kDenormal, isa);
}

TEST(experts, agrees_with_the_reference_at_the_sizes_of_models) {
  for (const Case& shape : kTinyCases)
    for (const Row& row : kRows) expect_agreement(shape, row, Values::kNormal);
  for (const Case& shape : kRealCases)
    for (const Row& row : {kFp32, kServing}) expect_agreement(shape, row, Values::kNormal);
}

// The reference, but with other numerics than asked for.
template <class Knob, Knob Numerics::*knob, Knob value>
void with_other(const Problem& problem, const Args& args, const Lane& lane) {
  Problem other = problem;
  other.setting.numerics.*knob = value;
  kReference.run(other, args, lane);
}

TEST(experts, its_audit_sees_other_scales_and_a_missing_quantization) {
  const Case shape{"", 4, 384, 8, 2, 256, 128};
  Implementation wrong = kReference;
  wrong.run = with_other<ActivationQuant, &Numerics::activation_quant, ActivationQuant::kNone>;
  EXPECT_FALSE(judged({wrong, test::serving_setting, kBlocks, kBlocks}, problem_of(shape, kServing),
                      make_inputs(2, shape, kServing))
                   .within());
  wrong.run = with_other<ActivationScale, &Numerics::activation_scale, ActivationScale::kFp32>;
  EXPECT_FALSE(judged({wrong, test::serving_setting, kBlocks, kBlocks}, problem_of(shape, kServing),
                      make_inputs(2, shape, kServing))
                   .within());
}

// Scalars all: gate is 1, up 1, and down of expert e is e + 1.
Inputs scalar_experts(const Row& row, const std::vector<int32_t>& ids, const std::vector<float>& weights,
                      float x) {
  const Case shape{"", 1, 1, 4, static_cast<int64_t>(ids.size()), 1, 1};
  Inputs in = make_inputs(2, shape, row);
  store(in.x.view, x, 0, 0);
  in.ids = ids;
  in.weights = weights;
  for (size_t i = 0; i < in.owners.size(); ++i) {
    const float value = i % 3 == 2 ? static_cast<float>(i / 3 + 1) : 1.0f;
    const e4m3 code = to_e4m3(value);
    std::memcpy(in.owners[i].data->data(),
                row.weight.form == MatrixForm::kF32 ? static_cast<const void*>(&value) : &code,
                row.weight.form == MatrixForm::kF32 ? 4 : 1);
    if (in.owners[i].scales) in.owners[i].scales->front() = 1.0f;
  }
  return in;
}

const Row kScalars{kCpu, test::fp32_setting, kF32, kF32};

float scalar_result(const Row& row, const Inputs& in) {
  return result(row, problem_of({"", 1, 1, 4, in.experts_per_token, 1, 1}, row), in)[0];
}

TEST(experts, the_sum_is_of_weighted_experts_and_the_shared_one) {
  const float x = 1.5f;
  const float one = x / (1.0f + static_cast<float>(std::exp(-1.5))) * x;
  const Inputs in = scalar_experts(kScalars, {0, 2, 3}, {0.5f, 2.0f, 0.25f}, x);
  const float expected = 0.5f * one + 2 * 3 * one + 0.25f * 4 * one + 5 * one;
  for (const Row& row : {kScalars, reference_of(kScalars)})
    EXPECT_NEAR(scalar_result(row, in), expected, 1e-5);
}

TEST(experts, serving_rounds_and_codes_what_lies_between) {
  // x = 1.5 is coded as 384 * 2^-8, exactly. silu(1.5) * 1.5 = 1.8395 is 235 * 2^-7 in bf16, whose code is
  // 240 * 2^-7 = 1.875; with fp32 scales the largest magnitude keeps its value.
  const float one = 1.875f, exact = round_to_bf16(1.8395f);
  ASSERT_EQ(exact, 235 * 0x1p-7f);
  const Row fp32_scales{kCpuFp8, serving_with_fp32_scales, kBlocks, kBlocks};
  for (const Row& row : {kServing, reference_of(kServing), fp32_scales, reference_of(fp32_scales)}) {
    const bool pow2 = row.setting != serving_with_fp32_scales;
    const Inputs in = scalar_experts(row, {0, 2, 3}, {0.5f, 2.0f, 0.25f}, 1.5f);
    const auto y = [&](int e) { return round_to_bf16((pow2 ? one : exact) * static_cast<float>(e)); };
    const float sum = std::fma(0.25f, y(4), std::fma(2.0f, y(3), 0.5f * y(1))) + y(5);
    EXPECT_EQ(scalar_result(row, in), round_to_bf16(sum)) << describe(row);
  }
}

TEST(experts, each_knob_changes_the_result) {
  const Case shape{"", 1, 256, 4, 2, 256, 128};
  const std::vector<float> serving =
      result(kServing, problem_of(shape, kServing), make_inputs(3, shape, kServing));
  for (const auto setting :
       {serving_with_fp32_scales, coded_fp32, serving_without_codes, test::fp32_setting}) {
    const Row row{kReference, setting, kBlocks, kBlocks};
    EXPECT_NE(result(row, problem_of(shape, row), make_inputs(3, shape, row)), serving) << describe(row);
  }
}

TEST(experts, the_gate_survives_values_beyond_the_range_of_exp) {
  for (const Row& row : {kScalars, reference_of(kScalars), kServing, reference_of(kServing)}) {
    EXPECT_EQ(scalar_result(row, scalar_experts(row, {0}, {1.0f}, -1024.0f)), 0.0f);
    EXPECT_EQ(scalar_result(row, scalar_experts(row, {0}, {1.0f}, 1024.0f)), 6 * 0x1p20f);
  }
}

TEST(experts, values_that_saturate_a_code_or_overflow_are_what_the_definition_makes_of_them) {
  for (const Row& row : {kServing, reference_of(kServing)}) {
    // Coded as 256 * 2^20; hidden is 2^56.
    EXPECT_EQ(scalar_result(row, scalar_experts(row, {0}, {1.0f}, 0x1p28f)), 6 * 0x1p56f);
    // Hidden overflows: an infinity has NaN codes.
    EXPECT_TRUE(std::isnan(scalar_result(row, scalar_experts(row, {0}, {1.0f}, 0x1p100f))));
  }
  const Case shape{"", 3, 256, 4, 2, 128, 128};
  for (const Row& row : kRows) {
    Inputs in = make_inputs(4, shape, row);
    for (int64_t i = 0; i < 256; i += 3) store(in.x.view, i % 2 == 0 ? 3e4f : -3e4f, 1, i);
    EXPECT_TRUE(judged(row, problem_of(shape, row), in).within()) << describe(row);
  }
}

// Those of bf16 pairs that are not codes differ where denormals do; codes never are.
TEST(experts, gives_the_same_bits_for_any_batch_threads_and_instruction_set) {
  const Case shape{"", 9, 177, 6, 3, 181, 21};
  for (const Row& row : kRows) {
    const Inputs in = make_inputs(3, shape, row);
    const std::vector<float> whole = result(row, problem_of(shape, row), in);
    for (const Isa isa : test::machine_isas()) {
      SCOPED_TRACE(fmt::format("{}, {}", describe(row), name(isa)));
      const Problem problem = problem_of(shape, row, isa);
      for (const int threads : {1, 2, 3})
        EXPECT_TRUE(test::identical(result(row, problem, in, threads), whole));
      for (int64_t t = 0; t < shape.tokens; ++t)
        EXPECT_TRUE(test::identical(result(row, problem, in.token(t), 1 + static_cast<int>(t % 3)),
                                    {&whole[static_cast<size_t>(t * shape.hidden)], 177}));
    }
  }
}

TEST(experts, a_batch_larger_than_a_chunk_gives_each_token_what_it_gets_alone) {
  const Case shape{"", 1321, 5, 3, 1, 3, 4};
  for (const Row& row : kRows) {
    Inputs in = make_inputs(4, shape, row);
    for (size_t t = 0; t < in.ids.size(); ++t) in.ids[t] = t % 50 == 0 ? 0 : t % 3 == 0 ? 1 : 2;
    const Problem problem = problem_of(shape, row);
    const std::vector<float> out = result(row, problem, in, 2);
    for (const int64_t t : {0, 1, 255, 256, 257, 261, 262, 520, 1023, 1024, 1320})
      EXPECT_TRUE(test::identical(result(row, problem, in.token(t)), {&out[static_cast<size_t>(t * 5)], 5}));
  }
}

TEST(experts, a_NaN_or_infinity_stays_in_its_token) {
  const Case shape{"", 5, 20, 4, 2, 9, 7};
  for (const Row& base : kRows) {
    Inputs in = make_inputs(5, shape, base);
    store(in.x.view, kNaN, 1, 19);
    store(in.x.view, kInfinity, 2, 0);
    in.weights[7] = kNaN;
    EXPECT_TRUE(judged(base, problem_of(shape, base), in).within()) << describe(base);
    for (const Row& row : {base, reference_of(base)}) {
      const std::vector<float> out = result(row, problem_of(shape, row), in);
      for (size_t i = 0; i < 20; ++i) {
        EXPECT_TRUE(std::isnan(out[20 + i]) && std::isnan(out[60 + i]));
        EXPECT_FALSE(std::isfinite(out[40 + i]));
        EXPECT_TRUE(std::isfinite(out[i]) && std::isfinite(out[80 + i]));
      }
    }
  }
}

TEST(experts, does_not_read_an_expert_that_nobody_chose) {
  const Case shape{"", 2, 20, 3, 1, 9, 7};
  for (const Row& base : kRows) {
    Inputs in = make_inputs(6, shape, base);
    in.ids = {0, 2};
    for (size_t i = 3; i < 6; ++i)
      std::fill(in.owners[i].data->begin(), in.owners[i].data->end(), std::byte{0x7F});
    for (const Row& row : {base, reference_of(base)})
      for (const float y : result(row, problem_of(shape, row), in)) EXPECT_TRUE(std::isfinite(y));
  }
}

TEST(experts, reads_and_writes_rows_of_any_stride) {
  const Case shape{"", 3, 31, 4, 2, 11, 6}, wide_shape{"", 3, 50, 4, 2, 11, 6};
  for (const Row& row : kRows) {
    Inputs in = make_inputs(7, shape, row);
    in.x = make_inputs(7, wide_shape, row).x;
    in.x.view = in.x.view.slice(1, 13, 31);
    const Problem problem = problem_of(shape, row);
    const std::vector<float> packed = result(row, problem, in);
    const auto wide = inputs::unwritten<2>(row.type(), {3, 40});
    const float before = load(wide.view, 0, 0);
    test::run(row.implementation, problem, args_of(problem, in, wide.view.slice(1, 4, 31)));
    for (int64_t t = 0; t < 3; ++t)
      for (int64_t i = 0; i < 40; ++i)
        EXPECT_EQ(load(wide.view, t, i),
                  i < 4 || i >= 35 ? before : packed[static_cast<size_t>(t * 31 + i - 4)]);
    EXPECT_TRUE(judged(row, problem, in).within()) << describe(row);
  }
}

TEST(experts, names_the_tensor_that_breaks_the_contract) {
  const Case shape{"", 2, 6, 4, 2, 3, 5};
  const Problem problem = problem_of(shape, kScalars);
  Inputs in = make_inputs(8, shape, kScalars);
  const auto out = inputs::unwritten<2>(DType::kF32, {3, 6});
  const auto message = [&](std::vector<int32_t> ids, auto change) {
    in.ids = std::move(ids);
    Args args = args_of(problem, in, out.view.slice(0, 0, 2));
    change(args);
    return test::message_of([&] { check(problem, args); });
  };
  const auto nothing = [](Args&) {};
  const std::vector<int32_t> good{0, 3, 1, 2};
  EXPECT_EQ(message(good, nothing), "");
  EXPECT_EQ(message(good, [&](Args& args) { args.x = in.x.view.slice(1, 0, 5); }),
            "experts: x: expected shape [2, 6], found [2, 5]");
  EXPECT_EQ(message(good, [&](Args& args) { args.x = out.view; }),
            "experts: x, tokens: expected a value in [0, 2], found 3");
  EXPECT_EQ(message(good, [](Args& args) { args.expert_ids = args.expert_ids.slice(1, 0, 1); }),
            "experts: expert_ids: expected shape [2, 2], found [2, 1]");
  EXPECT_EQ(message(good, [](Args& args) { args.expert_weights = args.expert_weights.slice(0, 0, 1); }),
            "experts: expert_weights: expected shape [2, 2], found [1, 2]");
  EXPECT_EQ(message(good, [&](Args& args) { args.out = out.view; }),
            "experts: out: expected shape [2, 6], found [3, 6]");
  EXPECT_EQ(message({0, 3, 1, 4}, nothing), "experts: expert_ids: expected a value in [2, 3], found 4");
  EXPECT_EQ(message({3, 0, 1, 2}, nothing), "experts: expert_ids: expected a value in [4, 3], found 0");
  EXPECT_EQ(message({0, 3, 1, 1}, nothing), "experts: expert_ids: expected a value in [2, 3], found 1");
  EXPECT_EQ(message({-1, 3, 1, 2}, nothing), "experts: expert_ids: expected a value in [0, 3], found -1");
}

TEST(experts, refuses_numerics_that_it_does_not_do) {
  const auto reason = [](const Row& row, auto change) {
    Problem problem = problem_of(kAwkwardCases[2], row);
    change(problem.setting.numerics);
    return test::refusal(row.implementation, problem);
  };
  const auto hopper = [](Numerics& n) { n.mma = Mma::kHopper; };
  for (const Row& row : {kFp32, kServing}) EXPECT_EQ(reason(row, hopper), "mma = hopper, takes exact");
  EXPECT_EQ(reason(reference_of(kServing), hopper), "");
  EXPECT_EQ(reason(reference_of(kFp32), hopper), "mma = hopper with activation = fp32, takes bf16");
  EXPECT_EQ(reason(kFp32, [](Numerics& n) { n.activation = Activation::kBf16; }),
            "activation = bf16, takes fp32 or fp16");
  EXPECT_EQ(reason(kFp32, [](Numerics& n) { n.activation_quant = ActivationQuant::kE4m3; }),
            "activation_quant = e4m3, takes none");
  EXPECT_EQ(reason(kServing, [](Numerics& n) { n = Numerics::fp32(); }), "activation = fp32, takes bf16");
  EXPECT_EQ(reason(kServing, [](Numerics& n) { n.activation_scale = ActivationScale::kCheckpoint; }),
            "activation_scale = checkpoint, takes fp32 or pow2");
  EXPECT_EQ(test::refusal(kCpuFp8, problem_of(kAwkwardCases[2], {kCpuFp8, test::fp16_setting, kBF16, kBF16})),
            "activation = fp16, takes bf16");
  Problem odd = problem_of(kAwkwardCases[2], kServing);
  odd.weight.block = {128, 127};
  EXPECT_NE(test::refusal(kCpuFp8, odd), "");
}

}  // namespace
}  // namespace fulgurite::experts
