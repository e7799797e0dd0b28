// A tile of keys that stays in the first-level cache meets all heads; a second loop sums the heads; each
// score becomes a 64-bit rank key. Candidates are cut back to the best topk whenever their buffer is full, so
// a key costs constant time and memory knows no context. Many tokens are dealt out to the threads; the keys
// of few tokens are. Neither changes the choice: it is a set of distinct rank keys.

#include <algorithm>
#include <functional>
#include <limits>
#include <span>

#include "fulgurite/cpu/kernels.h"
#include "fulgurite/cpu/parallel_for.h"
#include "fulgurite/cpu/workspace.h"
#include "fulgurite/ops/index_select/index_select.h"

namespace fulgurite::index_select {
namespace {

constexpr int64_t kTileKeys = 64;  // 32 KiB of keys of 128

Support supports(const Problem& problem) {
  const Numerics& numerics = problem.setting.numerics;
  return first_refusal({takes(numerics.activation, {Activation::kFp32}),
                        takes(numerics.index_quant, {IndexQuant::kNone}),
                        takes(numerics.mma, {Mma::kExact})});
}

// Keeps the `wanted` largest of the keys that are added.
class Candidates {
 public:
  Candidates(uint64_t* keys, int64_t capacity, int64_t wanted)
      : keys_(keys), capacity_(capacity), wanted_(wanted) {}

  void add(uint64_t key) {
    if (key < smallest_kept_) return;
    keys_[count_++] = key;
    if (count_ == capacity_) cut();
  }
  void cut() {
    if (count_ <= wanted_) return;
    std::nth_element(keys_, keys_ + wanted_ - 1, keys_ + count_, std::greater<>());
    count_ = wanted_;
    smallest_kept_ = keys_[wanted_ - 1];
  }
  std::span<uint64_t> keys() const { return {keys_, static_cast<size_t>(count_)}; }

 private:
  uint64_t* keys_;
  int64_t capacity_;
  int64_t wanted_;
  int64_t count_ = 0;
  uint64_t smallest_kept_ = 0;
};

// What one thread works in.
struct Scratch {
  uint64_t* candidates;
  int64_t* kept;    // candidates that are left
  float* products;  // [heads, keys of the tile]
  float* scores;    // [kTileKeys]
};

int64_t capacity(const Problem& problem) { return 2 * problem.topk + kTileKeys; }

Scratch cut_scratch(const Problem& problem, cpu::Cutter& cutter) {
  return {cutter.take<uint64_t>(capacity(problem)), cutter.take<int64_t>(1),
          cutter.take<float>(problem.heads * kTileKeys), cutter.take<float>(kTileKeys)};
}

int64_t bytes_per_thread(const Problem& problem) {
  cpu::Cutter cutter(nullptr);
  cut_scratch(problem, cutter);
  return cutter.bytes();
}

int64_t workspace_bytes(const Problem& problem, int threads) { return threads * bytes_per_thread(problem); }

struct Run {
  const Problem& problem;
  const Args& args;
  const cpu::Kernels& kernels;
  const Lane& lane;

