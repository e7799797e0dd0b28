#include "fulgurite/ops/index_select/index_select_cpu_blocks.h"

#include <algorithm>
#include <limits>

#include "fulgurite/cpu/parallel_for.h"
#include "fulgurite/ops/index_select/index_select_cpu_candidates.h"

namespace fulgurite::index_select {
namespace {

constexpr int64_t kPassTokens = 512;     // that are cut into blocks and parts at a time
constexpr int64_t kSmallWork = 1 << 19;  // multiply-adds that are not worth another thread

// Tokens order[first ...] of one sequence, ascending by position.
struct Block {
  int64_t first;
  int64_t tokens;
  int64_t sequence;
  int64_t keys;  // that its last token sees
  int64_t cost_before;

  int64_t tiles() const { return (keys + kTileKeys - 1) / kTileKeys; }
  int64_t cost() const { return tiles() * tokens; }
  // How many tiles come before `cost`, counted from the first block on.
  int64_t tiles_before(int64_t cost) const {
    return std::clamp((cost - cost_before + tokens - 1) / tokens, int64_t{0}, tiles());
  }
};

// What the threads read of a pass.
struct Pass {
  int32_t* order;
  Block* blocks;
  int64_t tokens = 0;
  int64_t block_count = 0;
  int64_t cost = 0;
  int64_t parts = 1;

  int64_t cost_before(int64_t part) const { return cost * part / parts; }
};

// What one part of the work writes. Of the blocks that it meets, the first may have begun in another part and
// the last may go on in one: the candidates of both are kept until the parts are joined.
struct Part {
  Candidates* candidates;  // [2, block tokens]: of a block that another part began, and of the others
  uint32_t* codes;         // [2, block tokens, capacity]
  int32_t* positions;
  float* scores;  // [kTileKeys]
  std::byte* scratch;
};

Pass cut_pass(cpu::Cutter& cutter) {
  Pass pass;
  pass.order = cutter.take<int32_t>(kPassTokens);
  pass.blocks = cutter.take<Block>(kPassTokens);
  return pass;
}

Wanted wanted_of(const Problem& problem, const cpu::Kernels& kernels) {
  const int64_t count = std::min(problem.topk, problem.context);
  return {count, std::min(2 * count, problem.context) + kTileKeys, problem.setting.numerics.ties, kernels};
}

Part cut_part(const Scoring& scoring, const Problem& problem, int64_t capacity, cpu::Cutter& cutter) {
  const int64_t buffers = 2 * block_tokens(problem);
  return {cutter.take<Candidates>(buffers), cutter.take<uint32_t>(buffers * capacity),
          cutter.take<int32_t>(buffers * capacity), cutter.take<float>(kTileKeys),
          cutter.take<std::byte>(scoring.scratch_bytes(problem, block_tokens(problem)))};
}

struct Run {
  const Scoring& scoring;
  const Call call;
  const Lane& lane;
  const Wanted wanted = wanted_of(call.problem, call.kernels);

  int64_t visible(int64_t token) const {
    return index_select::visible(call.problem, call.args.places(token).position);
  }

