// Longer than other tests: the whole contract of the operation, claim by claim.

#include "fulgurite/ops/experts/experts.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "fulgurite/ops/experts/experts_cases.h"
#include "test/op_test.h"

namespace fulgurite::experts {
namespace {

using inputs::Buffer;
using inputs::Values;

constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr MatrixFormat kF32{MatrixForm::kF32, {}, ScaleFormat::kF32};
constexpr MatrixFormat kBF16{MatrixForm::kBF16, {}, ScaleFormat::kF32};
constexpr MatrixFormat kBlocks{MatrixForm::kE4M3Blocks, {128, 128}, ScaleFormat::kF32};
const Implementation* const kBoth[] = {&kReference, &kCpu};

struct Inputs {
  Buffer<2> x;
  std::vector<int32_t> ids;
  std::vector<float> weights;
  std::vector<inputs::Weight> owners;
  std::vector<Mlp> experts;
  Mlp shared;
  int64_t experts_per_token = 0;

  View<const int32_t, 2> expert_ids(int64_t tokens) const {
    return {ids.data(), {experts.empty() ? 0 : tokens, experts_per_token}};
  }
  View<const float, 2> expert_weights(int64_t tokens) const {
    return {weights.data(), {experts.empty() ? 0 : tokens, experts_per_token}};
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

Inputs make_inputs(uint64_t seed, const Case& shape, const MatrixFormat& format,
                   const MatrixFormat& shared_format, Values values) {
  Random random(seed);
  Inputs in;
  in.x = inputs::make(random, values, shape.tokens, shape.hidden);
  in.experts_per_token = shape.experts_per_token;
  for (int64_t t = 0; t < shape.tokens; ++t)
    for (const int32_t id : random_ids(random, shape.experts, shape.experts_per_token)) {
      in.ids.push_back(id);
      in.weights.push_back(static_cast<float>(random.uniform(0.0, 2.5)));
    }
  for (int64_t e = 0; e < shape.experts; ++e)
    in.experts.push_back(make_mlp(random, shape.hidden, shape.width, format, in.owners));
  if (shape.shared_width > 0)
    in.shared = make_mlp(random, shape.hidden, shape.shared_width, shared_format, in.owners);
  return in;
}

Problem problem_of(const Case& shape, const MatrixFormat& format, const MatrixFormat& shared_format,
                   Isa isa = cpu::best_isa()) {
  return {test::fp32_setting(isa),
          shape.hidden,
          shape.experts,
          shape.experts_per_token,
          shape.width,
          shape.shared_width,
          format,
          shared_format,
          shape.tokens};
}

Args args_of(const Problem& problem, const Inputs& in, View<float, 2> out) {
  const int64_t tokens = in.x.view.extent[0];
  return {in.x.view,
          in.expert_ids(tokens),
          in.expert_weights(tokens),
          in.experts,
          problem.shared_width > 0 ? &in.shared : nullptr,
          out};
}

Buffer<2> result(const Implementation& implementation, const Problem& problem, const Inputs& in,
                 int threads = 1) {
  Random unused(0);
  Buffer<2> out = inputs::make(unused, Values::kConstant, in.x.view.extent[0], problem.hidden);
  test::run(implementation, problem, args_of(problem, in, out.view), threads);
  return out;
}

using Doubles = std::vector<double>;

struct Bounded {
  Doubles value, error;
};

// weight * x and its error: that of x carried through, and the product's own.
Bounded product(const PreparedMatrix& weight, const Bounded& x) {
  const double roundings = (static_cast<double>(weight.in) / 16 + 8) * 0x1p-24;
  Bounded y;
  for (int64_t n = 0; n < weight.out; ++n) {
    double sum = 0.0, error = static_cast<double>(weight.in) * 0x1p-149;
    for (int64_t i = 0; i < weight.in; ++i) {
      const double w = exact_element(weight, n, i);
      const auto at = static_cast<size_t>(i);
      sum += w * x.value[at];
      error += std::abs(w) * (x.error[at] + roundings * (std::abs(x.value[at]) + x.error[at]));
    }
    y.value.push_back(sum);
    y.error.push_back(error);
  }
  return y;
}

Bounded apply(const Mlp& mlp, const Bounded& x) {
  const Bounded gate = product(mlp.gate, x), up = product(mlp.up, x);
  Bounded hidden;
  for (size_t n = 0; n < gate.value.size(); ++n) {
    const double silu = gate.value[n] / (1 + std::exp(-gate.value[n]));
    const double silu_error = 1.1 * gate.error[n];
    hidden.value.push_back(silu * up.value[n]);
    hidden.error.push_back(silu_error * (std::abs(up.value[n]) + up.error[n]) + std::abs(silu) * up.error[n] +
                           8 * 0x1p-24 * std::abs(hidden.value[n]) + 0x1p-148 * (1 + std::abs(up.value[n])));
  }
  return product(mlp.down, hidden);
}

// The result in double and the tolerance of the contract.
Bounded exact(const Problem& problem, const Inputs& in) {
  Bounded all;
  for (int64_t t = 0; t < in.x.view.extent[0]; ++t) {
    Bounded x{{}, Doubles(static_cast<size_t>(problem.hidden))};
    for (int64_t i = 0; i < problem.hidden; ++i) x.value.push_back(in.x.view(t, i));
    Doubles y(x.value.size()), magnitude(x.value.size()), error(x.value.size(), 0x1p-145);
    const auto add = [&](const Bounded& one, double weight) {
      for (size_t i = 0; i < y.size(); ++i) {
        y[i] += weight * one.value[i];
        magnitude[i] += std::abs(weight * one.value[i]);
        error[i] += std::abs(weight) * one.error[i];
      }
    };
    for (int64_t j = 0; j < problem.experts_per_token; ++j) {
      const auto at = static_cast<size_t>(t * problem.experts_per_token + j);
      add(apply(in.experts[static_cast<size_t>(in.ids[at])], x), in.weights[at]);
    }
    if (problem.shared_width > 0) add(apply(in.shared, x), 1.0);
    const double additions = 2.0 * static_cast<double>(problem.experts_per_token + 1) * 0x1p-24;
    for (size_t i = 0; i < y.size(); ++i) {
      all.value.push_back(y[i]);
      all.error.push_back(error[i] + additions * (magnitude[i] + error[i]));
    }
  }
  return all;
}

void expect_agreement(const Case& shape, const MatrixFormat& format, const MatrixFormat& shared_format,
                      Values values) {
  SCOPED_TRACE(fmt::format("{}, {}, {}, seed 1", shape.what, describe(format), inputs::name(values)));
  const Problem problem = problem_of(shape, format, shared_format);
  const Inputs in = make_inputs(1, shape, format, shared_format, values);
  const Buffer<2> reference = result(kReference, problem, in);
  const Bounded truth = exact(problem, in);
  const std::vector<float> rounded(truth.value.begin(), truth.value.end());
  EXPECT_TRUE(test::agrees(reference.elements, rounded, truth.error));
  EXPECT_TRUE(test::agrees(result(kCpu, problem, in).elements, reference.elements, truth.error));
}

TEST(experts, agrees_with_the_reference_at_awkward_sizes_on_hard_values) {
  for (const Case& shape : kAwkwardCases)
    for (const Values values : inputs::kAllValues) expect_agreement(shape, kBlocks, kF32, values);
}

TEST(experts, agrees_with_the_reference_for_every_weight_format) {
  for (const MatrixFormat& format : inputs::all_formats())
    expect_agreement(kAwkwardCases[2], format, format, Values::kNormal);
}

TEST(experts, agrees_with_the_reference_at_the_sizes_of_models) {
  for (const Case& shape : kTinyCases) expect_agreement(shape, kBF16, kBF16, Values::kNormal);
  for (const Case& shape : kRealCases) expect_agreement(shape, kBlocks, kBlocks, Values::kNormal);
}

// Scalars all: expert e is silu(x) * x * (e + 1).
Inputs scalar_experts(const std::vector<int32_t>& ids, const std::vector<float>& weights, float x) {
  const Case shape{"", 1, 1, 4, static_cast<int64_t>(ids.size()), 1, 1};
  Inputs in = make_inputs(2, shape, kF32, kF32, Values::kConstant);
  in.x.elements[0] = x;
  in.ids = ids;
  in.weights = weights;
  for (size_t i = 0; i < in.owners.size(); ++i)
    *reinterpret_cast<float*>(in.owners[i].data->data()) = i % 3 == 2 ? static_cast<float>(i / 3 + 1) : 1.0f;
  return in;
}

TEST(experts, the_sum_is_of_weighted_experts_and_the_shared_one) {
  const float x = 1.5f;
  const float one = x / (1.0f + static_cast<float>(std::exp(-1.5))) * x;
  const Inputs in = scalar_experts({0, 2, 3}, {0.5f, 2.0f, 0.25f}, x);
  const Problem problem = problem_of({"", 1, 1, 4, 3, 1, 1}, kF32, kF32);
  const float expected = 0.5f * one + 2 * 3 * one + 0.25f * 4 * one + 5 * one;
  for (const Implementation* const row : kBoth)
    EXPECT_NEAR(result(*row, problem, in).elements[0], expected, 1e-5);
}

TEST(experts, the_gate_survives_values_beyond_the_range_of_exp) {
  const Problem problem = problem_of({"", 1, 1, 4, 1, 1, 1}, kF32, kF32);
  for (const Implementation* const row : kBoth) {
    EXPECT_EQ(result(*row, problem, scalar_experts({0}, {1.0f}, -1000.0f)).elements[0], 0.0f);
    EXPECT_EQ(result(*row, problem, scalar_experts({0}, {1.0f}, 1000.0f)).elements[0], 6e6f);
  }
}

TEST(experts, gives_the_same_bits_for_any_batch_threads_and_instruction_set) {
  const Case shape{"", 9, 77, 6, 3, 35, 21};
  const Inputs in = make_inputs(3, shape, kBlocks, kBF16, Values::kNormal);
  const Buffer<2> whole = result(kCpu, problem_of(shape, kBlocks, kBF16), in);
  for (const Isa isa : test::machine_isas()) {
    SCOPED_TRACE(name(isa));
    const Problem problem = problem_of(shape, kBlocks, kBF16, isa);
    for (const int threads : {1, 2, 3})
      EXPECT_TRUE(test::identical(result(kCpu, problem, in, threads).elements, whole.elements));
    for (int64_t t = 0; t < shape.tokens; ++t) {
      Inputs one = in;
      one.x.view = in.x.view.slice(0, t, 1);
      one.ids.assign(in.ids.begin() + t * 3, in.ids.begin() + t * 3 + 3);
      one.weights.assign(in.weights.begin() + t * 3, in.weights.begin() + t * 3 + 3);
      EXPECT_TRUE(test::identical(result(kCpu, problem, one).elements,
                                  {whole.view[t].data, static_cast<size_t>(shape.hidden)}));
    }
  }
}

TEST(experts, a_batch_larger_than_a_chunk_gives_each_token_what_it_gets_alone) {
  const Case shape{"", 521, 5, 2, 1, 3, 4};
  Inputs in = make_inputs(4, shape, kF32, kF32, Values::kNormal);
  for (size_t t = 0; t < in.ids.size(); ++t) in.ids[t] = t % 50 == 0 ? 0 : 1;
  const Problem problem = problem_of(shape, kF32, kF32);
  const Buffer<2> out = result(kCpu, problem, in, 2);
  for (const int64_t t : {0, 1, 255, 256, 257, 261, 262, 520}) {
    Inputs one = in;
    one.x.view = in.x.view.slice(0, t, 1);
    one.ids = {in.ids[static_cast<size_t>(t)]};
    one.weights = {in.weights[static_cast<size_t>(t)]};
    EXPECT_TRUE(test::identical(result(kCpu, problem, one).elements, {out.view[t].data, 5}));
  }
}

TEST(experts, a_NaN_or_infinity_stays_in_its_token) {
  const Case shape{"", 5, 20, 4, 2, 9, 7};
  Inputs in = make_inputs(5, shape, kBlocks, kBlocks, Values::kNormal);
  in.x.view(1, 19) = kNaN;
  in.x.view(2, 0) = kInfinity;
  in.weights[7] = kNaN;
  for (const Implementation* const row : kBoth) {
    const Buffer<2> out = result(*row, problem_of(shape, kBlocks, kBlocks), in);
    for (int64_t i = 0; i < shape.hidden; ++i) {
      EXPECT_TRUE(std::isnan(out.view(1, i)) && std::isnan(out.view(3, i)));
      EXPECT_FALSE(std::isfinite(out.view(2, i)));
      EXPECT_TRUE(std::isfinite(out.view(0, i)) && std::isfinite(out.view(4, i)));
    }
  }
}

TEST(experts, does_not_read_an_expert_that_nobody_chose) {
  const Case shape{"", 2, 20, 3, 1, 9, 7};
  Inputs in = make_inputs(6, shape, kF32, kF32, Values::kNormal);
  in.ids = {0, 2};
  for (size_t i = 3; i < 6; ++i)
    std::fill_n(reinterpret_cast<float*>(in.owners[i].data->data()), 20 * 9, kNaN);
  for (const Implementation* const row : kBoth)
    for (const float y : result(*row, problem_of(shape, kF32, kF32), in).elements)
      EXPECT_TRUE(std::isfinite(y));
}

TEST(experts, reads_and_writes_rows_of_any_stride) {
  const Case shape{"", 3, 30, 4, 2, 11, 6};
  Inputs in = make_inputs(7, {"", 3, 50, 4, 2, 11, 6}, kBF16, kBF16, Values::kNormal);
  const Inputs narrow = make_inputs(7, shape, kBF16, kBF16, Values::kNormal);
  in.experts = narrow.experts;
  in.shared = narrow.shared;
  in.x.view = in.x.view.slice(1, 13, 30);
  const Problem problem = problem_of(shape, kBF16, kBF16);
  const Buffer<2> packed = result(kCpu, problem, in);
  Random random(7);
  Buffer<2> wide = inputs::make(random, Values::kConstant, 3, 40);
  test::run(kCpu, problem, args_of(problem, in, wide.view.slice(1, 4, 30)));
  for (int64_t t = 0; t < 3; ++t) {
    EXPECT_TRUE(test::identical({&wide.view(t, 4), 30}, {&packed.view(t, 0), 30}));
    EXPECT_EQ(wide.view(t, 3), 0.5f);
    EXPECT_EQ(wide.view(t, 34), 0.5f);
  }
  EXPECT_TRUE(
      test::agrees(packed.elements, result(kReference, problem, in).elements, exact(problem, in).error));
}

TEST(experts, names_the_tensor_that_breaks_the_contract) {
  const Case shape{"", 2, 6, 4, 2, 3, 5};
  const Problem problem = problem_of(shape, kF32, kF32);
  Inputs in = make_inputs(8, shape, kF32, kF32, Values::kNormal);
  Buffer<2> out = make_inputs(8, {"", 3, 6, 0, 0, 0, 0}, kF32, kF32, Values::kNormal).x;
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
  for (const Implementation* const row : kBoth) {
    Problem problem = problem_of(kAwkwardCases[0], kF32, kF32);
    problem.setting.numerics.activation = Activation::kBf16;
    EXPECT_EQ(test::refusal(*row, problem), "activation = bf16, takes fp32");
    problem.setting.numerics = Numerics::fp32();
    problem.setting.numerics.activation_quant = ActivationQuant::kE4m3;
    EXPECT_EQ(test::refusal(*row, problem), "activation_quant = e4m3, takes none");
    problem.setting.numerics = Numerics::fp32();
    problem.setting.numerics.mma = Mma::kHopper;
    EXPECT_EQ(test::refusal(*row, problem), "mma = hopper, takes exact");
  }
}

}  // namespace
}  // namespace fulgurite::experts
