#include "fulgurite/ops/compressed_attention/compressed_attention.h"

#include <gtest/gtest.h>

#include "fulgurite/ops/compressed_attention/compressed_attention_audit.h"
#include "fulgurite/ops/compressed_attention/test_inputs.h"

namespace fulgurite::compressed_attention {
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

TEST(compressed_attention, agrees_with_the_reference_at_awkward_sizes_on_hard_values) {
  for (const Way& way : fast_ways()) {
    for (const Case& shape : kAwkwardCases) {
      for (const Values values : inputs::kAllValues) {
        SCOPED_TRACE(fmt::format("{}, {}, {}, seed 1", way.what(), shape.what, inputs::name(values)));
        const double looseness = expect_agreement(*way.row, make_inputs(1, shape, values, way.setting));
        if (values == Values::kNormal || values == Values::kConstant) {
          EXPECT_LT(looseness, 0.1);
        }
      }
    }
  }
}

TEST(compressed_attention, agrees_with_the_reference_at_real_sizes) {
  for (const Way& way : {fast_ways()[0], fast_ways()[1]}) {
    for (const Case& shape : kRealCases) {
      SCOPED_TRACE(fmt::format("{}, {}, seed 1", way.what(), shape.what));
      EXPECT_LT(expect_agreement(*way.row, make_inputs(1, shape, Values::kNormal, way.setting), 2), 0.1);
    }
  }
}

// The first tile ends in slots without a key, or the second has none at all; entries may be selected or not.
TEST(compressed_attention, agrees_with_the_reference_at_every_length_of_window_and_list) {
  for (const Way& way : fast_ways()) {
    for (const int64_t topk : {0, 70}) {
      const Case shape{"", 8, 2, 34, 6, 130, 4, topk, 1, 600};
      const std::vector<int64_t> positions{0, 2, 3, 62, 63, 64, 128, 599};
      SCOPED_TRACE(fmt::format("{}, topk {}, seed 2", way.what(), topk));
      expect_agreement(*way.row, make_inputs_at(2, shape, Values::kNormal, way.setting, positions), 3);
    }
  }
}

TEST(compressed_attention, agrees_with_the_reference_on_denormals_on_every_instruction_set) {
  for (const Way& way : fast_ways()) {
    for (const Isa isa : test::machine_isas()) {
      SCOPED_TRACE(fmt::format("{}, {}, seed 1", way.what(), name(isa)));
      Setting setting = way.setting;
      setting.target.isa = isa;
      expect_agreement(*way.row,
                       make_inputs(1, {"", 3, 17, 66, 14, 70, 4, 30, 2, 301}, Values::kDenormal, setting));
    }
  }
}

TEST(compressed_attention, gives_the_same_bits_for_any_batch_threads_and_ring) {
  for (const Way& way : fast_ways()) {
    SCOPED_TRACE(way.what());
    const Inputs all = make_inputs(6, {"", 5, 35, 78, 14, 100, 4, 110, 1, 560}, Values::kNormal, way.setting);
    const std::vector<float> whole = result(*way.row, all);
    const int64_t elements = static_cast<int64_t>(whole.size()) / 5;
    for (int64_t tokens = 1; tokens <= 5; ++tokens) {
      for (const int threads : {1, 2, 3, 7}) {
        Inputs some = all;
        some.problem.largest_batch = tokens;
        some.q.view = all.q.view.slice(0, 5 - tokens, tokens);
        some.token_places.erase(some.token_places.begin(), some.token_places.end() - tokens);
        some.lists.erase(some.lists.begin(), some.lists.end() - tokens * 110);
        EXPECT_TRUE(test::identical(result(*way.row, some, threads),
                                    std::span(whole).last(static_cast<size_t>(tokens * elements))))
            << tokens << " tokens, " << threads << " threads";
      }
    }
  }
}

// Position p is row p % ring: a longer ring holds the same rows elsewhere.
TEST(compressed_attention, reads_the_window_where_the_ring_has_it) {
  for (const Way& way : all_ways()) {
    Inputs in = make_inputs_at(5, {"", 1, 3, 34, 6, 20, 0, 0, 1, 300}, Values::kNormal, way.setting, {211});
    const std::vector<float> expected = result(*way.row, in);
    Inputs longer = in;
    longer.problem.ring = 77;
    longer.window = Cache(row_of(in.problem), 1, 77);
    for (int64_t p = 192; p <= 211; ++p) {
      std::vector<float> values;
      for (int64_t c = 0; c < 34; ++c) values.push_back(in.window.rows.value(0, p % in.problem.ring, c));
      longer.write(longer.window, 0, p % 77, values);
    }
    EXPECT_TRUE(test::identical(result(*way.row, longer), expected)) << way.what();
  }
}

TEST(compressed_attention, gives_the_same_bits_on_every_instruction_set) {
  for (const Way& way : fast_ways()) {
    Inputs in = make_inputs(6, {"", 2, 19, 78, 14, 70, 4, 80, 2, 400}, Values::kNormal, way.setting);
    const std::vector<float> best = result(*way.row, in);
    for (const Isa isa : test::machine_isas()) {
      in.problem.setting.target.isa = isa;
      EXPECT_TRUE(test::identical(result(*way.row, in), best)) << way.what() << ", " << name(isa);
    }
  }
}

// What threads hold at once is less.
TEST(compressed_attention, many_entries_are_done_in_parts) {
  const Inputs in = make_inputs_at(3, {"", 1, 2, 34, 6, 128, 2, 0, 1, 9000}, Values::kNormal,
                                   test::serving_setting(), {8999});
  EXPECT_TRUE(test::identical(result(kCpuPairs, in, 3), result(kCpuPairs, in)));
  expect_agreement(kCpuPairs, in, 2);
}

// The fp8 form holds what the bf16 form does.
TEST(compressed_attention, forms_of_the_same_values_give_the_same_bits) {
  const Case shape{"", 3, 17, 512, 64, 128, 4, 90, 1, 700};
  const Inputs bf16 = make_inputs(4, shape, Values::kNormal, serving_with(kBf16Cache)),
               fp8 = make_inputs(4, shape, Values::kNormal, test::serving_setting());
  EXPECT_TRUE(test::identical(result(kCpuPairs, bf16), result(kCpuPairs, fp8)));
  EXPECT_TRUE(test::identical(result(kReference, bf16), result(kReference, fp8)));
}

// Blocks, heads and tables of larger tensors; what lies between the outputs stays as it was.
TEST(compressed_attention, reads_and_writes_tensors_of_any_stride) {
  for (const Way& way : fast_ways()) {
    const Inputs in = make_inputs(9, {"", 3, 4, 20, 6, 70, 2, 30, 2, 260}, Values::kNormal, way.setting);
    const std::vector<float> expected = result(*way.row, in);
    Inputs wide = in;
    const DType dtype = in.q.view.dtype;
    const TensorBuffer<3> q = inputs::unwritten<3>(dtype, {3, 6, 40});
    wide.q.view = q.view.slice(1, 1, 4).slice(2, 6, 20);
    for (int64_t i = 0; i < 3 * 4 * 20; ++i)
      store(wide.q.view, load(in.q.view, i / 80, i / 20 % 4, i % 20), i / 80, i / 20 % 4, i % 20);
    const auto spread = [](const Cache& from, Cache& to) {
      const auto [sequences, blocks, bytes] = from.rows.blocks.extent;
      const int64_t apart = bytes + 12;
      to.bytes.assign(static_cast<size_t>(sequences * (blocks + 1) * apart), std::byte{0x7F});
      to.rows.blocks = {to.bytes.data(), {sequences, blocks, bytes}, {(blocks + 1) * apart, apart, 1}};
      for (int64_t i = 0; i < sequences * blocks; ++i)
        std::copy_n(from.rows.blocks[i / blocks][i % blocks].data, bytes,
                    to.rows.blocks[i / blocks][i % blocks].data);
    };
    spread(in.window, wide.window);
    spread(in.entries, wide.entries);
    const TensorBuffer<3> out = inputs::unwritten<3>(dtype, {3, 5, 33});
    test::run(*way.row, in.problem, wide.args(out.view.slice(1, 1, 4).slice(2, 7, 20)), 2);
    const float untouched = inputs::unwritten<1>(dtype, {1}).values()[0];
    for (int64_t i = 0; i < 3 * 5 * 33; ++i) {
      const int64_t t = i / 165, h = i / 33 % 5 - 1, c = i % 33 - 7;
      const bool inside = h >= 0 && c >= 0 && c < 20;
      ASSERT_EQ(load(out.view, t, h + 1, c + 7),
                inside ? expected[static_cast<size_t>((t * 4 + h) * 20 + c)] : untouched)
          << way.what();
    }
  }
}

TEST(compressed_attention, names_the_tensor_that_breaks_the_contract) {
  Inputs in = make_inputs(10, {"", 2, 3, 4, 2, 3, 2, 3, 2, 9}, Values::kNormal, test::serving_setting());
  in.token_places = {{0, 8}, {1, 3}};
  const TensorBuffer<3> out = in.unwritten();
  const auto message = [&](std::vector<int32_t> lists, auto change) {
    in.lists = lists;
    Args args = in.args(out.view);
    change(args);
    return test::message_of([&] { check(in.problem, args); });
  };
  const auto nothing = [](Args&) {};
  const std::vector<int32_t> good{0, 2, 3, 1, -1, -1}, none{-1, -1, -1, -1, -1, -1};
  EXPECT_EQ(message(good, nothing), "");
  EXPECT_EQ(message(none, nothing), "");
  const std::string op = "compressed_attention: ";
  EXPECT_EQ(message(good, [](Args& args) { args.q = args.q.slice(2, 0, 3); }),
            op + "q: expected shape [2, 3, 4], found [2, 3, 3]");
  EXPECT_EQ(message(good, [](Args& args) { args.sink = args.sink.slice(0, 0, 2); }),
            op + "sink: expected shape [3], found [2]");
  EXPECT_EQ(message(good, [](Args& args) { args.window.blocks = args.window.blocks.slice(0, 0, 1); }),
            op + "window: expected shape [2, 1, 1024], found [1, 1, 1024]");
  EXPECT_EQ(message(good, [](Args& args) { args.entries.blocks = args.entries.blocks.slice(1, 0, 0); }),
            op + "entries: expected shape [2, 1, 1024], found [2, 0, 1024]");
  EXPECT_EQ(message(good, [](Args& args) { args.selected = args.selected.slice(1, 0, 2); }),
            op + "selected: expected shape [2, 3], found [2, 2]");
  EXPECT_EQ(message(good, [](Args& args) { args.places = args.places.slice(0, 0, 1); }),
            op + "places: expected shape [2], found [1]");
  EXPECT_EQ(message(good, [](Args& args) { args.table.sine = args.table.sine.slice(0, 0, 8); }),
            op + "table, sine: expected shape [9, 1], found [8, 1]");
  EXPECT_EQ(message(good, [](Args& args) { args.out = args.out.slice(0, 0, 1); }),
            op + "out: expected shape [2, 3, 4], found [1, 3, 4]");
  EXPECT_EQ(message({0, 2, 4, 1, -1, -1}, nothing), op + "selected: expected a value in [3, 3], found 4");
  EXPECT_EQ(message({0, 2, 2, 1, -1, -1}, nothing), op + "selected: expected a value in [3, 3], found 2");
  EXPECT_EQ(message({0, 2, 3, 2, -1, -1}, nothing), op + "selected: expected a value in [0, 1], found 2");
  EXPECT_EQ(message({0, 2, 3, -1, -1, 1}, nothing),
            op + "selected, after a -1: expected a value in [-1, -1], found 1");
  in.token_places[1].sequence = 2;
  EXPECT_EQ(message(good, nothing), op + "places, a sequence: expected a value in [0, 1], found 2");
  in.token_places[1] = {1, 9};
  EXPECT_EQ(message(good, nothing), op + "places, a position: expected a value in [0, 8], found 9");
  in.token_places[1] = {1, 3};
  in.problem.ring = 2;
  EXPECT_EQ(message(good, nothing),
            op + "window, rows that a token sees: expected a value in [1, 2], found 3");
  in.problem.ring = 4;
  in.problem.entries = 3;
  EXPECT_EQ(message(good, nothing),
            op + "entries, those that a token sees: expected a value in [0, 3], found 4");
}

TEST(compressed_attention, refuses_numerics_that_it_does_not_do) {
  const auto why = [](const Implementation& row, const Setting& setting, auto Numerics::*knob, auto value) {
    Problem problem = problem_of(kAwkwardCases[1], setting);
    problem.setting.numerics.*knob = value;
    return test::refusal(row, problem);
  };
  for (const Way& way : all_ways()) {
    EXPECT_EQ(why(*way.row, way.setting, &Numerics::mla, Mla::kExpanded), "mla = expanded, takes absorbed");
    EXPECT_EQ(why(*way.row, way.setting, &Numerics::mma, Mma::kHopper), "mma = hopper, takes exact");
  }
  const Setting fp32 = test::fp32_setting(), serving = test::serving_setting();
  EXPECT_EQ(why(kReference, serving, &Numerics::kv_quant, KvQuant::kNone),
            "kv_quant = none, latent_cache = fp8 takes e4m3");
  EXPECT_EQ(why(kCpu, fp32, &Numerics::activation, Activation::kBf16),
            "activation = bf16, takes fp32 or fp16");
  EXPECT_EQ(why(kCpu, fp32, &Numerics::qk_operands, QkOperands::kBf16), "qk_operands = bf16, takes fp32");
  EXPECT_EQ(why(kCpu, fp32, &Numerics::softmax_merge, SoftmaxMerge::kIndependent), "");  // of one tile
  EXPECT_EQ(why(kCpu, serving_with(kTiledFp32), &Numerics::softmax_merge, SoftmaxMerge::kIndependent),
            "softmax_merge = independent, takes running");
  EXPECT_EQ(why(kCpuPairs, serving, &Numerics::activation, Activation::kFp32),
            "activation = fp32, takes bf16 or fp16");
  EXPECT_EQ(why(kCpuPairs, serving, &Numerics::latent_cache, LatentCache::kFp32),
            "latent_cache = fp32, takes bf16 or fp8");
  EXPECT_EQ(why(kCpuPairs, serving, &Numerics::softmax_tile, SoftmaxTile::kNone),
            "softmax_tile = none, takes 64 or 128");
  EXPECT_EQ(why(kCpuPairs, serving, &Numerics::softmax_merge, SoftmaxMerge::kIndependent),
            "softmax_merge = independent, takes running");
  EXPECT_EQ(why(kCpuPairs, serving, &Numerics::softmax_p, SoftmaxP::kFp32), "softmax_p = fp32, takes bf16");
  EXPECT_EQ(why(kCpuPairs, test::fp16_setting(), &Numerics::qk_operands, QkOperands::kFp32),
            "qk_operands = fp32, takes bf16");
}

}  // namespace
}  // namespace fulgurite::compressed_attention
