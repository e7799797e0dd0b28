// Cases of embedding, norm and rotary.

#include "bench/prepared.h"
#include "fulgurite/ops/embedding/embedding_audit.h"
#include "fulgurite/ops/norm/norm_audit.h"
#include "fulgurite/ops/rotary/rotary_audit.h"

namespace fulgurite::bench {
namespace {

std::unique_ptr<Runnable> make_embedding(const Request& request, int64_t tokens) {
  const Shape& s = request.shape;
  auto o = std::make_unique<Operands<embedding::Problem, embedding::Args>>();
  Arena& arena = o->arena;
  o->tokens = tokens;
  o->problem = {request.setting, s.vocabulary, s.hidden, kBf16Matrix};
  // Rows that no token names are pages that nobody touches.
  const std::span<std::byte> table = arena.bytes(s.vocabulary * s.hidden * 2);
  const View<bf16, 2> rows(reinterpret_cast<bf16*>(table.data()), {s.vocabulary, s.hidden});
  const View<int32_t, 1> ids = arena.unwritten<1>(DType::kI32, {tokens}).as<int32_t>();
  const Tensor<2> values = arena.drawn<2>(DType::kBF16, {tokens, s.hidden});
  for (int64_t t = 0; t < tokens; ++t) {
    ids(t) = static_cast<int32_t>(arena.random().below(s.vocabulary));
    std::memcpy(rows[ids(t)].data, values[t].data, static_cast<size_t>(s.hidden * 2));
  }
  const Tensor<2> out = arena.unwritten<2>(request.activation(), {tokens, s.hidden});
  o->args = {ids, o->keep({View<const bf16, 2>(rows), s.vocabulary, s.hidden}), out};
  o->outputs = {all_bytes(out)};
  o->work = {tokens * (s.hidden * (2 + request.activation_bytes()) + 4), 0};
  for (const int64_t token : sample_tokens(tokens)) {
    auto& part = o->parts.emplace_back();
    const Tensor<2> own = arena.unwritten<2>(request.activation(), {1, s.hidden});
    part.name = fmt::format("token {}", token);
    part.problem = o->problem;
    part.args = {ids.slice(0, token, 1), o->args.table, own};
    part.twins = {{"out", all_bytes(own), leading_bytes(out[token], s.hidden)}};
  }
  return prepare(request, request.catalog->embedding, &embedding::judge, std::move(o));
}

std::unique_ptr<Runnable> make_norm(const Request& request, int64_t tokens) {
  const Shape& s = request.shape;
  const DType type = request.activation();
  auto o = std::make_unique<Operands<norm::Problem, norm::Args>>();
  Arena& arena = o->arena;
  o->tokens = tokens;
  o->problem = {request.setting, s.hidden, s.norm_eps};
  const bool adds = s.streams == 0;  // hyper-connections have made the sum
  const auto unwritten = [&](int64_t count) { return arena.unwritten<2>(type, {count, s.hidden}); };
  o->args.x = arena.drawn<2>(type, {tokens, s.hidden});
  o->args.weight = arena.vector(s.hidden, 0.5, 1.5);
  o->args.out = unwritten(tokens);
  o->outputs = {all_bytes(o->args.out)};
  if (adds) {
    o->args.added = arena.drawn<2>(type, {tokens, s.hidden});
    o->args.sum = unwritten(tokens);
    o->outputs.push_back(all_bytes(o->args.sum));
  }
  o->work = {(adds ? 4 : 2) * tokens * s.hidden * request.activation_bytes() + s.hidden * 4,
             (adds ? 5 : 4) * tokens * s.hidden};
  for (const int64_t token : sample_tokens(tokens)) {
    auto& part = o->parts.emplace_back();
    const Tensor<2> own = unwritten(1);
    part.name = fmt::format("token {}", token);
    part.problem = o->problem;
    part.args = o->args;
    part.args.x = o->args.x.slice(0, token, 1);
    part.args.out = own;
    part.twins = {{"out", all_bytes(own), leading_bytes(o->args.out[token], s.hidden)}};
    if (!adds) continue;
    const Tensor<2> own_sum = unwritten(1);
    part.args.added = o->args.added.slice(0, token, 1);
    part.args.sum = own_sum;
    part.twins.push_back({"sum", all_bytes(own_sum), leading_bytes(o->args.sum[token], s.hidden)});
  }
  return prepare(request, request.catalog->norm, &norm::judge, std::move(o));
}

std::unique_ptr<Runnable> make_rotary(const Request& request, int64_t tokens) {
  constexpr int64_t kPositions = 4096;
  const Shape& s = request.shape;
  const DType type = request.activation();
  auto o = std::make_unique<Operands<rotary::Problem, rotary::Args>>();
  Arena& arena = o->arena;
  o->tokens = tokens;
  const int64_t positions = std::max(kPositions, tokens);
  o->problem = {request.setting, rotary::Layout::kInterleaved, s.heads, s.rope, positions};
  // In place, at the end of each head of the query; `before` is what it was.
  const Tensor<3> before = arena.drawn<3>(type, {tokens, s.heads, s.nope + s.rope}),
                  query = arena.unwritten<3>(type, before.extent);
  const auto bytes = static_cast<size_t>(Arena::bytes_of(query));
  o->restore = [=] { std::memcpy(query.data, before.data, bytes); };
  o->restore();
  o->args = {query.slice(2, s.nope, s.rope), places_of(arena, tokens, positions),
             arena.rotary_table(s.frequencies, positions)};
  o->work = {tokens * (2 * s.heads * s.rope * request.activation_bytes() + s.rope * 4),
             3 * tokens * s.heads * s.rope};
  for (const int64_t token : sample_tokens(tokens)) {
    auto& part = o->parts.emplace_back();
    const Tensor<3> own = arena.unwritten<3>(type, {1, s.heads, s.nope + s.rope});
    std::memcpy(own.data, before[token].data, static_cast<size_t>(Arena::bytes_of(own)));
    part.name = fmt::format("token {}", token);
    part.problem = o->problem;
    part.args = {own.slice(2, s.nope, s.rope), o->args.places.slice(0, token, 1), o->args.table};
    part.twins = {{"x", all_bytes(own), leading_bytes(query[token], s.heads * (s.nope + s.rope))}};
  }
  return prepare(request, request.catalog->rotary, &rotary::judge, std::move(o));
}

}  // namespace

void add_small_steps(const Request& request, std::vector<Case>& cases) {
  const Shape& s = request.shape;
  for (const int64_t tokens : request.tokens_or({1, 8, 512}))
    cases.push_back({"embedding", "", fmt::format("{}x{} bf16", s.vocabulary, s.hidden), tokens,
                     tokens * s.hidden * 8, [=, &request] { return make_embedding(request, tokens); }});
  for (const int64_t tokens : request.tokens_or({1, 8, 512}))
    cases.push_back({"norm", "", fmt::format("{}{}", s.hidden, s.streams == 0 ? ", with residual sum" : ""),
                     tokens, tokens * s.hidden * 16, [=, &request] { return make_norm(request, tokens); }});
  if (s.kv != 0) return;  // query_prepare rotates
  for (const int64_t tokens : request.tokens_or({1, 8, 512}))
    cases.push_back({"rotary", "", fmt::format("{} heads of {}", s.heads, s.rope), tokens,
                     tokens * s.heads * (s.nope + s.rope) * 8,
                     [=, &request] { return make_rotary(request, tokens); }});
}

}  // namespace fulgurite::bench
