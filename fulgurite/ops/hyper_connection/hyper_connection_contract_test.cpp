// What the contract says beside the values: memory, batches, errors, refusals, and that the audit sees.

#include <gtest/gtest.h>

#include "fulgurite/ops/hyper_connection/test_inputs.h"

namespace fulgurite::hyper_connection {
namespace {

TEST(hyper_connection, writes_over_its_inputs_where_the_contract_allows_it) {
  const Case shape{"", 19, 300};
  for (const Implementation* const row : {&kReference, &kCpu}) {
    for (const DType activation : kActivations) {
      const Problem problem = problem_of(shape, activation);
      const Batch batch = make_batch(shape, Values::kNormal, activation);
      const Result expected = result(*row, problem, args_of(batch, Reads::kBlock));
      Args args = args_of(batch, Reads::kBlock);
      args.streams_out = batch.streams.view;
      args.post_out = batch.post.view.as<float>();
      args.mix_out = batch.mix.view.as<float>();
      args.collapsed = batch.block.view;
      test::run(*row, problem, args);
      EXPECT_TRUE(test::identical(batch.streams.values(), expected.streams.values()));
      EXPECT_TRUE(test::identical(batch.post.values(), expected.post.values()));
      EXPECT_TRUE(test::identical(batch.mix.values(), expected.mix.values()));
      EXPECT_TRUE(test::identical(batch.block.values(), expected.collapsed.values()));
    }
  }
}

TEST(hyper_connection, the_head_collapses_as_a_layer_of_the_same_first_rows_does) {
  const Case shape{"", 3, 100};
  const Batch batch = make_batch(shape, Values::kNormal, DType::kBF16);
  for (const Implementation* const row : {&kReference, &kCpu}) {
    const Args layer = args_of(batch, Reads::kBlock);
    Args head = layer;
    head.fn = layer.fn.slice(0, 0, 4);
    head.base = layer.base.slice(0, 0, 4);
    head.scale = layer.scale.slice(0, 0, 1);
    const Result made = result(*row, problem_of(shape, DType::kBF16, Kind::kHead), head);
    const Result expected = result(*row, problem_of(shape, DType::kBF16), layer);
    EXPECT_TRUE(test::identical(made.collapsed.values(), expected.collapsed.values()));
    EXPECT_TRUE(test::identical(made.streams.values(), expected.streams.values()));
    EXPECT_EQ(made.post.values(), inputs::unwritten<2>(DType::kF32, {3, 4}).values());
    EXPECT_EQ(made.mix.values(), inputs::unwritten<3>(DType::kF32, {3, 4, 4}).values());
  }
}

TEST(hyper_connection, gives_the_same_bits_for_any_batch_threads_and_instruction_set) {
  const Case shape{"", 35, 777};
  for (const DType activation : kActivations) {
    const Batch batch = make_batch(shape, Values::kNormal, activation);
    const Args args = args_of(batch, Reads::kBlock);
    const Result whole = result(kCpu, problem_of(shape, activation), args);
    for (const Isa isa : test::machine_isas()) {
      for (const int threads : {1, 2, 3}) {
        const Result made = result(kCpu, problem_of(shape, activation, Kind::kLayer, isa), args, threads);
        EXPECT_TRUE(test::identical(made.streams.values(), whole.streams.values()));
        EXPECT_TRUE(test::identical(made.all_but_streams(), whole.all_but_streams()));
      }
    }
    for (int64_t t = 0; t < shape.tokens; ++t) {
      Args one = args;
      one.streams = args.streams.slice(0, t, 1);
      one.block = args.block.slice(0, t, 1);
      one.post = args.post.slice(0, t, 1);
      one.mix = args.mix.slice(0, t, 1);
      const Result made = result(kCpu, problem_of({"", 1, 777}, activation), one);
      for (int64_t i = 0; i < 777; ++i)
        EXPECT_EQ(load(made.collapsed.view, int64_t{0}, i), load(whole.collapsed.view, t, i));
      for (int64_t at = 0; at < 16; ++at)
        EXPECT_EQ(load(made.mix.view, int64_t{0}, at / 4, at % 4), load(whole.mix.view, t, at / 4, at % 4));
    }
  }
}

TEST(hyper_connection, reads_and_writes_rows_of_any_stride) {
  const Case shape{"", 3, 50};
  for (const DType activation : kActivations) {
    const Batch batch = make_batch(shape, Values::kNormal, activation);
    const TensorBuffer<3> wide = inputs::unwritten<3>(activation, {3, 6, 61});
    const TensorBuffer<2> out = inputs::unwritten<2>(activation, {3, 77}),
                          fn = inputs::unwritten<2>(DType::kF32, {24, 207});
    const Tensor<3> streams = wide.view.slice(1, 1, 4).slice(2, 3, 50);
    for (int64_t at = 0; at < 3 * 200; ++at)
      store(streams, load(batch.streams.view, at / 200, at / 50 % 4, at % 50), at / 200, at / 50 % 4,
            at % 50);
    for (int64_t at = 0; at < 24 * 200; ++at)
      store(fn.view, load(batch.fn.view, at / 200, at % 200), at / 200, at % 200);
    for (const Implementation* const row : {&kReference, &kCpu}) {
      const Result expected = result(*row, problem_of(shape, activation), args_of(batch, Reads::kStreams));
      Args args = args_of(batch, Reads::kStreams);
      args.streams = streams;
      args.fn = View<const float, 2>(fn.view.as<float>()).slice(1, 0, 200);
      const Result made = make_result(args);
      args.collapsed = out.view.slice(1, 5, 50);
      test::run(*row, problem_of(shape, activation), args);
      for (int64_t t = 0; t < 3; ++t)
        for (int64_t i = 0; i < 50; ++i)
          EXPECT_EQ(load(args.collapsed, t, i), load(expected.collapsed.view, t, i));
      EXPECT_TRUE(test::identical(made.mix.values(), expected.mix.values()));
    }
  }
}

TEST(hyper_connection, the_knobs_that_change_the_result_do) {
  const Case shape{"", 50, 8};
  const Batch batch = make_batch(shape, Values::kNormal);
  for (const Implementation* const row : {&kReference, &kCpu}) {
    const auto made = [&](const auto& choose) {
      Problem problem = problem_of(shape);
      choose(problem);
      EXPECT_TRUE(judged(*row, problem, args_of(batch, Reads::kBlock)).within());
      return result(*row, problem, args_of(batch, Reads::kBlock)).all_but_streams();
    };
    const std::vector<float> plain = made([](Problem&) {});
    EXPECT_NE(made([](Problem& p) { p.setting.numerics.rsqrt = Rsqrt::kTwoStep; }), plain);
    EXPECT_NE(made([](Problem& p) { p.setting.numerics.rsqrt = Rsqrt::kX86_12; }), plain);
    EXPECT_NE(made([](Problem& p) { p.norm_eps = 1e-3f; }), plain);
    EXPECT_NE(made([](Problem& p) { p.eps = 1e-3f; }), plain);
    EXPECT_NE(made([](Problem& p) { p.sinkhorn_iterations = 2; }), plain);
  }
}

TEST(hyper_connection, the_audit_sees_a_step_too_much_in_each_output) {
  const Case shape{"", 2, 20};
  for (const DType activation : kActivations) {
    Implementation wrong = kReference;
    wrong.run = [](const Problem& p, const Args& args, const Lane& lane) {
      kReference.run(p, args, lane);
      const float step = args.streams.dtype == DType::kF32 ? 1.0f + 0x1p-15f : 1.0f + 0x1p-6f;
      args.post_out(0, 3) *= 1.0f + 0x1p-13f;
      args.mix_out(1, 2, 1) *= 1.0f + 0x1p-13f;
      store(args.collapsed, load(args.collapsed, int64_t{1}, int64_t{4}) * step, int64_t{1}, int64_t{4});
      store(args.streams_out, load(args.streams_out, int64_t{1}, int64_t{1}, int64_t{4}) * step, int64_t{1},
            int64_t{1}, int64_t{4});
    };
    const audit::OpReport report =
        judged(wrong, problem_of(shape, activation),
               args_of(make_batch(shape, Values::kNormal, activation), Reads::kBlock));
    ASSERT_EQ(report.outputs.size(), 4u);
    const int64_t places[] = {3, 16 + 9, 24, 80 + 24};
    for (size_t i = 0; i < 4; ++i) {
      EXPECT_EQ(report.outputs[i].difference.beyond, 1) << report.outputs[i].name;
      EXPECT_EQ(report.outputs[i].difference.worst, places[i]) << report.outputs[i].name;
    }
  }
}

TEST(hyper_connection, names_the_tensor_that_breaks_the_contract) {
  const Case shape{"", 2, 8};
  const Batch batch = make_batch(shape, Values::kNormal);
  const auto message = [&](const auto& spoil) {
    Args args = args_of(batch, Reads::kBlock);
    args.replaced = batch.replaced.view.as<float>();
    const Result made = make_result(args);
    spoil(args);
    return test::message_of([&] { check(problem_of(shape), args); });
  };
  EXPECT_EQ(message([](Args&) {}), "");
#define EXPECT_NAMED(what, text) EXPECT_EQ(message([](Args& args) { args.what; }), "hyper_connection: " text)
  EXPECT_NAMED(streams = args.streams.slice(1, 0, 3), "streams: expected shape [2, 4, 8], found [2, 3, 8]");
  EXPECT_NAMED(block = args.block.slice(1, 0, 7), "block: expected shape [2, 8], found [2, 7]");
  EXPECT_NAMED(post = args.post.slice(0, 0, 1), "post: expected shape [2, 4], found [1, 4]");
  EXPECT_NAMED(mix = args.mix.slice(2, 0, 3), "mix: expected shape [2, 4, 4], found [2, 4, 3]");
  EXPECT_NAMED(replaced = args.replaced.slice(1, 0, 31), "replaced: expected shape [2, 32], found [2, 31]");
  EXPECT_NAMED(fn = args.fn.slice(0, 0, 4), "fn: expected shape [24, 32], found [4, 32]");
  EXPECT_NAMED(base = args.base.slice(0, 0, 4), "base: expected shape [24], found [4]");
  EXPECT_NAMED(scale = args.scale.slice(0, 0, 1), "scale: expected shape [3], found [1]");
  EXPECT_NAMED(streams_out = {}, "streams_out: expected shape [2, 4, 8], found [0, 0, 0]");
  EXPECT_NAMED(post_out = args.post_out.slice(1, 0, 3), "post_out: expected shape [2, 4], found [2, 3]");
  EXPECT_NAMED(mix_out = {}, "mix_out: expected shape [2, 4, 4], found [0, 0, 0]");
  EXPECT_NAMED(collapsed = args.collapsed.slice(1, 0, 1), "collapsed: expected shape [2, 8], found [2, 1]");
#undef EXPECT_NAMED
}

TEST(hyper_connection, refuses_what_it_does_not_do) {
  const auto refusal = [](const Implementation& row, const auto& choose) {
    Problem problem = problem_of({"", 1, 1});
    choose(problem);
    return test::refusal(row, problem);
  };
  for (const Implementation* const row : {&kReference, &kCpu}) {
    EXPECT_EQ(refusal(*row, [](Problem& p) { p.streams = 3; }), "streams = 3, takes 4");
    EXPECT_EQ(refusal(*row, [](Problem& p) { p.setting.numerics.mma = Mma::kHopper; }),
              "mma = hopper, takes exact");
    EXPECT_EQ(refusal(*row, [](Problem& p) { p.setting.numerics.rsqrt = Rsqrt::kCuda; }),
              "rsqrt = cuda, takes correct or two_step or x86_12 or x86_14 or error");
  }
}

}  // namespace
}  // namespace fulgurite::hyper_connection
