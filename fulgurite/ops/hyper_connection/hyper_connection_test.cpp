#include "fulgurite/ops/hyper_connection/hyper_connection.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "fulgurite/ops/hyper_connection/hyper_connection_audit.h"
#include "fulgurite/ops/hyper_connection/hyper_connection_cases.h"
#include "fulgurite/ops/hyper_connection/test_inputs.h"

namespace fulgurite::hyper_connection {
namespace {

constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

TEST(hyper_connection, agrees_with_the_reference_on_hard_values) {
  for (const Case& shape : kCases) {
    for (const DType activation : kActivations) {
      for (const Values values : inputs::kAllValues) {
        for (const Kind kind : {Kind::kLayer, Kind::kHead}) {
          const Batch batch = make_batch(shape, values, activation, kind);
          for (const Reads reads : kAllReads) {
            const audit::OpReport report =
                judged(kCpu, problem_of(shape, activation, kind), args_of(batch, reads));
            EXPECT_TRUE(report.within()) << fmt::format(
                "{}, {}, {}, {}, reads {}, seed 1: {}", shape.what, name(activation), inputs::name(values),
                kind == Kind::kHead ? "head" : "layer", static_cast<int>(reads), audit::describe(report));
          }
        }
      }
    }
  }
}

// What the audit allows is little: of fp32 values drawn as models have them.
TEST(hyper_connection, the_audit_s_bounds_are_tight) {
  const Batch batch = make_batch({"", 4, 4096}, Values::kNormal);
  const audit::OpReport report = judged(kCpu, problem_of({"", 4, 4096}), args_of(batch, Reads::kBlock));
  ASSERT_EQ(report.outputs.size(), 4u);
  for (const audit::OutputReport& output : report.outputs)
    EXPECT_LT(output.difference.looseness, 1e-3) << output.name;
}

// The equations of the contract once more, in double and in the order of the paper.
TEST(hyper_connection, the_reference_is_the_formula) {
  constexpr int64_t kHidden = 24;
  const Batch batch = make_batch({"", 3, kHidden}, Values::kNormal);
  const Args args = args_of(batch, Reads::kBlock);
  const Result made = result(kReference, problem_of({"", 3, kHidden}), args);
  const auto sigmoid = [](double z) { return 1.0 / (1.0 + std::exp(-z)); };
  for (int64_t t = 0; t < 3; ++t) {
    double x[4][kHidden], squares = 0.0, z[24], c[4][4];
    for (int64_t k = 0; k < 4; ++k) {
      for (int64_t i = 0; i < kHidden; ++i) {
        x[k][i] = static_cast<double>(args.post(t, k)) * static_cast<double>(load(args.block, t, i));
        for (int64_t j = 0; j < 4; ++j)
          x[k][i] +=
              static_cast<double>(args.mix(t, j, k)) * static_cast<double>(load(args.streams, t, j, i));
        squares += x[k][i] * x[k][i];
        EXPECT_NEAR(load(made.streams.view, t, k, i), x[k][i], 1e-5);
      }
    }
    for (int64_t n = 0; n < 24; ++n) {
      double dot = 0.0;
      for (int64_t i = 0; i < 4 * kHidden; ++i)
        dot += x[i / kHidden][i % kHidden] * static_cast<double>(args.fn(n, i));
      const int64_t part = n < 4 ? 0 : n < 8 ? 1 : 2;
      z[n] = dot / std::sqrt(squares / (4 * kHidden) + 1e-6) * static_cast<double>(args.scale(part)) +
             static_cast<double>(args.base(n));
    }
    for (int64_t j = 0; j < 4; ++j) {
      double sum = 0.0;
      for (int64_t k = 0; k < 4; ++k) sum += c[j][k] = std::exp(z[8 + 4 * j + k]);
      for (double& value : c[j]) value = value / sum + 1e-6;
    }
    for (int half = 1; half < 40; ++half) {  // columns, then rows and columns 19 times
      for (int64_t a = 0; a < 4; ++a) {
        double sum = 1e-6;
        for (int64_t b = 0; b < 4; ++b) sum += half % 2 == 1 ? c[b][a] : c[a][b];
        for (int64_t b = 0; b < 4; ++b) (half % 2 == 1 ? c[b][a] : c[a][b]) /= sum;
      }
    }
    for (int64_t j = 0; j < 4; ++j) {
      EXPECT_NEAR(load(made.post.view, t, j), 2.0 * sigmoid(z[4 + j]), 2e-6);
      for (int64_t k = 0; k < 4; ++k) EXPECT_NEAR(load(made.mix.view, t, j, k), c[j][k], 2e-6);
    }
    for (int64_t i = 0; i < kHidden; ++i) {
      double sum = 0.0;
      for (int64_t j = 0; j < 4; ++j) sum += (sigmoid(z[j]) + 1e-6) * x[j][i];
      EXPECT_NEAR(load(made.collapsed.view, t, i), sum, 2e-5);
    }
  }
}

// C_jk carries stream j to stream k, not the other way.
TEST(hyper_connection, the_mix_is_applied_transposed) {
  const Case shape{"", 1, 3};
  const Batch batch = make_batch(shape, Values::kNormal);
  for (int64_t j = 0; j < 4; ++j) {
    store(batch.post.view, 0.0f, int64_t{0}, j);
    for (int64_t k = 0; k < 4; ++k) store(batch.mix.view, j == 1 && k == 3 ? 1.0f : 0.0f, int64_t{0}, j, k);
  }
  for (const Implementation* const row : {&kReference, &kCpu}) {
    const Result made = result(*row, problem_of(shape), args_of(batch, Reads::kBlock));
    for (int64_t k = 0; k < 4; ++k)
      for (int64_t i = 0; i < 3; ++i)
        EXPECT_EQ(load(made.streams.view, int64_t{0}, k, i),
                  k == 3 ? load(batch.streams.view, int64_t{0}, int64_t{1}, i) : 0.0f);
  }
}

// 1 + 2^-24 + 2^-24 is 1 from the left, and 1 + 2^-23 if the small ones meet first.
TEST(hyper_connection, the_block_comes_first_and_the_streams_ascend) {
  const Case shape{"", 1, 1};
  const Batch batch = make_batch(shape, Values::kNormal);
  const auto x0 = [&](float y, std::array<float, 4> x) {
    store(batch.block.view, y, int64_t{0}, int64_t{0});
    store(batch.post.view, 1.0f, int64_t{0}, int64_t{0});
    for (int64_t j = 0; j < 4; ++j) {
      store(batch.streams.view, x[static_cast<size_t>(j)], int64_t{0}, j, int64_t{0});
      store(batch.mix.view, 1.0f, int64_t{0}, j, int64_t{0});
    }
    std::vector<float> values;
    for (const Implementation* const row : {&kReference, &kCpu})
      values.push_back(load(result(*row, problem_of(shape), args_of(batch, Reads::kBlock)).streams.view,
                            int64_t{0}, int64_t{0}, int64_t{0}));
    EXPECT_EQ(values[0], values[1]);
    return values[0];
  };
  EXPECT_EQ(x0(1.0f, {0x1p-24f, 0x1p-24f, 0.0f, 0.0f}), 1.0f);
  EXPECT_EQ(x0(0x1p-24f, {0x1p-24f, 1.0f, 0.0f, 0.0f}), 1.0f + 0x1p-23f);
  EXPECT_EQ(x0(0.0f, {0.0f, 1.0f, 0x1p-24f, 0x1p-24f}), 1.0f);
  EXPECT_EQ(x0(0.0f, {0.0f, 0x1p-24f, 0x1p-24f, 1.0f}), 1.0f + 0x1p-23f);
}

// 256 + 1 is a tie in bf16, whose step is 2 there: 256 is what the streams and all that follows have.
TEST(hyper_connection, mixing_and_collapse_read_the_rounded_streams_but_what_replaces_them_as_it_is) {
  const Case shape{"", 1, 1};
  for (const Implementation* const row : {&kReference, &kCpu}) {
    const Batch batch = make_batch(shape, Values::kNormal, DType::kBF16);
    for (int64_t j = 0; j < 4; ++j) {
      for (int64_t k = 0; k < 4; ++k) store(batch.mix.view, j == k ? 1.0f : 0.0f, int64_t{0}, j, k);
      store(batch.streams.view, 256.0f, int64_t{0}, j, int64_t{0});
      store(batch.post.view, 1.0f, int64_t{0}, j);
      store(batch.replaced.view, 257.0f, int64_t{0}, j);
    }
    store(batch.block.view, 1.0f, int64_t{0}, int64_t{0});
    for (int64_t j = 0; j < 4; ++j) {  // pre is (1 + eps, eps, eps, eps)
      store(batch.base.view, j == 0 ? 100.0f : -200.0f, j);
      store(batch.scale.view, 0.0f, int64_t{0});
    }
    Problem problem = problem_of(shape, DType::kBF16);
    problem.eps = 0x1p-10f;
    const Result stored = result(*row, problem, args_of(batch, Reads::kBlock));
    const Result replaced = result(*row, problem, args_of(batch, Reads::kReplaced));
    for (int64_t k = 0; k < 4; ++k) {
      EXPECT_EQ(load(stored.streams.view, int64_t{0}, k, int64_t{0}), 256.0f);
      EXPECT_EQ(load(replaced.streams.view, int64_t{0}, k, int64_t{0}), 256.0f);
    }
    // 256 (1 + 2^-10) + 3 * 256 * 2^-10 = 257, a tie, and 257 (1 + 4 * 2^-10) = 258.004.
    EXPECT_EQ(load(stored.collapsed.view, int64_t{0}, int64_t{0}), 256.0f);
    EXPECT_EQ(load(replaced.collapsed.view, int64_t{0}, int64_t{0}), 258.0f);
  }
}

TEST(hyper_connection, without_a_block_the_streams_stay_and_are_not_written) {
  for (const DType activation : kActivations) {
    const Case shape{"", 3, 40};
    const Batch batch = make_batch(shape, Values::kNormal, activation);
    Args same = args_of(batch, Reads::kReplaced);  // the same values by the other way
    for (int64_t at = 0; at < 3 * 160; ++at)
      store(batch.replaced.view, load(batch.streams.view, at / 160, at / 40 % 4, at % 40), at / 160,
            at % 160);
    for (const Implementation* const row : {&kReference, &kCpu}) {
      const Problem problem = problem_of(shape, activation);
      const Result first = result(*row, problem, args_of(batch, Reads::kStreams));
      const Result replaced = result(*row, problem, same);
      EXPECT_EQ(first.streams.values(), inputs::unwritten<3>(activation, {3, 4, 40}).values());
      EXPECT_TRUE(test::identical(replaced.streams.values(), batch.streams.values()));
      EXPECT_TRUE(test::identical(first.all_but_streams(), replaced.all_but_streams()));
    }
  }
}

// Rows and columns of C sum to 1 but for eps, the columns, which come last, more nearly.
TEST(hyper_connection, the_mix_is_doubly_stochastic_after_enough_iterations) {
  const Case shape{"", 5, 64};
  const Batch batch = make_batch(shape, Values::kNormal);
  for (const Implementation* const row : {&kReference, &kCpu}) {
    const auto farthest = [&](int iterations, bool columns) {
      Problem problem = problem_of(shape);
      problem.sinkhorn_iterations = iterations;
      const Result made = result(*row, problem, args_of(batch, Reads::kStreams));
      double far = 0.0;
      for (int64_t t = 0; t < 5; ++t) {
        for (int64_t a = 0; a < 4; ++a) {
          double sum = 0.0;
          for (int64_t b = 0; b < 4; ++b) sum += load(made.mix.view, t, columns ? b : a, columns ? a : b);
          far = std::fmax(far, std::abs(sum - 1.0));
        }
      }
      return far;
    };
    EXPECT_LT(farthest(20, true), 3e-6);
    EXPECT_LT(farthest(20, false), 1e-3);
    EXPECT_LT(farthest(1, true), 1e-4);  // eps beside the smallest sum
    EXPECT_GT(farthest(1, false), 1e-2);
  }
}

TEST(hyper_connection, a_NaN_or_infinity_spoils_its_token_only) {
  const Case shape{"", 3, 20};
  for (const float bad : {kNaN, std::numeric_limits<float>::infinity()}) {
    for (const DType activation : kActivations) {
      const Batch batch = make_batch(shape, Values::kNormal, activation);
      store(batch.block.view, bad, int64_t{1}, int64_t{7});
      for (const Implementation* const row : {&kReference, &kCpu}) {
        const Problem problem = problem_of(shape, activation);
        EXPECT_TRUE(judged(*row, problem, args_of(batch, Reads::kBlock)).within());
        const Result made = result(*row, problem, args_of(batch, Reads::kBlock));
        const std::vector<float> streams = made.streams.values();
        for (size_t i = 0; i < 240; ++i) EXPECT_EQ(std::isfinite(streams[i]), i / 80 != 1 || i % 20 != 7);
        for (int64_t t = 0; t < 3; ++t) {
          for (int64_t i = 0; i < 20; ++i) EXPECT_EQ(std::isnan(load(made.collapsed.view, t, i)), t == 1);
          for (int64_t j = 0; j < 4; ++j) {
            EXPECT_EQ(std::isnan(load(made.post.view, t, j)), t == 1);
            for (int64_t k = 0; k < 4; ++k) EXPECT_EQ(std::isnan(load(made.mix.view, t, j, k)), t == 1);
          }
        }
      }
    }
  }
}

TEST(hyper_connection, huge_values_and_saturated_gates_are_as_in_the_reference) {
  for (const float size : {1e18f, 1e30f, 3e38f}) {
    const Case shape{"", 2, 300};
    const Batch batch = make_batch(shape, Values::kNormal, DType::kBF16);
    for (int64_t i = 0; i < 300; ++i)
      store(batch.streams.view, i % 2 == 0 ? size : -size, int64_t{0}, i % 4, i);
    EXPECT_TRUE(judged(kCpu, problem_of(shape, DType::kBF16), args_of(batch, Reads::kBlock)).within());
  }
  const Case shape{"", 4, 64};
  const Batch batch = make_batch(shape, Values::kNormal);
  for (int64_t part = 0; part < 3; ++part) store(batch.scale.view, 500.0f, part);
  const audit::OpReport report = judged(kCpu, problem_of(shape), args_of(batch, Reads::kBlock));
  EXPECT_TRUE(report.within()) << audit::describe(report);
}

}  // namespace
}  // namespace fulgurite::hyper_connection
