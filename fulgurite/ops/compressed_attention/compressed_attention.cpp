#include "fulgurite/ops/compressed_attention/compressed_attention.h"

namespace fulgurite::compressed_attention {
namespace {

void check_problem(const Problem& problem) {
  FULGURITE_ASSERT(problem.head_dim % 2 == 0 && problem.rope % 2 == 0 && problem.rope <= problem.head_dim,
                   "compressed_attention: {} columns, {} rotated", problem.head_dim, problem.rope);
  FULGURITE_ASSERT(problem.window > 0 && problem.ratio >= 0 && problem.topk >= 0,
                   "compressed_attention: window {}, ratio {}, topk {}", problem.window, problem.ratio,
                   problem.topk);
  FULGURITE_ASSERT(problem.ratio > 0 || problem.topk == 0, "compressed_attention: topk {} of no entries",
                   problem.topk);
}

void check_rows(const Check& check, const char* name, const Problem& problem, const ConstKvRows& rows,
                int64_t count) {
  FULGURITE_ASSERT(rows.row == row_of(problem), "compressed_attention: {} is not the cache that was planned",
                   name);
  check.tensor(name, rows.blocks, {problem.sequences, KvRow::blocks(count), rows.row.block_bytes()});
}

void check_list(const Check& check, View<const int32_t, 1> list, int64_t visible) {
  int64_t previous = -1;
  for (int64_t j = 0; j < list.extent[0]; ++j) {
    if (list(j) == -1) {
      for (; j < list.extent[0]; ++j) check.range("selected, after a -1", list(j), -1, -1);
      return;
    }
    check.range("selected", list(j), previous + 1, visible - 1);
    previous = list(j);
  }
}

void check_place(const Check& check, const Problem& problem, TokenPlace place) {
  check.range("places, a sequence", place.sequence, 0, problem.sequences - 1)
      .range("places, a position", place.position, 0, problem.positions - 1)
      .range("window, rows that a token sees", window_of(problem, place.position).count, 1, problem.ring)
      .range("entries, those that a token sees", visible_entries(problem, place.position), 0,
             problem.entries);
}

}  // namespace

KvRow row_of(const Problem& problem) {
  return kv_row(problem.setting.numerics, problem.head_dim - problem.rope, problem.rope);
}

void check(const Problem& problem, const Args& args) {
  check_problem(problem);
  const int64_t tokens = args.q.extent[0];
  const DType type = activation_type(problem.setting.numerics);
  const Check check("compressed_attention");
  check.tensor("q", args.q, type, {tokens, problem.heads, problem.head_dim})
      .tensor("sink", args.sink, {problem.heads})
      .tensor("places", args.places, {tokens})
      .tensor("table, cosine", args.table.cosine, {problem.positions, problem.rope / 2})
      .tensor("table, sine", args.table.sine, {problem.positions, problem.rope / 2})
      .tensor("out", args.out, type, {tokens, problem.heads, problem.head_dim});
  check_rows(check, "window", problem, args.window, problem.ring);
  if (problem.ratio > 0) check_rows(check, "entries", problem, args.entries, problem.entries);
  if (problem.topk > 0) check.tensor("selected", args.selected, {tokens, problem.topk});
  if (!reads_values(problem.setting)) return;
  for (int64_t t = 0; t < tokens; ++t) check_place(check, problem, args.places(t));
  for (int64_t t = 0; t < tokens && problem.topk > 0; ++t)
    check_list(check, args.selected[t], visible_entries(problem, args.places(t).position));
}

}  // namespace fulgurite::compressed_attention
