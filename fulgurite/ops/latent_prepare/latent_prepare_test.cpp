#include "fulgurite/ops/latent_prepare/latent_prepare.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "fulgurite/ops/latent_prepare/latent_prepare_audit.h"
#include "fulgurite/ops/latent_prepare/latent_prepare_cases.h"
#include "test/op_test.h"
#include "test/rotary_inputs.h"

namespace fulgurite::latent_prepare {
namespace {

using inputs::TensorBuffer;
using inputs::Values;

constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr std::byte kUntouched{0x5A};

// Type of the activations and form of the cache.
struct Kind {
  DType activation;
  LatentCache cache;
};
constexpr Kind kFp32{DType::kF32, LatentCache::kFp32}, kServing{DType::kBF16, LatentCache::kFp8};
constexpr Kind kKinds[] = {kFp32,
                           {DType::kF32, LatentCache::kBf16},
                           {DType::kF32, LatentCache::kFp8},
                           {DType::kBF16, LatentCache::kFp32},
                           {DType::kBF16, LatentCache::kBf16},
                           kServing,
                           {DType::kF16, LatentCache::kFp32},
                           {DType::kF16, LatentCache::kBf16},
                           {DType::kF16, LatentCache::kFp8}};
std::string describe(Kind kind) {
  return fmt::format("{} into {}", name(kind.activation), value_name(kind.cache));
}

Problem problem_of(const Case& shape, Kind kind = kFp32, Isa isa = cpu::best_isa()) {
  Setting setting = test::setting_of(kind.activation, isa);
  setting.numerics.latent_cache = kind.cache;
  return {setting, shape.latent, shape.rope, 1e-6f, shape.sequences, shape.context};
}

struct Batch {
  TensorBuffer<2> kv;
  inputs::Buffer<1> weight;
  std::vector<TokenPlace> places;
  inputs::RotaryTable table;
};
Batch make_batch(const Case& shape, Values values, Kind kind = kFp32) {
  Random random(1);
  return {inputs::make_tensor(random, values, kind.activation,
                              std::array{shape.tokens, shape.latent + shape.rope}),
          inputs::make(random, Values::kNormal, shape.latent),
          inputs::make_places(random, shape.tokens, shape.sequences, shape.context),
          inputs::make_table(shape.context, shape.rope)};
}

// A cache that owns its rows.
struct Cache {
  explicit Cache(const Problem& problem)
      : form(row_of(problem)),
        extent{problem.sequences, problem.context, form.bytes()},
        bytes(static_cast<size_t>(extent[0] * extent[1] * extent[2]), kUntouched) {}
  LatentRows view() { return {form, {bytes.data(), extent}}; }
  std::byte* row(TokenPlace place) { return view().rows[place.sequence][place.position].data; }

