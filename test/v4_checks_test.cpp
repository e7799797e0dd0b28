// The public decode and projection checks of DeepSeek-V4 (pypto-lib's qkv_proj_rope, decode_attention_swa, and
// their siblings of ratio 4 and 128) at real dimensions: what the processor's rows give, against the `serving`
// references. Stage by stage, each from the reference's inputs, and the whole chain from its own.
//
// Inputs as there: streams U(-1, 1), weights N(0, 1) / sqrt(fan_in) in fp8 with e8m0 scales, norms U(-1, 1),
// cached rows of unit root mean square; first positions 8192, 127, 31. The update's base and scale are drawn,
// where the public check has those of a layer. Pro has 16 of its 128 heads, in 2 of 16 groups: heads do not
// meet before o_b, and all would cost the references half a minute.

#include <gtest/gtest.h>

#include <map>

#include "test/v4_layer.h"

namespace fulgurite::test::v4 {
namespace {

constexpr Dimensions kFlash{"Flash", 4096, 64, 1024, 8, 512};
constexpr Dimensions kPro{"Pro", 7168, 16, 1536, 2, 1024};

// Sequences at 8192, 127, 31 and 8192 again, two tokens each: first all first ones.
std::vector<TokenPlace> decode_places(int64_t tokens) {
  constexpr int32_t kStarts[] = {8192, 127, 31, 8192};
  std::vector<TokenPlace> places;
  for (int32_t t = 0; t < tokens; ++t) places.push_back({t % 4, kStarts[t % 4] + t / 4});
  return places;
}

const Weights& weights_of(const Dimensions& d) {
  static const Weights flash = make_weights(kFlash, 1), pro = make_weights(kPro, 2);
  return d.name == kFlash.name ? flash : pro;
}

struct Result {
  std::vector<float> expected, alone, chained;
};

// Every stage by name.
std::map<std::string, Result> run_layer(const Dimensions& d, int64_t ratio, int64_t tokens) {
  Layer layer(d, weights_of(d), ratio, decode_places(tokens));
  Values expected = layer.inputs(3), actual = expected;
  std::map<std::string, Result> results;
  const std::vector<Stage> stages = layer.stages();
  for (const Stage& stage : stages) {
    stage.run(Side::kReference, expected);
    stage.run(Side::kPlanned, actual);
  }
  Values alone = expected;
  for (const Stage& stage : stages) {
    stage.run(Side::kPlanned, alone);
    results[stage.name] = {stage.result(expected), stage.result(alone), stage.result(actual)};
    alone = expected;
  }
  return results;
}

void expect_layer(const Dimensions& d, int64_t ratio, int64_t tokens) {
  SCOPED_TRACE(fmt::format("{}, ratio {}", d.name, ratio));
  const auto results = run_layer(d, ratio, tokens);
  for (const auto& [name, result] : results) {
    const bool output = name == "x_out";
    const auto distance = output ? of_output : of_projection;
    const Distance alone = distance(result.alone, result.expected),
                   chained = distance(result.chained, result.expected);
    testing::Test::RecordProperty(
        fmt::format("{} ratio {} {}", d.name, ratio, name),
        fmt::format("alone {:.4f} % beyond, L2 {:.1e}; chained {:.4f} %, L2 {:.1e}", 100 * alone.beyond,
                    alone.relative_l2, 100 * chained.beyond, chained.relative_l2));
    EXPECT_LE(alone.beyond, output ? 0.008 : 0.005) << name;
    if (name == "q" || name == "kv" || output) {
      EXPECT_LE(chained.beyond, output ? 0.008 : 0.005) << name;
      EXPECT_LE(chained.relative_l2, 3e-3) << name;
    }
  }
}

TEST(v4_checks, decode_over_the_window_is_within_the_public_bounds) {
  expect_layer(kFlash, 0, 8);
  expect_layer(kPro, 0, 8);
}

TEST(v4_checks, decode_with_selected_entries_is_within_the_public_bounds) {
  expect_layer(kFlash, 4, 3);
  expect_layer(kPro, 4, 3);
}

TEST(v4_checks, decode_with_every_entry_is_within_the_public_bounds) {
  expect_layer(kFlash, 128, 3);
  expect_layer(kPro, 128, 3);
}

// The bounds notice one value in a hundred that is two steps of bf16 off.
TEST(v4_checks, the_bounds_can_be_missed) {
  std::vector<float> expected(1000, 1.0f), actual = expected;
  for (size_t i = 0; i < actual.size(); i += 100) actual[i] = 1.015625f;
  EXPECT_GT(of_projection(actual, expected).beyond, 0.005);
  EXPECT_GT(of_output(actual, expected).beyond, 0.008);
}

}  // namespace
}  // namespace fulgurite::test::v4