  Scratch scratch(int64_t thread) const {
    cpu::Cutter cutter(lane.workspace.data() + thread * bytes_per_thread(problem));
    return cut_scratch(problem, cutter);
  }
  Candidates candidates(const Scratch& scratch) const {
    return {scratch.candidates, capacity(problem), problem.topk};
  }
};

// The scores of token t and keys [first, first + count).
void score_tile(const Run& run, int64_t t, int64_t first, int64_t count, const Scratch& scratch) {
  const Problem& problem = run.problem;
  const View<const float, 2> q = run.args.q.as<float>()[t];
  const View<const float, 2> cache = run.args.key_cache.as<float>()[run.args.places(t).sequence];
  const cpu::Rows heads{q.data, q.stride[0], problem.heads};
  const cpu::Rows keys{cache.data + first * cache.stride[0], cache.stride[0], count};
  run.kernels.dot_rows(heads, keys, problem.head_dim, scratch.products, count);
  for (int64_t i = 0; i < problem.heads * count; ++i)
    scratch.products[i] = scratch.products[i] < 0.0f ? 0.0f : scratch.products[i];
  const cpu::Rows products{scratch.products, count, problem.heads};
  run.kernels.combine_rows(run.args.weights[t].data, 0, 1, 1, products, count, scratch.scores, 0);
}

void rank(const Run& run, int64_t t, int64_t first, int64_t last, const Scratch& scratch, Candidates& best) {
  const Ties ties = run.problem.setting.numerics.ties;
  for (int64_t s = first; s < last; s += kTileKeys) {
    const int64_t count = std::min(kTileKeys, last - s);
    score_tile(run, t, s, count, scratch);
    if (run.args.scores) std::copy_n(scratch.scores, count, &run.args.scores(t, s));
    for (int64_t i = 0; i < count; ++i)
      best.add(rank_key(scratch.scores[i], static_cast<int32_t>(s + i), ties));
  }
}

void write_choice(const Run& run, int64_t t, Candidates& best) {
  best.cut();
  const Ties ties = run.problem.setting.numerics.ties;
  int32_t* const selected = run.args.selected[t].data;
  int64_t count = 0;
  for (const uint64_t key : best.keys()) selected[count++] = position_of(key, ties);
  std::sort(selected, selected + count);
  std::fill(selected + count, selected + run.problem.topk, -1);
}

int64_t visible(const Run& run, int64_t t) { return int64_t{run.args.places(t).position} + 1; }

// True where the choice needs no scores: every visible key is chosen.
bool choose_all(const Run& run, int64_t t) {
  const int64_t keys = visible(run, t);
  if (keys > run.problem.topk || run.args.scores) return false;
  for (int64_t j = 0; j < run.problem.topk; ++j)
    run.args.selected(t, j) = static_cast<int32_t>(j < keys ? j : -1);
  return true;
}

void hide_scores(const Run& run, int64_t t) {
  if (!run.args.scores) return;
  for (int64_t s = visible(run, t); s < run.problem.context; ++s)
    run.args.scores(t, s) = -std::numeric_limits<float>::infinity();
}

void select_with_one_thread(const Run& run, int64_t t, const Scratch& scratch) {
  if (choose_all(run, t)) return;
  Candidates best = run.candidates(scratch);
  rank(run, t, 0, visible(run, t), scratch, best);
  write_choice(run, t, best);
  hide_scores(run, t);
}

void select_with_all_threads(const Run& run, int64_t t) {
  if (choose_all(run, t)) return;
  const int64_t keys = visible(run, t);
  const int64_t parts = run.lane.threads;
  cpu::parallel_for(run.lane, parts, [&](int64_t begin, int64_t end, int) {
    for (int64_t part = begin; part < end; ++part) {
      const Scratch scratch = run.scratch(part);
      Candidates best = run.candidates(scratch);
      rank(run, t, keys * part / parts, keys * (part + 1) / parts, scratch, best);
      best.cut();
      *scratch.kept = static_cast<int64_t>(best.keys().size());
    }
  });
  Candidates best = run.candidates(run.scratch(0));  // adding part 0 puts its candidates where they are
  for (int64_t part = 0; part < parts; ++part) {
    const Scratch scratch = run.scratch(part);
    for (int64_t i = 0; i < *scratch.kept; ++i) best.add(scratch.candidates[i]);
  }
  write_choice(run, t, best);
  hide_scores(run, t);
}

void run(const Problem& problem, const Args& args, const Lane& lane) {
  check(problem, args);
  const Run run{problem, args, cpu::kernels(problem.setting.target.isa), lane};
  const int64_t tokens = args.q.extent[0];
  if (tokens < lane.threads) {
    for (int64_t t = 0; t < tokens; ++t) select_with_all_threads(run, t);
    return;
  }
  // Token by token in turn: later tokens see more keys.
  cpu::parallel_for(lane, lane.threads, [&](int64_t begin, int64_t end, int thread) {
    for (int64_t turn = begin; turn < end; ++turn)
      for (int64_t t = turn; t < tokens; t += lane.threads)
        select_with_one_thread(run, t, run.scratch(thread));
  });
}

}  // namespace

const Implementation kCpu{"cpu", supports, workspace_bytes, run};

}  // namespace fulgurite::index_select
