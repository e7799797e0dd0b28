// DeepSeek-V4's indexer: queries and weights alone, turned in their last dimensions.

#include "fulgurite/ops/indexer_prepare/test_inputs.h"

namespace fulgurite::indexer_prepare {
namespace {

const char* const kNumerics[] = {"fp32", "serving", "serving,index_quant=fp4", "serving,activation=fp16",
                                 "fp32,index_quant=fp4,hadamard=both"};

Problem v4_problem(const Case& shape, const char* numerics) {
  Problem problem = problem_of(shape, numerics);
  problem.layout = rotary::Layout::kInterleaved;
  problem.rope_first = shape.head_dim - shape.rope;
  return problem;
}

Args without_keys(Args args) {
  args.k = {};
  args.k_weight = {};
  args.k_bias = {};
  args.key_cache = {};
  args.rotated_k = {};
  return args;
}

Result queries(const Implementation& row, Problem problem, const Batch& batch, int threads = 1) {
  problem.keys = false;
  const Result made = make_result(problem, batch.q.view.extent[0]);
  test::run(row, problem, without_keys(args_of(batch, made)), threads);
  return made;
}

TEST(indexer_prepare, without_keys_makes_the_same_queries_and_weights) {
  for (const char* const numerics : kNumerics) {
    for (const Case& shape : kCases) {
      Problem problem = v4_problem(shape, numerics);
      for (const Values values : inputs::kAllValues) {
        const Batch batch = make_batch(shape, values, activation(problem));
        const Result whole = result(kReference, problem, batch);
        for (const Implementation* const row : kBoth) {
          const Result made = queries(*row, problem, batch, 3);
          EXPECT_EQ(*made.q.bytes, *whole.q.bytes) << shape.what << ", " << numerics;
          EXPECT_TRUE(test::identical(made.weights.elements, whole.weights.elements));
          EXPECT_TRUE(test::identical(made.rotated_q.elements, whole.rotated_q.elements));
        }
        EXPECT_TRUE(result(kCpu, problem, batch) == whole);  // keys turn with the queries
      }
    }
  }
}

// A linear made it, and no indexer_projection that would have rounded it.
TEST(indexer_prepare, without_keys_rounds_the_gate_where_the_knob_says_so) {
  const Case& shape = kCases[5];
  Batch batch = make_batch(shape, Values::kNormal, DType::kBF16);
  for (const Implementation* const row : kBoth) {
    const Result narrow = queries(*row, v4_problem(shape, "serving,gate=bf16"), batch);
    const Result whole = queries(*row, v4_problem(shape, "serving"), batch);
    EXPECT_NE(narrow.weights.elements, whole.weights.elements);
    Batch rounded = make_batch(shape, Values::kNormal, DType::kBF16);
    for (float& gate : rounded.gate.elements) gate = round_to_bf16(gate);
    EXPECT_EQ(narrow.weights.elements, queries(*row, v4_problem(shape, "serving"), rounded).weights.elements);
  }
}

TEST(indexer_prepare, is_judged_without_keys) {
  for (const char* const numerics : kNumerics) {
    Problem problem = v4_problem(kCases[5], numerics);
    problem.keys = false;
    const Batch batch = make_batch(kCases[5], Values::kOutliers, activation(problem));
    const Result made = make_result(problem, kCases[5].tokens);
    const test::ExactBytes workspace(kCpu.workspace_bytes(problem, 1));
    const audit::OpReport report =
        judge(kCpu, problem, without_keys(args_of(batch, made)), {1, nullptr, workspace.bytes()});
    EXPECT_TRUE(report.within()) << describe(report);
    EXPECT_EQ(report.outputs.size(), 3u);  // q_operand, weights, rotated_q
  }
}

TEST(indexer_prepare, turns_the_dimensions_from_rope_first_on) {
  const Case shape{"", 3, 2, 16, 6, 1, 9};
  for (const char* const numerics : {"fp32", "serving"}) {
    const Problem problem = v4_problem(shape, numerics);
    const Batch batch = make_batch(shape, Values::kNormal, activation(problem));
    for (const Implementation* const row : kBoth) {
      const Result made = queries(*row, problem, batch);
      for (int64_t t = 0; t < 3; ++t) {
        std::vector<float> head;
        for (int64_t i = 0; i < 16; ++i) head.push_back(load(batch.q.view, t, 1, i));
        const int64_t p = batch.places[static_cast<size_t>(t)].position;
        rotary::rotate(rotary::Layout::kInterleaved, &batch.table.cosine.view(p, 0),
                       &batch.table.sine.view(p, 0), 6, head.data() + 10);
        for (float& value : head) value = round_to(activation(problem), value);
        EXPECT_TRUE(test::identical({&made.rotated_q.view(t, 1, 0), 16}, head));
      }
    }
  }
}

TEST(indexer_prepare, without_keys_a_position_is_the_table_s) {
  const Case shape{"", 1, 2, 16, 6, 1, 9};
  Problem problem = v4_problem(shape, "fp32");
  problem.keys = false;
  problem.context = 0;
  Batch batch = make_batch(shape, Values::kNormal);
  const Result made = make_result(problem, 1);
  const auto message = [&](int32_t position) {
    batch.places = {{5, position}};
    return test::message_of([&] { check(problem, without_keys(args_of(batch, made))); });
  };
  EXPECT_EQ(message(8), "");
  EXPECT_EQ(message(9), "indexer_prepare: position: expected a value in [0, 8], found 9");
}

}  // namespace
}  // namespace fulgurite::indexer_prepare
