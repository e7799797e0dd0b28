#include "fulgurite/ops/compressor/compressor.h"

#include "fulgurite/core/quantize.h"
#include "fulgurite/ops/compressor/test_inputs.h"

namespace fulgurite::compressor {
namespace {

void expect_within(const Case& shape, const Row& row, Values values) {
  SCOPED_TRACE(fmt::format("{}, {}, {} {} of {}, seed 1", shape.what, inputs::name(values), row.row->name,
                           row.numerics, describe(row.weights)));
  const Batch batch = make_batch(shape, row, values);
  const audit::OpReport report = judged(*row.row, problem_of(shape, row), batch, 2);
  EXPECT_TRUE(report.within()) << describe(report);
}

TEST(compressor, stays_within_its_tolerance_on_hard_values) {
  for (const Row& row : kRows)
    for (const Case& shape : kCases)
      for (const Values values : inputs::kAllValues) expect_within(shape, row, values);
}

TEST(compressor, the_reference_is_within_the_tolerance_of_its_own_judge) {
  for (const Case& shape : kCases)
    expect_within(shape, {&kReference, "serving", kBf16Matrix}, Values::kOutliers);
}

// A few tokens, the last but one of which ends a window.
TEST(compressor, stays_within_its_tolerance_at_the_dimensions_of_Flash_and_Pro) {
  for (const RealCase& real : kRealCases) {
    const Case shape{real.what, 3,         real.hidden, real.ratio,        real.dim,
                     kRealRope, real.kind, 1,           real.ratio * 2 - 2};
    expect_within(shape, {&kCpuBf16, "serving,index_quant=fp4", kBf16Matrix}, Values::kNormal);
  }
  const RealCase& flash = kRealCases[0];
  const Case shape{flash.what, 2, flash.hidden, flash.ratio, flash.dim, kRealRope, flash.kind, 1, 6};
  expect_within(shape, {&kCpu, "fp32", kBf16Matrix}, Values::kNormal);
}

TEST(compressor, infinities_NaN_and_huge_gates_agree) {
  const float infinity = std::numeric_limits<float>::infinity();
  for (const Row& row : kRows) {
    for (const Case& shape : {kCases[4], kCases[5], kCases[8]}) {
      Batch batch = make_batch(shape, row, Values::kNormal);
      store(batch.x.view, kNaN, 3, 1);
      store(batch.x.view, infinity, 9, 5);
      const float gates[] = {3e38f, -3e38f, infinity, -infinity, kNaN, 1e-39f};
      for (int64_t i = 0; i < 6; ++i) batch.ape.view(i % 4, i) = gates[i];
      const audit::OpReport report = judged(*row.row, problem_of(shape, row), batch);
      EXPECT_TRUE(report.within()) << shape.what << row.numerics << "\n" << describe(report);
    }
  }
}

TEST(compressor, gives_the_same_bits_for_any_chunks_batch_and_threads) {
  for (const Row& row : kRows) {
    for (const Case& shape : {kCases[5], kCases[8], kCases[9]}) {
      const Problem problem = problem_of(shape, row);
      const Batch batch = make_batch(shape, row, Values::kNormal);
      const Result whole = result(*row.row, problem, batch);
      for (const int threads : {2, 5}) EXPECT_TRUE(result(*row.row, problem, batch, threads) == whole);
      for (const int64_t chunk : {1, 3, 7, 129}) {
        Result made = make_result(problem, batch);
        for (int64_t t = 0; t < shape.tokens; t += chunk)
          test::run(*row.row, problem,
                    slice(args_of(problem, batch, made), t, std::min(chunk, shape.tokens - t)), 2);
        EXPECT_TRUE(made == whole) << shape.what << " " << row.numerics << ", chunks of " << chunk;
      }
    }
  }
}

// More tokens than the workspace is for at once, and workspaces made for fewer than one call brings.
TEST(compressor, gives_the_same_bits_whatever_the_largest_batch) {
  const Case shape{"", 600, 16, 4, 32, 16, Kind::kIndexKeys, 2, 2};
  for (const Row& row : {kRows[0], kRows[4]}) {
    Problem problem = problem_of(shape, row);
    const Batch batch = make_batch(shape, row, Values::kNormal);
    const Result whole = result(*row.row, problem, batch);
    for (const int64_t largest : {0, 1, 50, 4096}) {
      problem.largest_batch = largest;
      EXPECT_TRUE(result(*row.row, problem, batch, 2) == whole) << largest;
    }
  }
}

TEST(compressor, fp32_gives_the_same_bits_on_every_instruction_set) {
  for (const Case& shape : kCases) {
    const Row row = kRows[3];
    const Batch batch = make_batch(shape, row, Values::kOutliers);
    const Result expected = result(*row.row, problem_of(shape, row), batch);
    for (const Isa isa : test::machine_isas())
      EXPECT_TRUE(result(*row.row, problem_of(shape, row, isa), batch) == expected) << shape.what;
  }
}

TEST(compressor, what_is_asked_for_changes_nothing) {
  for (const Row& row : kRows) {
    const Problem problem = problem_of(kCases[5], row);
    const Batch batch = make_batch(kCases[5], row, Values::kNormal);
    Result made = make_result(problem, batch);
    Args args = args_of(problem, batch, made);
    args.projected = {};
    args.pooled = {};
    test::run(*row.row, problem, args);
    EXPECT_TRUE(made.same_cache(result(*row.row, problem, batch)));
  }
}

// --- the definition, once more, from all tokens of a sequence at once ---

// The average of entry j, channel c: u and g as `projected` has them, in double.
double average(const Problem& problem, const Result& made, int64_t entry, int64_t c) {
  double weights = 0.0, sum = 0.0;
  const int64_t own = entry * problem.ratio, first = problem.ratio == 4 ? own - 4 : own;
  for (int64_t t = std::max<int64_t>(first, 0); t < own + problem.ratio; ++t) {
    const int64_t column = problem.ratio == 4 && t >= own ? problem.dim + c : c;
    const double weight = std::exp(static_cast<double>(made.projected.view(t, 1, column)));
    weights += weight;
    sum += weight * made.projected.view(t, 0, column);
  }
  return sum / weights;
}

TEST(compressor, an_entry_averages_its_window_channel_by_channel) {
  for (const Row& row : kBothFp32) {
    for (Case shape : {kCases[4], kCases[7]}) {
      const Problem problem = problem_of(shape, row);
      Batch batch = make_batch(shape, row, Values::kNormal);
      for (int64_t i = 0; i < shape.tokens * shape.hidden; ++i) batch.x.view.as<float>().data[i] *= 0.05f;
      const Result made = result(*row.row, problem, batch);
      for (int64_t entry = 0; entry < shape.tokens / shape.ratio; ++entry)
        for (int64_t c = 0; c < shape.dim; ++c)
          EXPECT_NEAR(made.pooled.view((entry + 1) * shape.ratio - 1, c), average(problem, made, entry, c),
                      2e-5);
    }
  }
}

TEST(compressor, the_gate_has_the_position_s_own_ape) {
  const Case shape{"", 9, 3, 4, 2, 2, Kind::kEntries, 1, 3};
  for (const Row& row : kBothFp32) {
    Batch batch = make_batch(shape, row, Values::kNormal);
    for (int64_t i = 0; i < 27; ++i) batch.x.view.as<float>().data[i] = 0.0f;
    const Result made = result(*row.row, problem_of(shape, row), batch);
    for (int64_t t = 0; t < 9; ++t)
      for (int64_t c = 0; c < 4; ++c) {
        EXPECT_EQ(made.projected.view(t, 0, c), 0.0f);
        EXPECT_EQ(made.projected.view(t, 1, c), batch.ape.view((3 + t) % 4, c));
      }
  }
}

TEST(compressor, a_sequence_that_begins_reads_no_older_row) {
  for (const Row& row : kRows) {
    for (const Case& shape : {kCases[4], kCases[7]}) {
      const Problem problem = problem_of(shape, row);
      Batch batch = make_batch(shape, row, Values::kNormal);
      const Result expected = result(*row.row, problem, batch);
      std::fill(batch.state.begin(), batch.state.end(), kNaN);
      const Result made = result(*row.row, problem, batch);
      EXPECT_EQ(*made.entries.bytes, *expected.entries.bytes) << shape.what << row.numerics;
      EXPECT_TRUE(test::identical(made.pooled.elements, expected.pooled.elements));
    }
  }
}

// Token 9 is of the windows of entries 2 and, its half A, 3.
TEST(compressor, a_NaN_spoils_the_entries_whose_windows_hold_its_token) {
  const Case shape{"", 24, 8, 4, 32, 8, Kind::kIndexKeys, 1, 0};
  for (const Row& row : kBothFp32) {
    const Problem problem = problem_of(shape, row);
    Batch batch = make_batch(shape, row, Values::kNormal);
    const Result clean = result(*row.row, problem, batch);
    store(batch.x.view, kNaN, 9, 0);
    const Result made = result(*row.row, problem, batch);
    for (int64_t entry = 0; entry < 6; ++entry)
      for (int64_t i = 0; i < 32; ++i) {
        const float is = load(made.keys.view, 0, entry, i);
        if (entry == 2 || entry == 3)
          EXPECT_TRUE(std::isnan(is));
        else
          EXPECT_EQ(is, load(clean.keys.view, 0, entry, i));
      }
  }
}

TEST(compressor, rows_are_turned_at_the_first_position_of_their_window) {
  for (const Case& shape : {kCases[5], kCases[8]}) {
    for (const Row& row : {kRows[0], kRows[4], Row{&kReference, "serving", kBf16Matrix}}) {
      const Problem problem = problem_of(shape, row);
      Batch batch = make_batch(shape, row, Values::kNormal);
      const Result expected = result(*row.row, problem, batch);
      for (int64_t p = 0; p < batch.table.cosine.view.extent[0]; ++p)
        for (int64_t i = 0; i < (p % shape.ratio == 0 ? 0 : shape.rope / 2); ++i)
          batch.table.cosine.view(p, i) = kNaN;
      EXPECT_TRUE(result(*row.row, problem, batch) == expected);
      const int64_t second = shape.ratio == 4 ? 8 : 128;  // the first position of a window that ends here
      for (int64_t i = 0; i < shape.rope / 2; ++i) batch.table.sine.view(second, i) += 1.0f;
      EXPECT_FALSE(result(*row.row, problem, batch) == expected);
    }
  }
}

TEST(compressor, a_key_without_hadamard_and_quantization_is_the_entry) {
  const Case keys{"", 24, 8, 4, 32, 8, Kind::kIndexKeys, 1, 0};
  Case entries = keys;
  entries.kind = Kind::kEntries;
  for (const Implementation* const row : {&kReference, &kCpu}) {
    const Row plain{row, "fp32", kF32Matrix};
    const Batch batch = make_batch(keys, plain, Values::kNormal);
    const Problem problem = problem_of(entries, plain);
    Result as_entries = result(*row, problem, batch);
    const Result as_keys = result(*row, problem_of(keys, plain), batch);
    const Result as_fp4 = result(*row, problem_of(keys, {row, "fp32,index_quant=fp4", kF32Matrix}), batch);
    const KvRows rows = args_of(problem, batch, as_entries).entries;
    for (int64_t entry = 0; entry < 6; ++entry) {
      std::vector<float> values;
      for (int64_t i = 0; i < 32; ++i) values.push_back(rows.value(0, entry, i));
      for (int64_t i = 0; i < 32; ++i)
        EXPECT_EQ(load(as_keys.keys.view, 0, entry, i), values[static_cast<size_t>(i)]);
      round_to_fp4(values);
      for (int64_t i = 0; i < 32; ++i)
        EXPECT_EQ(load(as_fp4.keys.view, 0, entry, i), values[static_cast<size_t>(i)]);
    }
  }
}

TEST(compressor, reads_tokens_of_any_stride) {
  const Case shape{"", 10, 24, 4, 16, 8, Kind::kIndexKeys, 1, 3};
  for (const Row& row : kRows) {
    Case wide = shape;
    wide.hidden = 40;
    Batch batch = make_batch(shape, row, Values::kNormal);
    const Problem problem = problem_of(shape, row);
    const Batch strided = make_batch(wide, row, Values::kNormal);
    for (int64_t t = 0; t < 10; ++t)
      for (int64_t i = 0; i < 24; ++i) store(strided.x.view, load(batch.x.view, t, i), t, 16 + i);
    const Result expected = result(*row.row, problem, batch);
    batch.x.view = strided.x.view.slice(1, 16, 24);
    EXPECT_TRUE(result(*row.row, problem, batch) == expected);
  }
}

}  // namespace
}  // namespace fulgurite::compressor
