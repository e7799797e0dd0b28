#include "fulgurite/ops/expanded_attention/expanded_attention.h"

#include <gtest/gtest.h>

#include <cmath>

#include "fulgurite/ops/expanded_attention/expanded_attention_audit.h"
#include "fulgurite/ops/expanded_attention/test_inputs.h"
#include "fulgurite/ops/sparse_attention/sparse_attention.h"

namespace fulgurite::expanded_attention {
namespace {

// Returns how loose the bounds are.
double expect_agreement(const Inputs& in) {
  EXPECT_EQ(test::refusal(kCpu, in.problem), "");
  const test::ExactBytes workspace(kCpu.workspace_bytes(in.problem, 1));
  const TensorBuffer<3> out = in.unwritten();
  const audit::OpReport report = judge(kCpu, in.problem, in.args(out.view), {1, nullptr, workspace.bytes()});
  EXPECT_TRUE(report.within()) << describe(report);
  return report.outputs[0].difference.looseness;
}

TEST(expanded_attention, agrees_with_the_reference_at_awkward_sizes_on_hard_values) {
  for (const Setting& setting : settings()) {
    for (const Case& shape : kAwkwardCases) {
      for (const Values values : inputs::kAllValues) {
        if (shape.latent > 100 && values != Values::kNormal) continue;  // for time's sake
        SCOPED_TRACE(
            fmt::format("{}, {}, {}, seed 1", summary(setting.numerics), shape.what, inputs::name(values)));
        const double looseness = expect_agreement(make_inputs(1, shape, kBlocks, values, setting));
        if (values == Values::kCancelling && shape.latent > 1) {
          EXPECT_LT(looseness, 0.1);
        }
      }
    }
  }
}

TEST(expanded_attention, agrees_with_the_reference_for_every_weight_format) {
  for (const Setting& setting : {kFp32Setting, kServing})
    for (const MatrixFormat& format : inputs::all_formats())
      expect_agreement(make_inputs(1, kAwkwardCases[2], format, Values::kNormal, setting));
}

TEST(expanded_attention, agrees_with_the_reference_at_real_sizes) {
  for (const Setting& setting : {kFp32Setting, kServing})
    for (const Case& shape : kRealCases)
      for (const Values values :
           {Values::kNormal, Values::kOutliers, Values::kConstant, Values::kCancelling}) {
        SCOPED_TRACE(fmt::format("{}, {}, seed 1", summary(setting.numerics), inputs::name(values)));
        const Inputs in = make_inputs(1, shape, kBlocks, values, setting);
        if (values == Values::kOutliers) sparse_attention::scale(in.q.view, 0x1p-12f);
        EXPECT_LT(expect_agreement(in), 0.15);
      }
}

// Where every head's keys and values are the latent itself: kv_b is ones on two diagonals.
void make_identity(Inputs& in) {
  auto* const w = reinterpret_cast<float*>(in.weight.data->data());
  const int64_t latent = in.problem.latent;
  for (int64_t r = 0; r < in.weight.matrix.out; ++r)
    for (int64_t c = 0; c < latent; ++c) w[r * latent + c] = r % latent == c ? 1.0f : 0.0f;
}

TEST(expanded_attention, agrees_with_the_reference_on_denormals_on_every_instruction_set) {
  for (Setting setting : settings()) {
    for (const Isa isa : test::machine_isas()) {
      SCOPED_TRACE(fmt::format("{}, {}, seed 1", summary(setting.numerics), name(isa)));
      setting.target.isa = isa;
      expect_agreement(
          make_inputs(1, {"", 2, 2, 13, 7, 11, 67, 70, 2, 101}, kBlocks, Values::kDenormal, setting));
    }
  }
}

TEST(expanded_attention, with_an_identity_for_kv_b_is_the_attention_in_latent_space) {
  for (const Setting& setting : settings()) {
    Inputs in = make_inputs(5, {"", 2, 3, 24, 6, 24, 24, 150, 1, 200}, kF32, Values::kNormal, setting);
    make_identity(in);
    sparse_attention::Problem problem{setting, 3, 24, 6, 150, in.problem.scale, 1, 200};
    problem.setting.numerics.mla = Mla::kAbsorbed;
    if (setting.numerics.activation == Activation::kFp32) problem.setting.numerics.latent_cache = in.row.form;
    const TensorBuffer<3> out = in.unwritten();
    test::run(sparse_attention::kReference, problem,
              sparse_attention::Args{in.q.view.slice(2, 0, 24),
                                     in.q.view.slice(2, 24, 6),
                                     {in.row, in.rows},
                                     in.selection.selected(),
                                     in.selection.places(),
                                     out.view});
    EXPECT_TRUE(test::identical(result(kReference, in), out.values())) << summary(setting.numerics);
  }
}

// One selected row: the output is its value, one product; and every rounding on the way is seen.
TEST(expanded_attention, keys_values_and_weights_are_rounded_as_the_activation_is) {
  const float fine = 1.0f + 0x1p-7f + 0x1p-12f, coarse = 1.0f + 0x1p-7f;
  for (const Implementation* const row : kBoth) {
    const auto value = [&](const Setting& setting, float weight, float latent) {
      Inputs in = make_inputs(1, kAwkwardCases[1], kF32, Values::kConstant, setting);
      std::fill_n(reinterpret_cast<float*>(in.weight.data->data()), 2, weight);
      in.write(0, 0, {latent, 0.0f});
      return result(*row, in)[0];
    };
    const Setting bf16_cache = settings()[2];
    EXPECT_EQ(value(kFp32Setting, fine, 1.0f), fine);
    EXPECT_EQ(value(kFp32Setting, fine, fine), fine * fine);
    EXPECT_EQ(value(bf16_cache, fine, 1.0f), coarse);
    EXPECT_EQ(value(bf16_cache, 1.0f, fine), coarse);
    EXPECT_EQ(value(bf16_cache, fine, fine), round_to_bf16(coarse * coarse));
  }
}

// Two keys k and 1: q k is seen in the weights, of which k must be a bf16.
TEST(expanded_attention, a_key_is_rounded_before_its_score) {
  const float weight = 1.0f + 0x1p-7f, k = weight * weight, narrow = round_to_bf16(k);
  ASSERT_NE(k, narrow);
  for (const Setting& setting : {kFp32Setting, settings()[2]}) {
    Inputs in = make_inputs(1, {"", 1, 1, 1, 0, 1, 1, 2, 1, 2}, kF32, Values::kConstant, setting);
    in.problem.scale = 64.0f;
    in.selection.lists = {0, 1};
    store(in.q.view, 1.0f, 0, 0, 0);
    auto* const w = reinterpret_cast<float*>(in.weight.data->data());
    w[0] = weight;  // of k
    w[1] = 1.0f;    // of v
    in.write(0, 0, {weight});
    in.write(0, 1, {1.0f});
    const bool wide = setting.numerics.activation == Activation::kFp32;
    const float apart = 64.0f * (wide ? k : narrow) - 64.0f * weight, e = std::exp(-apart);
    const float p = wide ? e : round_to_bf16(e), denominator = 1 + p;  // of rounded weights in the second
    const float expected = (weight + p) / denominator;
    for (const Implementation* const row : kBoth)
      EXPECT_NEAR(result(*row, in)[0], round_to(in.q.view.dtype, expected), wide ? 0x1p-22 : 0.0)
          << row->name;
  }
}

TEST(expanded_attention, gives_the_same_bits_for_any_batch_threads_and_instruction_set) {
  const Case shape{"", 4, 3, 19, 13, 21, 77, 90, 2, 99};
  for (const Setting& setting : settings()) {
    const Inputs in = make_inputs(2, shape, kBlocks, Values::kNormal, setting);
    const std::vector<float> whole = result(kCpu, in);
    const auto elements = static_cast<int64_t>(whole.size()) / 4;
    for (const Isa isa : test::machine_isas()) {
      SCOPED_TRACE(name(isa));
      Inputs other = in;
      other.problem.setting.target.isa = isa;
      for (const int threads : {1, 3}) EXPECT_TRUE(test::identical(result(kCpu, other, threads), whole));
      for (int64_t t = 0; t < shape.tokens; ++t) {
        Inputs one = other;
        one.q.view = in.q.view.slice(0, t, 1);
        one.selection.token_places = {in.selection.token_places[static_cast<size_t>(t)]};
        const auto list = in.selection.lists.begin() + t * shape.topk;
        one.selection.lists.assign(list, list + shape.topk);
        EXPECT_TRUE(test::identical(
            result(kCpu, one, 2),
            std::span(whole).subspan(static_cast<size_t>(t * elements), static_cast<size_t>(elements))));
      }
    }
  }
}

TEST(expanded_attention, a_NaN_stays_in_its_head_or_in_the_tokens_that_selected_it) {
  for (const Setting& setting : settings()) {
    Inputs in = make_inputs(3, {"", 3, 2, 9, 4, 11, 20, 3, 1, 40}, kBlocks, Values::kNormal, setting);
    in.selection.token_places = {{0, 39}, {0, 39}, {0, 39}};
    in.selection.lists = {1, 2, 3, 4, 5, 9, 0, 5, 8};
    store(in.q.view, kNaN, 0, 1, 12);
    std::vector<float> bad(24, 1.0f);
    bad[3] = kNaN;
    for (const int64_t s : {4, 6}) in.write(0, s, bad);
    for (const Implementation* const row : kBoth) {
      const std::vector<float> out = result(*row, in);
      for (int64_t i = 0; i < 3 * 2 * 11; ++i)
        EXPECT_EQ(std::isnan(out[static_cast<size_t>(i)]), (i / 22 == 0 && i / 11 % 2 == 1) || i / 22 == 1);
    }
  }
}

TEST(expanded_attention, names_the_tensor_that_breaks_the_contract) {
  Inputs in = make_inputs(4, {"", 2, 3, 4, 2, 5, 7, 3, 2, 9}, kBlocks, Values::kNormal, kServing);
  in.selection.token_places = {{0, 8}, {1, 3}};
  in.selection.lists = {0, 2, 8, 3, -1, -1};
  const TensorBuffer<3> out = in.unwritten();
  const auto message = [&](auto change) {
    Args args = in.args(out.view);
    change(args);
    return test::message_of([&] { check(in.problem, args); });
  };
  EXPECT_EQ(message([](Args&) {}), "");
  EXPECT_EQ(message([](Args& args) { args.q = args.q.slice(2, 0, 5); }),
            "expanded_attention: q: expected shape [2, 3, 6], found [2, 3, 5]");
  EXPECT_EQ(message([](Args& args) { args.cache.rows = args.cache.rows.slice(1, 0, 8); }),
            "expanded_attention: cache: expected shape [2, 9, 16], found [2, 8, 16]");
  EXPECT_EQ(message([](Args& args) { args.selected = args.selected.slice(1, 0, 2); }),
            "expanded_attention: selected: expected shape [2, 3], found [2, 2]");
  EXPECT_EQ(message([](Args& args) { args.places = args.places.slice(0, 0, 1); }),
            "expanded_attention: places: expected shape [2], found [1]");
  EXPECT_EQ(message([](Args& args) { args.out = args.out.slice(2, 0, 4); }),
            "expanded_attention: out: expected shape [2, 3, 5], found [2, 3, 4]");
  in.selection.lists[3] = 4;
  EXPECT_EQ(message([](Args&) {}), "expanded_attention: selected: expected a value in [0, 3], found 4");
}

TEST(expanded_attention, refuses_numerics_that_it_does_not_do) {
  const auto reason = [](const Implementation& row, Setting setting, auto Numerics::*knob, auto value) {
    Problem problem = make_inputs(1, kAwkwardCases[1], kBlocks, Values::kNormal, setting).problem;
    problem.setting.numerics.*knob = value;
    return test::refusal(row, problem);
  };
  for (const Implementation* const row : kBoth) {
    for (const Setting& setting : {kFp32Setting, kServing}) {
      const auto why = [&](auto Numerics::*knob, auto value) { return reason(*row, setting, knob, value); };
      EXPECT_EQ(why(&Numerics::mla, Mla::kAbsorbed), "mla = absorbed, takes expanded");
      const bool takes = row == &kReference && setting.numerics == kServing.numerics;
      EXPECT_EQ(why(&Numerics::mma, Mma::kHopper) == "", takes);
    }
  }
  EXPECT_EQ(reason(kCpu, kServing, &Numerics::latent_cache, LatentCache::kFp32),
            "latent_cache = fp32, takes bf16 or fp8");
  EXPECT_EQ(reason(kCpu, kFp32Setting, &Numerics::qk_operands, QkOperands::kBf16),
            "qk_operands = bf16, takes fp32");
  EXPECT_EQ(reason(kCpu, kServing, &Numerics::softmax_merge, SoftmaxMerge::kIndependent),
            "softmax_merge = independent, takes running");
}

}  // namespace
}  // namespace fulgurite::expanded_attention
