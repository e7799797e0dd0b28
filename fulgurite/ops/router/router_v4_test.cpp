// What DeepSeek-V4 asks of a router: sqrt(softplus), and layers in which the token's id chooses.

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "fulgurite/ops/router/router_audit.h"
#include "fulgurite/ops/router/router_cases.h"
#include "test/op_test.h"

namespace fulgurite::router {
namespace {

using inputs::Values;

constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
constexpr MatrixFormat kF32{MatrixForm::kF32, {}, ScaleFormat::kF32};
constexpr MatrixFormat kBF16{MatrixForm::kBF16, {}, ScaleFormat::kF32};

struct Row {
  const Implementation& implementation;
  Setting (*setting)(Isa);
  MatrixFormat weight;
};
const Row kRows[] = {{kReference, test::fp32_setting, kF32},
                     {kCpu, test::fp32_setting, kF32},
                     {kCpu, test::serving_setting, kBF16},
                     {kCpuBf16, test::serving_setting, kBF16},
                     {kCpu, test::fp16_setting, kBF16}};

struct Inputs {
  inputs::TensorBuffer<2> x;
  inputs::Weight weight;
  inputs::Buffer<1> bias;
  std::vector<int32_t> ids;
  std::vector<int64_t> table;
  Problem problem;
};

// A vocabulary of eleven, whose rows name neighbours, falling.
Inputs make_inputs(const Case& shape, const Row& row, bool hashed, Values values = Values::kNormal,
                   Isa isa = cpu::best_isa()) {
  Random random(1);
  const Setting setting = row.setting(isa);
  Inputs in{inputs::make_tensor(random, values, activation_type(setting.numerics),
                                std::array{shape.tokens, shape.hidden}),
            inputs::make_weight(random, shape.experts, shape.hidden, row.weight),
            inputs::make(random, Values::kNormal, hashed ? 0 : shape.experts),
            {},
            {},
            {setting, shape.hidden, shape.experts, shape.groups, shape.groups_kept, shape.experts_per_token,
             1.5f, row.weight, Scoring::kSqrtSoftplus, hashed, hashed ? 11 : 0}};
  const auto scale = static_cast<float>(2.0 / std::sqrt(static_cast<double>(shape.hidden)));
  for (int64_t t = 0; t < shape.tokens; ++t) {
    for (int64_t i = 0; i < shape.hidden; ++i) store(in.x.view, load(in.x.view, t, i) * scale, t, i);
    in.ids.push_back(static_cast<int32_t>(random.below(11)));
  }
  for (int64_t id = 0; id < 11; ++id)
    for (int64_t j = shape.experts_per_token; j-- > 0;) in.table.push_back((id + j) % shape.experts);
  return in;
}

struct Result {
  std::vector<int32_t> ids;
  std::vector<float> weights;
};

Args args_of(const Inputs& in, Result& out, int64_t first, int64_t count) {
  const std::array<int64_t, 2> shape{count, in.problem.experts_per_token};
  out.ids.assign(static_cast<size_t>(shape[0] * shape[1]), -7);
  out.weights.assign(out.ids.size(), -7.0f);
  Args args{in.x.view.slice(0, first, count),
            &in.weight.matrix,
            in.bias.view,
            {out.ids.data(), shape},
            {out.weights.data(), shape}};
  if (!in.problem.hashed) return args;
  args.ids = {in.ids.data() + first, {count}};
  args.hash_table = {in.table.data(), {in.problem.vocabulary, shape[1]}};
  return args;
}

Result result(const Row& row, const Inputs& in, int64_t first, int64_t count, int threads = 1) {
  Result out;
  test::run(row.implementation, in.problem, args_of(in, out, first, count), threads);
  return out;
}
Result result(const Row& row, const Inputs& in) { return result(row, in, 0, in.x.view.extent[0]); }

audit::OpReport judged(const Implementation& implementation, const Inputs& in) {
  Result out;
  const test::ExactBytes workspace(implementation.workspace_bytes(in.problem, 1));
  std::ranges::fill(workspace.bytes(), std::byte{0xFF});
  return judge(implementation, in.problem, args_of(in, out, 0, in.x.view.extent[0]),
               {1, nullptr, workspace.bytes()});
}

void expect_agreement(const Case& shape, const Row& row, Values values, Isa isa = cpu::best_isa()) {
  for (const bool hashed : {false, true}) {
    if (hashed && shape.groups != 1) continue;
    const audit::OpReport report = judged(row.implementation, make_inputs(shape, row, hashed, values, isa));
    EXPECT_TRUE(report.within()) << fmt::format("{}, {}, hashed {}, {}: {}", shape.what,
                                                row.implementation.name, hashed, inputs::name(values),
                                                audit::describe(report));
  }
}

TEST(router_v4, agrees_with_the_reference_on_hard_values_and_instruction_sets) {
  constexpr Case kOwn[] = {{"no tokens", 0, 16, 8, 1, 1, 2},
                           {"one expert", 2, 3, 1, 1, 1, 1},
                           {"one over a chunk", 65, 20, 9, 1, 1, 4},
                           {"tiny model", 37, 256, 8, 1, 1, 2},
                           {"groups", 5, 17, 8, 4, 2, 3}};
  for (const Row& row : kRows)
    for (const Case& shape : kOwn) {
      for (const Values values : inputs::kAllValues) expect_agreement(shape, row, values);
      for (const Isa isa : test::machine_isas()) expect_agreement(shape, row, Values::kDenormal, isa);
    }
}

TEST(router_v4, agrees_with_the_reference_at_the_sizes_of_flash_and_pro) {
  for (const Case& shape : kV4Cases)
    for (const Row& row : kRows)
      if (&row.implementation != &kReference) expect_agreement(shape, row, Values::kNormal);
}

// One token whose logits are given, exactly.
Inputs with_logits(const Row& row, const std::vector<float>& logits, int64_t chosen, bool hashed = false) {
  const auto experts = static_cast<int64_t>(logits.size());
  Inputs in = make_inputs({"", 1, 1, experts, 1, 1, chosen}, row, hashed);
  store(in.x.view, 1.0f, 0, 0);
  std::fill(in.bias.elements.begin(), in.bias.elements.end(), 0.0f);
  Tensor<1> weight = View<float, 1>(reinterpret_cast<float*>(in.weight.data->data()), {experts});
  weight.dtype = row.weight.form == MatrixForm::kBF16 ? DType::kBF16 : DType::kF32;
  for (int64_t e = 0; e < experts; ++e) store(weight, logits[static_cast<size_t>(e)], e);
  return in;
}

float score(float l) {
  const auto e = static_cast<float>(std::exp(static_cast<double>(l)));
  const float softplus = l > 20.0f ? l : static_cast<float>(std::log1p(static_cast<double>(e)));
  return static_cast<float>(std::sqrt(static_cast<double>(softplus)));
}

TEST(router_v4, weights_are_shares_of_sqrt_softplus) {
  // Beyond exp's range, at the threshold, beside zero, where exp is small.
  const std::vector<float> logits{100.0f, 20.0f, 20.125f, 0.0f, -1.5f, -60.0f};
  float sum = 0.0f;
  for (const float l : logits) sum += score(l);
  ASSERT_EQ(score(100.0f), 10.0f);
  for (const Row& row : kRows) {
    const Result out = result(row, with_logits(row, logits, 6));
    for (size_t j = 0; j < 6; ++j)
      EXPECT_EQ(out.weights[j], (score(logits[j]) / sum) * 1.5f) << row.implementation.name;
  }
}

using Ids = std::vector<int32_t>;

TEST(router_v4, ties_go_to_the_lower_expert_and_a_NaN_below_everything) {
  for (const Row& row : kRows) {
    EXPECT_EQ(result(row, with_logits(row, {1, 2, 2, 2, 1, 2}, 3)).ids, (Ids{1, 2, 3}));
    EXPECT_EQ(result(row, with_logits(row, {kNaN, -3, kNaN, -99, 4, kNaN}, 4)).ids, (Ids{0, 1, 3, 4}));
  }
}

TEST(router_v4, the_table_chooses_and_the_gate_weighs) {
  for (const Row& row : kRows) {
    Inputs in = with_logits(row, {9, 1, 8, -2, 7, 3}, 3, true);
    in.ids = {4};
    in.table.assign(33, 0);
    std::copy_n(std::array<int64_t, 3>{5, 1, 3}.begin(), 3, in.table.begin() + 12);
    const Result out = result(row, in);
    EXPECT_EQ(out.ids, (Ids{1, 3, 5})) << row.implementation.name;
    const float sum = (score(1) + score(-2)) + score(3);
    EXPECT_EQ(out.weights,
              (std::vector<float>{score(1) / sum * 1.5f, score(-2) / sum * 1.5f, score(3) / sum * 1.5f}));
  }
}

TEST(router_v4, a_hashed_NaN_stays_where_the_table_put_it) {
  for (const Row& row : kRows) {
    Inputs in = with_logits(row, {kNaN, 1, 2, 3}, 2, true);
    in.ids = {0};  // experts 0 and 1
    const Result out = result(row, in);
    EXPECT_EQ(out.ids, (Ids{0, 1}));
    EXPECT_TRUE(std::isnan(out.weights[0]) && std::isnan(out.weights[1]));
  }
}

TEST(router_v4, gives_the_same_bits_for_any_batch_and_threads) {
  for (const Row& row : kRows)
    for (const bool hashed : {false, true}) {
      const Inputs in = make_inputs({"", 67, 177, 12, 1, 1, 4}, row, hashed);
      const Result whole = result(row, in);
      for (const int threads : {2, 3}) {
        const Result same = result(row, in, 0, 67, threads);
        EXPECT_EQ(same.ids, whole.ids);
        EXPECT_TRUE(test::identical(same.weights, whole.weights));
      }
      for (int64_t t = 0; t < 67; ++t) {
        const Result one = result(row, in, t, 1);
        EXPECT_TRUE(std::equal(one.ids.begin(), one.ids.end(), whole.ids.begin() + t * 4));
        EXPECT_TRUE(test::identical(one.weights, {&whole.weights[static_cast<size_t>(t * 4)], 4}));
      }
    }
}

// The reference, as a router of sigmoids, or of the next token's row.
void with_sigmoids(const Problem& problem, const Args& args, const Lane& lane) {
  Problem other = problem;
  other.scoring = Scoring::kSigmoid;
  kReference.run(other, args, lane);
}
void with_another_row(const Problem& problem, const Args& args, const Lane& lane) {
  Args other = args;
  std::vector<int32_t> ids(args.ids.data, args.ids.data + args.ids.extent[0]);
  ids[0] = (ids[0] + 1) % 11;
  other.ids = {ids.data(), args.ids.extent};
  kReference.run(problem, other, lane);
}

TEST(router_v4, its_audit_sees_another_score_and_another_row_of_the_table) {
  const Inputs in = make_inputs({"", 3, 64, 12, 1, 1, 4}, kRows[0], true);
  Implementation wrong = kReference;
  wrong.run = with_sigmoids;
  EXPECT_FALSE(judged(wrong, in).within());
  wrong.run = with_another_row;
  EXPECT_FALSE(judged(wrong, in).within());
}

TEST(router_v4, names_the_tensor_that_breaks_the_contract) {
  const Inputs good = make_inputs({"", 2, 5, 8, 1, 1, 3}, kRows[0], true);
  const auto message = [&](auto change) {
    Inputs in = good;
    in.ids = {1, 2};
    change(in);
    Result out;
    const Args args = args_of(in, out, 0, 2);
    return test::message_of([&] { check(in.problem, args); });
  };
  EXPECT_EQ(message([](Inputs&) {}), "");
  EXPECT_EQ(message([](Inputs& in) { in.ids[1] = 11; }),
            "router: ids: expected a value in [0, 10], found 11");
  EXPECT_EQ(message([](Inputs& in) { in.table[4] = 8; }),
            "router: hash_table: expected a value in [0, 7], found 8");
  EXPECT_EQ(message([](Inputs& in) { in.table[4] = -1; }),
            "router: hash_table: expected a value in [0, 7], found -1");
  EXPECT_EQ(message([](Inputs& in) { in.table[4] = in.table[3]; }),
            "router: hash_table: row 1 names expert 3 twice");
  EXPECT_EQ(message([](Inputs& in) { in.table[0] = -1; }), "");  // a row that nobody uses
}

}  // namespace
}  // namespace fulgurite::router
