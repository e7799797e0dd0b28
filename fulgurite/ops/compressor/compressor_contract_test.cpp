// What compressor refuses: requests, problems, and rows that are wrong.

#include "fulgurite/ops/compressor/test_inputs.h"

namespace fulgurite::compressor {
namespace {

const Row kServing{&kCpuBf16, "serving", kBf16Matrix};

template <auto spoil>  // what it does to the outputs
constexpr Implementation spoiled() {
  return {"spoiled", kCpuBf16.supports, kCpuBf16.workspace_bytes,
          [](const Problem& problem, const Args& args, const Lane& lane) {
            kCpuBf16.run(problem, args, lane);
            spoil(args);
          }};
}

TEST(compressor, the_judge_rejects_what_is_wrong_in_any_step) {
  Case shape{"", 12, 16, 4, 64, 8, Kind::kEntries, 1, 0};
  const auto beyond = [&](const Implementation& row) {
    std::vector<int64_t> counts;
    const Batch batch = make_batch(shape, kServing, Values::kNormal);
    for (const audit::OutputReport& output : judged(row, problem_of(shape, kServing), batch).outputs)
      counts.push_back(output.difference.beyond);
    return counts;
  };
  using Counts = std::vector<int64_t>;
  EXPECT_EQ(beyond(kCpuBf16), (Counts{0, 0, 0, 0, 0}));
  EXPECT_EQ(beyond(spoiled<[](const Args& a) { a.projected(1, 0, 5) *= 1.001f; }>())[0], 1);
  EXPECT_EQ(beyond(spoiled<[](const Args& a) { a.pooled(7, 5) += 1e-3f; }>())[1], 1);
  EXPECT_EQ(beyond(spoiled<[](const Args& a) { a.state(0, 2, 1, 3) += 1e-4f; }>()), (Counts{0, 0, 1, 0, 0}));
  EXPECT_EQ(beyond(spoiled<[](const Args& a) { *a.entries.at(0, 1) ^= std::byte{1}; }>()),
            (Counts{0, 0, 0, 1, 0}));
  EXPECT_EQ(beyond(spoiled<[](const Args& a) { *a.entries.scales_at(0, 2) ^= std::byte{1}; }>())[4], 1);
  shape.kind = Kind::kIndexKeys;
  EXPECT_EQ(beyond(spoiled<[](const Args& a) { *a.keys.keys[0][1].data ^= std::byte{1}; }>()),
            (Counts{0, 0, 0, 1, 0}));
  EXPECT_EQ(beyond(spoiled<[](const Args& a) { a.keys.scales(0, 1) *= 2.0f; }>()), (Counts{0, 0, 0, 0, 1}));
}

TEST(compressor, names_the_tensor_that_breaks_the_contract) {
  const Case shape{"", 6, 16, 4, 64, 8, Kind::kEntries, 2, 5};
  const Problem problem = problem_of(shape, kServing);
  const Batch batch = make_batch(shape, kServing, Values::kNormal);
  Result made = make_result(problem, batch);
  const auto message = [&](auto change) {
    Args args = args_of(problem, batch, made);
    change(args);
    return test::message_of([&] { check(problem, args); });
  };
  EXPECT_EQ(message([](Args&) {}), "");
  EXPECT_EQ(message([](Args& a) { a.x = a.x.slice(1, 0, 8); }),
            "compressor: x: expected shape [6, 16], found [6, 8]");
  EXPECT_EQ(message([](Args& a) { a.x.dtype = DType::kF16; }), "compressor: x: expected BF16, found F16");
  EXPECT_EQ(message([](Args& a) { a.ape = a.ape.slice(0, 0, 3); }),
            "compressor: ape: expected shape [4, 128], found [3, 128]");
  EXPECT_EQ(message([](Args& a) { a.norm = a.norm.slice(0, 0, 3); }),
            "compressor: norm: expected shape [64], found [3]");
  EXPECT_EQ(message([](Args& a) { a.places = a.places.slice(0, 0, 3); }),
            "compressor: places: expected shape [6], found [3]");
  EXPECT_EQ(message([](Args& a) { a.table.sine = a.table.sine.slice(1, 0, 3); }),
            "compressor: sine: expected shape [12, 4], found [12, 3]");
  EXPECT_EQ(message([](Args& a) { a.state = a.state.slice(1, 0, 4); }),
            "compressor: state: expected shape [2, 8, 2, 128], found [2, 4, 2, 128]");
  EXPECT_EQ(message([](Args& a) { a.entries.blocks = a.entries.blocks.slice(0, 0, 1); }),
            "compressor: entries: expected shape [2, 1, 5184], found [1, 1, 5184]");
  EXPECT_EQ(message([](Args& a) { a.projected = a.projected.slice(0, 0, 1); }),
            "compressor: projected: expected shape [6, 2, 128], found [1, 2, 128]");
  EXPECT_EQ(message([](Args& a) { a.pooled = a.pooled.slice(0, 0, 1); }),
            "compressor: pooled: expected shape [6, 64], found [1, 64]");
}

TEST(compressor, names_the_place_that_does_not_follow) {
  const Case shape{"", 4, 16, 4, 64, 8, Kind::kIndexKeys, 2, 5};
  const Problem problem = problem_of(shape, kServing);
  Batch batch = make_batch(shape, kServing, Values::kNormal);
  Result made = make_result(problem, batch);
  const auto message = [&](std::vector<TokenPlace> places) {
    batch.places = std::move(places);
    return test::message_of([&] { check(problem, args_of(problem, batch, made)); });
  };
  EXPECT_EQ(message({{1, 5}, {1, 6}, {0, 0}, {0, 1}}), "");
  EXPECT_EQ(message({{1, 5}, {1, 7}, {0, 0}, {0, 1}}),
            "compressor: position: expected a value in [6, 6], found 7");
  EXPECT_EQ(message({{1, 5}, {1, 5}, {0, 0}, {0, 1}}),
            "compressor: position: expected a value in [6, 6], found 5");
  EXPECT_EQ(message({{1, 5}, {0, 6}, {1, 6}, {0, 1}}),
            "compressor: places: the tokens of sequence 1 do not stand together");
  EXPECT_EQ(message({{1, 5}, {2, 6}, {0, 0}, {0, 1}}),
            "compressor: sequence: expected a value in [0, 1], found 2");
  // Ten rows of the table.
  EXPECT_EQ(message({{1, 9}, {1, 10}, {0, 0}, {0, 1}}),
            "compressor: position: expected a value in [0, 9], found 10");
}

TEST(compressor, an_open_window_needs_no_entry) {
  const Case shape{"", 1, 16, 4, 64, 8, Kind::kIndexKeys, 1, 6};
  Problem problem = problem_of(shape, kServing);
  problem.entries = 1;
  Batch batch = make_batch(shape, kServing, Values::kNormal);
  Result made = make_result(problem, batch);
  const auto message = [&](int32_t position) {
    batch.places = {{0, position}};
    return test::message_of([&] { check(problem, args_of(problem, batch, made)); });
  };
  EXPECT_EQ(message(6), "");
  EXPECT_EQ(message(7), "compressor: position: expected a value in [0, 6], found 7");
}

TEST(compressor, refuses_what_it_does_not_do) {
  const auto refusal = [](const Implementation& row, const char* numerics, Kind kind,
                          const MatrixFormat& weights = kBf16Matrix) {
    Case shape = kCases[4];
    shape.kind = kind;
    shape.dim = 64;
    return test::refusal(row, problem_of(shape, {&row, numerics, weights}));
  };
  const Kind entries = Kind::kEntries, keys = Kind::kIndexKeys;
  for (const Implementation* const row : {&kReference, &kCpu, &kCpuBf16}) {
    EXPECT_EQ(refusal(*row, "serving", entries), "");
    EXPECT_EQ(refusal(*row, "serving,kv_quant=none", entries),
              "kv_quant = none, latent_cache = fp8 takes e4m3");
    EXPECT_EQ(refusal(*row, "serving", keys), "");
    EXPECT_EQ(refusal(*row, "serving,index_quant=fp4,index_scale=fp32", keys),
              "index_scale = fp32, takes pow2");
    EXPECT_EQ(refusal(*row, "serving,mma=hopper", keys),
              row == &kReference ? "" : "mma = hopper, takes exact");
    EXPECT_NE(refusal(*row, "serving,rsqrt=cuda", keys), "");
    Problem other = problem_of(kCases[5], {row, "serving", kBf16Matrix});
    other.ratio = 16;
    EXPECT_EQ(test::refusal(*row, other), "ratio = 16, takes 4 or 128");
  }
  EXPECT_EQ(refusal(kCpuBf16, "fp32", keys), "activation = fp32, takes bf16");
  EXPECT_EQ(refusal(kCpuBf16, "serving", keys, kF32Matrix), "wkv in f32 read at its exact value, takes bf16");
}

}  // namespace
}  // namespace fulgurite::compressor
