// What indexer_prepare touches, refuses and names, and that its judge can say no.

#include "fulgurite/ops/indexer_prepare/test_inputs.h"

namespace fulgurite::indexer_prepare {
namespace {

TEST(indexer_prepare, the_judge_rejects_a_wrong_code_weight_key_and_scale) {
  const Case shape{"", 2, 3, 32, 16, 1, 8};
  const Problem problem = problem_of(shape, "serving");
  const Batch batch = make_batch(shape, Values::kNormal, DType::kBF16);
  EXPECT_TRUE(judged(kCpu, problem, batch).within());
  using Run = void (*)(const Problem&, const Args&, const Lane&);
  const Run spoilers[] = {[](const Problem& p, const Args& a, const Lane& lane) {
                            kCpu.run(p, a, lane);
                            a.q_operand.as<e4m3>()(1, 2, 31).bits ^= 1;
                          },
                          [](const Problem& p, const Args& a, const Lane& lane) {
                            kCpu.run(p, a, lane);
                            a.weights(1, 1) = std::nextafter(a.weights(1, 1), 0.0f);
                          },
                          [](const Problem& p, const Args& a, const Lane& lane) {
                            kCpu.run(p, a, lane);
                            a.key_cache.keys.as<e4m3>()(0, a.places(1).position, 0).bits ^= 1;
                          },
                          [](const Problem& p, const Args& a, const Lane& lane) {
                            kCpu.run(p, a, lane);
                            a.key_cache.scales(0, a.places(0).position) *= 2.0f;
                          }};
  for (size_t i = 0; i < std::size(spoilers); ++i) {
    const audit::OpReport report =
        judged({"spoiled", kCpu.supports, kCpu.workspace_bytes, spoilers[i]}, problem, batch);
    for (size_t o = 0; o < 4; ++o) EXPECT_EQ(report.outputs[o].difference.beyond, o == i ? 1 : 0);
  }
}

TEST(indexer_prepare, writes_only_the_cache_rows_of_its_tokens) {
  const Case shape{"", 5, 2, 8, 4, 3, 4};
  for (const char* const numerics : {"fp32", "serving", "serving,activation=fp16"}) {
    const Problem problem = problem_of(shape, numerics);
    const Batch batch = make_batch(shape, Values::kNormal, activation(problem));
    const bool scaled = problem.setting.numerics.index_quant == IndexQuant::kFp8;
    for (const Implementation* const row : kBoth) {
      const Result made = result(*row, problem, batch), untouched = make_result(problem, 5);
      for (int32_t sequence = 0; sequence < 3; ++sequence) {
        for (int32_t p = 0; p < 4; ++p) {
          const bool written = std::ranges::any_of(batch.places, [&](TokenPlace place) {
            return place.sequence == sequence && place.position == p;
          });
          for (int64_t i = 0; i < 8; ++i)
            EXPECT_TRUE(written || made.key({sequence, p}, i) == untouched.key({sequence, p}, i));
          EXPECT_EQ(made.scales.view(sequence, p) != untouched.scales.view(sequence, p), written && scaled);
        }
      }
    }
  }
}

TEST(indexer_prepare, works_without_the_rotated_outputs) {
  const Case shape{"", 3, 2, 8, 4, 1, 4};
  const Batch batch = make_batch(shape, Values::kNormal, DType::kBF16);
  const Problem problem = problem_of(shape, "serving");
  for (const Implementation* const row : kBoth) {
    const Result with = result(*row, problem, batch), without = make_result(problem, 3);
    Args args = args_of(batch, without);
    args.rotated_q = {};
    args.rotated_k = {};
    test::run(*row, problem, args);
    EXPECT_EQ(*without.q.bytes, *with.q.bytes);
    EXPECT_EQ(*without.keys.bytes, *with.keys.bytes);
  }
}

TEST(indexer_prepare, a_NaN_stays_in_its_token_and_head) {
  const Case shape{"", 3, 2, 8, 4, 1, 4};
  for (const char* const numerics :
       {"fp32,hadamard=both", "serving", "serving,index_quant=fp4", "serving,activation=fp16"}) {
    const Problem problem = problem_of(shape, numerics);
    const Batch batch = make_batch(shape, Values::kNormal, activation(problem));
    store(batch.q.view, kNaN, 0, 1, 7);
    store(batch.k.view, kNaN, 1, 3);
    batch.gate.view(2, 0) = kNaN;
    for (const Implementation* const row : kBoth) {
      const Result made = result(*row, problem, batch);
      for (int64_t t = 0; t < 3; ++t) {
        const TokenPlace place = batch.places[static_cast<size_t>(t)];
        for (int64_t i = 0; i < 8; ++i) {
          EXPECT_EQ(std::isnan(made.key(place, i)), t == 1);
          for (int64_t h = 0; h < 2; ++h) EXPECT_EQ(std::isnan(made.query(t, h, i)), t == 0 && h == 1);
        }
        for (int64_t h = 0; h < 2; ++h) EXPECT_EQ(std::isnan(made.weights.view(t, h)), t == 2 && h == 0);
      }
    }
  }
}

TEST(indexer_prepare, names_the_tensor_of_a_wrong_shape) {
  const Case shape{"", 2, 3, 8, 4, 2, 5};
  const Batch batch = make_batch(shape, Values::kNormal, DType::kBF16);
  const Problem problem = problem_of(shape, "serving");
  const Result made = make_result(problem, 2);
  const auto message = [&](const auto& spoil) {
    Args args = args_of(batch, made);
    spoil(args);
    return test::message_of([&] { check(problem, args); });
  };
  const auto expected = [](const char* rest) { return std::string("indexer_prepare: ") + rest; };
  EXPECT_EQ(message([](Args&) {}), "");
  EXPECT_EQ(message([](Args& a) { a.q = a.q.slice(1, 0, 2); }),
            expected("q: expected shape [2, 3, 8], found [2, 2, 8]"));
  EXPECT_EQ(message([](Args& a) { a.k = a.k.slice(1, 0, 7); }),
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
  EXPECT_EQ(message([](Args& a) { a.q_operand = a.q_operand.slice(1, 0, 2); }),
            expected("q_operand: expected shape [2, 3, 8], found [2, 2, 8]"));
  EXPECT_EQ(message([](Args& a) { a.key_cache.keys = a.key_cache.keys.slice(1, 0, 4); }),
            expected("key_cache: expected shape [2, 5, 8], found [2, 4, 8]"));
  EXPECT_EQ(message([](Args& a) { a.key_cache.scales = a.key_cache.scales.slice(1, 0, 4); }),
            expected("key_cache, scales: expected shape [2, 5], found [2, 4]"));
  EXPECT_EQ(message([](Args& a) { a.rotated_q = a.rotated_q.slice(0, 0, 1); }),
            expected("rotated_q: expected shape [2, 3, 8], found [1, 3, 8]"));
  EXPECT_EQ(message([](Args& a) { a.rotated_k = a.rotated_k.slice(0, 0, 1); }),
            expected("rotated_k: expected shape [2, 8], found [1, 8]"));
}

TEST(indexer_prepare, names_a_place_that_is_not_in_the_cache_or_the_table) {
  const Case shape{"", 2, 3, 8, 4, 2, 5};
  Batch batch = make_batch(shape, Values::kNormal);
  const Problem problem = problem_of(shape);
  const Result made = make_result(problem, 2);
  const auto message = [&](TokenPlace place, int64_t positions) {
    batch.places = {{0, 0}, place};
    batch.table = inputs::make_table(positions, 4);
    return test::message_of([&] { check(problem, args_of(batch, made)); });
  };
  EXPECT_EQ(message({1, 4}, 5), "");
  EXPECT_EQ(message({2, 4}, 5), "indexer_prepare: sequence: expected a value in [0, 1], found 2");
  EXPECT_EQ(message({1, 5}, 9), "indexer_prepare: position: expected a value in [0, 4], found 5");
  EXPECT_EQ(message({1, 4}, 4), "indexer_prepare: position: expected a value in [0, 3], found 4");
}

TEST(indexer_prepare, refuses_numerics_that_it_does_not_do) {
  const Case shape{"", 1, 1, 2, 2, 1, 1};
  for (const Implementation* const row : kBoth) {
    EXPECT_NE(test::refusal(*row, problem_of(shape, "serving,rsqrt=cuda")), "");
    EXPECT_EQ(test::refusal(*row, problem_of(shape, "serving,index_quant=fp4,index_scale=fp32")),
              "index_scale = fp32, takes pow2");
  }
}

}  // namespace
}  // namespace fulgurite::indexer_prepare
