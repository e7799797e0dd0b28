// Cases of indexer_projection, indexer_prepare and index_select.

#include <algorithm>

#include "bench/prepared.h"
#include "fulgurite/ops/index_select/index_select_audit.h"
#include "fulgurite/ops/indexer_prepare/indexer_prepare_audit.h"
#include "fulgurite/ops/indexer_projection/indexer_projection_audit.h"

namespace fulgurite::bench {
namespace {

// --- indexer_projection ---

MatrixFormat gate_format(const Request& request) {
  return request.setting.numerics.gate_weight == GateWeight::kFp8 ? kFp8Matrix : kBf16Matrix;
}

std::unique_ptr<Runnable> make_projection(const Request& request, int64_t tokens) {
  const Shape& s = request.shape;
  const DType type = request.activation();
  auto o = std::make_unique<Operands<indexer_projection::Problem, indexer_projection::Args>>();
  o->tokens = tokens;
  const indexer_projection::Problem asked{
      request.setting, s.hidden, s.index_dim, s.index_heads, kFp8Matrix, gate_format(request), tokens};
  const auto choice = choose(request, request.catalog->indexer_projection, asked);
  o->problem = choice.problem;
  const Tensor<2> x = o->arena.drawn<2>(type, {tokens, s.hidden}),
                  k = o->arena.unwritten<2>(type, {tokens, s.index_dim}),
                  gate = o->arena.unwritten<2>(DType::kF32, {tokens, s.index_heads});
  const PreparedMatrix* const wk = o->keep(o->arena.matrix(s.index_dim, s.hidden, asked.wk, o->problem.wk));
  const PreparedMatrix* const w =
      o->keep(o->arena.matrix(s.index_heads, s.hidden, asked.gate_weight, o->problem.gate_weight));
  o->args = {x, wk, w, k, gate.as<float>()};
  o->outputs = {all_bytes(k), all_bytes(gate)};
  const int64_t weights = matrix_bytes(s.index_dim, s.hidden, o->problem.wk) +
                          matrix_bytes(s.index_heads, s.hidden, o->problem.gate_weight);
  o->work = {weights + tokens * ((s.hidden + s.index_dim) * request.activation_bytes() + s.index_heads * 4),
             2 * tokens * s.hidden * (s.index_dim + s.index_heads)};
  for (const int64_t token : sample_tokens(tokens)) {
    auto& part = o->parts.emplace_back();
    part.name = fmt::format("token {}", token);
    part.problem = o->problem;
    part.problem.largest_batch = 1;
    const Tensor<2> own_k = o->arena.unwritten<2>(type, {1, s.index_dim}),
                    own_gate = o->arena.unwritten<2>(DType::kF32, {1, s.index_heads});
    part.args = {x.slice(0, token, 1), wk, w, own_k, own_gate.as<float>()};
    part.twins = {{"k", all_bytes(own_k), leading_bytes(k[token], s.index_dim)},
                  {"gate", all_bytes(own_gate), leading_bytes(gate[token], s.index_heads)}};
    part.judged = token == tokens - 1 ? Judged::kYes : Judged::kNo;
  }
  return prepare(request, choice, &indexer_projection::judge, std::move(o));
}

// --- indexer_prepare ---

using PrepareOperands = Operands<indexer_prepare::Problem, indexer_prepare::Args>;

Part<indexer_prepare::Problem, indexer_prepare::Args> prepare_part(PrepareOperands& o, int64_t token) {
  const indexer_prepare::Args& whole = o.args;
  const auto [tokens, heads, dim] = whole.q.extent;
  const Tensor<3> operand = o.arena.unwritten<3>(whole.q_operand.dtype, {1, heads, dim});
  const Tensor<2> weights = o.arena.unwritten<2>(DType::kF32, {1, heads}), all_weights = whole.weights;
  IndexKeys keys;
  if (o.problem.keys)
    keys = o.arena.unwritten_keys(whole.key_cache.keys.dtype, o.problem.sequences, o.problem.context, dim,
                                  whole.key_cache.pages);
  Part<indexer_prepare::Problem, indexer_prepare::Args> part;
  part.name = fmt::format("token {}", token);
  part.problem = o.problem;
  part.args = whole;
  part.args.q = whole.q.slice(0, token, 1);
  if (o.problem.keys) part.args.k = whole.k.slice(0, token, 1);
  part.args.gate = whole.gate.slice(0, token, 1);
  part.args.places = whole.places.slice(0, token, 1);
  part.args.weights = weights.as<float>();
  part.args.key_cache = keys;
  part.args.q_operand = operand;
  const TokenPlace at = whole.places(token);
  part.twins = {{"q_operand", all_bytes(operand), leading_bytes(whole.q_operand[token], heads * dim)},
                {"weights", all_bytes(weights), leading_bytes(all_weights[token], heads)}};
  if (o.problem.keys)
    part.twins.push_back({"key_cache", leading_bytes(keys.key(at.sequence, at.position), dim),
                          leading_bytes(whole.key_cache.key(at.sequence, at.position), dim)});
  part.judged = token == tokens - 1 ? Judged::kYes : Judged::kNo;
  return part;
}

std::unique_ptr<Runnable> make_prepare(const Request& request, int64_t tokens) {
  const Shape& s = request.shape;
  const DType type = request.activation(), operand = index_operand(request.setting.numerics);
  const int64_t context = std::max(kPrepareContext, tokens), sequences = sequences_of(tokens);
  auto o = std::make_unique<PrepareOperands>();
  Arena& arena = o->arena;
  o->tokens = tokens;
  o->problem = {request.setting, s.index_heads, s.index_dim, s.rope, s.index_rope, sequences, context};
  o->problem.keys = s.kv == 0;
  o->problem.rope_first = s.kv == 0 ? 0 : s.index_dim - s.rope;
  const Tensor<2> weights = arena.unwritten<2>(DType::kF32, {tokens, s.index_heads});
  IndexKeys keys;
  if (o->problem.keys) {
    const CachePages pages = pages_for(request, arena, sequences, context);
    keys = arena.unwritten_keys(operand, sequences, context, s.index_dim, pages);
    o->problem.page_tokens = pages.tokens;
  }
  o->args.q = arena.drawn<3>(type, {tokens, s.index_heads, s.index_dim});
  o->args.gate = arena.floats<2>({tokens, s.index_heads});
  if (o->problem.keys) {
    o->args.k = arena.drawn<2>(type, {tokens, s.index_dim});
    o->args.k_weight = arena.vector(s.index_dim, 0.5, 1.5);
    o->args.k_bias = arena.vector(s.index_dim, -0.1, 0.1);
  }
  o->args.places = places_of(arena, tokens, context);
  o->args.table = arena.rotary_table(s.frequencies, context);
  o->args.weights = weights.as<float>();
  o->args.key_cache = keys;
  o->args.q_operand = arena.unwritten<3>(operand, {tokens, s.index_heads, s.index_dim});
  o->outputs = {all_bytes(weights), all_bytes(o->args.q_operand)};
  if (o->problem.keys) o->outputs.push_back(all_bytes(keys));
  const int64_t vectors = s.index_heads + (o->problem.keys ? 1 : 0), written = bits(operand) / 8;
  const int64_t a_token = vectors * s.index_dim * (request.activation_bytes() + written) + s.index_heads * 8 +
                          s.rope * 4 + (keys.scales ? 4 : 0);
  // A vector: RoPE six operations a pair, Hadamard an add for each of log2(dim) strides and a product.
  int64_t strides = 0;
  while ((int64_t{1} << strides) < s.index_dim) ++strides;
  o->work = {tokens * a_token, tokens * vectors * (3 * s.rope + s.index_dim * (strides + 1))};
  for (const int64_t token : sample_tokens(tokens)) o->parts.push_back(prepare_part(*o, token));
  return prepare(request, request.catalog->indexer_prepare, &indexer_prepare::judge, std::move(o));
}

// --- index_select ---

using SelectOperands = Operands<index_select::Problem, index_select::Args>;
using SelectPart = Part<index_select::Problem, index_select::Args>;

// Rows [first, first + count) of a sequence; first is a page's.
ConstIndexKeys rows_of(const ConstIndexKeys& cache, int64_t sequence, int64_t first, int64_t count) {
  ConstIndexKeys part = cache;
  const int64_t page = cache.pages.tokens;
  if (page > 0) {
    part.pages.table = cache.pages.table.slice(0, sequence, 1).slice(1, first / page, pages_of(count, page));
    return part;
  }
  part.keys = cache.keys.slice(0, sequence, 1).slice(1, first, count);
  if (cache.scales) part.scales = cache.scales.slice(0, sequence, 1).slice(1, first, count);
  return part;
}

// The judged token on the last rows that it sees, as many as the reference can do.
SelectPart select_on_last_rows(SelectOperands& o, int64_t token) {
  const index_select::Args& whole = o.args;
  const TokenPlace place = whole.places(token);
  const int64_t visible = index_select::visible(o.problem, place.position);
  const int64_t most = std::min(visible, kJudgedProducts / (o.problem.heads * o.problem.head_dim));
  const int64_t step = std::max<int64_t>(o.problem.page_tokens, 1);
  const int64_t first = (visible - most + step - 1) / step * step, rows = visible - first;
  SelectPart part;
  part.name = fmt::format("token {}, last {} rows", token, rows);
  part.problem = o.problem;
  part.problem.sequences = 1;
  part.problem.context = rows;
  part.problem.largest_batch = 1;
  const TokenPlace last{0, static_cast<int32_t>(rows * o.problem.ratio - 1)};
  part.args.q = whole.q.slice(0, token, 1);
  part.args.weights = whole.weights.slice(0, token, 1);
  part.args.key_cache = rows_of(whole.key_cache, place.sequence, first, rows);
  part.args.places = o.arena.places({&last, 1});
  part.args.selected = o.arena.unwritten<2>(DType::kI32, {1, o.problem.topk}).as<int32_t>();
  part.args.scores = o.arena.unwritten<2>(DType::kF32, {1, rows}).as<float>();
  if (whole.slots) part.args.slots = o.arena.unwritten<2>(DType::kI32, {1, o.problem.topk}).as<int32_t>();
  return part;
}

enum class Scores { kNo, kYes };

SelectPart select_alone(SelectOperands& o, int64_t token, Scores scores) {
  const index_select::Args& whole = o.args;
  SelectPart part;
  part.name = fmt::format("token {}", token);
  part.problem = o.problem;
  part.problem.largest_batch = 1;
  part.args = whole;
  part.args.q = whole.q.slice(0, token, 1);
  part.args.weights = whole.weights.slice(0, token, 1);
  part.args.places = whole.places.slice(0, token, 1);
  const Tensor<2> selected = o.arena.unwritten<2>(DType::kI32, {1, o.problem.topk}), all = whole.selected;
  part.args.selected = selected.as<int32_t>();
  if (scores == Scores::kYes)
    part.args.scores = o.arena.unwritten<2>(DType::kF32, {1, o.problem.context}).as<float>();
  part.twins = {{"selected", all_bytes(selected), leading_bytes(all[token], o.problem.topk)}};
  if (whole.slots) {
    const Tensor<2> slots = o.arena.unwritten<2>(DType::kI32, {1, o.problem.topk}), all_slots = whole.slots;
    part.args.slots = slots.as<int32_t>();
    part.twins.push_back({"slots", all_bytes(slots), leading_bytes(all_slots[token], o.problem.topk)});
  }
  part.judged = Judged::kNo;
  return part;
}

// Are the positions the exact choice from the scores, which are the whole context's?
bool exact_choice(View<const float, 1> scores, int64_t visible, View<const int32_t, 1> selected, Ties ties) {
  std::vector<uint64_t> keys;
  for (int64_t s = 0; s < visible; ++s)
    keys.push_back(index_select::rank_key(scores(s), static_cast<int32_t>(s), ties));
  const int64_t count = std::min(visible, selected.extent[0]);
  std::nth_element(keys.begin(), keys.begin() + (count - 1), keys.end(), std::greater<>());
  std::vector<int32_t> expected;
  for (int64_t i = 0; i < count; ++i)
    expected.push_back(index_select::position_of(keys[static_cast<size_t>(i)], ties));
  std::sort(expected.begin(), expected.end());
  expected.resize(static_cast<size_t>(selected.extent[0]), -1);
  return std::equal(expected.begin(), expected.end(), selected.data);
}

bool slots_agree(const index_select::Args& args) {
  for (int64_t j = 0; args.slots && j < args.slots.extent[1]; ++j)
    if (args.slots(0, j) !=
        index_select::slot_of(args.key_cache.pages, args.places(0).sequence, args.selected(0, j)))
      return false;
  return true;
}

// The scores of the whole context: on the judged rows the judged ones, bit for bit; and the choice from them.
Failure whole_context_agrees(const SelectPart& judged, const SelectPart& whole) {
  const int64_t visible = index_select::visible(whole.problem, whole.args.places(0).position);
  const int64_t rows = judged.problem.context;
  if (std::memcmp(judged.args.scores.data, whole.args.scores.data + (visible - rows),
                  static_cast<size_t>(rows) * sizeof(float)) != 0)
    return whole.name + ": the scores of the last rows have other bits than among those rows alone";
  if (!exact_choice(whole.args.scores[0], visible, whole.args.selected[0],
                    whole.problem.setting.numerics.ties))
    return fmt::format("{}: the choice is not the exact top {} of its scores", whole.name,
                       whole.problem.topk);
  if (!slots_agree(whole.args)) return whole.name + ": the slots are not those of the chosen rows";
  return std::nullopt;
}

Work select_work(const SelectOperands& o) {
  const index_select::Problem& p = o.problem;
  const int64_t operand = bits(o.args.q.dtype) / 8,
                key = p.head_dim * operand + (o.args.key_cache.scales ? 4 : 0);
  std::vector<int64_t> rows(static_cast<size_t>(p.sequences));
  Work work;
  for (int64_t t = 0; t < o.tokens; ++t) {
    const int64_t visible = index_select::visible(p, o.args.places(t).position);
    int64_t& read = rows[static_cast<size_t>(o.args.places(t).sequence)];
    read = std::max(read, visible);
    work.flops += 2 * visible * p.heads * p.head_dim;
    work.bytes += p.heads * (p.head_dim * operand + 4) + p.topk * (o.args.slots ? 8 : 4);
  }
  for (const int64_t count : rows) work.bytes += count * key;
  if (o.args.q.dtype == DType::kF8_E4M3) work.arithmetic = Arithmetic::kCodes;
  return work;
}

std::unique_ptr<Runnable> make_select(const Request& request, int64_t context, int64_t tokens) {
  const Shape& s = request.shape;
  const DType operand = index_operand(request.setting.numerics);
  const int64_t sequences = sequences_of(tokens);
  auto o = std::make_unique<SelectOperands>();
  Arena& arena = o->arena;
  o->tokens = tokens;
  const CachePages pages = pages_for(request, arena, sequences, context);
  index_select::Problem asked{request.setting, s.index_heads, s.index_dim, std::min(s.index_topk, context),
                              sequences,       context,       tokens,      s.index_ratio};
  asked.page_tokens = pages.tokens;
  const auto choice = choose(request, request.catalog->index_select, asked);
  o->problem = choice.problem;
  const Tensor<2> selected = arena.unwritten<2>(DType::kI32, {tokens, o->problem.topk});
  o->args.q = arena.drawn<3>(operand, {tokens, s.index_heads, s.index_dim});
  o->args.weights =
      View<float, 2>(arena.vector(tokens * s.index_heads, -0.01, 0.01).data, {tokens, s.index_heads});
  o->args.key_cache = arena.index_keys(operand, sequences, context, s.index_dim, pages);
  o->args.places = places_of(arena, tokens, context * s.index_ratio);
  o->args.selected = selected.as<int32_t>();
  o->outputs = {all_bytes(selected)};
  if (pages.tokens > 0) {
    const Tensor<2> slots = arena.unwritten<2>(DType::kI32, {tokens, o->problem.topk});
    o->args.slots = slots.as<int32_t>();
    o->outputs.push_back(all_bytes(slots));
  }
  o->work = select_work(*o);
  for (const int64_t token : sample_tokens(tokens))
    if (token != tokens - 1) o->parts.push_back(select_alone(*o, token, Scores::kNo));
  o->parts.push_back(select_on_last_rows(*o, tokens - 1));
  o->parts.push_back(select_alone(*o, tokens - 1, Scores::kYes));
  o->also = [judged = o->parts[o->parts.size() - 2], whole = o->parts.back()](const auto&, const Lane&) {
    return whole_context_agrees(judged, whole);
  };
  return prepare(request, choice, &index_select::judge, std::move(o));
}

}  // namespace

void add_indexer(const Request& request, std::vector<Case>& cases) {
  const Shape& s = request.shape;
  for (const int64_t tokens : s.kv == 0 ? request.tokens_or({1, 8, 512}) : std::vector<int64_t>{}) {
    const MatrixFormat gate = gate_format(request);
    const std::string projection = fmt::format("{}+{}x{} e4m3+{}", s.index_dim, s.index_heads, s.hidden,
                                               gate.form == MatrixForm::kBF16 ? "bf16" : "e4m3");
    const int64_t weights =
        matrix_bytes(s.index_dim, s.hidden, kFp8Matrix) + matrix_bytes(s.index_heads, s.hidden, gate);
    cases.push_back({"indexer_projection", "", projection, tokens, weights + tokens * s.hidden * 4,
                     [=, &request] { return make_projection(request, tokens); }});
  }
  for (const int64_t tokens : request.tokens_or({1, 8, 512})) {
    const int64_t caches = 4 * sequences_of(tokens) * std::max(kPrepareContext, tokens) * s.index_dim * 4;
    cases.push_back({"indexer_prepare", "", fmt::format("{} heads of {}", s.index_heads, s.index_dim), tokens,
                     caches + tokens * s.index_heads * s.index_dim * 8,
                     [=, &request] { return make_prepare(request, tokens); }});
  }
  const int64_t key_bytes = s.index_dim * bits(index_operand(request.setting.numerics)) / 8 + 4;
  for (const int64_t context : s.index_contexts) {
    for (const int64_t tokens : request.tokens_or({1, 8, 512})) {
      // A prefill of long contexts takes minutes: only where it is asked for.
      if (tokens > context || (request.tokens.empty() && tokens > kDecodeBatch && context > 32768)) continue;
      const int64_t memory = sequences_of(tokens) * context * key_bytes +
                             tokens * (s.index_heads * s.index_dim + s.index_topk) * 4 + context * 4;
      cases.push_back(
          {"index_select", fmt::format("{}", context),
           fmt::format("top {} of {}, {} heads", std::min(s.index_topk, context), context, s.index_heads),
           tokens, memory, [=, &request] { return make_select(request, context, tokens); },
           tokens * context * context});  // each key beside every other
    }
  }
}

}  // namespace fulgurite::bench
