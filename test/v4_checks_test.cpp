// The public decode and projection checks of DeepSeek-V4 (pypto-lib's qkv_proj_rope, decode_attention_swa, and
// their siblings of ratio 4 and 128) at real dimensions: what the processor's rows give, against the `serving`
// references.
//
// Inputs as there: streams U(-1, 1), weights N(0, 1) / sqrt(fan_in) in fp8 with e8m0 scales, the mixing of the
// streams of layers 0, 8 and 9 of a real model, cached rows of unit root mean square; four sequences of two
// tokens each, from 8192, 127, 31. qkv_proj_rope: x, norms and angles' cosines U(-1, 1), weights U(-0.1, 0.1).

#include <gtest/gtest.h>

#include "test/public_bounds.h"
#include "test/v4_layer.h"

namespace fulgurite::test::v4 {
namespace {

constexpr Bound kBound{1e-4, 1.0 / 128.0};
constexpr Dimensions kFlash{"Flash", 4096, 64, 1024, 8, 512};
constexpr Dimensions kPro{"Pro", 7168, 128, 1536, 16, 1024};

std::vector<TokenPlace> decode_places() {
  std::vector<TokenPlace> places;
  for (int32_t sequence = 0; const int32_t start : {8192, 127, 31, 8192}) {
    for (int32_t t = 0; t < 2; ++t) places.push_back({sequence, start + t});
    ++sequence;
  }
  return places;
}

// The references' chain beside the rows' own, from the same inputs; or each of its stages on what the rows gave
// before it, as the public check of q begins with the codes of the latent that the kernel made.
enum class References { kChain, kEachStage };

struct Result {
  std::string stage;
  std::vector<float> actual, expected;
};

std::vector<Result> run_layer(const Dimensions& d, int64_t ratio, References references,
                              Check check = Check::kLayer) {
  const Weights weights = make_weights(d, ratio, 1, check);
  Layer layer(d, weights, ratio, decode_places(), check);
  Values expected = layer.inputs(3), actual = expected;
  std::vector<Result> results;
  for (const Stage& stage : layer.stages()) {
    stage.run(Side::kReference, expected);
    stage.run(Side::kPlanned, actual);
    results.push_back({stage.name, stage.result(actual), stage.result(expected)});
    if (references == References::kEachStage) expected = actual;
  }
  return results;
}

// The bounds that the public checks set, and to which results: an entry and a state have no share at all. What
// lies between is held where each stage stands alone. q is where no code of its latent rounds otherwise; AMX, which
// sums in another order, may have one.
void expect_within(const Result& result, References references, const std::string& what) {
  const auto& [stage, actual, expected] = result;
  const bool output = stage == "x_out", state = stage == "state";
  const bool held = references == References::kEachStage || output || state || stage == "kv" ||
                    stage == "entries" || stage == "index keys" ||
                    (stage == "q" && cpu::best_isa() != Isa::kAmx);
  const Bound bound = state ? Bound{1e-3, 1e-3} : stage == "selected" ? Bound{0.5, 0.0} : kBound;
  const Distance apart = output ? of_output(actual, expected) : beyond(actual, expected, bound);
  testing::Test::RecordProperty(
      what, fmt::format("{:.4f} % beyond, worst {:.1e}, relative L2 {:.1e}, {} of {} differ",
                        100 * apart.beyond, apart.worst, apart.relative_l2, apart.differ, actual.size()));
  if (!held) return;
  EXPECT_LE(apart.beyond, output ? 0.008 : state || stage == "entries" ? 0.0 : 0.005) << what;
  EXPECT_LT(apart.worst, output ? 1.0 : INFINITY) << what;
  EXPECT_LE(apart.relative_l2, 1e-3) << what;
}

void expect_layer(const Dimensions& d, int64_t ratio, References references) {
  const char* const manner = references == References::kChain ? "end to end" : "each stage";
  for (const Result& result : run_layer(d, ratio, references))
    expect_within(result, references,
                  fmt::format("{}, ratio {}, {}, {}", d.name, ratio, manner, result.stage));
}

TEST(v4_checks, projections_of_q_and_kv_are_within_the_public_bounds) {
  for (const Dimensions& d : {kFlash, kPro})
    for (const Result& result : run_layer(d, 0, References::kEachStage, Check::kProjections))
      expect_within(result, References::kEachStage,
                    fmt::format("{}, qkv_proj_rope, {}", d.name, result.stage));
}

TEST(v4_checks, decode_over_the_window_is_within_the_public_bounds_from_end_to_end) {
  expect_layer(kFlash, 0, References::kChain);
  expect_layer(kPro, 0, References::kChain);
}

TEST(v4_checks, decode_with_selected_entries_is_within_the_public_bounds_from_end_to_end) {
  expect_layer(kFlash, 4, References::kChain);
  expect_layer(kPro, 4, References::kChain);
}

TEST(v4_checks, decode_with_every_entry_is_within_the_public_bounds_from_end_to_end) {
  expect_layer(kFlash, 128, References::kChain);
  expect_layer(kPro, 128, References::kChain);
}

TEST(v4_checks, every_stage_is_within_the_bounds_on_what_the_rows_gave_it) {
  for (const int64_t ratio : {0, 4, 128}) expect_layer(kFlash, ratio, References::kEachStage);
}

// The bounds notice one value in a hundred that is two steps of bf16 off.
TEST(v4_checks, the_bounds_can_be_missed) {
  std::vector<float> expected(1000, 1.0f), actual = expected;
  for (size_t i = 0; i < actual.size(); i += 100) actual[i] = 1.015625f;
  EXPECT_GT(beyond(actual, expected, kBound).beyond, 0.005);
  EXPECT_GT(of_output(actual, expected).beyond, 0.008);
  actual[0] = -1.0f;
  EXPECT_GE(of_output(actual, expected).worst, 1.0);
}

}  // namespace
}  // namespace fulgurite::test::v4
