#include "fulgurite/ops/indexer_prepare/indexer_prepare.h"

#include <bit>

#include "fulgurite/core/quantize.h"
#include "fulgurite/ops/indexer_prepare/test_inputs.h"

namespace fulgurite::indexer_prepare {
namespace {

// Every value of every knob that concerns the operation.
const char* const kNumerics[] = {"fp32",
                                 "fp32,hadamard=q",
                                 "fp32,hadamard=both,rsqrt=two_step",
                                 "fp32,index_quant=fp8,hadamard=both",
                                 "fp32,index_quant=fp4",
                                 "serving",
                                 "serving,index_quant=none",
                                 "serving,activation=fp16",
                                 "serving,activation=fp16,index_quant=none",
                                 "serving,index_quant=fp4",
                                 "serving,index_scale=fp32,hadamard=q",
                                 "serving,index_scale=fp32,scale_form=divided",
                                 "serving,index_norm=bf16,hadamard=none,index_norm_eps=1e-5",
                                 "serving,indexer_rope=interleaved"};

TEST(indexer_prepare, makes_the_reference_s_roundings_on_hard_values) {
  for (const char* const numerics : kNumerics) {
    for (const Case& shape : kCases) {
      const Problem problem = problem_of(shape, numerics);
      for (const Values values : inputs::kAllValues) {
        SCOPED_TRACE(fmt::format("{}, {}, {}, seed 1", shape.what, inputs::name(values), numerics));
        const Batch batch = make_batch(shape, values, activation(problem));
        const audit::OpReport report = judged(kCpu, problem, batch);
        EXPECT_TRUE(report.within()) << describe(report);
        EXPECT_TRUE(result(kCpu, problem, batch) == result(kReference, problem, batch));
      }
    }
  }
}

TEST(indexer_prepare, huge_values_infinities_and_NaN_agree) {
  const Case shape{"", 6, 3, 32, 16, 1, 8};
  for (const char* const numerics : kNumerics) {
    const Problem problem = problem_of(shape, numerics);
    const Batch batch = make_batch(shape, Values::kOutliers, activation(problem));
    const float hard[] = {3e38f, -3e38f, std::numeric_limits<float>::infinity(), kNaN, 1e-39f};
    for (int64_t t = 0; t < 5; ++t) {
      store(batch.q.view, hard[t], t, 1, 5);
      store(batch.k.view, hard[t], t, 7);
    }
    const audit::OpReport report = judged(kCpu, problem, batch);
    EXPECT_TRUE(report.within()) << numerics << "\n" << describe(report);
  }
}

TEST(indexer_prepare, gives_the_same_bits_for_any_batch_threads_and_instruction_set) {
  const Case shape{"", 70, 5, 64, 16, 2, 40};
  for (const char* const numerics : {"fp32,hadamard=both", "serving"}) {
    const Batch batch = make_batch(shape, Values::kNormal, activation(problem_of(shape, numerics)));
    const Result whole = result(kCpu, problem_of(shape, numerics), batch);
    for (const Isa isa : test::machine_isas()) {
      const Problem problem = problem_of(shape, numerics, isa);
      for (const int threads : {2, 3}) EXPECT_TRUE(result(kCpu, problem, batch, threads) == whole);
      const Result one_by_one = make_result(problem, shape.tokens);
      for (int64_t t = 0; t < shape.tokens; ++t)
        test::run(kCpu, problem, slice(args_of(batch, one_by_one), t, 1));
      EXPECT_TRUE(one_by_one == whole);
    }
  }
}

// Hadamard of (1, 3, 0, 0) is (4, -2, 4, -2) / 2; amax 2 / 448 rounds up to 2^-7. No rotation at position 0.
TEST(indexer_prepare, serving_quantizes_a_query_and_puts_its_scale_into_the_weight) {
  const Case shape{"", 1, 1, 4, 2, 1, 1};
  const Batch batch = make_batch(shape, Values::kConstant, DType::kBF16);
  const float q[] = {1.0f, 3.0f, 0.0f, 0.0f};
  for (int64_t i = 0; i < 4; ++i) store(batch.q.view, q[i], 0, 0, i);
  batch.gate.view(0, 0) = 3.0f;
  for (const Implementation* const row : kBoth) {
    const Result pow2 = result(*row, problem_of(shape, "serving"), batch);
    const float codes[] = {256.0f, -128.0f, 256.0f, -128.0f};
    for (int64_t i = 0; i < 4; ++i) EXPECT_EQ(pow2.query(0, 0, i), codes[i]);
    EXPECT_EQ(pow2.weights.view(0, 0), 3.0f * 0x1p-7f * 0.5f);
    const Result any = result(*row, problem_of(shape, "serving,index_scale=fp32"), batch);
    for (int64_t i = 0; i < 4; ++i) EXPECT_EQ(any.query(0, 0, i), codes[i] / 256.0f * 448.0f);
    EXPECT_EQ(any.weights.view(0, 0), 3.0f * (2.0f * static_cast<float>(1.0 / 448.0)) * 0.5f);
  }
}

// Mean 3, variance 5, eps 1: r = 1/sqrt(6).
TEST(indexer_prepare, the_key_is_normed_with_mean_weight_and_bias) {
  const Case shape{"", 1, 1, 4, 2, 1, 1};
  Batch batch = make_batch(shape, Values::kConstant);
  for (int64_t i = 0; i < 4; ++i) store(batch.k.view, 2.0f * static_cast<float>(i), 0, i);
  const float weight[] = {1.0f, 2.0f, 1.0f, 1.00390625f}, bias[] = {0.0f, 0.0f, 0.25f, 0.0f};
  std::copy_n(weight, 4, batch.k_weight.view.data);
  std::copy_n(bias, 4, batch.k_bias.view.data);
  const float r = static_cast<float>(1.0 / std::sqrt(6.0));
  for (const Implementation* const row : kBoth) {
    Problem problem = problem_of(shape, "fp32");
    problem.setting.numerics.index_norm_eps = 1.0f;
    const Result exact = result(*row, problem, batch);
    problem.setting.numerics.index_norm = IndexNorm::kBf16;
    const Result rounded = result(*row, problem, batch);
    const float expected[] = {-3.0f * r, -r * 2.0f, r + 0.25f, 3.0f * r * 1.00390625f};
    for (int64_t i = 0; i < 4; ++i) EXPECT_EQ(exact.key({0, 0}, i), expected[i]);
    EXPECT_EQ(rounded.key({0, 0}, 3), 3.0f * r);  // 1 + 2^-8 ties to 1
  }
}

TEST(indexer_prepare, the_norm_keeps_a_small_variance_beside_a_large_mean) {
  const Case shape{"", 4, 1, 128, 64, 1, 4};
  const Batch batch = make_batch(shape, Values::kNormal);
  for (int64_t t = 0; t < 4; ++t)
    for (int64_t i = 0; i < 128; ++i) store(batch.k.view, 1000.0f + load(batch.k.view, t, i), t, i);
  for (const Implementation* const row : kBoth) {
    const Result made = result(*row, problem_of(shape), batch);
    for (int64_t t = 0; t < shape.tokens; ++t) {
      double sum = 0.0, squares = 0.0;
      for (int64_t i = 0; i < 128; ++i) sum += load(batch.k.view, t, i);
      for (int64_t i = 0; i < 128; ++i) squares += std::pow(load(batch.k.view, t, i) - sum / 128, 2);
      for (int64_t i = 64; i < 128; ++i) {  // the dimensions that are not rotated
        const double d = (load(batch.k.view, t, i) - sum / 128) / std::sqrt(squares / 128 + 1e-6);
        const double y = d * batch.k_weight.view(i) + batch.k_bias.view(i);
        EXPECT_NEAR(made.rotated_k.view(t, i), y, 1e-3);  // half an fp32 step of the mean is 3e-5
      }
    }
  }
}

TEST(indexer_prepare, turns_the_first_dimensions_and_rounds_them_as_an_activation) {
  const Case shape{"", 2, 2, 16, 8, 1, 9};
  for (const char* const numerics : {"fp32", "serving", "serving,indexer_rope=interleaved"}) {
    const Problem problem = problem_of(shape, numerics);
    const Batch batch = make_batch(shape, Values::kNormal, activation(problem));
    for (const Implementation* const row : kBoth) {
      const Result made = result(*row, problem, batch);
      for (int64_t t = 0; t < 2; ++t) {
        std::vector<float> head;
        for (int64_t i = 0; i < 16; ++i) head.push_back(load(batch.q.view, t, 1, i));
        const int64_t p = batch.places[static_cast<size_t>(t)].position;
        rotary::rotate(layout_in_force(problem), &batch.table.cosine.view(p, 0), &batch.table.sine.view(p, 0),
                       8, head.data());
        for (float& value : head) value = round_to(activation(problem), value);
        EXPECT_TRUE(test::identical({&made.rotated_q.view(t, 1, 0), 16}, head));
      }
    }
  }
}

TEST(indexer_prepare, the_knob_of_the_rotation_overrides_the_family) {
  const Case shape{"", 3, 2, 16, 8, 1, 9};
  const Batch batch = make_batch(shape, Values::kNormal);
  for (const Implementation* const row : kBoth) {
    const auto with = [&](rotary::Layout family, const char* numerics) {
      Problem problem = problem_of(shape, numerics);
      problem.layout = family;
      return result(*row, problem, batch);
    };
    const Result half = with(rotary::Layout::kHalfSplit, "fp32");
    const Result interleaved = with(rotary::Layout::kInterleaved, "fp32");
    EXPECT_NE(half.q.values(), interleaved.q.values());
    EXPECT_NE(half.rotated_k.elements, interleaved.rotated_k.elements);
    EXPECT_TRUE(with(rotary::Layout::kInterleaved, "fp32,indexer_rope=half_split") == half);
    EXPECT_TRUE(with(rotary::Layout::kHalfSplit, "fp32,indexer_rope=interleaved") == interleaved);
  }
}

// Element (i, j) of the Sylvester matrix is (-1)^popcount(i & j).
double sylvester(View<const float, 1> x, int64_t i) {
  double sum = 0.0;
  for (int64_t j = 0; j < x.extent[0]; ++j)
    sum += std::popcount(static_cast<uint64_t>(i & j)) % 2 == 0 ? x(j) : -static_cast<double>(x(j));
  return sum / std::sqrt(static_cast<double>(x.extent[0]));
}

// Seven roundings of the butterflies and one of the product: 8 * 2^-24 * sum |x| / sqrt(128); then bf16.
TEST(indexer_prepare, hadamard_is_the_sylvester_matrix_where_the_knob_applies_it) {
  const Case shape{"", 2, 3, 128, 64, 1, 8};
  for (const Hadamard hadamard : {Hadamard::kNone, Hadamard::kQ, Hadamard::kBoth}) {
    for (const char* const preset : {"fp32", "serving,index_quant=none"}) {
      const Problem problem = problem_of(shape, fmt::format("{},hadamard={}", preset, value_name(hadamard)));
      const Batch batch = make_batch(shape, Values::kOutliers, activation(problem));
      const double half_step = activation(problem) == DType::kBF16 ? 0x1p-8 : 0.0;
      for (const Implementation* const row : kBoth) {
        const Result made = result(*row, problem, batch);
        const auto expect = [&](View<const float, 1> x, bool applied, auto y) {
          double magnitude = 0.0;
          for (int64_t j = 0; j < 128; ++j) magnitude += std::abs(x(j)) / std::sqrt(128.0);
          for (int64_t i = 0; i < 128; ++i) {
            const double exact = applied ? sylvester(x, i) : x(i);
            EXPECT_NEAR(y(i), exact, applied ? 9 * 0x1p-24 * magnitude + half_step * std::abs(exact) : 0.0);
          }
        };
        for (int64_t t = 0; t < 2; ++t) {
          expect(made.rotated_q.view[t][2], hadamard != Hadamard::kNone,
                 [&](int64_t i) { return made.query(t, 2, i); });
          expect(made.rotated_k.view[t], hadamard == Hadamard::kBoth,
                 [&](int64_t i) { return made.key(batch.places[static_cast<size_t>(t)], i); });
        }
      }
    }
  }
}

TEST(indexer_prepare, fp4_keeps_the_dequantized_values_of_groups_of_32) {
  const Case shape{"", 2, 2, 64, 32, 1, 4};
  const Batch batch = make_batch(shape, Values::kOutliers, DType::kBF16);
  for (const Implementation* const row : kBoth) {
    const Result exact = result(*row, problem_of(shape, "serving,index_quant=none"), batch);
    const Result made = result(*row, problem_of(shape, "serving,index_quant=fp4"), batch);
    for (int64_t t = 0; t < 2; ++t) {
      std::vector<float> q(64);
      for (int64_t i = 0; i < 64; ++i) q[static_cast<size_t>(i)] = exact.query(t, 1, i);
      round_to_fp4(q);
      for (int64_t i = 0; i < 64; ++i) EXPECT_EQ(made.query(t, 1, i), q[static_cast<size_t>(i)]);
    }
    EXPECT_EQ(made.weights.elements, exact.weights.elements);  // no q_scale
  }
}

TEST(indexer_prepare, head_weights_are_scaled_left_to_right) {
  const Case shape{"", 40, 3, 8, 2, 1, 40};
  const Batch batch = make_batch(shape, Values::kNormal);
  const float heads_root = static_cast<float>(1.0 / std::sqrt(3.0));
  const float dim_root = static_cast<float>(1.0 / std::sqrt(8.0));
  for (const Implementation* const row : kBoth) {
    const Result made = result(*row, problem_of(shape), batch);
    for (size_t i = 0; i < made.weights.elements.size(); ++i)
      EXPECT_EQ(made.weights.elements[i], (batch.gate.elements[i] * heads_root) * dim_root) << i;
  }
}

TEST(indexer_prepare, the_knobs_of_the_key_s_norm_matter) {
  const Case shape{"", 64, 1, 4, 2, 1, 64};
  const Batch batch = make_batch(shape, Values::kNormal);
  for (const Implementation* const row : kBoth) {
    const auto keys = [&](const char* numerics) {
      return result(*row, problem_of(shape, numerics), batch).keys.values();
    };
    for (const char* const other :
         {"fp32,rsqrt=two_step", "fp32,index_norm_eps=1e-5", "fp32,rsqrt=error:1e-3"})
      EXPECT_NE(keys(other), keys("fp32")) << other;
  }
}

}  // namespace
}  // namespace fulgurite::indexer_prepare