  Part part(int64_t index) const {
    cpu::Cutter cutter(lane.workspace.data());
    cut_pass(cutter);
    cpu::Cutter one(nullptr);
    cut_part(scoring, call.problem, wanted.capacity, one);
    cpu::Cutter own(lane.workspace.data() + cutter.bytes() + index * one.bytes());
    return cut_part(scoring, call.problem, wanted.capacity, own);
  }
};

// What is not visible has a score too.
void write_unseen(const Run& run, int64_t token) {
  if (!run.call.args.scores) return;
  for (int64_t s = run.visible(token); s < run.call.problem.context; ++s)
    run.call.args.scores(token, s) = -std::numeric_limits<float>::infinity();
}

// True where the choice needs no scores: every visible key is chosen.
bool choose_all(const Run& run, int64_t token) {
  const int64_t keys = run.visible(token), topk = run.call.problem.topk;
  if (keys > topk || (run.call.args.scores && keys > 0)) return false;
  int32_t* const selected = run.call.args.selected[token].data;
  for (int64_t j = 0; j < topk; ++j) selected[j] = static_cast<int32_t>(j < keys ? j : -1);
  write_unseen(run, token);
  return true;
}

void write_choice(const Run& run, int64_t token, Candidates& best) {
  best.cut(run.wanted);
  int32_t* const selected = run.call.args.selected[token].data;
  std::copy_n(best.positions, best.count, selected);
  std::fill(selected + best.count, selected + run.call.problem.topk, -1);
  write_unseen(run, token);
}

// The tokens [begin, end) that need scores, by sequence and position.
void order_tokens(const Run& run, int64_t begin, int64_t end, Pass& pass) {
  for (int64_t token = begin; token < end; ++token)
    if (!choose_all(run, token)) pass.order[pass.tokens++] = static_cast<int32_t>(token);
  const View<const TokenPlace, 1> places = run.call.args.places;
  std::sort(pass.order, pass.order + pass.tokens, [&](int32_t a, int32_t b) {
    const TokenPlace left = places(a), right = places(b);
    return left.sequence != right.sequence ? left.sequence < right.sequence : left.position < right.position;
  });
}

void form_blocks(const Run& run, Pass& pass) {
  const View<const TokenPlace, 1> places = run.call.args.places;
  const int64_t most = block_tokens(run.call.problem);
  for (int64_t i = 0; i < pass.tokens; ++i) {
    const TokenPlace place = places(pass.order[i]);
    const Block* const last = pass.block_count == 0 ? nullptr : pass.blocks + pass.block_count - 1;
    if (last == nullptr || last->sequence != place.sequence || last->tokens == most)
      pass.blocks[pass.block_count++] = {i, 0, place.sequence, 0, 0};
    Block& block = pass.blocks[pass.block_count - 1];
    block.tokens += 1;
    block.keys = run.visible(pass.order[i]);
  }
  for (int64_t b = 0; b < pass.block_count; ++b) {
    pass.blocks[b].cost_before = pass.cost;
    pass.cost += pass.blocks[b].cost();
  }
  const int64_t work = pass.cost * kTileKeys * run.call.problem.heads * run.call.problem.head_dim;
  pass.parts = std::clamp(work / kSmallWork, int64_t{1}, int64_t{run.lane.threads});
}

// The tiles [first, last) of a block that a part meets, and where it keeps their candidates.
struct Share {
  int64_t first;
  int64_t last;
  int64_t kept_at(int64_t most) const { return first > 0 ? 0 : most; }
};

Share share_of(const Pass& pass, const Block& block, int64_t part) {
  return {block.tiles_before(pass.cost_before(part)), block.tiles_before(pass.cost_before(part + 1))};
}

void score_share(const Run& run, const Pass& pass, const Block& block, const Share& share, const Part& part,
                 Candidates* candidates) {
  const Args& args = run.call.args;
  for (int64_t i = 0; i < block.tokens; ++i) {
    const int64_t buffer = candidates - part.candidates + i;
    candidates[i] = {part.codes + buffer * run.wanted.capacity, part.positions + buffer * run.wanted.capacity,
                     0, 0};
    run.scoring.take_query(run.call, pass.order[block.first + i], i, part.scratch);
  }
  for (int64_t s = share.first * kTileKeys; s < std::min(share.last * kTileKeys, block.keys);
       s += kTileKeys) {
    const Keys keys{block.sequence, s, std::min(kTileKeys, block.keys - s)};
    run.scoring.take_keys(run.call, keys, part.scratch);
    for (int64_t i = 0; i < block.tokens; ++i) {
      const int64_t token = pass.order[block.first + i];
      const int64_t count = std::min(keys.count, run.visible(token) - s);
      if (count <= 0) continue;
      run.scoring.score(run.call, token, i, keys, count, part.scratch, part.scores);
      if (args.scores) std::copy_n(part.scores, count, &args.scores(token, s));
      candidates[i].add(run.wanted, part.scores, count, s);
    }
  }
}

void work_on_part(const Run& run, const Pass& pass, int64_t index) {
  const Part part = run.part(index);
  for (int64_t b = 0; b < pass.block_count; ++b) {
    const Block& block = pass.blocks[b];
    const Share share = share_of(pass, block, index);
    if (share.first == share.last) continue;
    Candidates* const candidates = part.candidates + share.kept_at(block_tokens(run.call.problem));
    score_share(run, pass, block, share, part, candidates);
    const bool whole = share.first == 0 && share.last == block.tiles();
    for (int64_t i = 0; i < block.tokens; ++i) {
      if (whole)
        write_choice(run, pass.order[block.first + i], candidates[i]);
      else
        candidates[i].cut(run.wanted);
    }
  }
}

// The choice of a token whose block several parts met, in ascending order of position.
void join_parts(const Run& run, const Pass& pass, const Block& block, int64_t i) {
  Candidates* best = nullptr;
  for (int64_t p = 0; p < pass.parts; ++p) {
    const Share share = share_of(pass, block, p);
    if (share.first == share.last) continue;
    if (share.first == 0 && share.last == block.tiles()) return;
    Candidates* const next = run.part(p).candidates + share.kept_at(block_tokens(run.call.problem)) + i;
    if (best == nullptr)
      best = next;
    else
      best->add(run.wanted, *next);
  }
  write_choice(run, pass.order[block.first + i], *best);
}

void choose(const Run& run, int64_t begin, int64_t end) {
  cpu::Cutter cutter(run.lane.workspace.data());
  Pass pass = cut_pass(cutter);
  order_tokens(run, begin, end, pass);
  form_blocks(run, pass);
  const Lane here{1, nullptr, run.lane.workspace};
  cpu::parallel_for(pass.parts == 1 ? here : run.lane, pass.parts, [&](int64_t first, int64_t last, int) {
    for (int64_t part = first; part < last; ++part) work_on_part(run, pass, part);
  });
  if (pass.parts == 1) return;
  cpu::parallel_for(run.lane, pass.tokens, [&](int64_t first, int64_t last, int) {
    for (int64_t b = 0; b < pass.block_count; ++b) {
      const Block& block = pass.blocks[b];
      for (int64_t i = std::max(first, block.first); i < std::min(last, block.first + block.tokens); ++i)
        join_parts(run, pass, block, i - block.first);
    }
  });
}

}  // namespace

int64_t block_tokens(const Problem& problem) { return std::clamp<int64_t>(problem.largest_batch, 1, 8); }

int64_t workspace_bytes(const Scoring& scoring, const Problem& problem, int threads) {
  const int64_t capacity = wanted_of(problem, cpu::kernels(problem.setting.target.isa)).capacity;
  cpu::Cutter pass(nullptr), part(nullptr);
  cut_pass(pass);
  cut_part(scoring, problem, capacity, part);
  return pass.bytes() + threads * part.bytes();
}

void select(const Scoring& scoring, const Problem& problem, const Args& args, const Lane& lane) {
  check(problem, args);
  const Run run{scoring, {problem, args, cpu::kernels(problem.setting.target.isa)}, lane};
  for (int64_t first = 0; first < args.q.extent[0]; first += kPassTokens)
    choose(run, first, std::min(first + kPassTokens, args.q.extent[0]));
}

}  // namespace fulgurite::index_select
