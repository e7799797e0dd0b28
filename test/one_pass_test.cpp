// How a decode step of DeepSeek-V4 reads what it reads most of, at real dimensions: its pages, as a cache of 128
// of them (512 KiB, half of a core's second level) would have to fetch them.

#include <gtest/gtest.h>

#include <algorithm>

#include "test/page_trace.h"
#include "test/v4_layer.h"

namespace fulgurite::test::v4 {
namespace {

constexpr int64_t kHidden = 7168, kOpenPages = 128;
constexpr int32_t kPosition = 131071;  // ends a window of either ratio

struct Table {
  std::vector<float> cosine = std::vector<float>((kPosition + 1) * kRope / 2, 1.0f), sine = cosine;
  rotary::Table view() const {
    return {{cosine.data(), {kPosition + 1, kRope / 2}}, {sine.data(), {kPosition + 1, kRope / 2}}};
  }
};

// Runs the row that a plan takes for one token on one thread.
template <class Problem, class Args>
void run_planned(plan::Rows<Implementation<Problem, Args>> rows, const Problem& problem, const Args& args) {
  for (const auto* const row : rows)
    if (std::string(row->name) != "reference" && !row->supports(problem)) return run(*row, problem, args, 1);
  FAIL() << "no row";
}

testing::AssertionResult once_each(std::vector<int64_t> opened, int64_t pages) {
  std::sort(opened.begin(), opened.end());
  const bool once = std::adjacent_find(opened.begin(), opened.end()) == opened.end();
  if (once && static_cast<int64_t>(opened.size()) == pages) return testing::AssertionSuccess();
  return testing::AssertionFailure() << opened.size() << " pages fetched of " << pages;
}

struct Compressed {
  const char* name;
  int64_t ratio, dim;
  compressor::Kind kind;
};

TEST(one_pass, a_decode_step_of_the_compressor_reads_its_weights_once) {
  const Table table;
  for (const Compressed& c : {Compressed{"entries of 4", 4, kHeadDim, compressor::Kind::kEntries},
                              {"entries of 128", 128, kHeadDim, compressor::Kind::kEntries},
                              {"index keys", 4, kIndexDim, compressor::Kind::kIndexKeys}}) {
    const MatrixFormat bf16_rows{MatrixForm::kBF16, {}, ScaleFormat::kF32};
    compressor::Problem problem{serving(),
                                kHidden,
                                c.ratio,
                                c.dim,
                                kRope,
                                1e-6f,
                                c.kind,
                                bf16_rows,
                                bf16_rows,
                                1,
                                kPosition / c.ratio + 1,
                                1};
    const int64_t width = compressor::width(problem), rows = compressor::state_rows(problem);
    PageTrace weights(2 * width * kHidden * 2);
    auto* const first = reinterpret_cast<const bf16*>(weights.data());
    const PreparedMatrix wkv{View<const bf16, 2>(first, {width, kHidden}), width, kHidden},
        wgate{View<const bf16, 2>(first + width * kHidden, {width, kHidden}), width, kHidden};
    Field<2> x(DType::kBF16, {1, kHidden});
    Field<4> state(DType::kF32, {1, rows, 2, width});
    const std::vector<float> ape(static_cast<size_t>(c.ratio * width)), norm(static_cast<size_t>(c.dim));
    const TokenPlace place{0, kPosition};
    KvCache entries{kv_row(problem.setting.numerics, kHeadDim - kRope, kRope), 1, problem.entries, {}};
    entries.bytes.resize(static_cast<size_t>(entries.row.cache_bytes(1, problem.entries)));
    Field<3> keys(DType::kBF16, {1, problem.entries, c.dim});
    compressor::Args args;
    args.x = x.view();
    args.wkv = &wkv;
    args.wgate = &wgate;
    args.ape = {ape.data(), {c.ratio, width}};
    args.norm = {norm.data(), {c.dim}};
    args.places = {&place, {1}};
    args.table = table.view();
    args.state = state.floats();
    args.entries = entries.rows();
    args.keys.keys = keys.view();
    const auto opened =
        weights.opened_by(kOpenPages, [&] { run_planned(plan::catalog().compressor, problem, args); });
    EXPECT_TRUE(once_each(opened, weights.pages())) << c.name;
  }
}

TEST(one_pass, a_decode_step_of_the_hyper_connection_reads_fn_once) {
  hyper_connection::Problem problem;
  problem.setting = serving();
  problem.hidden = kHidden;
  problem.largest_batch = 1;
  PageTrace fn(24 * kStreams * kHidden * 4);
  Field<3> streams(DType::kBF16, {1, kStreams, kHidden}), mix(DType::kF32, {1, kStreams, kStreams});
  Field<2> block(DType::kBF16, {1, kHidden}), post(DType::kF32, {1, kStreams});
  const std::vector<float> base(24), scale(3, 1.0f);
  hyper_connection::Args args;
  args.streams = streams.view();
  args.block = block.view();
  args.post = post.floats();
  args.mix = mix.floats();
  args.fn = {reinterpret_cast<const float*>(fn.data()), {24, kStreams * kHidden}};
  args.base = {base.data(), {24}};
  args.scale = {scale.data(), {3}};
  args.streams_out = streams.view();
  args.post_out = post.floats();
  args.mix_out = mix.floats();
  args.collapsed = block.view();
  const auto opened =
      fn.opened_by(kOpenPages, [&] { run_planned(plan::catalog().hyper_connection, problem, args); });
  EXPECT_TRUE(once_each(opened, fn.pages()));
}

// A page may be opened for the scales that stand behind the 64 rows of a block, before those rows' last ones.
TEST(one_pass, attention_of_ratio_128_reads_its_entries_once_from_the_first_to_the_last) {
  const Table table;
  const int64_t entries = (kPosition + 1) / 128;
  const compressed_attention::Problem problem{serving(), 64, kHeadDim, kRope,   kWindow,       128, 0,
                                              0.04f,     1,  kWindow,  entries, kPosition + 1, 1};
  const KvRow row = kv_row(problem.setting.numerics, kHeadDim - kRope, kRope);
  PageTrace cache(row.cache_bytes(1, entries));
  KvCache window{row, 1, kWindow, {}};
  window.bytes.resize(static_cast<size_t>(row.cache_bytes(1, kWindow)));
  Field<3> q(DType::kBF16, {1, 64, kHeadDim}), out = q;
  const std::vector<float> sink(64);
  const TokenPlace place{0, kPosition};
  compressed_attention::Args args;
  args.q = q.view();
  args.sink = {sink.data(), {64}};
  args.window = window.rows();
  args.entries = KvRows{row, {cache.data(), {1, KvRow::blocks(entries), row.block_bytes()}}};
  args.places = {&place, {1}};
  args.table = table.view();
  args.out = out.view();
  const auto opened =
      cache.opened_by(16, [&] { run_planned(plan::catalog().compressed_attention, problem, args); });
  EXPECT_TRUE(once_each(opened, cache.pages()));
  const int64_t block = row.block_bytes() / PageTrace::kPage + 1;
  for (size_t i = 1; i < opened.size(); ++i) EXPECT_LE(opened[i - 1] - opened[i], block) << i;
}

// What the others would say of a second pass.
TEST(one_pass, a_second_pass_is_seen) {
  PageTrace memory(1000 * PageTrace::kPage);
  const auto opened = memory.opened_by(kOpenPages, [&] {
    for (int64_t i = 0; i < 2000; ++i)
      static_cast<void>(*const_cast<volatile std::byte*>(memory.data() + i % 1000 * PageTrace::kPage));
  });
  EXPECT_EQ(opened.size(), 2000u);
  EXPECT_FALSE(once_each(opened, memory.pages()));
}

}  // namespace
}  // namespace fulgurite::test::v4
