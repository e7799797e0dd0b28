// Cases of router and experts.

#include <algorithm>

#include "bench/prepared.h"
#include "fulgurite/ops/experts/experts_audit.h"
#include "fulgurite/ops/router/router_audit.h"

namespace fulgurite::bench {
namespace {

// --- router ---

std::unique_ptr<Runnable> make_router(const Request& request, int64_t tokens) {
  const Shape& s = request.shape;
  auto o = std::make_unique<Operands<router::Problem, router::Args>>();
  Arena& arena = o->arena;
  o->tokens = tokens;
  o->problem.setting = request.setting;
  o->problem.hidden = s.hidden;
  o->problem.experts = s.experts;
  o->problem.groups = s.expert_groups;
  o->problem.groups_kept = s.groups_kept;
  o->problem.experts_per_token = s.experts_per_token;
  o->problem.factor = s.routed_scale;
  o->problem.weight = kBf16Matrix;
  const Tensor<2> ids = arena.unwritten<2>(DType::kI32, {tokens, s.experts_per_token}),
                  weights = arena.unwritten<2>(DType::kF32, {tokens, s.experts_per_token});
  o->args = {arena.drawn<2>(request.activation(), {tokens, s.hidden}),
             o->keep(arena.matrix(s.experts, s.hidden, kBf16Matrix)), arena.vector(s.experts, -0.1, 0.1),
             ids.as<int32_t>(), weights.as<float>()};
  o->outputs = {all_bytes(ids), all_bytes(weights)};
  o->work = {matrix_bytes(s.experts, s.hidden, kBf16Matrix) + s.experts * 4 +
                 tokens * (s.hidden * request.activation_bytes() + s.experts_per_token * 8),
             2 * tokens * s.hidden * s.experts, request.products()};
  for (const int64_t token : sample_tokens(tokens)) {
    auto& part = o->parts.emplace_back();
    const Tensor<2> own_ids = arena.unwritten<2>(DType::kI32, {1, s.experts_per_token}),
                    own_weights = arena.unwritten<2>(DType::kF32, {1, s.experts_per_token});
    part.name = fmt::format("token {}", token);
    part.problem = o->problem;
    part.args = o->args;
    part.args.x = o->args.x.slice(0, token, 1);
    part.args.expert_ids = own_ids.as<int32_t>();
    part.args.expert_weights = own_weights.as<float>();
    part.twins = {
        {"expert_ids", all_bytes(own_ids), leading_bytes(ids[token], s.experts_per_token)},
        {"expert_weights", all_bytes(own_weights), leading_bytes(weights[token], s.experts_per_token)}};
    part.judged = token == tokens - 1 ? Judged::kYes : Judged::kNo;
  }
  return prepare(request, request.catalog->router, &router::judge, std::move(o));
}

// --- experts ---

using ExpertsOperands = Operands<experts::Problem, experts::Args>;

// What the judged token is given: so many experts, and of a dense layer so much of its width.
constexpr int64_t kJudgedExperts = 2;
constexpr int64_t kJudgedWidth = 2048;

int64_t mlp_bytes(int64_t hidden, int64_t width) {
  return 2 * matrix_bytes(width, hidden, kFp8Matrix) + matrix_bytes(hidden, width, kFp8Matrix);
}

// Experts that own their bytes; the others are the same again. Between two uses of one, the others' bytes
// have passed through the caches several times.
int64_t owning_experts(const Shape& s) {
  const int64_t needed = 4 * cache_bytes() / mlp_bytes(s.hidden, s.expert_width) + 1;
  return std::min(s.experts, std::max<int64_t>(needed, 2 * s.experts_per_token));
}

experts::Mlp make_mlp(Arena& arena, int64_t hidden, int64_t width) {
  return {arena.matrix(width, hidden, kFp8Matrix), arena.matrix(width, hidden, kFp8Matrix),
          arena.matrix(hidden, width, kFp8Matrix)};
}

struct Mlps {
  std::vector<experts::Mlp> routed;
  experts::Mlp shared;
  experts::Mlp judged_shared;
};

std::shared_ptr<Mlps> make_mlps(Arena& arena, const Shape& s, int64_t experts, int64_t shared_width) {
  const auto mlps = std::make_shared<Mlps>();
  const auto owning = static_cast<size_t>(owning_experts(s));
  for (size_t e = 0; e < static_cast<size_t>(experts); ++e)
    mlps->routed.push_back(e < owning ? make_mlp(arena, s.hidden, s.expert_width) : mlps->routed[e % owning]);
  mlps->shared = make_mlp(arena, s.hidden, shared_width);
  mlps->judged_shared = shared_width > kJudgedWidth ? make_mlp(arena, s.hidden, kJudgedWidth) : mlps->shared;
  return mlps;
}

// As a trained router's load is: even. `groups_kept` groups at random, then experts of those at random.
void draw_experts(Random& random, const Shape& s, View<int32_t, 1> ids) {
  std::vector<int64_t> groups;
  for (int64_t group = 0; group < s.expert_groups; ++group) groups.push_back(group);
  for (size_t i = groups.size(); i > static_cast<size_t>(s.groups_kept); --i)
    groups.erase(groups.begin() + random.below(static_cast<int64_t>(i)));
  const int64_t a_group = s.experts / s.expert_groups;
  const int64_t candidates = s.groups_kept * a_group;
  int64_t chosen = 0;
  for (int64_t i = 0; i < candidates; ++i)
    if (random.below(candidates - i) < ids.extent[0] - chosen)
      ids(chosen++) = static_cast<int32_t>(groups[static_cast<size_t>(i / a_group)] * a_group + i % a_group);
}

int64_t experts_read(View<const int32_t, 2> ids, int64_t experts) {
  std::vector<bool> read(static_cast<size_t>(experts));
  for (int64_t t = 0; t < ids.extent[0]; ++t)
    for (int64_t i = 0; i < ids.extent[1]; ++i) read[static_cast<size_t>(ids(t, i))] = true;
  return std::count(read.begin(), read.end(), true);
}

// The token among its own; judged: on fewer experts, or less of a dense layer's width.
Part<experts::Problem, experts::Args> experts_part(ExpertsOperands& o, const Mlps& mlps, int64_t token,
                                                   Judged judged) {
  const Tensor<2> out = o.arena.unwritten<2>(o.args.out.dtype, {1, o.problem.hidden});
  Part<experts::Problem, experts::Args> part;
  part.name = fmt::format("token {}", token);
  part.problem = o.problem;
  part.problem.largest_batch = 1;
  part.args = o.args;
  part.args.x = o.args.x.slice(0, token, 1);
  part.args.out = out;
  part.judged = judged;
  int64_t chosen = o.problem.experts_per_token;
  if (judged == Judged::kYes) {
    chosen = std::min(kJudgedExperts, chosen);
    part.args.shared = &mlps.judged_shared;
    part.problem.experts_per_token = chosen;
    part.problem.shared_width = mlps.judged_shared.gate.out;
    part.name += fmt::format(", {} experts, shared width {}", chosen, part.problem.shared_width);
  } else {
    part.twins = {{"out", all_bytes(out), leading_bytes(o.args.out[token], o.problem.hidden)}};
  }
  if (o.problem.experts > 0) {
    part.args.expert_ids = o.args.expert_ids.slice(0, token, 1).slice(1, 0, chosen);
    part.args.expert_weights = o.args.expert_weights.slice(0, token, 1).slice(1, 0, chosen);
  }
  return part;
}

enum class Layer { kExperts, kDense };

std::unique_ptr<Runnable> make_experts(const Request& request, Layer layer, int64_t tokens) {
  const Shape& s = request.shape;
  const bool routed = layer == Layer::kExperts;
  auto o = std::make_unique<ExpertsOperands>();
  Arena& arena = o->arena;
  o->tokens = tokens;
  experts::Problem& problem = o->problem;
  problem.setting = request.setting;
  problem.hidden = s.hidden;
  problem.shared_width = routed ? s.expert_width : s.dense_width;
  problem.shared_weight = kFp8Matrix;
  problem.largest_batch = tokens;
  if (routed) {
    problem.experts = s.experts;
    problem.experts_per_token = s.experts_per_token;
    problem.width = s.expert_width;
    problem.weight = kFp8Matrix;
  }
  const auto mlps = make_mlps(arena, s, problem.experts, problem.shared_width);
  o->held = mlps;
  const Tensor<2> out = arena.unwritten<2>(request.activation(), {tokens, s.hidden});
  o->args.x = arena.drawn<2>(request.activation(), {tokens, s.hidden});
  o->args.experts = mlps->routed;
  o->args.shared = &mlps->shared;
  o->args.out = out;
  o->outputs = {all_bytes(out)};
  int64_t read = 0;
  if (routed) {
    const View<int32_t, 2> ids = arena.unwritten<2>(DType::kI32, {tokens, s.experts_per_token}).as<int32_t>();
    for (int64_t t = 0; t < tokens; ++t) draw_experts(arena.random(), s, ids[t]);
    read = experts_read(ids, s.experts);
    o->args.expert_ids = ids;
    o->args.expert_weights = View<float, 2>(arena.vector(tokens * s.experts_per_token, 0.1, 0.6).data,
                                            {tokens, s.experts_per_token});
  }
  const int64_t columns = problem.experts_per_token * problem.width + problem.shared_width;
  o->work = {read * mlp_bytes(s.hidden, problem.width) + mlp_bytes(s.hidden, problem.shared_width) +
                 tokens * (2 * s.hidden * request.activation_bytes() + problem.experts_per_token * 8),
             2 * tokens * 3 * s.hidden * columns, request.products()};
  for (const int64_t token : sample_tokens(tokens))
    o->parts.push_back(experts_part(*o, *mlps, token, Judged::kNo));
  if (tokens > 0) o->parts.push_back(experts_part(*o, *mlps, tokens - 1, Judged::kYes));
  return prepare(request, request.catalog->experts, &experts::judge, std::move(o));
}

}  // namespace

void add_feed_forward(const Request& request, std::vector<Case>& cases) {
  const Shape& s = request.shape;
  for (const int64_t tokens : request.tokens_or({1, 8, 512}))
    cases.push_back({"router", "", fmt::format("{}x{} bf16", s.experts, s.hidden), tokens,
                     2 * s.experts * s.hidden + tokens * s.hidden * 4,
                     [=, &request] { return make_router(request, tokens); }});
  for (const int64_t tokens : request.tokens_or({1, 8, 128}))
    cases.push_back(
        {"experts", "moe",
         fmt::format("{} of {} + 1, width {} e4m3", s.experts_per_token, s.experts, s.expert_width), tokens,
         (owning_experts(s) + 1) * mlp_bytes(s.hidden, s.expert_width) + tokens * s.hidden * 8,
         [=, &request] { return make_experts(request, Layer::kExperts, tokens); }});
  for (const int64_t tokens : request.tokens_or({1, 8, 512}))
    cases.push_back(
        {"experts", "dense", fmt::format("width {} e4m3", s.dense_width), tokens,
         mlp_bytes(s.hidden, s.dense_width) + mlp_bytes(s.hidden, kJudgedWidth) + tokens * s.hidden * 8,
         [=, &request] { return make_experts(request, Layer::kDense, tokens); }});
}

}  // namespace fulgurite::bench
