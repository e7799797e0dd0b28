// How far the reciprocal square root's error reaches into bf16 queries, and who makes which error: the table
// of docs/numerics.md. The shares are printed with --gtest_filter=query_prepare_rsqrt.*; what must hold of
// them is checked.

#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "fulgurite/core/rounding.h"
#include "fulgurite/ops/query_prepare/query_prepare.h"
#include "test/op_test.h"
#include "test/paths.h"
#include "test/rotary_inputs.h"

namespace fulgurite::query_prepare {
namespace {

using inputs::TensorBuffer;

constexpr int64_t kTokens = 128, kHeads = 64, kDim = 512, kRope = 64;
constexpr double kValues = static_cast<double>(kTokens * kHeads * kDim);
// A value of fraction f in [1, 2) is 128 f steps of bf16 from 0, and so many times the error is the share of
// a step that it moves. Over values as likely in any octave's part, the mean of f is 1 / ln 2.
const double kFlipsPerError = 128.0 / std::log(2.0);

// The queries of 128 tokens, 64 heads of 512, each head of a size of its own, as wq_b leaves them.
struct Queries {
  TensorBuffer<3> q = inputs::unwritten<3>(DType::kBF16, {kTokens, kHeads, kDim});
  std::vector<float> means;  // of squares, plus eps, in fp32: a head each
  Queries() {
    Random random(361);
    for (int64_t t = 0; t < kTokens; ++t) {
      for (int64_t h = 0; h < kHeads; ++h) {
        const double size = std::exp2(4.0 * random.uniform() - 2.0);
        double squares = 0.0;
        for (int64_t i = 0; i < kDim; ++i) {
          store(q.view, static_cast<float>(size * random.normal()), t, h, i);
          const double value = load(q.view, t, h, i);
          squares += value * value;
        }
        means.push_back(static_cast<float>(squares / kDim) + 1e-6f);
      }
    }
  }
};
const Queries& queries() {
  static const Queries made;
  return made;
}

// The reference's normed heads.
std::vector<float> normed(const Numerics& numerics) {
  const TensorBuffer<3> q = inputs::unwritten<3>(DType::kBF16, {kTokens, kHeads, kDim});
  *q.bytes = *queries().q.bytes;
  const TensorBuffer<3> out = inputs::unwritten<3>(DType::kF32, {kTokens, kHeads, kDim});
  const inputs::RotaryTable table = inputs::make_table(1, kRope);
  const std::vector<TokenPlace> places(kTokens);
  Problem problem{test::serving_setting(), kHeads, kDim, kRope, 1e-6f};
  problem.setting.numerics = numerics;
  test::run(kReference, problem, {q.view, inputs::view_of(places), table.table(), out.view.as<float>()});
  return out.values();
}

Numerics with(Rsqrt knob, float error = 0.0f) {
  Numerics numerics = test::serving_setting().numerics;
  numerics.rsqrt = knob;
  numerics.rsqrt_error = error;
  return numerics;
}
const std::vector<float>& correct() {
  static const std::vector<float> made = normed(with(Rsqrt::kCorrect));
  return made;
}

double share_of_others(const std::vector<float>& values) {
  int64_t others = 0;
  for (size_t i = 0; i < values.size(); ++i) others += values[i] != correct()[i];
  return static_cast<double>(others) / kValues;
}

// A root that no knob names: each head's, by `root`.
template <class Root>
double share_with(const Root& root) {
  std::vector<float> values;
  for (size_t head = 0; head < queries().means.size(); ++head) {
    const float r = root(queries().means[head]);
    const auto t = static_cast<int64_t>(head) / kHeads, h = static_cast<int64_t>(head) % kHeads;
    for (int64_t i = 0; i < kDim; ++i) values.push_back(round_to_bf16(load(queries().q.view, t, h, i) * r));
  }
  return share_of_others(values);
}
float newton(float m, float r) { return r * (1.5f - 0.5f * m * r * r); }

void report(const char* what, double share) { std::printf("  %-34s %.5f %%\n", what, 100.0 * share); }

TEST(query_prepare_rsqrt, an_error_moves_about_185_times_as_many_values_of_q) {
  EXPECT_NEAR(kFlipsPerError, 184.7, 0.1);
  for (const float error : {1e-6f, 1e-5f, 1e-4f, 1e-3f, -1e-4f}) {
    const double share = share_of_others(normed(with(Rsqrt::kError, error)));
    std::printf("  error %g: %.5f %%, %.1f times\n", static_cast<double>(error), 100.0 * share,
                share / std::abs(static_cast<double>(error)));
    EXPECT_NEAR(share, kFlipsPerError * std::abs(static_cast<double>(error)),
                0.15 * kFlipsPerError * std::abs(static_cast<double>(error)));
  }
}

TEST(query_prepare_rsqrt, the_estimates_of_x86_move_percents_and_with_a_newton_step_still_some) {
  if (cpu::best_isa() < Isa::kAvx512) GTEST_SKIP() << "x86_14 needs AVX-512";
  const auto estimate = [](Rsqrt knob) { return [knob](float m) { return reciprocal_sqrt(m, with(knob)); }; };
  const double x86_12 = share_with(estimate(Rsqrt::kX86_12)), x86_14 = share_with(estimate(Rsqrt::kX86_14));
  EXPECT_EQ(x86_12, share_of_others(normed(with(Rsqrt::kX86_12))));  // share_with is what the reference does
  EXPECT_EQ(x86_14, share_of_others(normed(with(Rsqrt::kX86_14))));
  const auto stepped = [&](Rsqrt knob) {
    return share_with([&](float m) { return newton(m, estimate(knob)(m)); });
  };
  const double newton_12 = stepped(Rsqrt::kX86_12), newton_14 = stepped(Rsqrt::kX86_14);
  report("x86, 12 bits", x86_12);
  report("x86, 14 bits", x86_14);
  report("x86, 12 bits, a Newton step", newton_12);
  report("x86, 14 bits, a Newton step", newton_14);
  EXPECT_GT(x86_12, 1e-3);
  EXPECT_LT(x86_12, kFlipsPerError * 1.5 * 0x1p-12);
  EXPECT_GT(x86_14, 1e-4);
  EXPECT_LT(x86_14, kFlipsPerError * 0x1p-14);
  EXPECT_LT(newton_12, 1e-4);
  EXPECT_LT(newton_14, 1e-4);
  EXPECT_GT(newton_12, 0.0);
  EXPECT_GT(newton_14, 0.0);
}

// 1.0f / sqrtf(m) rounds twice. CUDA's rsqrtf is not run here: its documented error, at most 2 ulp, is put in
// every root, up and down.
TEST(query_prepare_rsqrt, two_roundings_and_cudas_rsqrt_move_a_few_values_in_a_hundred_thousand) {
  const double two_step = share_of_others(normed(with(Rsqrt::kTwoStep)));
  const auto off = [](int ulps) {
    return share_with([ulps](float m) {
      const float r = reciprocal_sqrt(m, with(Rsqrt::kCorrect));
      return std::bit_cast<float>(std::bit_cast<int32_t>(r) + ulps);
    });
  };
  const double one = std::max(off(1), off(-1)), two = std::max(off(2), off(-2));
  report("1.0f / sqrtf", two_step);
  report("every root 1 ulp off", one);
  report("every root 2 ulp off (CUDA's bound)", two);
  EXPECT_GT(two_step, 0.0);
  EXPECT_LT(two_step, 2e-5);
  EXPECT_LT(two_step, one);
  EXPECT_LT(two, 1.2 * kFlipsPerError * 0x1p-22);  // the values of a head move together
  EXPECT_EQ(off(0), 0.0);
}

TEST(query_prepare_rsqrt, q_s_path_uses_none_of_them) {
  EXPECT_EQ(Numerics::serving().rsqrt, Rsqrt::kCorrect);
  EXPECT_EQ(Numerics::fp32().rsqrt, Rsqrt::kCorrect);
  // No source but the knob's own asks a processor for an estimate.
  namespace fs = std::filesystem;
  int64_t read = 0;
  for (const auto& entry : fs::recursive_directory_iterator(std::string(test::kSourceDir) + "/fulgurite")) {
    const std::string file = entry.path().string(), extension = entry.path().extension();
    if ((extension != ".cpp" && extension != ".h" && extension != ".cu") || file.ends_with("_test.cpp"))
      continue;
    std::stringstream text;
    text << std::ifstream(entry.path()).rdbuf();
    ++read;
    if (file.ends_with("core/rounding.cpp")) continue;
    for (const char* const estimate : {"rsqrt_ss", "rsqrt_ps", "rsqrt14", "rsqrt28", "rsqrtf(", "rsqrtps"})
      EXPECT_EQ(text.str().find(estimate), std::string::npos) << file << ": " << estimate;
  }
  EXPECT_GT(read, 200);
}

}  // namespace
}  // namespace fulgurite::query_prepare
