#include "fulgurite/ops/latent_prepare/latent_prepare.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "fulgurite/ops/latent_prepare/latent_prepare_cases.h"
#include "test/op_test.h"
#include "test/rotary_inputs.h"

namespace fulgurite::latent_prepare {
namespace {

using inputs::Buffer;
using inputs::Values;

constexpr float kUntouched = 0.5f;  // what inputs::make fills a constant buffer with

struct Batch {
  Buffer<2> kv;
  Buffer<1> weight;
  std::vector<TokenPlace> places;
  inputs::RotaryTable table;
};

Batch make_batch(const Case& shape, Values values) {
  Random random(1);
  return {inputs::make(random, values, shape.tokens, shape.latent + shape.rope),
          inputs::make(random, Values::kNormal, shape.latent),
          inputs::make_places(random, shape.tokens, shape.sequences, shape.context),
          inputs::make_table(shape.context, shape.rope)};
}

Problem problem_of(const Case& shape, Isa isa = cpu::best_isa()) {
  return {test::fp32_setting(isa), shape.latent, shape.rope, 1e-6f, shape.sequences, shape.context};
}

Buffer<3> make_cache(const Problem& problem) {
  Random unused(0);
  return inputs::make(unused, Values::kConstant, problem.sequences, problem.context,
                      problem.latent + problem.rope);
}

// Writes tokens [first, first + count) to `cache`.
void write(const Implementation& implementation, const Problem& problem, const Batch& batch, int64_t first,
           int64_t count, View<float, 3> cache, int threads = 1) {
  test::run(implementation, problem,
            Args{batch.kv.view.slice(0, first, count), batch.weight.view,
                 inputs::view_of(batch.places).slice(0, first, count), batch.table.table(), cache},
            threads);
}

Buffer<3> result(const Implementation& implementation, const Problem& problem, const Batch& batch,
                 int threads = 1) {
  Buffer<3> cache = make_cache(problem);
  write(implementation, problem, batch, 0, batch.kv.view.extent[0], cache.view, threads);
  return cache;
}

// As norm's for the latent; the rotated part and the rows of no token are exact.
std::vector<double> bound(const Buffer<3>& expected, const Batch& batch) {
  std::vector<double> bounds(expected.elements.size(), 0.0);
  for (const TokenPlace place : batch.places) {
    for (int64_t i = 0; i < batch.weight.view.extent[0]; ++i) {
      const float& element = expected.view(place.sequence, place.position, i);
      bounds[static_cast<size_t>(&element - expected.view.data)] =
          8 * 0x1p-24 * std::abs(element) + (1 + std::abs(batch.weight.view(i))) * 0x1p-149;
    }
  }
  return bounds;
}

TEST(latent_prepare, agrees_with_the_reference_on_hard_values) {
  for (const Case& shape : kCases) {
    for (const Values values : inputs::kAllValues) {
      SCOPED_TRACE(fmt::format("{}, {}, seed 1", shape.what, inputs::name(values)));
      const Batch batch = make_batch(shape, values);
      const Buffer<3> expected = result(kReference, problem_of(shape), batch);
      EXPECT_TRUE(test::agrees(result(kCpu, problem_of(shape), batch).elements, expected.elements,
                               bound(expected, batch)));
    }
  }
}

TEST(latent_prepare, the_reference_norms_the_latent_and_turns_the_rest) {
  const float kv[] = {3.0f, 4.0f, 5.0f, 6.0f}, weight[] = {1.0f, 2.0f};
  const float cosine[] = {1.0f, 0.0f}, sine[] = {0.0f, 1.0f};  // position 1: a right angle
  const TokenPlace places[] = {{1, 1}};
  const Problem problem{test::fp32_setting(), 2, 2, 0.5f, 2, 2};
  Buffer<3> cache = make_cache(problem);
  test::run(kReference, problem,
            Args{View<const float, 2>(kv, {1, 4}),
                 {weight, {2}},
                 {places, {1}},
                 {{cosine, {2, 1}}, {sine, {2, 1}}},
                 cache.view});
  std::vector<float> expected(16, kUntouched);
  const float r = static_cast<float>(1.0 / std::sqrt(13.0));
  expected[12] = 3.0f * r;
  expected[13] = 2.0f * (4.0f * r);
  expected[14] = -6.0f;
  expected[15] = 5.0f;
  EXPECT_EQ(cache.elements, expected);
}

TEST(latent_prepare, writes_only_the_rows_of_its_tokens) {
  const Case shape{"", 5, 16, 4, 3, 4};
  const Batch batch = make_batch(shape, Values::kNormal);
  for (const Implementation* const row : {&kReference, &kCpu}) {
    Buffer<3> cache = result(*row, problem_of(shape), batch);
    for (const TokenPlace place : batch.places)
      for (int64_t i = 0; i < 20; ++i) cache.view(place.sequence, place.position, i) = kUntouched;
    EXPECT_EQ(cache.elements, std::vector<float>(cache.elements.size(), kUntouched));
  }
}

TEST(latent_prepare, gives_the_same_bits_for_any_batch_and_threads) {
  const Case shape{"", 9, 131, 26, 2, 8};
  const Batch batch = make_batch(shape, Values::kNormal);
  const Buffer<3> whole = result(kCpu, problem_of(shape), batch);
  for (const Isa isa : test::machine_isas()) {
    const Problem problem = problem_of(shape, isa);
    for (const int threads : {2, 3})
      EXPECT_TRUE(test::identical(result(kCpu, problem, batch, threads).elements, whole.elements));
    Buffer<3> one_by_one = make_cache(problem);
    for (int64_t t = 0; t < shape.tokens; ++t) write(kCpu, problem, batch, t, 1, one_by_one.view);
    EXPECT_TRUE(test::identical(one_by_one.elements, whole.elements));
  }
}

TEST(latent_prepare, a_NaN_stays_in_its_row) {
  const Case shape{"", 3, 16, 4, 1, 4};
  Batch batch = make_batch(shape, Values::kNormal);
  batch.kv.view(1, 2) = std::numeric_limits<float>::quiet_NaN();
  batch.kv.view(2, 17) = std::numeric_limits<float>::quiet_NaN();
  for (const Implementation* const row : {&kReference, &kCpu}) {
    const Buffer<3> cache = result(*row, problem_of(shape), batch);
    for (int64_t t = 0; t < 3; ++t)
      for (int64_t i = 0; i < 20; ++i)
        EXPECT_EQ(std::isnan(cache.view(0, batch.places[static_cast<size_t>(t)].position, i)),
                  (t == 1 && i < 16) || (t == 2 && (i == 16 || i == 17)));
  }
}

TEST(latent_prepare, the_two_step_root_matters) {
  const Case shape{"", 64, 4, 2, 1, 64};
  const Batch batch = make_batch(shape, Values::kNormal);
  Problem problem = problem_of(shape);
  problem.setting.numerics.rsqrt = Rsqrt::kTwoStep;
  for (const Implementation* const row : {&kReference, &kCpu})
    EXPECT_NE(result(*row, problem, batch).elements, result(*row, problem_of(shape), batch).elements);
}

TEST(latent_prepare, names_what_breaks_the_contract) {
  const Case shape{"", 2, 8, 4, 2, 3};
  Batch batch = make_batch(shape, Values::kNormal);
  const Problem problem = problem_of(shape);
  Buffer<3> cache = make_cache(problem);
  const auto message = [&](const auto& spoil) {
    Args args{batch.kv.view, batch.weight.view, inputs::view_of(batch.places), batch.table.table(),
              cache.view};
    spoil(args);
    return test::message_of([&] { check(problem, args); });
  };
  EXPECT_EQ(message([](Args&) {}), "");
  EXPECT_EQ(message([&](Args& args) { args.kv = batch.kv.view.slice(1, 0, 8); }),
            "latent_prepare: kv: expected shape [2, 12], found [2, 8]");
  EXPECT_EQ(message([](Args& args) { args.weight = args.weight.slice(0, 0, 7); }),
            "latent_prepare: weight: expected shape [8], found [7]");
  EXPECT_EQ(message([](Args& args) { args.places = args.places.slice(0, 0, 1); }),
            "latent_prepare: places: expected shape [2], found [1]");
  EXPECT_EQ(message([](Args& args) { args.table.cosine = args.table.cosine.slice(1, 0, 1); }),
            "latent_prepare: cosine: expected shape [3, 2], found [3, 1]");
  EXPECT_EQ(message([](Args& args) { args.table.sine = args.table.sine.slice(0, 0, 2); }),
            "latent_prepare: sine: expected shape [3, 2], found [2, 2]");
  EXPECT_EQ(message([&](Args& args) { args.cache = cache.view.slice(0, 0, 1); }),
            "latent_prepare: cache: expected shape [2, 3, 12], found [1, 3, 12]");
  batch.places = {{0, 2}, {2, 0}};
  EXPECT_EQ(message([](Args&) {}), "latent_prepare: sequence: expected a value in [0, 1], found 2");
  batch.places = {{0, 2}, {1, 3}};
  EXPECT_EQ(message([](Args&) {}), "latent_prepare: position: expected a value in [0, 2], found 3");
  batch.places = {{0, 2}, {1, 1}};
  batch.table = inputs::make_table(2, 4);  // shorter than the context
  EXPECT_EQ(message([](Args&) {}), "latent_prepare: position: expected a value in [0, 1], found 2");
}

TEST(latent_prepare, refuses_numerics_that_it_does_not_do) {
  Problem cache = problem_of({"", 1, 1, 2, 1, 1}), activation = cache;
  cache.setting.numerics.latent_cache = LatentCache::kFp8;
  activation.setting.numerics.activation = Activation::kBf16;
  for (const Implementation* const row : {&kReference, &kCpu}) {
    EXPECT_EQ(test::refusal(*row, cache), "latent_cache = fp8, takes fp32");
    EXPECT_EQ(test::refusal(*row, activation), "activation = bf16, takes fp32");
  }
}

}  // namespace
}  // namespace fulgurite::latent_prepare
