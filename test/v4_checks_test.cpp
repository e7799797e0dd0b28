// The public decode and projection checks of DeepSeek-V4 (pypto-lib's qkv_proj_rope, decode_attention_swa, and
// their siblings of ratio 4 and 128) at real dimensions: what the processor's rows give, against the `serving`
// references, stage by stage along the whole chain.
//
// Inputs as there: streams U(-1, 1), weights N(0, 1) / sqrt(fan_in) in fp8 with e8m0 scales (qkv_proj_rope:
// U(-0.1, 0.1), on what the norm gives), norms U(-1, 1), cached rows of unit root mean square; first positions
// 8192, 127, 31. The update's base and scale are drawn, where the public check has those of a layer. Pro has
// 16 of its 128 heads, in 2 of 16 groups: heads do not meet before o_b, and all would cost the references
// half a minute.

#include <gtest/gtest.h>

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

enum class Check { kLayer, kProjections };

const Weights& weights_of(const Dimensions& d, Check check = Check::kLayer) {
  static const Weights flash = make_weights(kFlash, 1), pro = make_weights(kPro, 2);
  static const Weights flash_qkv = make_weights(kFlash, 5, Drawn::kUniform),
                       pro_qkv = make_weights(kPro, 6, Drawn::kUniform);
  if (check == Check::kProjections) return d.name == kFlash.name ? flash_qkv : pro_qkv;
  return d.name == kFlash.name ? flash : pro;
}

enum class Adopt { kNo, kCodes };

struct Result {
  std::string stage;
  std::vector<float> actual, expected;
};

// The chain of the planned rows, and that of the references. Adopt::kCodes: after a stage whose result is
// quantized next the references go on from the planned rows' result, as the public check of q does.
std::vector<Result> run_layer(const Dimensions& d, int64_t ratio, int64_t tokens, Adopt adopt,
                              Check check = Check::kLayer) {
  Layer layer(d, weights_of(d, check), ratio, decode_places(tokens));
  Values expected = layer.inputs(3), actual = expected;
  std::vector<Result> results;
  for (const Stage& stage : layer.stages()) {
    stage.run(Side::kReference, expected);
    stage.run(Side::kPlanned, actual);
    results.push_back({stage.name, stage.result(actual), stage.result(expected)});
    if (check == Check::kProjections && stage.name == "kv") break;
    if (adopt == Adopt::kCodes && stage.adopt) stage.adopt(expected, actual);
  }
  return results;
}

void expect_layer(const Dimensions& d, int64_t ratio, int64_t tokens, Adopt adopt,
                  Check check = Check::kLayer) {
  for (const auto& [stage, actual, expected] : run_layer(d, ratio, tokens, adopt, check)) {
    const bool output = stage == "x_out";
    const Distance apart = output ? of_output(actual, expected) : of_projection(actual, expected);
    const std::string what =
        fmt::format("{}, {}, {}", d.name,
                    check == Check::kLayer ? fmt::format("ratio {}", ratio) : "qkv_proj_rope", stage);
    testing::Test::RecordProperty(
        what, fmt::format("{:.4f} % beyond, relative L2 {:.1e}", 100 * apart.beyond, apart.relative_l2));
    if (stage == "o_b" && adopt == Adopt::kNo)
      continue;  // of other codes; what it makes of the layer is held
    EXPECT_LE(apart.beyond, output ? 0.008 : 0.005) << what;
    EXPECT_LE(apart.relative_l2, stage == "index q" ? 1e-2 : 1e-3) << what;
  }
}

// On Pro's inputs no code of q changes, and the layer's output is within the bounds whatever its codes. (AMX sums in
// another order: its codes may be others.)
Adopt for_pro() { return cpu::best_isa() == Isa::kAmx ? Adopt::kCodes : Adopt::kNo; }

TEST(v4_checks, projections_of_q_and_kv_are_within_the_public_bounds) {
  expect_layer(kFlash, 0, 8, Adopt::kCodes, Check::kProjections);
  expect_layer(kPro, 0, 8, for_pro(), Check::kProjections);
}

TEST(v4_checks, decode_over_the_window_is_within_the_public_bounds) {
  expect_layer(kFlash, 0, 8, Adopt::kCodes);
  expect_layer(kPro, 0, 8, for_pro());
}

TEST(v4_checks, decode_with_selected_entries_is_within_the_public_bounds) {
  expect_layer(kFlash, 4, 3, Adopt::kCodes);
  expect_layer(kPro, 4, 3, for_pro());
}

TEST(v4_checks, decode_with_every_entry_is_within_the_public_bounds) {
  expect_layer(kFlash, 128, 3, Adopt::kCodes);
  expect_layer(kPro, 128, 3, for_pro());
}

// On Flash's, one code of q's latent moves all of a token's q, past the bounds, and not far.
TEST(v4_checks, a_code_that_rounds_otherwise_moves_the_layer_by_less_than_a_percent) {
  for (const auto& [stage, actual, expected] : run_layer(kFlash, 128, 3, Adopt::kNo)) {
    const Distance apart = of_output(actual, expected);
    testing::Test::RecordProperty("own codes, " + stage, fmt::format("{:.4f} % beyond, relative L2 {:.1e}",
                                                                     100 * apart.beyond, apart.relative_l2));
    EXPECT_LE(apart.relative_l2, 1e-2) << stage;
  }
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
