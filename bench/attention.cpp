// Cases of latent_prepare, sparse_attention and expanded_attention.

#include <algorithm>

#include "bench/prepared.h"
#include "fulgurite/ops/expanded_attention/expanded_attention_audit.h"
#include "fulgurite/ops/index_select/index_select.h"
#include "fulgurite/ops/latent_prepare/latent_prepare_audit.h"
#include "fulgurite/ops/sparse_attention/sparse_attention_audit.h"

namespace fulgurite::bench {
namespace {

LatentRow row_of(const Request& request) {
  return {request.setting.numerics.latent_cache, request.shape.kv_lora, request.shape.rope};
}

// --- latent_prepare ---

std::span<const std::byte> cache_row(const LatentRows& cache, TokenPlace place) {
  return {cache.at(place), static_cast<size_t>(cache.row.bytes())};
}

std::unique_ptr<Runnable> make_latent_prepare(const Request& request, int64_t tokens) {
  const Shape& s = request.shape;
  const LatentRow row = row_of(request);
  const int64_t context = std::max(kPrepareContext, tokens), sequences = sequences_of(tokens);
  auto o = std::make_unique<Operands<latent_prepare::Problem, latent_prepare::Args>>();
  Arena& arena = o->arena;
  o->tokens = tokens;
  const CachePages pages = pages_for(request, arena, sequences, context);
  o->problem = {request.setting, s.kv_lora, s.rope, s.norm_eps, sequences, context, pages.tokens};
  const Tensor<2> kv = arena.drawn<2>(request.activation(), {tokens, s.kv_lora + s.rope});
  const LatentRows cache = arena.unwritten_latents(row, sequences, context, pages);
  o->args = {kv, arena.vector(s.kv_lora, 0.5, 1.5), places_of(arena, tokens, context),
             arena.rotary_table(s.frequencies, context), cache};
  o->outputs = {{cache.rows.data, static_cast<size_t>(cache.rows.size())}};
  o->work = {
      tokens * ((s.kv_lora + s.rope) * request.activation_bytes() + row.bytes() + s.rope * 4) + s.kv_lora * 4,
      tokens * (4 * s.kv_lora + 3 * s.rope)};
  for (const int64_t token : sample_tokens(tokens)) {
    auto& part = o->parts.emplace_back();
    const LatentRows own = arena.unwritten_latents(row, sequences, context, pages);
    part.name = fmt::format("token {}", token);
    part.problem = o->problem;
    part.args = o->args;
    part.args.kv = kv.slice(0, token, 1);
    part.args.places = o->args.places.slice(0, token, 1);
    part.args.cache = own;
    const TokenPlace place = o->args.places(token);
    part.twins = {{"cache", cache_row(own, place), cache_row(cache, place)}};
    part.judged = token == tokens - 1 ? Judged::kYes : Judged::kNo;
  }
  return prepare(request, request.catalog->latent_prepare, &latent_prepare::judge, std::move(o));
}

// --- rows chosen at random ---

// `count` of the positions 0..last, ascending, each choice as likely as any other.
void choose_positions(Random& random, int64_t count, int64_t last, View<int32_t, 1> selected) {
  int64_t chosen = 0;
  for (int64_t s = 0; s <= last && chosen < count; ++s)
    if (random.below(last + 1 - s) < count - chosen) selected(chosen++) = static_cast<int32_t>(s);
  for (; chosen < selected.extent[0]; ++chosen) selected(chosen) = -1;
}

View<int32_t, 2> choose_rows(Arena& arena, View<const TokenPlace, 1> places, int64_t topk) {
  const int64_t tokens = places.extent[0];
  const View<int32_t, 2> selected = arena.unwritten<2>(DType::kI32, {tokens, topk}).as<int32_t>();
  for (int64_t t = 0; t < tokens; ++t)
    choose_positions(arena.random(), std::min<int64_t>(topk, places(t).position + 1), places(t).position,
                     selected[t]);
  return selected;
}

View<int32_t, 2> slots_of(Arena& arena, const CachePages& pages, View<const int32_t, 2> selected,
                          View<const TokenPlace, 1> places) {
  if (pages.tokens == 0) return {};
  const View<int32_t, 2> slots = arena.unwritten<2>(DType::kI32, selected.extent).as<int32_t>();
  for (int64_t t = 0; t < selected.extent[0]; ++t)
    for (int64_t j = 0; j < selected.extent[1]; ++j)
      slots(t, j) = index_select::slot_of(pages, places(t).sequence, selected(t, j));
  return slots;
}

// Cache rows that the tokens read, each counted once.
int64_t rows_read(View<const int32_t, 2> selected, View<const TokenPlace, 1> places, int64_t sequences,
                  int64_t context) {
  std::vector<bool> read(static_cast<size_t>(sequences * context));
  for (int64_t t = 0; t < selected.extent[0]; ++t)
    for (int64_t j = 0; j < selected.extent[1]; ++j)
      if (selected(t, j) >= 0)
        read[static_cast<size_t>(places(t).sequence * context + selected(t, j))] = true;
  return std::count(read.begin(), read.end(), true);
}

// --- sparse_attention ---

using SparseOperands = Operands<sparse_attention::Problem, sparse_attention::Args>;

// A token alone; the judged one on its last heads. A row of several runs has other bits in calls of other sizes: each
// token's last heads are judged where they stand.
Part<sparse_attention::Problem, sparse_attention::Args> sparse_part(SparseOperands& o, int64_t token) {
  constexpr int64_t kJudgedHeads = 8;
  const sparse_attention::Args& whole = o.args;
  const bool in_place = o.problem.runs > 0, judged = in_place || token == o.tokens - 1;
  const int64_t heads = judged ? std::min(kJudgedHeads, o.problem.heads) : o.problem.heads;
  const int64_t first = o.problem.heads - heads;
  const Tensor<3> in_case = whole.out.slice(0, token, 1).slice(1, first, heads);
  const Tensor<3> out =
      in_place ? in_case : o.arena.unwritten<3>(whole.out.dtype, {1, heads, o.problem.latent});
  Part<sparse_attention::Problem, sparse_attention::Args> part;
  part.name = fmt::format("token {}, heads {}..{}", token, first, o.problem.heads - 1);
  part.problem = o.problem;
  part.problem.heads = heads;
  part.problem.largest_batch = 1;
  part.args = {whole.q.slice(0, token, 1).slice(1, first, heads),
               whole.q_rope.slice(0, token, 1).slice(1, first, heads),
               whole.cache,
               whole.selected.slice(0, token, 1),
               whole.places.slice(0, token, 1),
               out};
  if (whole.slots) part.args.slots = whole.slots.slice(0, token, 1);
  part.judged = in_place ? Judged::kInPlace : judged ? Judged::kYes : Judged::kNo;
  if (!in_place) part.twins = {{"out", all_bytes(out), leading_bytes(in_case, heads * o.problem.latent)}};
  return part;
}

std::unique_ptr<Runnable> make_sparse(const Request& request, int64_t heads, int64_t tokens) {
  const Shape& s = request.shape;
  const DType type = request.activation();
  const LatentRow row = row_of(request);
  const int64_t context = s.attention_context, sequences = sequences_of(tokens);
  auto o = std::make_unique<SparseOperands>();
  Arena& arena = o->arena;
  o->tokens = tokens;
  const CachePages pages = pages_for(request, arena, sequences, context);
  const sparse_attention::Problem asked{request.setting, heads,     s.kv_lora, s.rope, s.index_topk,
                                        s.softmax_scale, sequences, context,   tokens, pages.tokens};
  const auto choice = choose(request, request.catalog->sparse_attention, asked);
  o->problem = choice.problem;
  // The rotated part stands in the query's rows, behind the part without position.
  const Tensor<3> query = arena.drawn<3>(type, {tokens, heads, s.nope + s.rope}),
                  out = arena.unwritten<3>(type, {tokens, heads, s.kv_lora});
  o->args.q = arena.drawn<3>(type, {tokens, heads, s.kv_lora});
  o->args.q_rope = query.slice(2, s.nope, s.rope);
  o->args.cache = arena.latent_cache(row, sequences, context, pages);
  o->args.places = places_of(arena, tokens, context);
  o->args.selected = choose_rows(arena, o->args.places, s.index_topk);
  o->args.slots = slots_of(arena, pages, o->args.selected, o->args.places);
  o->args.out = out;
  o->outputs = {all_bytes(out)};
  const int64_t read = rows_read(o->args.selected, o->args.places, sequences, context);
  const int64_t chosen = std::min(s.index_topk, context);
  o->work = {read * row.bytes() +
                 tokens * (heads * (2 * s.kv_lora + s.rope) * request.activation_bytes() + s.index_topk * 4),
             2 * tokens * heads * chosen * (2 * s.kv_lora + s.rope)};
  for (const int64_t token : sample_tokens(tokens)) o->parts.push_back(sparse_part(*o, token));
  return prepare(request, choice, &sparse_attention::judge, std::move(o));
}

// --- expanded_attention ---

using ExpandedOperands = Operands<expanded_attention::Problem, expanded_attention::Args>;

// The first head of a token alone; judged: on its first entries only, as many as the reference can do.
Part<expanded_attention::Problem, expanded_attention::Args> expanded_part(ExpandedOperands& o, int64_t token,
                                                                          Judged judged) {
  constexpr int64_t kJudgedEntries = 64;
  const expanded_attention::Args& whole = o.args;
  const int64_t entries = judged == Judged::kYes ? std::min(kJudgedEntries, o.problem.topk) : o.problem.topk;
  const Tensor<3> out = o.arena.unwritten<3>(whole.out.dtype, {1, 1, o.problem.value});
  Part<expanded_attention::Problem, expanded_attention::Args> part;
  part.name = fmt::format("token {}, head 0, {} entries", token, entries);
  part.problem = o.problem;
  part.problem.heads = 1;
  part.problem.topk = entries;
  part.args = {whole.q.slice(0, token, 1).slice(1, 0, 1),
               o.keep(rows_of(*whole.weight, 0, o.problem.nope + o.problem.value)),
               whole.cache,
               whole.selected.slice(0, token, 1).slice(1, 0, entries),
               whole.places.slice(0, token, 1),
               out};
  if (entries == o.problem.topk)
    part.twins = {{"out", all_bytes(out), leading_bytes(whole.out[token], o.problem.value)}};
  part.judged = judged;
  return part;
}

std::unique_ptr<Runnable> make_expanded(const Request& request, int64_t tokens) {
  const Shape& s = request.shape;
  const DType type = request.activation();
  const LatentRow row = row_of(request);
  const int64_t context = s.attention_context, sequences = sequences_of(tokens),
                rows = s.heads * (s.nope + s.value);
  auto o = std::make_unique<ExpandedOperands>();
  Arena& arena = o->arena;
  const CachePages pages = pages_for(request, arena, sequences, context);
  o->tokens = tokens;
  o->problem = {request.setting, s.heads,         s.nope,     s.rope,    s.value, s.kv_lora,
                s.index_topk,    s.softmax_scale, kFp8Matrix, sequences, context, pages.tokens};
  const Tensor<3> out = arena.unwritten<3>(type, {tokens, s.heads, s.value});
  o->args.q = arena.drawn<3>(type, {tokens, s.heads, s.nope + s.rope});
  o->args.weight = o->keep(arena.matrix(rows, s.kv_lora, kFp8Matrix));
  o->args.cache = arena.latent_cache(row, sequences, context, pages);
  o->args.places = places_of(arena, tokens, context);
  o->args.selected = choose_rows(arena, o->args.places, s.index_topk);
  o->args.out = out;
  o->outputs = {all_bytes(out)};
  const int64_t read = rows_read(o->args.selected, o->args.places, sequences, context);
  const int64_t chosen = std::min(s.index_topk, context);
  // Every chosen row is expanded once, whoever chose it.
  o->work = {
      matrix_bytes(rows, s.kv_lora, kFp8Matrix) + read * row.bytes() +
          tokens * (s.heads * (s.nope + s.rope + s.value) * request.activation_bytes() + s.index_topk * 4),
      2 * read * rows * s.kv_lora + 2 * tokens * s.heads * chosen * (s.nope + s.rope + s.value)};
  for (const int64_t token : sample_tokens(tokens)) o->parts.push_back(expanded_part(*o, token, Judged::kNo));
  if (tokens > 0) o->parts.push_back(expanded_part(*o, tokens - 1, Judged::kYes));
  return prepare(request, request.catalog->expanded_attention, &expanded_attention::judge, std::move(o));
}

}  // namespace

void add_attention(const Request& request, std::vector<Case>& cases) {
  const Shape& s = request.shape;
  const int64_t row_bytes = row_of(request).bytes();
  for (const int64_t tokens : request.tokens_or({1, 8, 512})) {
    const int64_t caches = 4 * sequences_of(tokens) * std::max(kPrepareContext, tokens) * row_bytes;
    cases.push_back({"latent_prepare", "", fmt::format("{} + {}", s.kv_lora, s.rope), tokens,
                     caches + tokens * (s.kv_lora + s.rope) * 4,
                     [=, &request] { return make_latent_prepare(request, tokens); }});
  }
  const auto memory_of = [&](int64_t heads, int64_t tokens) {
    return sequences_of(tokens) * s.attention_context * row_bytes +
           tokens * (heads * (3 * s.kv_lora + s.nope + s.rope) + s.index_topk) * 4;
  };
  const auto detail_of = [&](int64_t heads) {
    return fmt::format("{} heads, top {} of {}", heads, s.index_topk, s.attention_context);
  };
  for (const int64_t heads : s.attention_heads) {
    if (request.setting.numerics.mla != Mla::kAbsorbed) break;
    for (const int64_t tokens : request.tokens_or({1, 8})) {
      if (tokens > s.attention_context) continue;
      cases.push_back({"sparse_attention", fmt::format("{}", heads), detail_of(heads), tokens,
                       memory_of(heads, tokens),
                       [=, &request] { return make_sparse(request, heads, tokens); }});
    }
  }
  // A plan has this one in the other's place.
  if (request.setting.numerics.mla != Mla::kExpanded) return;
  for (const int64_t tokens : request.tokens_or({1})) {
    if (tokens > s.attention_context) continue;
    cases.push_back({"expanded_attention", "", detail_of(s.heads), tokens,
                     memory_of(s.heads, tokens) + s.heads * (s.nope + s.value) * s.kv_lora,
                     [=, &request] { return make_expanded(request, tokens); }});
  }
}

}  // namespace fulgurite::bench