  LatentRow form;
  std::array<int64_t, 3> extent;
  std::vector<std::byte> bytes;
};

Args args_of(const Batch& batch, Cache& cache) {
  return {batch.kv.view, batch.weight.view, inputs::view_of(batch.places), batch.table.table(), cache.view()};
}

// Writes tokens [first, first + count).
void write(const Implementation& implementation, const Problem& problem, const Batch& batch, int64_t first,
           int64_t count, Cache& cache, int threads = 1) {
  Args args = args_of(batch, cache);
  args.kv = args.kv.slice(0, first, count);
  args.places = args.places.slice(0, first, count);
  test::run(implementation, problem, args, threads);
}

Cache result(const Implementation& implementation, const Problem& problem, const Batch& batch,
             int threads = 1) {
  Cache cache(problem);
  write(implementation, problem, batch, 0, batch.kv.view.extent[0], cache, threads);
  return cache;
}

// The row of a place: latent, then the rotated part.
std::vector<float> values(Cache& cache, TokenPlace place) {
  std::vector<float> row;
  for (int64_t i = 0; i < cache.form.latent; ++i) row.push_back(cache.form.latent_value(cache.row(place), i));
  for (int64_t i = 0; i < cache.form.rope; ++i) row.push_back(cache.form.rope_value(cache.row(place), i));
  return row;
}

audit::OpReport judged(const Implementation& implementation, const Problem& problem, const Batch& batch) {
  Cache cache(problem);
  const test::ExactBytes workspace(implementation.workspace_bytes(problem, 1));
  return judge(implementation, problem, args_of(batch, cache), {1, nullptr, workspace.bytes()});
}

TEST(latent_prepare, agrees_with_the_reference_on_hard_values) {
  for (const Case& shape : kCases) {
    for (const Kind kind : kKinds) {
      for (const Values drawn : inputs::kAllValues) {
        const audit::OpReport report = judged(kCpu, problem_of(shape, kind), make_batch(shape, drawn, kind));
        EXPECT_TRUE(report.within()) << fmt::format("{}, {}, {}, seed 1: {}", shape.what, describe(kind),
                                                    inputs::name(drawn), audit::describe(report));
      }
    }
  }
}

// One token at position 1, where the table turns a pair by a right angle. The mean of squares is 12.5.
Batch hand_made(DType activation) {
  Batch batch = make_batch({"", 1, 2, 2, 2, 2}, Values::kNormal, {activation, LatentCache::kFp32});
  const float kv[] = {3.0f, 4.0f, 5.0f, 6.0f};
  for (int64_t i = 0; i < 4; ++i) store(batch.kv.view, kv[i], int64_t{0}, i);
  batch.weight.view(0) = 1.0f;
  batch.weight.view(1) = 2.0f;
  batch.places = {{1, 1}};
  batch.table.cosine.view(1, 0) = 0.0f;
  batch.table.sine.view(1, 0) = 1.0f;
  return batch;
}

TEST(latent_prepare, norms_the_latent_and_turns_the_rest_as_the_cache_stores_it) {
  const float r = static_cast<float>(1.0 / std::sqrt(13.0));  // eps 0.5
  const float first = 3.0f * r, second = 2.0f * (4.0f * r);   // 0.832, 2.219
  for (const Implementation* const row : {&kReference, &kCpu}) {
    for (const Kind kind : kKinds) {
      Problem problem = problem_of({"", 1, 2, 2, 2, 2}, kind);
      problem.eps = 0.5f;
      Cache cache = result(*row, problem, hand_made(kind.activation));
      std::vector<float> expected{first, second, -6.0f, 5.0f};
      if (kind.activation == DType::kBF16 || kind.cache == LatentCache::kBf16)
        expected = {round_to_bf16(first), round_to_bf16(second), -6.0f, 5.0f};
      if (kind.activation == DType::kF16) {  // then the cache's type
        const bool wide = kind.cache == LatentCache::kFp32;
        expected = {round_to_fp16(first), round_to_fp16(second), -6.0f, 5.0f};
        for (float& value : expected) value = wide ? value : round_to_bf16(value);
      }
      // 2.219 / 448 lies between 2^-8 and 2^-7; 0.832 * 2^7 is 106.5, 2.219 * 2^7 is 284.0.
      if (kind.cache == LatentCache::kFp8) expected = {104.0f / 128.0f, 288.0f / 128.0f, -6.0f, 5.0f};
      EXPECT_EQ(values(cache, {1, 1}), expected) << row->name << ", " << describe(kind);
    }
  }
}

// The norm's output is rounded to bf16, and that is what the cache quantizes.
TEST(latent_prepare, the_activation_s_type_rounds_before_the_cache_does) {
  const Case shape{"", 64, 130, 2, 1, 64};
  for (const Implementation* const row : {&kReference, &kCpu}) {
    const Batch batch = make_batch(shape, Values::kNormal, kServing);
    Batch same = make_batch(shape, Values::kNormal, {DType::kF32, LatentCache::kFp8});
    for (int64_t t = 0; t < 64; ++t)
      for (int64_t i = 0; i < 132; ++i) store(same.kv.view, load(batch.kv.view, t, i), t, i);
    const Cache rounded = result(*row, problem_of(shape, kServing), batch);
    const Cache unrounded = result(*row, problem_of(shape, {DType::kF32, LatentCache::kFp8}), same);
    EXPECT_NE(rounded.bytes, unrounded.bytes);
  }
}

TEST(latent_prepare, a_group_of_128_shares_a_power_of_two_scale) {
  const Case shape{"", 1, 300, 2, 1, 1};
  Batch batch = make_batch(shape, Values::kNormal, kServing);
  for (int64_t i = 0; i < 300; ++i) {
    store(batch.kv.view, i == 130 ? 256.0f : i == 299 ? 0.5f : 1.0f, int64_t{0}, i);
    batch.weight.view(i) = 1.0f;
  }
  Problem problem = problem_of(shape, kServing);
  for (const Implementation* const row : {&kReference, &kCpu}) {
    Cache cache = result(*row, problem, batch);
    const std::byte* const bytes = cache.row({0, 0});
    const auto scale = [&](int64_t g) {
      return LatentRow::read<float>(bytes + cache.form.scales_offset() + 4 * g);
    };
    // r = 1/sqrt(219.45) = 0.0675: largest 0.0675, 17.28, 0.0675, each over 448 and rounded up.
    EXPECT_EQ(scale(0), 0x1p-12f);
    EXPECT_EQ(scale(1), 0x1p-4f);
    EXPECT_EQ(scale(2), 0x1p-12f);
    EXPECT_EQ(cache.form.latent_value(bytes, 130),
              288.0f * 0x1p-4f);  // 17.28 * 16 = 276.5: 16 apart, ties no
  }
}

TEST(latent_prepare, NaN_and_infinity_spoil_the_latent_or_the_pair) {
  const Case shape{"", 4, 300, 4, 1, 4};
  for (const Implementation* const row : {&kReference, &kCpu}) {
    for (const Kind kind : kKinds) {
      const Batch batch = make_batch(shape, Values::kNormal, kind);
      store(batch.kv.view, kNaN, int64_t{1}, int64_t{2});
      store(batch.kv.view, kNaN, int64_t{2}, int64_t{301});
      store(batch.kv.view, -kInfinity, int64_t{3}, int64_t{140});  // r = 0, and infinity * 0
      Cache cache = result(*row, problem_of(shape, kind), batch);
      EXPECT_TRUE(judged(*row, problem_of(shape, kind), batch).within());
      for (size_t t = 0; t < 4; ++t) {
        const std::vector<float> made = values(cache, batch.places[t]);
        const bool fp8 = kind.cache == LatentCache::kFp8;
        for (size_t i = 0; i < 304; ++i) {
          const bool infinite = t == 3 && (fp8 ? i / 128 == 1 && i < 300 : i == 140);
          EXPECT_EQ(std::isnan(made[i]),
                    (t == 1 && i < 300) || (t == 2 && (i == 300 || i == 301)) || infinite);
        }
        if (!fp8 || t != 1) continue;
        for (int64_t g = 0; g < 3; ++g)
          EXPECT_EQ(LatentRow::read<float>(cache.row(batch.places[t]) + cache.form.scales_offset() + 4 * g),
                    1.0f);
      }
    }
  }
}

TEST(latent_prepare, huge_latents_are_as_in_the_reference) {
  const Case shape{"", 3, 200, 4, 1, 3};
  for (const Kind kind : kKinds) {
    Batch batch = make_batch(shape, Values::kNormal, kind);
    for (int64_t i = 0; i < 204; ++i) {
      store(batch.kv.view, i % 2 == 0 ? 3e38f : -3e38f, int64_t{0}, i);
      store(batch.kv.view, 1e-38f, int64_t{1}, i);
    }
    batch.weight.view(3) = 3e38f;
    EXPECT_TRUE(judged(kCpu, problem_of(shape, kind), batch).within()) << describe(kind);
  }
}

TEST(latent_prepare, writes_only_the_rows_of_its_tokens) {
  const Case shape{"", 5, 16, 4, 3, 4};
  for (const Kind kind : kKinds) {
    const Batch batch = make_batch(shape, Values::kNormal, kind);
    for (const Implementation* const row : {&kReference, &kCpu}) {
      Cache cache = result(*row, problem_of(shape, kind), batch);
      for (const TokenPlace place : batch.places)
        std::fill_n(cache.row(place), cache.form.bytes(), kUntouched);
      EXPECT_EQ(cache.bytes, std::vector<std::byte>(cache.bytes.size(), kUntouched));
    }
  }
}

TEST(latent_prepare, gives_the_same_bits_for_any_batch_threads_and_instruction_set) {
  const Case shape{"", 29, 511, 26, 2, 20};
  for (const Kind kind : kKinds) {
    const Batch batch = make_batch(shape, Values::kNormal, kind);
    const Cache whole = result(kCpu, problem_of(shape, kind), batch);
    for (const Isa isa : test::machine_isas()) {
      const Problem problem = problem_of(shape, kind, isa);
      for (const int threads : {2, 3}) EXPECT_EQ(result(kCpu, problem, batch, threads).bytes, whole.bytes);
      Cache one_by_one(problem);
      for (int64_t t = 0; t < shape.tokens; ++t) write(kCpu, problem, batch, t, 1, one_by_one);
      EXPECT_EQ(one_by_one.bytes, whole.bytes);
    }
  }
}

TEST(latent_prepare, the_knobs_of_the_root_matter) {
  const Case shape{"", 64, 4, 2, 1, 64};
  for (const Implementation* const row : {&kReference, &kCpu}) {
    const auto bytes = [&](const auto& choose) {
      Problem problem = problem_of(shape);
      choose(problem.setting.numerics);
      return result(*row, problem, make_batch(shape, Values::kNormal)).bytes;
    };
    const std::vector<std::byte> plain = bytes([](Numerics&) {});
    EXPECT_NE(bytes([](Numerics& n) { n.rsqrt = Rsqrt::kTwoStep; }), plain);
    EXPECT_NE(bytes([](Numerics& n) { n.rsqrt = Rsqrt::kX86_12; }), plain);
  }
}

TEST(latent_prepare, the_audit_sees_a_wrong_code_scale_and_pair) {
  const Case shape{"", 2, 200, 4, 1, 2};
  Implementation wrong = kReference;
  wrong.run = [](const Problem& problem, const Args& args, const Lane& lane) {
    kReference.run(problem, args, lane);
    std::byte* const row = args.cache.rows[0][args.places(1).position].data;
    row[5] = row[5] ^ std::byte{1};
    row[args.cache.row.scales_offset() + 7] ^= std::byte{1};  // of the second group: exponent
    row[args.cache.row.rope_offset()] ^= std::byte{1};
  };
  const audit::OpReport report =
      judged(wrong, problem_of(shape, kServing), make_batch(shape, Values::kNormal, kServing));
  ASSERT_EQ(report.outputs.size(), 3u);
  EXPECT_GT(report.outputs[0].difference.beyond, 1 + 60);  // and most of what the scale multiplies
  EXPECT_EQ(report.outputs[1].difference.beyond, 1);
  EXPECT_EQ(report.outputs[2].difference.beyond, 1);
}

TEST(latent_prepare, names_what_breaks_the_contract) {
  const Case shape{"", 2, 8, 4, 2, 3};
  Batch batch = make_batch(shape, Values::kNormal);
  const Problem problem = problem_of(shape);
  Cache cache(problem);
  const auto message = [&](const auto& spoil) {
    Args args = args_of(batch, cache);
    spoil(args);
    return test::message_of([&] { check(problem, args); });
  };
  EXPECT_EQ(message([](Args&) {}), "");
  EXPECT_EQ(message([&](Args& args) { args.kv = args.kv.slice(1, 0, 8); }),
            "latent_prepare: kv: expected shape [2, 12], found [2, 8]");
  EXPECT_EQ(message([](Args& args) { args.weight = args.weight.slice(0, 0, 7); }),
            "latent_prepare: weight: expected shape [8], found [7]");
  EXPECT_EQ(message([](Args& args) { args.places = args.places.slice(0, 0, 1); }),
            "latent_prepare: places: expected shape [2], found [1]");
  EXPECT_EQ(message([](Args& args) { args.table.cosine = args.table.cosine.slice(1, 0, 1); }),
            "latent_prepare: cosine: expected shape [3, 2], found [3, 1]");
  EXPECT_EQ(message([](Args& args) { args.table.sine = args.table.sine.slice(0, 0, 2); }),
            "latent_prepare: sine: expected shape [3, 2], found [2, 2]");
  EXPECT_EQ(message([](Args& args) { args.cache.rows = args.cache.rows.slice(0, 0, 1); }),
            "latent_prepare: cache: expected shape [2, 3, 48], found [1, 3, 48]");
  batch.places = {{0, 2}, {2, 0}};
  EXPECT_EQ(message([](Args&) {}), "latent_prepare: sequence: expected a value in [0, 1], found 2");
  batch.places = {{0, 2}, {1, 3}};
  EXPECT_EQ(message([](Args&) {}), "latent_prepare: position: expected a value in [0, 2], found 3");
  batch.places = {{0, 2}, {1, 1}};
  batch.table = inputs::make_table(2, 4);  // shorter than the context
  EXPECT_EQ(message([](Args&) {}), "latent_prepare: position: expected a value in [0, 1], found 2");
}

TEST(latent_prepare, refuses_numerics_that_it_does_not_do) {
  Problem rsqrt = problem_of({"", 1, 1, 2, 1, 1});
  rsqrt.setting.numerics.rsqrt = Rsqrt::kCuda;
  for (const Implementation* const row : {&kReference, &kCpu})
    EXPECT_EQ(test::refusal(*row, rsqrt),
              "rsqrt = cuda, takes correct or two_step or x86_12 or x86_14 or error");
}

}  // namespace
}  // namespace fulgurite::latent_prepare
