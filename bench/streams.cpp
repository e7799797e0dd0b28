// Cases of DeepSeek-V4's hyper_connection, query_prepare and kv_prepare.

#include "bench/prepared.h"
#include "fulgurite/ops/hyper_connection/hyper_connection_audit.h"
#include "fulgurite/ops/kv_prepare/kv_prepare_audit.h"
#include "fulgurite/ops/query_prepare/query_prepare_audit.h"

namespace fulgurite::bench {
namespace {

// Between two blocks of a layer, or before the head: the update and the mixing. Its inputs stay as they are.
std::unique_ptr<Runnable> make_hyper_connection(const Request& request, hyper_connection::Kind kind,
                                                int64_t tokens) {
  const Shape& s = request.shape;
  const DType type = request.activation();
  const int64_t flat = s.streams * s.hidden;
  auto o = std::make_unique<Operands<hyper_connection::Problem, hyper_connection::Args>>();
  Arena& arena = o->arena;
  o->tokens = tokens;
  o->problem.setting = request.setting;
  o->problem.hidden = s.hidden;
  o->problem.kind = kind;
  o->problem.largest_batch = tokens;
  const int64_t outputs = hyper_connection::outputs(o->problem);
  const bool head = kind == hyper_connection::Kind::kHead;
  const auto floats = [&](int64_t count) { return arena.vector(count, 0.0, 0.5).data; };
  hyper_connection::Args& args = o->args;
  args.streams = arena.drawn<3>(type, {tokens, s.streams, s.hidden});
  args.block = arena.drawn<2>(type, {tokens, s.hidden});
  args.post = {floats(tokens * s.streams), {tokens, s.streams}};
  args.mix = {floats(tokens * s.streams * s.streams), {tokens, s.streams, s.streams}};
  args.fn = {arena.vector(outputs * flat, -0.02, 0.02).data, {outputs, flat}};
  args.base = arena.vector(outputs, -1.0, 1.0);
  args.scale = arena.vector(head ? 1 : 3, 0.5, 1.0);
  const auto with_outputs = [&](hyper_connection::Args from, int64_t count) {
    from.streams_out = arena.unwritten<3>(type, {count, s.streams, s.hidden});
    from.collapsed = arena.unwritten<2>(type, {count, s.hidden});
    if (head) return from;
    from.post_out = arena.unwritten<2>(DType::kF32, {count, s.streams}).as<float>();
    from.mix_out = arena.unwritten<3>(DType::kF32, {count, s.streams, s.streams}).as<float>();
    return from;
  };
  args = with_outputs(args, tokens);
  o->outputs = {all_bytes(args.streams_out), all_bytes(args.collapsed)};
  o->work = {tokens * (2 * flat + 2 * s.hidden) * request.activation_bytes() + outputs * flat * 4,
             tokens * flat * (2 * outputs + 2 * (s.streams + 1) + 2 + 2)};
  for (const int64_t token : sample_tokens(tokens)) {
    auto& part = o->parts.emplace_back();
    part.name = fmt::format("token {}", token);
    part.problem = o->problem;
    part.args = with_outputs(args, 1);
    part.args.streams = args.streams.slice(0, token, 1);
    part.args.block = args.block.slice(0, token, 1);
    part.args.post = args.post.slice(0, token, 1);
    part.args.mix = args.mix.slice(0, token, 1);
    part.twins = {
        {"streams", all_bytes(part.args.streams_out), leading_bytes(args.streams_out[token], flat)},
        {"collapsed", all_bytes(part.args.collapsed), leading_bytes(args.collapsed[token], s.hidden)}};
  }
  return prepare(request, request.catalog->hyper_connection, &hyper_connection::judge, std::move(o));
}

std::unique_ptr<Runnable> make_query_prepare(const Request& request, int64_t tokens) {
  const Shape& s = request.shape;
  const DType type = request.activation();
  const int64_t dim = s.nope + s.rope, context = std::max(kPrepareContext, tokens);
  auto o = std::make_unique<Operands<query_prepare::Problem, query_prepare::Args>>();
  Arena& arena = o->arena;
  o->tokens = tokens;
  o->problem = {request.setting, s.heads, dim, s.rope, s.norm_eps};
  const Tensor<3> before = arena.drawn<3>(type, {tokens, s.heads, dim}),
                  query = arena.unwritten<3>(type, before.extent);
  const auto bytes = static_cast<size_t>(Arena::bytes_of(query));
  o->restore = [=] { std::memcpy(query.data, before.data, bytes); };
  o->restore();
  o->args = {query, places_of(arena, tokens, context), arena.rotary_table(s.frequencies, context), {}};
  o->work = {tokens * (2 * s.heads * dim * request.activation_bytes() + s.rope * 4),
             tokens * s.heads * (3 * dim + 3 * s.rope)};
  for (const int64_t token : sample_tokens(tokens)) {
    auto& part = o->parts.emplace_back();
    const Tensor<3> own = arena.unwritten<3>(type, {1, s.heads, dim});
    std::memcpy(own.data, before[token].data, static_cast<size_t>(Arena::bytes_of(own)));
    part.name = fmt::format("token {}", token);
    part.problem = o->problem;
    part.args = {own, o->args.places.slice(0, token, 1), o->args.table, {}};
    part.twins = {{"q", all_bytes(own), leading_bytes(query[token], s.heads * dim)}};
  }
  return prepare(request, request.catalog->query_prepare, &query_prepare::judge, std::move(o));
}

std::unique_ptr<Runnable> make_kv_prepare(const Request& request, int64_t tokens) {
  const Shape& s = request.shape;
  const int64_t dim = s.nope + s.rope, context = std::max(kPrepareContext, tokens);
  const int64_t sequences = sequences_of(tokens), ring = s.window - 1 + tokens;
  const KvRow row = kv_row(request.setting.numerics, s.nope, s.rope);
  auto o = std::make_unique<Operands<kv_prepare::Problem, kv_prepare::Args>>();
  Arena& arena = o->arena;
  o->tokens = tokens;
  o->problem = {request.setting, dim, s.rope, s.norm_eps, sequences, ring};
  const auto cache_of = [&] {
    const Tensor<3> blocks =
        arena.unwritten<3>(DType::kU8, {sequences, KvRow::blocks(ring), row.block_bytes()});
    return KvRows{row, View<std::byte, 3>(blocks.data, blocks.extent)};
  };
  const KvRows cache = cache_of();
  o->args = {arena.drawn<2>(request.activation(), {tokens, dim}), arena.vector(dim, 0.5, 1.5),
             places_of(arena, tokens, context), arena.rotary_table(s.frequencies, context), cache};
  o->outputs = {{cache.blocks.data, static_cast<size_t>(cache.blocks.size())}};
  o->work = {
      tokens * (dim * request.activation_bytes() + row.bytes() + row.scale_bytes() + s.rope * 4) + dim * 4,
      tokens * (4 * dim + 3 * s.rope)};
  for (const int64_t token : sample_tokens(tokens)) {
    auto& part = o->parts.emplace_back();
    part.name = fmt::format("token {}", token);
    part.problem = o->problem;
    part.args = o->args;
    part.args.kv = o->args.kv.slice(0, token, 1);
    part.args.places = o->args.places.slice(0, token, 1);
    part.args.cache = cache_of();
    const TokenPlace place = o->args.places(token);
    const auto row_at = [&](const KvRows& rows) {
      return std::span<const std::byte>(rows.at(place.sequence, place.position % ring),
                                        static_cast<size_t>(row.bytes()));
    };
    part.twins = {{"cache", row_at(part.args.cache), row_at(cache)}};
    part.judged = token == tokens - 1 ? Judged::kYes : Judged::kNo;
  }
  return prepare(request, request.catalog->kv_prepare, &kv_prepare::judge, std::move(o));
}

}  // namespace

void add_streams(const Request& request, std::vector<Case>& cases) {
  const Shape& s = request.shape;
  const int64_t dim = s.nope + s.rope;
  for (const auto kind : {hyper_connection::Kind::kLayer, hyper_connection::Kind::kHead}) {
    const char* const name = kind == hyper_connection::Kind::kHead ? "head" : "";
    for (const int64_t tokens : request.tokens_or({1, 8, 512}))
      cases.push_back({"hyper_connection", name, fmt::format("{} streams of {}", s.streams, s.hidden), tokens,
                       (tokens * 24 + 24 * 4) * s.hidden * 4,
                       [=, &request] { return make_hyper_connection(request, kind, tokens); }});
  }
  for (const int64_t tokens : request.tokens_or({1, 8, 512}))
    cases.push_back({"query_prepare", "", fmt::format("{} heads of {}", s.heads, dim), tokens,
                     tokens * s.heads * dim * 8,
                     [=, &request] { return make_query_prepare(request, tokens); }});
  for (const int64_t tokens : request.tokens_or({1, 8, 512}))
    cases.push_back({"kv_prepare", "", fmt::format("a row of {}", dim), tokens,
                     (tokens + sequences_of(tokens) * 4 * (tokens + s.window)) * dim * 4,
                     [=, &request] { return make_kv_prepare(request, tokens); }});
}

}  // namespace fulgurite::bench
