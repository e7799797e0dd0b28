// Cases of compressor. Each token of a decode ends a window, which one in `ratio` does.

#include <algorithm>

#include "bench/prepared.h"
#include "fulgurite/ops/compressor/compressor_audit.h"
#include "fulgurite/ops/compressor/compressor_cases.h"

namespace fulgurite::bench {
namespace {

using compressor::Kind;
using CompressorOperands = Operands<compressor::Problem, compressor::Args>;

struct CompressorCase {
  const char* name;
  int64_t ratio, dim;
  Kind kind;
};

KvRows unwritten_entries(Arena& arena, const compressor::Problem& problem, int64_t sequences) {
  const KvRow row = compressor::row_of(problem);
  const Tensor<3> blocks =
      arena.unwritten<3>(DType::kU8, {sequences, KvRow::blocks(problem.entries), row.block_bytes()});
  return {row, View<std::byte, 3>(blocks.data, blocks.extent)};
}

IndexKeys unwritten_index_keys(Arena& arena, const compressor::Problem& problem, int64_t sequences) {
  const DType type = index_operand(problem.setting.numerics);
  IndexKeys keys;
  keys.keys = arena.unwritten<3>(type, {sequences, problem.entries, problem.dim});
  if (type == DType::kF8_E4M3)
    keys.scales = arena.unwritten<2>(DType::kF32, {sequences, problem.entries}).as<float>();
  return keys;
}

void make_cache(Arena& arena, const compressor::Problem& problem, int64_t sequences, compressor::Args& args) {
  if (problem.kind == Kind::kEntries)
    args.entries = unwritten_entries(arena, problem, sequences);
  else
    args.keys = unwritten_index_keys(arena, problem, sequences);
}

// The bytes of an entry, and those of its scales.
std::vector<std::span<const std::byte>> entry_bytes(const compressor::Args& args, int64_t sequence,
                                                    int64_t entry) {
  if (args.keys.keys) {
    const Tensor<1> key = args.keys.keys[sequence][entry];
    return {leading_bytes(key, key.extent[0])};
  }
  const KvRow& row = args.entries.row;
  return {{args.entries.at(sequence, entry), static_cast<size_t>(row.bytes())},
          {args.entries.scales_at(sequence, entry), static_cast<size_t>(row.scale_bytes())}};
}

// `count` tokens of one sequence from `first` on, which end one window: from the state that `before` has of
// it.
Part<compressor::Problem, compressor::Args> tokens_alone(CompressorOperands& o, const View<float, 4>& before,
                                                         int64_t first, int64_t count) {
  const TokenPlace start = o.args.places(first);
  Part<compressor::Problem, compressor::Args> part;
  part.name = fmt::format("token {}", first);
  part.problem = o.problem;
  part.problem.sequences = 1;
  part.problem.largest_batch = count;
  part.args = o.args;
  part.args.x = o.args.x.slice(0, first, count);
  std::vector<TokenPlace> places;
  for (int64_t i = 0; i < count; ++i) places.push_back({0, start.position + static_cast<int32_t>(i)});
  part.args.places = o.arena.places(places);
  const Tensor<4> state =
      o.arena.unwritten<4>(DType::kF32, {1, before.extent[1], before.extent[2], before.extent[3]});
  std::memcpy(state.data, before[start.sequence].data, static_cast<size_t>(Arena::bytes_of(state)));
  part.args.state = state.as<float>();
  make_cache(o.arena, part.problem, 1, part.args);
  const int64_t entry = places.back().position / o.problem.ratio;
  const auto own = entry_bytes(part.args, 0, entry), whole = entry_bytes(o.args, start.sequence, entry);
  for (size_t i = 0; i < own.size(); ++i) part.twins.push_back({"entry", own[i], whole[i]});
  return part;
}

// A batch that decodes: single tokens. A prefill: its first window, and the last token after any state.
void add_parts(CompressorOperands& o, const View<float, 4>& before) {
  if (o.tokens <= kDecodeBatch) {
    for (const int64_t token : sample_tokens(o.tokens)) {
      auto& part = o.parts.emplace_back(tokens_alone(o, before, token, 1));
      part.judged = token == o.tokens - 1 ? Judged::kYes : Judged::kNo;
    }
    return;
  }
  const int64_t open = o.args.places(0).position % o.problem.ratio;
  if (o.tokens >= o.problem.ratio - open)
    o.parts.emplace_back(tokens_alone(o, before, 0, o.problem.ratio - open)).judged = Judged::kNo;
  auto& last = o.parts.emplace_back(tokens_alone(o, before, o.tokens - 1, 1));
  last.twins.clear();
}

std::unique_ptr<Runnable> make_compressor(const Request& request, const CompressorCase& c, int64_t tokens) {
  const Shape& s = request.shape;
  const DType type = request.activation();
  const int64_t context = std::max(kPrepareContext, tokens), sequences = sequences_of(tokens);
  auto o = std::make_unique<CompressorOperands>();
  Arena& arena = o->arena;
  o->tokens = tokens;
  const auto choice = choose(request, request.catalog->compressor,
                             {request.setting, s.hidden, c.ratio, c.dim, s.rope, s.norm_eps, c.kind,
                              kBf16Matrix, kBf16Matrix, sequences, context / c.ratio, tokens});
  o->problem = choice.problem;
  const int64_t width = compressor::width(o->problem), rows = compressor::state_rows(o->problem);
  const View<float, 4> before = arena.floats<4>({sequences, rows, 2, width});
  const Tensor<4> state = arena.unwritten<4>(DType::kF32, before.extent);
  o->restore = [=] { std::memcpy(state.data, before.data, static_cast<size_t>(before.size()) * 4); };
  o->restore();
  o->args.x = arena.drawn<2>(type, {tokens, s.hidden});
  o->args.wkv = o->keep(arena.matrix(width, s.hidden, kBf16Matrix));
  o->args.wgate = o->keep(arena.matrix(width, s.hidden, kBf16Matrix));
  o->args.ape = arena.floats<2>({c.ratio, width});
  o->args.norm = arena.vector(c.dim, 0.5, 1.5);
  o->args.places = places_of(arena, tokens, context);
  o->args.table = arena.rotary_table(s.frequencies, context);
  o->args.state = state.as<float>();
  make_cache(arena, o->problem, sequences, o->args);
  if (c.kind == Kind::kIndexKeys)
    o->outputs = {all_bytes(o->args.keys.keys)};
  else
    o->outputs = {{o->args.entries.blocks.data, static_cast<size_t>(o->args.entries.blocks.size())}};
  const int64_t weights = 2 * matrix_bytes(width, s.hidden, kBf16Matrix);
  const int64_t windows = tokens <= kDecodeBatch ? tokens : tokens / c.ratio;
  o->work = {weights + tokens * (s.hidden * request.activation_bytes() + 2 * width * 4) +
                 windows * rows * 2 * c.dim * 4,
             2 * tokens * 2 * width * s.hidden};
  add_parts(*o, before);
  return prepare(request, choice, &compressor::judge, std::move(o));
}

}  // namespace

void add_compressor(const Request& request, std::vector<Case>& cases) {
  const Shape& s = request.shape;
  if (s.kv == 0) return;
  const CompressorCase all[] = {{"entries4", 4, s.kv, Kind::kEntries},
                                {"entries128", 128, s.kv, Kind::kEntries},
                                {"keys", 4, s.index_dim, Kind::kIndexKeys}};
  for (const CompressorCase& c : all) {
    const int64_t width = (c.ratio == 4 ? 2 : 1) * c.dim;
    for (const int64_t tokens : request.tokens_or({1, 8, 512}))
      cases.push_back({"compressor", c.name, fmt::format("2x{}x{} bf16, ratio {}", width, s.hidden, c.ratio),
                       tokens, 2 * width * s.hidden * 2 + tokens * s.hidden * 4,
                       [=, &request] { return make_compressor(request, c, tokens); }});
  }
}

}  // namespace fulgurite::bench
