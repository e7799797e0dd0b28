// Cases of compressed_attention: the window alone, and with entries of each ratio.

#include <algorithm>

#include "bench/prepared.h"
#include "fulgurite/ops/compressed_attention/compressed_attention_audit.h"

namespace fulgurite::bench {
namespace {

using AttentionOperands = Operands<compressed_attention::Problem, compressed_attention::Args>;

struct AttentionCase {
  const char* name;
  int64_t ratio, topk;
};

int64_t ring_of(const Shape& s, int64_t tokens) { return s.window - 1 + tokens; }
// The window alone does not see how long the context is.
int64_t context_of(const Shape& s, const AttentionCase& c, int64_t tokens) {
  return c.ratio == 0 ? std::max(kPrepareContext, ring_of(s, tokens)) : s.attention_context;
}
int64_t entries_of(const Shape& s, const AttentionCase& c, int64_t tokens) {
  return c.ratio == 0 ? 0 : context_of(s, c, tokens) / c.ratio;
}

// Of what each token sees, topk entries at random.
View<int32_t, 2> choose_entries(Arena& arena, const compressed_attention::Problem& problem,
                                View<const TokenPlace, 1> places) {
  const int64_t tokens = places.extent[0];
  const View<int32_t, 2> lists = arena.unwritten<2>(DType::kI32, {tokens, problem.topk}).as<int32_t>();
  for (int64_t t = 0; t < tokens; ++t) {
    const int64_t visible = compressed_attention::visible_entries(problem, places(t).position);
    const int64_t count = std::min(problem.topk, visible);
    int64_t chosen = 0;
    for (int64_t e = 0; e < visible && chosen < count; ++e)
      if (arena.random().below(visible - e) < count - chosen) lists(t, chosen++) = static_cast<int32_t>(e);
    for (; chosen < problem.topk; ++chosen) lists(t, chosen) = -1;
  }
  return lists;
}

// Rows of both caches that the tokens read, each counted once, and the slots that they score.
struct Read {
  int64_t rows = 0;
  int64_t slots = 0;
};
Read read_by(const AttentionOperands& o) {
  const compressed_attention::Problem& p = o.problem;
  std::vector<bool> window(static_cast<size_t>(p.sequences * p.ring)),
      entries(static_cast<size_t>(p.sequences * p.entries));
  Read read;
  for (int64_t t = 0; t < o.tokens; ++t) {
    const TokenPlace place = o.args.places(t);
    const compressed_attention::Seen seen = compressed_attention::window_of(p, place.position);
    for (int64_t i = 0; i < seen.count; ++i)
      window[static_cast<size_t>(place.sequence * p.ring + (seen.first + i) % p.ring)] = true;
    const int64_t count = p.ratio == 0 ? 0 : compressed_attention::entries_of(p, o.args, t);
    for (int64_t i = 0; i < count; ++i)
      entries[static_cast<size_t>(place.sequence * p.entries + (p.topk > 0 ? o.args.selected(t, i) : i))] =
          true;
    read.slots += seen.count + count;
  }
  read.rows =
      std::count(window.begin(), window.end(), true) + std::count(entries.begin(), entries.end(), true);
  return read;
}

// A token alone; the judged one on its last heads. A row of several runs has other bits in calls of other sizes: each
// token's last heads are judged where they stand.
Part<compressed_attention::Problem, compressed_attention::Args> attention_part(AttentionOperands& o,
                                                                               int64_t token) {
  constexpr int64_t kJudgedHeads = 8;
  const bool in_place = o.problem.runs > 0, judged = in_place || token == o.tokens - 1;
  const int64_t heads = judged ? std::min(kJudgedHeads, o.problem.heads) : o.problem.heads;
  const int64_t first = o.problem.heads - heads, dim = o.problem.head_dim;
  const Tensor<3> in_case = o.args.out.slice(0, token, 1).slice(1, first, heads);
  const Tensor<3> out = in_place ? in_case : o.arena.unwritten<3>(o.args.out.dtype, {1, heads, dim});
  Part<compressed_attention::Problem, compressed_attention::Args> part;
  part.name = fmt::format("token {}, heads {}..{}", token, first, o.problem.heads - 1);
  part.problem = o.problem;
  part.problem.heads = heads;
  part.problem.largest_batch = 1;
  part.args = o.args;
  part.args.q = o.args.q.slice(0, token, 1).slice(1, first, heads);
  part.args.sink = o.args.sink.slice(0, first, heads);
  if (o.problem.topk > 0) part.args.selected = o.args.selected.slice(0, token, 1);
  part.args.places = o.args.places.slice(0, token, 1);
  part.args.out = out;
  if (!in_place) part.twins = {{"out", all_bytes(out), leading_bytes(in_case, heads * dim)}};
  part.judged = in_place ? Judged::kInPlace : judged ? Judged::kYes : Judged::kNo;
  return part;
}

std::unique_ptr<Runnable> make_attention(const Request& request, const AttentionCase& c, int64_t tokens) {
  const Shape& s = request.shape;
  const DType type = request.activation();
  const KvRow row = kv_row(request.setting.numerics, s.nope, s.rope);
  const int64_t context = context_of(s, c, tokens), sequences = sequences_of(tokens),
                ring = ring_of(s, tokens), entries = entries_of(s, c, tokens);
  auto o = std::make_unique<AttentionOperands>();
  Arena& arena = o->arena;
  o->tokens = tokens;
  const auto choice = choose(request, request.catalog->compressed_attention,
                             {request.setting, s.heads, s.kv, s.rope, s.window, c.ratio, c.topk,
                              s.softmax_scale, sequences, ring, entries, context, tokens});
  o->problem = choice.problem;
  const Tensor<3> out = arena.unwritten<3>(type, {tokens, s.heads, s.kv});
  o->args.q = arena.drawn<3>(type, {tokens, s.heads, s.kv});
  o->args.sink = arena.vector(s.heads, -1.0, 1.0);
  o->args.window = arena.kv_cache(row, sequences, ring);
  o->args.entries = arena.kv_cache(row, sequences, entries);
  o->args.places = places_of(arena, tokens, context);
  if (c.topk > 0) o->args.selected = choose_entries(arena, o->problem, o->args.places);
  o->args.table = arena.rotary_table(s.frequencies, context);
  o->args.out = out;
  o->outputs = {all_bytes(out)};
  const Read read = read_by(*o);
  o->work = {read.rows * (row.bytes() + row.scale_bytes()) +
                 tokens * (2 * s.heads * s.kv * request.activation_bytes() + c.topk * 4 + s.rope * 4),
             4 * read.slots * s.heads * s.kv};
  for (const int64_t token : sample_tokens(tokens)) o->parts.push_back(attention_part(*o, token));
  return prepare(request, choice, &compressed_attention::judge, std::move(o));
}

std::string detail_of(const Shape& s, const AttentionCase& c, int64_t entries) {
  std::string detail = fmt::format("{} heads of {}, window {}", s.heads, s.kv, s.window);
  if (c.topk > 0) return detail + fmt::format(", top {} of {}", c.topk, entries);
  return c.ratio > 0 ? detail + fmt::format(", all of {}", entries) : detail;
}

}  // namespace

void add_compressed_attention(const Request& request, std::vector<Case>& cases) {
  const Shape& s = request.shape;
  const AttentionCase all[] = {
      {"window", 0, 0}, {"ratio4", s.index_ratio, s.index_topk}, {"ratio128", 128, 0}};
  for (const AttentionCase& c : all)
    for (const int64_t tokens : request.tokens_or({1, 8, 512})) {
      const int64_t context = context_of(s, c, tokens), entries = entries_of(s, c, tokens);
      if (tokens > context) continue;
      const int64_t caches = sequences_of(tokens) * (ring_of(s, tokens) + entries) * (s.nope + s.rope) * 4;
      cases.push_back({"compressed_attention", c.name, detail_of(s, c, entries), tokens,
                       caches + tokens * (s.heads * s.kv * 8 + c.topk * 4) + context * s.rope * 4,
                       [=, &request] { return make_attention(request, c, tokens); }});
    }
}

}  // namespace fulgurite::bench
