#include "fulgurite/ops/kv_prepare/kv_prepare.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "fulgurite/ops/kv_prepare/kv_prepare_audit.h"
#include "fulgurite/ops/kv_prepare/kv_prepare_cases.h"
#include "test/op_test.h"
#include "test/rotary_inputs.h"

namespace fulgurite::kv_prepare {
namespace {

using inputs::TensorBuffer;
using inputs::Values;

constexpr std::byte kUntouched{0x5A};
constexpr int64_t kFirst = 1000;  // positions of the tests: far beyond the ring

struct Kind {
  DType activation;
  LatentCache cache;
  KvQuant quant;
};
constexpr Kind kFp32{DType::kF32, LatentCache::kFp32, KvQuant::kNone},
    kServing{DType::kBF16, LatentCache::kFp8, KvQuant::kE4m3};
std::vector<Kind> all_kinds() {
  std::vector<Kind> kinds;
  for (const DType activation : {DType::kF32, DType::kBF16, DType::kF16})
    for (const LatentCache cache : {LatentCache::kFp32, LatentCache::kBf16, LatentCache::kFp8})
      for (const KvQuant quant : {KvQuant::kNone, KvQuant::kE4m3})
        if (cache != LatentCache::kFp8 || quant == KvQuant::kE4m3)
          kinds.push_back({activation, cache, quant});
  return kinds;
}
std::string describe(Kind kind) {
  return fmt::format("{} into {}, kv_quant {}", name(kind.activation), value_name(kind.cache),
                     value_name(kind.quant));
}

Problem problem_of(const Case& shape, Kind kind = kFp32, Isa isa = cpu::best_isa()) {
  Setting setting = test::setting_of(kind.activation, isa);
  setting.numerics.latent_cache = kind.cache;
  setting.numerics.kv_quant = kind.quant;
  return {setting, shape.head_dim, shape.rope, 1e-6f, shape.sequences, shape.ring};
}

struct Batch {
  TensorBuffer<2> kv;
  inputs::Buffer<1> weight;
  std::vector<TokenPlace> places;
  inputs::RotaryTable table;
};
Batch make_batch(const Case& shape, Values values, Kind kind = kFp32) {
  Random random(1);
  Batch batch{inputs::make_tensor(random, values, kind.activation, std::array{shape.tokens, shape.head_dim}),
              inputs::make(random, Values::kNormal, shape.head_dim),
              inputs::make_places(random, shape.tokens, shape.sequences, shape.ring),
              inputs::make_table(kFirst + shape.ring, shape.rope)};
  for (TokenPlace& place : batch.places) place.position += static_cast<int32_t>(kFirst);
  return batch;
}

struct Cache {
  explicit Cache(const Problem& problem)
      : form(row_of(problem)),
        extent{problem.sequences, KvRow::blocks(problem.ring), form.block_bytes()},
        bytes(static_cast<size_t>(form.cache_bytes(problem.sequences, problem.ring)), kUntouched) {}
  KvRows view() { return {form, {bytes.data(), extent}}; }
  std::vector<float> row(int64_t sequence, int64_t index) {
    std::vector<float> values;
    for (int64_t i = 0; i < form.width(); ++i) values.push_back(view().value(sequence, index, i));
    return values;
  }
  KvRow form;
  std::array<int64_t, 3> extent;
  std::vector<std::byte> bytes;
};

Args args_of(const Batch& batch, Cache& cache) {
  return {batch.kv.view, batch.weight.view, inputs::view_of(batch.places), batch.table.table(), cache.view()};
}

void write(const Implementation& row, const Problem& problem, const Batch& batch, int64_t first,
           int64_t count, Cache& cache, int threads = 1) {
  Args args = args_of(batch, cache);
  args.kv = args.kv.slice(0, first, count);
  args.places = args.places.slice(0, first, count);
  test::run(row, problem, args, threads);
}
Cache result(const Implementation& row, const Problem& problem, const Batch& batch, int threads = 1) {
  Cache cache(problem);
  write(row, problem, batch, 0, batch.kv.view.extent[0], cache, threads);
  return cache;
}
audit::OpReport judged(const Implementation& row, const Problem& problem, const Batch& batch) {
  Cache cache(problem);
  const test::ExactBytes workspace(row.workspace_bytes(problem, 1));
  return judge(row, problem, args_of(batch, cache), {1, nullptr, workspace.bytes()});
}

TEST(kv_prepare, agrees_with_the_reference_on_hard_values) {
  for (const Case& shape : kCases) {
    for (const Kind kind : all_kinds()) {
      for (const Values drawn : inputs::kAllValues) {
        const audit::OpReport report = judged(kCpu, problem_of(shape, kind), make_batch(shape, drawn, kind));
        EXPECT_TRUE(report.within()) << fmt::format("{}, {}, {}, seed 1: {}", shape.what, describe(kind),
                                                    inputs::name(drawn), audit::describe(report));
      }
    }
  }
}

// The whole row is normed (mean of squares 21.5), then its last pair turned by a right angle; at position 9
// of a ring of 4 that is row 1.
TEST(kv_prepare, norms_the_row_turns_its_end_and_puts_it_in_the_ring) {
  for (const Implementation* const row : {&kReference, &kCpu}) {
    for (const Kind kind : all_kinds()) {
      const Case shape{"", 1, 4, 2, 2, 4};
      Batch batch = make_batch(shape, Values::kNormal, kind);
      for (int64_t i = 0; i < 4; ++i) {
        store(batch.kv.view, 3.0f + static_cast<float>(i), int64_t{0}, i);
        batch.weight.view(i) = i == 1 ? 2.0f : 1.0f;
      }
      batch.places = {{1, 9}};
      batch.table.cosine.view(9, 0) = 0.0f;
      batch.table.sine.view(9, 0) = 1.0f;
      Problem problem = problem_of(shape, kind);
      problem.eps = 0.5f;
      const float r = static_cast<float>(1.0 / std::sqrt(22.0));
      const auto rounded = [&](float value) {
        const float stored = round_to(kind.activation, value);
        return kind.cache == LatentCache::kFp32 ? stored : round_to_bf16(stored);
      };
      std::vector<float> expected{rounded(3 * r), rounded(8 * r), -rounded(6 * r), rounded(5 * r)};
      // 1.706 / 448 lies between 2^-9 and 2^-8; 0.6396 * 256 = 163.7 and 1.7056 * 256 = 436.6, 16 and 32
      // apart.
      if (kind.quant == KvQuant::kE4m3) expected[0] = 160.0f / 256.0f, expected[1] = 448.0f / 256.0f;
      EXPECT_EQ(result(*row, problem, batch).row(1, 1), expected) << row->name << ", " << describe(kind);
    }
  }
}

TEST(kv_prepare, with_kv_quant_every_cache_holds_the_same_values) {
  const Case shape{"", 9, 512, 64, 1, 9};
  for (const Implementation* const row : {&kReference, &kCpu}) {
    std::vector<std::vector<float>> held;
    for (const LatentCache cache : {LatentCache::kFp32, LatentCache::kBf16, LatentCache::kFp8}) {
      const Kind kind{DType::kBF16, cache, KvQuant::kE4m3};
      Cache made = result(*row, problem_of(shape, kind), make_batch(shape, Values::kNormal, kind));
      held.push_back({});
      for (int64_t index = 0; index < 9; ++index)
        for (const float value : made.row(0, index)) held.back().push_back(value);
    }
    EXPECT_TRUE(test::identical(held[0], held[1]));
    EXPECT_TRUE(test::identical(held[0], held[2]));
  }
}

// Otherwise a group of 64 would be quantized twice, or none.
TEST(kv_prepare, kv_quant_changes_what_does_not_turn_alone) {
  const Case shape{"", 1, 512, 64, 1, 1};
  for (const Implementation* const row : {&kReference, &kCpu}) {
    const auto made = [&](KvQuant quant) {
      const Kind kind{DType::kBF16, LatentCache::kBf16, quant};
      return result(*row, problem_of(shape, kind), make_batch(shape, Values::kNormal, kind)).row(0, 0);
    };
    const std::vector<float> plain = made(KvQuant::kNone), quantized = made(KvQuant::kE4m3);
    for (size_t group = 0; group < 8; ++group)
      EXPECT_EQ(std::equal(&plain[64 * group], &plain[64 * group] + 64, &quantized[64 * group]), group == 7);
    EXPECT_LT(audit::compare(quantized, plain, std::vector<double>(512, 1.0)).relative_l2, 0.04);
  }
}

TEST(kv_prepare, a_NaN_spoils_the_row_and_an_infinity_itself_or_its_group) {
  const Case shape{"", 3, 131, 2, 1, 3};
  for (const Implementation* const row : {&kReference, &kCpu}) {
    for (const Kind kind : all_kinds()) {
      Batch batch = make_batch(shape, Values::kNormal, kind);
      batch.places = {{0, 999}, {0, 1000}, {0, 1001}};  // rows 0, 1, 2
      store(batch.kv.view, std::numeric_limits<float>::quiet_NaN(), int64_t{1}, int64_t{130});
      store(batch.kv.view, std::numeric_limits<float>::infinity(), int64_t{2}, int64_t{70});
      EXPECT_TRUE(judged(*row, problem_of(shape, kind), batch).within());
      Cache cache = result(*row, problem_of(shape, kind), batch);
      for (int64_t index = 0; index < 3; ++index) {
        const std::vector<float> made = cache.row(0, index);
        for (size_t i = 0; i < 131; ++i) {
          const bool infinite =
              index == 2 && (kind.quant == KvQuant::kE4m3 ? i / 64 == 1 && i < 129 : i == 70);
          EXPECT_EQ(std::isnan(made[i]), index == 1 || infinite)
              << describe(kind) << " " << index << " " << i;
        }
      }
    }
  }
}

TEST(kv_prepare, writes_only_the_rows_of_its_tokens) {
  const Case shape{"", 5, 131, 4, 3, 70};
  for (const Kind kind : all_kinds()) {
    const Batch batch = make_batch(shape, Values::kNormal, kind);
    for (const Implementation* const row : {&kReference, &kCpu}) {
      Cache cache = result(*row, problem_of(shape, kind), batch);
      for (const TokenPlace place : batch.places) {
        std::fill_n(cache.view().at(place.sequence, place.position % 70), cache.form.bytes(), kUntouched);
        std::fill_n(cache.view().scales_at(place.sequence, place.position % 70), cache.form.scale_bytes(),
                    kUntouched);
      }
      EXPECT_EQ(cache.bytes, std::vector<std::byte>(cache.bytes.size(), kUntouched));
    }
  }
}

TEST(kv_prepare, gives_the_same_bits_for_any_batch_threads_and_instruction_set) {
  const Case shape{"", 29, 511, 26, 2, 20};
  for (const Kind kind : all_kinds()) {
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

TEST(kv_prepare, the_knobs_of_the_root_matter) {
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

TEST(kv_prepare, the_audit_sees_a_wrong_code_scale_and_pair) {
  const Case shape{"", 2, 204, 4, 1, 2};
  Implementation wrong = kReference;
  wrong.run = [](const Problem& problem, const Args& args, const Lane& lane) {
    kReference.run(problem, args, lane);
    const int64_t index = args.places(1).position % 2;
    args.cache.at(0, index)[5] ^= std::byte{1};
    args.cache.scales_at(0, index)[1] = std::byte{100};
    args.cache.at(0, index)[args.cache.row.rope_offset()] ^= std::byte{1};
  };
  const audit::OpReport report =
      judged(wrong, problem_of(shape, kServing), make_batch(shape, Values::kNormal, kServing));
  ASSERT_EQ(report.outputs.size(), 2u);
  EXPECT_GE(report.outputs[0].difference.beyond, 1 + 60 + 1);  // and most of what the scale multiplies
  EXPECT_EQ(report.outputs[1].difference.beyond, 1);
}

TEST(kv_prepare, names_what_breaks_the_contract) {
  const Case shape{"", 2, 12, 4, 2, 70};
  Batch batch = make_batch(shape, Values::kNormal);
  const Problem problem = problem_of(shape);
  Cache cache(problem);
  const auto message = [&](const auto& spoil) {
    Args args = args_of(batch, cache);
    spoil(args);
    return test::message_of([&] { check(problem, args); });
  };
  EXPECT_EQ(message([](Args&) {}), "");
  EXPECT_EQ(message([](Args& args) { args.kv = args.kv.slice(1, 0, 8); }),
            "kv_prepare: kv: expected shape [2, 12], found [2, 8]");
  EXPECT_EQ(message([](Args& args) { args.weight = args.weight.slice(0, 0, 7); }),
            "kv_prepare: weight: expected shape [12], found [7]");
  EXPECT_EQ(message([](Args& args) { args.places = args.places.slice(0, 0, 1); }),
            "kv_prepare: places: expected shape [2], found [1]");
  EXPECT_EQ(message([](Args& args) { args.table.cosine = args.table.cosine.slice(1, 0, 1); }),
            "kv_prepare: cosine: expected shape [1070, 2], found [1070, 1]");
  EXPECT_EQ(message([](Args& args) { args.table.sine = args.table.sine.slice(0, 0, 2); }),
            "kv_prepare: sine: expected shape [1070, 2], found [2, 2]");
  EXPECT_EQ(message([](Args& args) { args.cache.blocks = args.cache.blocks.slice(1, 0, 1); }),
            "kv_prepare: cache: expected shape [2, 2, 3072], found [2, 1, 3072]");
  batch.places = {{0, 2}, {2, 0}};
  EXPECT_EQ(message([](Args&) {}), "kv_prepare: sequence: expected a value in [0, 1], found 2");
  batch.places = {{0, 2}, {1, 1070}};
  EXPECT_EQ(message([](Args&) {}), "kv_prepare: position: expected a value in [0, 1069], found 1070");
}

TEST(kv_prepare, refuses_numerics_that_it_does_not_do) {
  const auto refusal = [](const Implementation& row, const auto& choose) {
    Problem problem = problem_of({"", 1, 4, 2, 1, 1});
    choose(problem.setting.numerics);
    return test::refusal(row, problem);
  };
  for (const Implementation* const row : {&kReference, &kCpu}) {
    EXPECT_EQ(refusal(*row, [](Numerics& n) { n.rsqrt = Rsqrt::kCuda; }),
              "rsqrt = cuda, takes correct or two_step or x86_12 or x86_14 or error");
    EXPECT_EQ(refusal(*row, [](Numerics& n) { n.latent_cache = LatentCache::kFp8; }),
              "kv_quant = none, latent_cache = fp8 takes e4m3");
  }
}

}  // namespace
}  // namespace fulgurite::kv_prepare
