#include "fulgurite/ops/sparse_attention/sparse_attention.h"

#include <gtest/gtest.h>

#include <memory>

#include "fulgurite/ops/sparse_attention/sparse_attention_audit.h"
#include "fulgurite/ops/sparse_attention/test_inputs.h"

namespace fulgurite::sparse_attention {
namespace {

// Returns how loose the bounds are.
double expect_agreement(const Implementation& row, const Inputs& in, int threads = 1) {
  const test::ExactBytes workspace(row.workspace_bytes(in.problem, threads));
  cpu::ThreadPool workers(threads);
  const TensorBuffer<3> out = in.unwritten();
  const audit::OpReport report =
      judge(row, in.problem, in.args(out.view), {threads, &workers, workspace.bytes()});
  EXPECT_TRUE(report.within()) << describe(report);
  return report.outputs[0].difference.looseness;
}

TEST(sparse_attention, agrees_with_the_reference_at_awkward_sizes_on_hard_values) {
  for (const Way& way : fast_ways()) {
    for (const Case& shape : kAwkwardCases) {
      for (const Values values : inputs::kAllValues) {
        SCOPED_TRACE(fmt::format("{}, {}, {}, seed 1", way.what(), shape.what, inputs::name(values)));
        const double looseness = expect_agreement(*way.row, make_inputs(1, shape, values, way.setting));
        if (values != Values::kOutliers && values != Values::kDenormal) {
          EXPECT_LT(looseness, 0.1);
        }
      }
    }
  }
}

TEST(sparse_attention, agrees_with_the_reference_at_real_sizes) {
  for (const Way& way : {fast_ways()[0], fast_ways()[1]}) {
    for (const Case& shape : kRealCases) {
      for (const Values values :
           {Values::kNormal, Values::kOutliers, Values::kConstant, Values::kCancelling}) {
        SCOPED_TRACE(fmt::format("{}, {}, {}, seed 1", way.what(), shape.what, inputs::name(values)));
        const Inputs in = make_inputs(1, shape, values, way.setting);
        if (values == Values::kOutliers) scale(in.q.view, 0x1p-12f), scale(in.q_rope.view, 0x1p-12f);
        EXPECT_LT(expect_agreement(*way.row, in, 2), 0.1);
      }
    }
  }
}

TEST(sparse_attention, agrees_with_the_reference_on_denormals_on_every_instruction_set) {
  for (const Way& way : fast_ways()) {
    for (const Isa isa : test::machine_isas()) {
      SCOPED_TRACE(fmt::format("{}, {}, seed 1", way.what(), name(isa)));
      Setting setting = way.setting;
      setting.target.isa = isa;
      expect_agreement(*way.row, make_inputs(1, {"", 3, 17, 67, 13, 70, 2, 101}, Values::kDenormal, setting));
    }
  }
}

TEST(sparse_attention, agrees_with_the_reference_for_lists_of_any_length) {
  for (const Way& way : {fast_ways()[1], fast_ways()[2]}) {
    for (const int64_t count : {1, 2, 31, 63, 64, 65, 127, 128, 129, 193}) {
      SCOPED_TRACE(fmt::format("{}, {} entries, seed 2", way.what(), count));
      Inputs in = make_inputs(2, {"", 1, 3, 40, 6, 193, 1, 200}, Values::kNormal, way.setting);
      std::fill(in.selection.lists.begin() + count, in.selection.lists.end(), -1);
      expect_agreement(*way.row, in);
    }
  }
}

TEST(sparse_attention, gives_the_same_bits_for_any_batch_and_threads) {
  for (const Way& way : fast_ways()) {
    SCOPED_TRACE(way.what());
    const Inputs all = make_inputs(6, {"", 5, 35, 77, 13, 200, 2, 260}, Values::kNormal, way.setting);
    const std::vector<float> whole = result(*way.row, all);
    const int64_t elements = static_cast<int64_t>(whole.size()) / 5;
    for (int64_t tokens = 1; tokens <= 5; ++tokens) {
      for (const int threads : {1, 2, 3, 7}) {
        for (const int64_t largest : {int64_t{0}, tokens}) {
          Inputs some = all;
          some.problem.largest_batch = largest;
          some.q.view = all.q.view.slice(0, 5 - tokens, tokens);
          some.q_rope.view = all.q_rope.view.slice(0, 5 - tokens, tokens);
          some.selection.token_places.erase(some.selection.token_places.begin(),
                                            some.selection.token_places.end() - tokens);
          some.selection.lists.erase(some.selection.lists.begin(), some.selection.lists.end() - tokens * 200);
          EXPECT_TRUE(test::identical(result(*way.row, some, threads),
                                      std::span(whole).last(static_cast<size_t>(tokens * elements))))
              << tokens << " tokens, " << threads << " threads";
        }
      }
    }
  }
}

TEST(sparse_attention, gives_the_same_bits_on_every_instruction_set) {
  for (const Way& way : fast_ways()) {
    Inputs in = make_inputs(6, {"", 2, 19, 77, 13, 150, 2, 160}, Values::kNormal, way.setting);
    const std::vector<float> best = result(*way.row, in);
    for (const Isa isa : test::machine_isas()) {
      in.problem.setting.target.isa = isa;
      EXPECT_TRUE(test::identical(result(*way.row, in), best)) << way.what() << ", " << name(isa);
    }
  }
}

TEST(sparse_attention, a_list_longer_than_what_threads_hold_at_once_is_done_in_parts) {
  const Inputs in =
      make_inputs(3, {"", 1, 2, 16, 2, 4500, 1, 4500}, Values::kNormal, test::serving_setting());
  EXPECT_TRUE(test::identical(result(kCpuPairs, in, 3), result(kCpuPairs, in)));
  expect_agreement(kCpuPairs, in, 2);
}

// The cache is as long as DeepSeek-V3.2's at its longest; what nobody selects is never touched.
TEST(sparse_attention, a_million_positions_need_no_more_memory_than_few) {
  constexpr int64_t kContext = 1 << 20;
  Inputs in = make_inputs(4, {"", 1, 2, 512, 64, 128, 1, 200}, Values::kNormal, test::serving_setting());
  const int64_t few = kCpuPairs.workspace_bytes(in.problem, 2), bytes = in.cache.row.bytes();
  const std::unique_ptr<void, void (*)(void*)> memory(std::calloc(kContext, static_cast<size_t>(bytes)),
                                                      std::free);
  ASSERT_NE(memory, nullptr);
  const View<std::byte, 3> rows(static_cast<std::byte*>(memory.get()), {1, kContext, bytes});
  for (int64_t j = 0; j < 128; ++j) {
    const int64_t position = (j + 1) * (kContext / 128) - 1;
    std::memcpy(rows[0][position].data, in.cache.rows[0][j].data, static_cast<size_t>(bytes));
    in.selection.lists[static_cast<size_t>(j)] = static_cast<int32_t>(position);
  }
  in.cache.rows = rows;
  in.problem.context = kContext;
  in.selection.token_places[0].position = kContext - 1;
  EXPECT_EQ(kCpuPairs.workspace_bytes(in.problem, 2), few);
  expect_agreement(kCpuPairs, in, 2);
}

TEST(sparse_attention, a_NaN_in_q_stays_in_its_head) {
  for (const Way& way : all_ways()) {
    const Inputs in = make_inputs(7, {"", 3, 18, 20, 5, 70, 1, 80}, Values::kNormal, way.setting);
    store(in.q.view, kNaN, 0, 1, 19);
    store(in.q_rope.view, kNaN, 2, 17, 0);
    store(in.q.view, kNaN, 1, 3, 0);
    const std::vector<float> out = result(*way.row, in);
    for (int64_t i = 0; i < 3 * 18 * 20; ++i) {
      const int64_t t = i / 360, h = i / 20 % 18;
      EXPECT_EQ(std::isnan(out[static_cast<size_t>(i)]),
                (t == 0 && h == 1) || (t == 2 && h == 17) || (t == 1 && h == 3))
          << way.what() << ", " << i;
    }
  }
}

TEST(sparse_attention, a_bad_row_reaches_only_the_tokens_that_selected_it) {
  for (const Way& way : all_ways()) {
    for (const float bad : {kNaN, kInfinity}) {
      Inputs in = make_inputs(8, {"", 3, 2, 20, 5, 4, 1, 10}, Values::kNormal, way.setting);
      in.selection.token_places = {{0, 9}, {0, 9}, {0, 9}};
      in.selection.lists = {1, 2, 3, 4, 0, 4, 9, -1, 0, 1, 5, 9};
      for (const int64_t s : {4, 6}) {
        std::vector<float> values(25, 1.0f);
        values[22] = bad;
        in.write(0, s, values);
      }
      for (int64_t i = 0; i < 30; ++i) store(in.q_rope.view, 1.0f, i / 10, i / 5 % 2, i % 5);
      const std::vector<float> out = result(*way.row, in);
      for (int64_t i = 0; i < 3 * 2 * 20; ++i)
        EXPECT_EQ(std::isnan(out[static_cast<size_t>(i)]), i < 80) << way.what() << ", " << i;
    }
  }
}

// Rows of other lengths apart, heads and columns of larger tensors; what lies between stays as it was.
TEST(sparse_attention, reads_and_writes_tensors_of_any_stride) {
  for (const Way& way : fast_ways()) {
    const Case shape{"", 3, 4, 20, 5, 10, 2, 60};
    Inputs in = make_inputs(9, shape, Values::kNormal, way.setting), wide = in;
    const std::vector<float> expected = result(*way.row, in);
    Random random(9);
    const DType dtype = activation_of(way.setting);
    wide.q = inputs::make_tensor(random, Values::kNormal, dtype, {3, 6, 40});
    wide.q_rope = inputs::make_tensor(random, Values::kNormal, dtype, {3, 7, 9});
    wide.q.view = wide.q.view.slice(1, 1, 4).slice(2, 6, 20);
    wide.q_rope.view = wide.q_rope.view.slice(1, 2, 4).slice(2, 3, 5);
    for (int64_t i = 0; i < 3 * 4 * 20; ++i)
      store(wide.q.view, load(in.q.view, i / 80, i / 20 % 4, i % 20), i / 80, i / 20 % 4, i % 20);
    for (int64_t i = 0; i < 3 * 4 * 5; ++i)
      store(wide.q_rope.view, load(in.q_rope.view, i / 20, i / 5 % 4, i % 5), i / 20, i / 5 % 4, i % 5);
    const int64_t bytes = in.cache.row.bytes();
    wide.cache.bytes.assign(static_cast<size_t>(2 * 61 * (bytes + 12)), std::byte{0x7F});
    wide.cache.rows = {wide.cache.bytes.data(), {2, 60, bytes}, {61 * (bytes + 12), bytes + 12, 1}};
    for (int64_t i = 0; i < 2 * 60; ++i)
      std::copy_n(in.cache.rows[i / 60][i % 60].data, bytes, wide.cache.rows[i / 60][i % 60].data);
    const TensorBuffer<3> out = inputs::unwritten<3>(dtype, {3, 5, 33});
    const Tensor<3> part = out.view.slice(1, 1, 4).slice(2, 7, 20);
    test::run(*way.row, in.problem, wide.args(part), 2);
    const float untouched = inputs::unwritten<1>(dtype, {1}).values()[0];
    for (int64_t i = 0; i < 3 * 5 * 33; ++i) {
      const int64_t t = i / 165, h = i / 33 % 5 - 1, c = i % 33 - 7;
      const bool inside = h >= 0 && c >= 0 && c < 20;
      EXPECT_EQ(load(out.view, t, h + 1, c + 7),
                inside ? expected[static_cast<size_t>((t * 4 + h) * 20 + c)] : untouched)
          << way.what();
    }
  }
}

TEST(sparse_attention, names_the_tensor_that_breaks_the_contract) {
  Inputs in = make_inputs(10, {"", 2, 3, 4, 2, 3, 2, 9}, Values::kNormal, test::serving_setting());
  in.selection.token_places = {{0, 8}, {1, 3}};
  const TensorBuffer<3> out = in.unwritten();
  const auto message = [&](std::vector<int32_t> lists, auto change) {
    in.selection.lists = lists;
    Args args = in.args(out.view);
    change(args);
    return test::message_of([&] { check(in.problem, args); });
  };
  const auto nothing = [](Args&) {};
  const std::vector<int32_t> good{0, 2, 8, 3, -1, -1};
  EXPECT_EQ(message(good, nothing), "");
  EXPECT_EQ(message(good, [](Args& args) { args.q = args.q.slice(2, 0, 3); }),
            "sparse_attention: q: expected shape [2, 3, 4], found [2, 3, 3]");
  EXPECT_EQ(message(good, [](Args& args) { args.q_rope = args.q_rope.slice(1, 0, 2); }),
            "sparse_attention: q_rope: expected shape [2, 3, 2], found [2, 2, 2]");
  EXPECT_EQ(message(good, [](Args& args) { args.cache.rows = args.cache.rows.slice(1, 0, 8); }),
            "sparse_attention: cache: expected shape [2, 9, 12], found [2, 8, 12]");
  EXPECT_EQ(message(good, [](Args& args) { args.selected = args.selected.slice(1, 0, 2); }),
            "sparse_attention: selected: expected shape [2, 3], found [2, 2]");
  EXPECT_EQ(message(good, [](Args& args) { args.places = args.places.slice(0, 0, 1); }),
            "sparse_attention: places: expected shape [2], found [1]");
  EXPECT_EQ(message(good, [](Args& args) { args.out = args.out.slice(0, 0, 1); }),
            "sparse_attention: out: expected shape [2, 3, 4], found [1, 3, 4]");
  EXPECT_EQ(message({0, 2, 8, 4, -1, -1}, nothing),
            "sparse_attention: selected: expected a value in [0, 3], found 4");
  EXPECT_EQ(message({0, 2, 2, 3, -1, -1}, nothing),
            "sparse_attention: selected: expected a value in [3, 8], found 2");
  EXPECT_EQ(message({0, 2, 1, 3, -1, -1}, nothing),
            "sparse_attention: selected: expected a value in [3, 8], found 1");
  EXPECT_EQ(message({0, 2, 8, 3, -1, 3}, nothing),
            "sparse_attention: selected, after a -1: expected a value in [-1, -1], found 3");
  EXPECT_EQ(message({0, 2, 8, -1, -1, -1}, nothing),
            "sparse_attention: selected: expected a value in [0, 3], found -1");
  EXPECT_EQ(message({0, 2, -2, 3, -1, -1}, nothing),
            "sparse_attention: selected: expected a value in [3, 8], found -2");
  in.selection.token_places[1].sequence = 2;
  EXPECT_EQ(message(good, nothing),
            "sparse_attention: places, a sequence: expected a value in [0, 1], found 2");
  in.selection.token_places[1] = {1, 9};
  EXPECT_EQ(message(good, nothing),
            "sparse_attention: places, a position: expected a value in [0, 8], found 9");
}

std::string reason(const Implementation& row, const Setting& setting, auto Numerics::*knob, auto value) {
  Problem problem = make_inputs(1, kAwkwardCases[0], Values::kNormal, setting).problem;
  problem.setting.numerics.*knob = value;
  return test::refusal(row, problem);
}

TEST(sparse_attention, refuses_numerics_that_it_does_not_do) {
  for (const Way& way : all_ways()) {
    const auto why = [&](auto Numerics::*knob, auto value) {
      return reason(*way.row, way.setting, knob, value);
    };
    EXPECT_EQ(why(&Numerics::mla, Mla::kExpanded), "mla = expanded, takes absorbed");
    if (way.row != &kReference) {
      EXPECT_EQ(why(&Numerics::mma, Mma::kHopper), "mma = hopper, takes exact");
    }
  }
  const auto fp32 = [](auto Numerics::*knob, auto value) {
    return reason(kCpu, test::fp32_setting(), knob, value);
  };
  EXPECT_EQ(fp32(&Numerics::activation, Activation::kBf16), "activation = bf16, takes fp32 or fp16");
  EXPECT_EQ(fp32(&Numerics::qk_operands, QkOperands::kBf16), "qk_operands = bf16, takes fp32");
  EXPECT_EQ(fp32(&Numerics::softmax_merge, SoftmaxMerge::kIndependent), "");  // of one tile
  const auto pairs = [](auto Numerics::*knob, auto value) {
    return reason(kCpuPairs, test::serving_setting(), knob, value);
  };
  EXPECT_EQ(pairs(&Numerics::activation, Activation::kFp32), "activation = fp32, takes bf16 or fp16");
  EXPECT_EQ(reason(kCpuPairs, test::fp16_setting(), &Numerics::qk_operands, QkOperands::kFp32),
            "qk_operands = fp32, takes bf16");
  EXPECT_EQ(
      reason(kCpu, serving_with(kFp16, kFp32Operands), &Numerics::softmax_merge, SoftmaxMerge::kIndependent),
      "softmax_merge = independent, takes running");
  EXPECT_EQ(pairs(&Numerics::latent_cache, LatentCache::kFp32), "latent_cache = fp32, takes bf16 or fp8");
  EXPECT_EQ(pairs(&Numerics::softmax_tile, SoftmaxTile::kNone), "softmax_tile = none, takes 64 or 128");
  EXPECT_EQ(pairs(&Numerics::softmax_merge, SoftmaxMerge::kIndependent),
            "softmax_merge = independent, takes running");
  EXPECT_EQ(pairs(&Numerics::softmax_p, SoftmaxP::kFp32), "softmax_p = fp32, takes bf16");
}

}  // namespace
}  // namespace fulgurite::sparse_attention
