// Longer than other tests: four outputs, two more on request, and four knobs.

#include "fulgurite/ops/indexer_prepare/indexer_prepare.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <limits>

#include "fulgurite/ops/indexer_prepare/indexer_prepare_cases.h"
#include "test/op_test.h"
#include "test/rotary_inputs.h"

namespace fulgurite::indexer_prepare {
namespace {

using inputs::Buffer;
using inputs::Values;

constexpr float kUntouched = 0.5f;  // what inputs::make fills a constant buffer with
constexpr Hadamard kAllHadamard[] = {Hadamard::kNone, Hadamard::kQ, Hadamard::kBoth};

struct Batch {
  Buffer<3> q;
  Buffer<2> k, gate;
  Buffer<1> k_weight, k_bias;
  std::vector<TokenPlace> places;
  inputs::RotaryTable table;
};

Batch make_batch(const Case& shape, Values values) {
  Random random(1);
  return {inputs::make(random, values, shape.tokens, shape.heads, shape.head_dim),
          inputs::make(random, values, shape.tokens, shape.head_dim),
          inputs::make(random, values, shape.tokens, shape.heads),
          inputs::make(random, Values::kNormal, shape.head_dim),
          inputs::make(random, Values::kNormal, shape.head_dim),
          inputs::make_places(random, shape.tokens, shape.sequences, shape.context),
          inputs::make_table(shape.context, shape.rope)};
}

Problem problem_of(const Case& shape, Hadamard hadamard = Hadamard::kNone, Isa isa = cpu::best_isa()) {
  Setting setting = test::fp32_setting(isa);
  setting.numerics.hadamard = hadamard;
  return {setting,         shape.heads,  shape.head_dim, shape.rope, rotary::Layout::kHalfSplit,
          shape.sequences, shape.context};
}

// What the operation writes.
struct Result {
  Buffer<3> q, rotated_q, cache;
  Buffer<2> weights, rotated_k;
};

bool same_bits(const Result& a, const Result& b) {
  return test::identical(a.q.elements, b.q.elements) &&
         test::identical(a.rotated_q.elements, b.rotated_q.elements) &&
         test::identical(a.cache.elements, b.cache.elements) &&
         test::identical(a.weights.elements, b.weights.elements) &&
         test::identical(a.rotated_k.elements, b.rotated_k.elements);
}

Result make_result(const Problem& problem, const Batch& batch) {
  Random unused(0);
  const int64_t tokens = batch.q.view.extent[0], dim = problem.head_dim;
  const auto rows = [&](int64_t a, int64_t b, int64_t c) {
    return inputs::make(unused, Values::kConstant, a, b, c);
  };
  Result made{rows(tokens, problem.heads, dim), rows(tokens, problem.heads, dim),
              rows(problem.sequences, problem.context, dim),
              inputs::make(unused, Values::kConstant, tokens, problem.heads),
              inputs::make(unused, Values::kConstant, tokens, dim)};
  std::copy(batch.q.elements.begin(), batch.q.elements.end(), made.q.elements.begin());
  return made;
}

Args args_of(const Batch& batch, const Result& made) {
  return {made.q.view,         batch.k.view,       batch.gate.view,
          batch.k_weight.view, batch.k_bias.view,  inputs::view_of(batch.places),
          batch.table.table(), made.weights.view,  made.cache.view,
          made.rotated_q.view, made.rotated_k.view};
}

Args slice(const Args& args, const Batch& batch, const Result& made, int64_t first, int64_t count) {
  Args part = args;
  part.q = made.q.view.slice(0, first, count);
  part.k = batch.k.view.slice(0, first, count);
  part.gate = args.gate.slice(0, first, count);
  part.places = args.places.slice(0, first, count);
  part.weights = args.weights.slice(0, first, count);
  part.rotated_q = args.rotated_q.slice(0, first, count);
  part.rotated_k = args.rotated_k.slice(0, first, count);
  return part;
}

Result result(const Implementation& implementation, const Problem& problem, const Batch& batch,
              int threads = 1) {
  Result made = make_result(problem, batch);
  test::run(implementation, problem, args_of(batch, made), threads);
  return made;
}

TEST(indexer_prepare, makes_the_reference_s_roundings_on_hard_values) {
  for (const Case& shape : kCases) {
    for (const Values values : inputs::kAllValues) {
      const Batch batch = make_batch(shape, values);
      for (const Hadamard hadamard : kAllHadamard) {
        SCOPED_TRACE(fmt::format("{}, {}, hadamard {}, seed 1", shape.what, inputs::name(values),
                                 value_name(hadamard)));
        const Problem problem = problem_of(shape, hadamard);
        EXPECT_TRUE(same_bits(result(kCpu, problem, batch), result(kReference, problem, batch)));
      }
    }
  }
}

TEST(indexer_prepare, gives_the_same_bits_for_any_batch_and_threads) {
  const Case shape{"", 7, 5, 32, 16, 2, 8};
  const Batch batch = make_batch(shape, Values::kNormal);
  const Result whole = result(kCpu, problem_of(shape, Hadamard::kBoth), batch);
  for (const Isa isa : test::machine_isas()) {
    const Problem problem = problem_of(shape, Hadamard::kBoth, isa);
    for (const int threads : {2, 3}) EXPECT_TRUE(same_bits(result(kCpu, problem, batch, threads), whole));
    const Result one_by_one = make_result(problem, batch);
    for (int64_t t = 0; t < shape.tokens; ++t)
      test::run(kCpu, problem, slice(args_of(batch, one_by_one), batch, one_by_one, t, 1));
    EXPECT_TRUE(same_bits(one_by_one, whole));
  }
}

// Mean 3, variance 5, eps 1: r = 1/sqrt(6). No rotation at position 0.
TEST(indexer_prepare, the_reference_norms_the_key_with_mean_weight_and_bias) {
  const Case shape{"", 1, 1, 4, 2, 1, 1};
  Batch batch = make_batch(shape, Values::kConstant);
  batch.k.elements = {0.0f, 2.0f, 4.0f, 6.0f};
  batch.k_weight.elements = {1.0f, 2.0f, 1.0f, 1.0f};
  batch.k_bias.elements = {0.0f, 0.0f, 0.25f, 0.0f};
  batch.k.view.data = batch.k.elements.data();
  batch.k_weight.view.data = batch.k_weight.elements.data();
  batch.k_bias.view.data = batch.k_bias.elements.data();
  Problem problem = problem_of(shape);
  problem.setting.numerics.index_norm_eps = 1.0f;
  const float r = static_cast<float>(1.0 / std::sqrt(6.0));
  EXPECT_EQ(result(kReference, problem, batch).cache.elements,
            (std::vector<float>{-3.0f * r, -r * 2.0f, r + 0.25f, 3.0f * r}));
}

TEST(indexer_prepare, the_norm_keeps_a_small_variance_beside_a_large_mean) {
  const Case shape{"", 4, 1, 128, 64, 1, 4};
  Batch batch = make_batch(shape, Values::kNormal);
  for (float& element : batch.k.elements) element = 1000.0f + element;
  for (const Implementation* const row : {&kReference, &kCpu}) {
    const Result made = result(*row, problem_of(shape), batch);
    for (int64_t t = 0; t < shape.tokens; ++t) {
      double sum = 0.0, squares = 0.0;
      for (int64_t i = 0; i < 128; ++i) sum += batch.k.view(t, i);
      for (int64_t i = 0; i < 128; ++i) squares += std::pow(batch.k.view(t, i) - sum / 128, 2);
      for (int64_t i = 64; i < 128; ++i) {  // the dimensions that are not rotated
        const double y =
            (batch.k.view(t, i) - sum / 128) / std::sqrt(squares / 128 + 1e-6) * batch.k_weight.view(i) +
            batch.k_bias.view(i);
        EXPECT_NEAR(made.rotated_k.view(t, i), y, 1e-3);  // half an fp32 step of the mean is 3e-5
      }
    }
  }
}

TEST(indexer_prepare, turns_the_first_dimensions_in_the_layout_in_force) {
  const Case shape{"", 2, 2, 16, 8, 1, 9};
  const Batch batch = make_batch(shape, Values::kNormal);
  for (const Implementation* const row : {&kReference, &kCpu}) {
    const Result made = result(*row, problem_of(shape), batch);
    for (int64_t t = 0; t < 2; ++t) {
      for (int64_t h = 0; h < 2; ++h) {
        std::vector<float> head(&batch.q.view(t, h, 0), &batch.q.view(t, h, 0) + 16);
        const int64_t p = batch.places[static_cast<size_t>(t)].position;
        rotary::rotate(rotary::Layout::kHalfSplit, &batch.table.cosine.view(p, 0),
                       &batch.table.sine.view(p, 0), 8, head.data());
        EXPECT_TRUE(test::identical({&made.rotated_q.view(t, h, 0), 16}, head));
      }
    }
  }
}

TEST(indexer_prepare, the_knob_of_the_rotation_overrides_the_family) {
  const Case shape{"", 3, 2, 16, 8, 1, 9};
  const Batch batch = make_batch(shape, Values::kNormal);
  for (const Implementation* const row : {&kReference, &kCpu}) {
    const auto with = [&](rotary::Layout family, IndexerRope knob) {
      Problem problem = problem_of(shape);
      problem.layout = family;
      problem.setting.numerics.indexer_rope = knob;
      return result(*row, problem, batch);
    };
    const Result half = with(rotary::Layout::kHalfSplit, IndexerRope::kFamily);
    const Result interleaved = with(rotary::Layout::kInterleaved, IndexerRope::kFamily);
    EXPECT_NE(half.q.elements, interleaved.q.elements);
    EXPECT_NE(half.cache.elements, interleaved.cache.elements);
    EXPECT_TRUE(same_bits(with(rotary::Layout::kInterleaved, IndexerRope::kHalfSplit), half));
    EXPECT_TRUE(same_bits(with(rotary::Layout::kHalfSplit, IndexerRope::kInterleaved), interleaved));
  }
}

// Element (i, j) of the Sylvester matrix is (-1)^popcount(i & j).
double sylvester(View<const float, 1> x, int64_t i) {
  double sum = 0.0;
  for (int64_t j = 0; j < x.extent[0]; ++j)
    sum += std::popcount(static_cast<uint64_t>(i & j)) % 2 == 0 ? x(j) : -static_cast<double>(x(j));
  return sum / std::sqrt(static_cast<double>(x.extent[0]));
}

// Seven roundings of the butterflies and one of the product: 8 * 2^-24 * sum |x| / sqrt(128).
void expect_sylvester(View<const float, 1> x, View<const float, 1> y) {
  double magnitude = 0.0;
  for (int64_t j = 0; j < 128; ++j) magnitude += std::abs(x(j)) / std::sqrt(128.0);
  for (int64_t i = 0; i < 128; ++i) EXPECT_NEAR(y(i), sylvester(x, i), 9 * 0x1p-24 * magnitude) << i;
}

TEST(indexer_prepare, hadamard_is_the_sylvester_matrix_where_the_knob_applies_it) {
  const Case shape{"", 2, 3, 128, 64, 1, 8};
  const Batch batch = make_batch(shape, Values::kOutliers);
  for (const Implementation* const row : {&kReference, &kCpu}) {
    for (const Hadamard hadamard : kAllHadamard) {
      const Result made = result(*row, problem_of(shape, hadamard), batch);
      EXPECT_EQ(made.q.elements == made.rotated_q.elements, hadamard == Hadamard::kNone);
      for (int64_t t = 0; t < 2; ++t) {
        const View<float, 1> key = made.cache.view[0][batch.places[static_cast<size_t>(t)].position];
        if (hadamard != Hadamard::kNone) expect_sylvester(made.rotated_q.view[t][2], made.q.view[t][2]);
        if (hadamard == Hadamard::kBoth)
          expect_sylvester(made.rotated_k.view[t], key);
        else
          EXPECT_TRUE(test::identical({key.data, 128}, {made.rotated_k.view[t].data, 128}));
      }
    }
  }
}

TEST(indexer_prepare, head_weights_are_scaled_left_to_right) {
  const Case shape{"", 40, 3, 8, 2, 1, 40};
  const Batch batch = make_batch(shape, Values::kNormal);
  const float heads_root = static_cast<float>(1.0 / std::sqrt(3.0));
  const float dim_root = static_cast<float>(1.0 / std::sqrt(8.0));
  for (const Implementation* const row : {&kReference, &kCpu}) {
    const Result made = result(*row, problem_of(shape), batch);
    for (size_t i = 0; i < made.weights.elements.size(); ++i)
      EXPECT_EQ(made.weights.elements[i], (batch.gate.elements[i] * heads_root) * dim_root) << i;
  }
}

TEST(indexer_prepare, writes_only_the_cache_rows_of_its_tokens) {
  const Case shape{"", 5, 2, 8, 4, 3, 4};
  const Batch batch = make_batch(shape, Values::kNormal);
  for (const Implementation* const row : {&kReference, &kCpu}) {
    Result made = result(*row, problem_of(shape), batch);
    for (const TokenPlace place : batch.places) {
      for (int64_t i = 0; i < 8; ++i) {
        EXPECT_NE(made.cache.view(place.sequence, place.position, i), kUntouched);
        made.cache.view(place.sequence, place.position, i) = kUntouched;
      }
    }
    EXPECT_EQ(made.cache.elements, std::vector<float>(made.cache.elements.size(), kUntouched));
  }
}

TEST(indexer_prepare, works_without_the_rotated_outputs) {
  const Case shape{"", 3, 2, 8, 4, 1, 4};
  const Batch batch = make_batch(shape, Values::kNormal);
  for (const Implementation* const row : {&kReference, &kCpu}) {
    const Result with = result(*row, problem_of(shape, Hadamard::kBoth), batch);
    const Result without = make_result(problem_of(shape), batch);
    Args args = args_of(batch, without);
    args.rotated_q = {};
    args.rotated_k = {};
    test::run(*row, problem_of(shape, Hadamard::kBoth), args);
    EXPECT_TRUE(test::identical(without.q.elements, with.q.elements));
    EXPECT_TRUE(test::identical(without.cache.elements, with.cache.elements));
  }
}

TEST(indexer_prepare, a_NaN_stays_in_its_token_and_head) {
  const Case shape{"", 3, 2, 8, 4, 1, 4};
  Batch batch = make_batch(shape, Values::kNormal);
  const float nan = std::numeric_limits<float>::quiet_NaN();
  batch.q.view(0, 1, 7) = nan;
  batch.k.view(1, 3) = nan;
  batch.gate.view(2, 0) = nan;
  for (const Implementation* const row : {&kReference, &kCpu}) {
    const Result made = result(*row, problem_of(shape, Hadamard::kBoth), batch);
    for (int64_t t = 0; t < 3; ++t) {
      const View<float, 1> key = made.cache.view[0][batch.places[static_cast<size_t>(t)].position];
      for (int64_t i = 0; i < 8; ++i) {
        EXPECT_EQ(std::isnan(key(i)), t == 1);
        for (int64_t h = 0; h < 2; ++h) EXPECT_EQ(std::isnan(made.q.view(t, h, i)), t == 0 && h == 1);
      }
      for (int64_t h = 0; h < 2; ++h) EXPECT_EQ(std::isnan(made.weights.view(t, h)), t == 2 && h == 0);
    }
  }
}

TEST(indexer_prepare, the_knobs_of_the_key_s_norm_matter) {
  const Case shape{"", 64, 1, 4, 2, 1, 64};
  const Batch batch = make_batch(shape, Values::kNormal);
  Problem two_step = problem_of(shape), eps = problem_of(shape);
  two_step.setting.numerics.rsqrt = Rsqrt::kTwoStep;
  eps.setting.numerics.index_norm_eps = 1e-5f;
  for (const Implementation* const row : {&kReference, &kCpu}) {
    const Result plain = result(*row, problem_of(shape), batch);
    EXPECT_NE(result(*row, two_step, batch).cache.elements, plain.cache.elements);
    EXPECT_NE(result(*row, eps, batch).cache.elements, plain.cache.elements);
  }
}

TEST(indexer_prepare, names_the_tensor_of_a_wrong_shape) {
  const Case shape{"", 2, 3, 8, 4, 2, 5};
  const Batch batch = make_batch(shape, Values::kNormal);
  const Problem problem = problem_of(shape);
  const Result made = make_result(problem, batch);
  const auto message = [&](const auto& spoil) {
    Args args = args_of(batch, made);
    spoil(args);
    return test::message_of([&] { check(problem, args); });
  };
  const auto expected = [](const char* rest) { return std::string("indexer_prepare: ") + rest; };
  EXPECT_EQ(message([](Args&) {}), "");
  EXPECT_EQ(message([&](Args& a) { a.q = made.q.view.slice(1, 0, 2); }),
            expected("q: expected shape [2, 3, 8], found [2, 2, 8]"));
  EXPECT_EQ(message([&](Args& a) { a.k = batch.k.view.slice(1, 0, 7); }),
            expected("k: expected shape [2, 8], found [2, 7]"));
  EXPECT_EQ(message([](Args& a) { a.gate = a.gate.slice(1, 0, 2); }),
            expected("gate: expected shape [2, 3], found [2, 2]"));
  EXPECT_EQ(message([](Args& a) { a.k_weight = a.k_weight.slice(0, 0, 7); }),
            expected("k_weight: expected shape [8], found [7]"));
  EXPECT_EQ(message([](Args& a) { a.k_bias = a.k_bias.slice(0, 0, 7); }),
            expected("k_bias: expected shape [8], found [7]"));
  EXPECT_EQ(message([](Args& a) { a.places = a.places.slice(0, 0, 1); }),
            expected("places: expected shape [2], found [1]"));
  EXPECT_EQ(message([](Args& a) { a.table.cosine = a.table.cosine.slice(1, 0, 1); }),
            expected("cosine: expected shape [5, 2], found [5, 1]"));
  EXPECT_EQ(message([](Args& a) { a.table.sine = a.table.sine.slice(0, 0, 4); }),
            expected("sine: expected shape [5, 2], found [4, 2]"));
  EXPECT_EQ(message([](Args& a) { a.weights = a.weights.slice(0, 0, 1); }),
            expected("weights: expected shape [2, 3], found [1, 3]"));
  EXPECT_EQ(message([&](Args& a) { a.key_cache = made.cache.view.slice(1, 0, 4); }),
            expected("key_cache: expected shape [2, 5, 8], found [2, 4, 8]"));
  EXPECT_EQ(message([](Args& a) { a.rotated_q = a.rotated_q.slice(0, 0, 1); }),
            expected("rotated_q: expected shape [2, 3, 8], found [1, 3, 8]"));
  EXPECT_EQ(message([](Args& a) { a.rotated_k = a.rotated_k.slice(0, 0, 1); }),
            expected("rotated_k: expected shape [2, 8], found [1, 8]"));
}

TEST(indexer_prepare, names_a_place_that_is_not_in_the_cache_or_the_table) {
  const Case shape{"", 2, 3, 8, 4, 2, 5};
  Batch batch = make_batch(shape, Values::kNormal);
  const Problem problem = problem_of(shape);
  const Result made = make_result(problem, batch);
  const auto message = [&](TokenPlace place, int64_t positions) {
    batch.places[1] = place;
    batch.table = inputs::make_table(positions, 4);
    return test::message_of([&] { check(problem, args_of(batch, made)); });
  };
  batch.places[0] = {0, 0};
  EXPECT_EQ(message({1, 4}, 5), "");
  EXPECT_EQ(message({2, 4}, 5), "indexer_prepare: sequence: expected a value in [0, 1], found 2");
  EXPECT_EQ(message({1, 5}, 9), "indexer_prepare: position: expected a value in [0, 4], found 5");
  EXPECT_EQ(message({1, 4}, 4), "indexer_prepare: position: expected a value in [0, 3], found 4");
}

TEST(indexer_prepare, refuses_numerics_that_it_does_not_do) {
  const auto refusal = [](const Implementation& row, const auto& choose) {
    Problem problem = problem_of({"", 1, 1, 2, 2, 1, 1});
    choose(problem.setting.numerics);
    return test::refusal(row, problem);
  };
  for (const Implementation* const row : {&kReference, &kCpu}) {
    EXPECT_EQ(refusal(*row, [](Numerics& n) { n.activation = Activation::kBf16; }),
              "activation = bf16, takes fp32");
    EXPECT_EQ(refusal(*row, [](Numerics& n) { n.index_quant = IndexQuant::kFp8; }),
              "index_quant = fp8, takes none");
    EXPECT_EQ(refusal(*row, [](Numerics& n) { n.index_norm = IndexNorm::kBf16; }),
              "index_norm = bf16, takes fp32");
  }
}

}  // namespace
}  // namespace fulgurite::indexer_prepare
