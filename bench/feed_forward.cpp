// Cases of router and experts.

#include <algorithm>

#include "bench/prepared.h"
#include "fulgurite/ops/experts/experts_audit.h"
#include "fulgurite/ops/router/router_audit.h"

namespace fulgurite::bench {
namespace {

// --- router ---

enum class Choice { kScores, kHashed };

// A hash layer's tokens, and the table's row of each: other rows are pages that nobody touches.
void draw_table(Arena& arena, const router::Problem& problem, int64_t tokens, router::Args& args) {
  const View<int32_t, 1> ids = arena.unwritten<1>(DType::kI32, {tokens}).as<int32_t>();
  const std::span<std::byte> memory = arena.bytes(problem.vocabulary * problem.experts_per_token * 8);
  const View<int64_t, 2> table(reinterpret_cast<int64_t*>(memory.data()),
                               {problem.vocabulary, problem.experts_per_token});
  for (int64_t t = 0; t < tokens; ++t) {
    ids(t) = static_cast<int32_t>(arena.random().below(problem.vocabulary));
    const int64_t first = arena.random().below(problem.experts);
    for (int64_t i = 0; i < problem.experts_per_token; ++i)
      table(ids(t), i) = (first + 7 * i) % problem.experts;
  }
  args.ids = ids;
  args.hash_table = table;
}

std::unique_ptr<Runnable> make_router(const Request& request, Choice choice, int64_t tokens) {
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
  if (s.kv != 0) o->problem.scoring = router::Scoring::kSqrtSoftplus;
  const Tensor<2> ids = arena.unwritten<2>(DType::kI32, {tokens, s.experts_per_token}),
                  weights = arena.unwritten<2>(DType::kF32, {tokens, s.experts_per_token});
  o->args = {arena.drawn<2>(request.activation(), {tokens, s.hidden}),
             o->keep(arena.matrix(s.experts, s.hidden, kBf16Matrix)), arena.vector(s.experts, -0.1, 0.1),
             ids.as<int32_t>(), weights.as<float>()};
  if (choice == Choice::kHashed) {
    o->problem.hashed = true;
    o->problem.vocabulary = s.vocabulary;
    o->args.bias = {};
    draw_table(arena, o->problem, tokens, o->args);
  }
  o->outputs = {all_bytes(ids), all_bytes(weights)};
  const int64_t chosen_by =
      choice == Choice::kHashed ? tokens * (4 + 8 * s.experts_per_token) : s.experts * 4;
  o->work = {matrix_bytes(s.experts, s.hidden, kBf16Matrix) + chosen_by +
                 tokens * (s.hidden * request.activation_bytes() + s.experts_per_token * 8),
             2 * tokens * s.hidden * s.experts};
  for (const int64_t token : sample_tokens(tokens)) {
    auto& part = o->parts.emplace_back();
    const Tensor<2> own_ids = arena.unwritten<2>(DType::kI32, {1, s.experts_per_token}),
                    own_weights = arena.unwritten<2>(DType::kF32, {1, s.experts_per_token});
    part.name = fmt::format("token {}", token);
    part.problem = o->problem;
    part.args = o->args;
    part.args.x = o->args.x.slice(0, token, 1);
    if (choice == Choice::kHashed) part.args.ids = o->args.ids.slice(0, token, 1);
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

int64_t mlp_bytes(int64_t hidden, int64_t width, const MatrixFormat& format) {
  return 2 * matrix_bytes(width, hidden, format) + matrix_bytes(hidden, width, format);
}
int64_t expert_bytes(const Shape& s) { return mlp_bytes(s.hidden, s.expert_width, expert_matrix(s)); }
int64_t shared_bytes(const Shape& s, int64_t width) { return mlp_bytes(s.hidden, width, fp8_matrix(s)); }

// Experts that own their bytes; the others are the same again. Between two uses of one, the others' bytes
// have passed through the caches several times.
int64_t owning_experts(const Shape& s) {
  const int64_t needed = 4 * cache_bytes() / expert_bytes(s) + 1;
  return std::min(s.experts, std::max<int64_t>(needed, 2 * s.experts_per_token));
}

experts::Mlp make_mlp(Arena& arena, int64_t hidden, int64_t width, const MatrixFormat& format) {
  return {arena.matrix(width, hidden, format), arena.matrix(width, hidden, format),
          arena.matrix(hidden, width, format)};
}

struct Mlps {
  std::span<experts::Mlp> routed;
  const experts::Mlp* shared;
  const experts::Mlp* judged_shared;
};

Mlps make_mlps(Arena& arena, const Shape& s, int64_t experts, int64_t shared_width) {
  Mlps mlps{arena.objects<experts::Mlp>(experts), nullptr, nullptr};
  const auto owning = static_cast<size_t>(owning_experts(s));
  for (size_t e = 0; e < mlps.routed.size(); ++e)
    mlps.routed[e] =
        e < owning ? make_mlp(arena, s.hidden, s.expert_width, expert_matrix(s)) : mlps.routed[e % owning];
  mlps.shared = arena.object(make_mlp(arena, s.hidden, shared_width, fp8_matrix(s)));
  mlps.judged_shared = shared_width > kJudgedWidth
                           ? arena.object(make_mlp(arena, s.hidden, kJudgedWidth, fp8_matrix(s)))
                           : mlps.shared;
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
    part.args.shared = mlps.judged_shared;
    part.problem.experts_per_token = chosen;
    part.problem.shared_width = mlps.judged_shared->gate.out;
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
  problem.shared_weight = fp8_matrix(s);
  problem.limit = s.swiglu_limit;
  problem.weight_before_down = s.kv != 0;
  problem.largest_batch = tokens;
  if (routed) {
    problem.experts = s.experts;
    problem.experts_per_token = s.experts_per_token;
    problem.width = s.expert_width;
    problem.weight = expert_matrix(s);
  }
  const Mlps mlps = make_mlps(arena, s, problem.experts, problem.shared_width);
  const Tensor<2> out = arena.unwritten<2>(request.activation(), {tokens, s.hidden});
  o->args.x = arena.drawn<2>(request.activation(), {tokens, s.hidden});
  o->args.experts = mlps.routed;
  o->args.shared = mlps.shared;
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
  o->work = {read * expert_bytes(s) + shared_bytes(s, problem.shared_width) +
                 tokens * (2 * s.hidden * request.activation_bytes() + problem.experts_per_token * 8),
             2 * tokens * 3 * s.hidden * columns,
             linear::quantizes(gate_problem(problem, experts::Part::kShared)) ? Arithmetic::kCodes
                                                                              : Arithmetic::kFp32};
  for (const int64_t token : sample_tokens(tokens))
    o->parts.push_back(experts_part(*o, mlps, token, Judged::kNo));
  if (tokens > 0) o->parts.push_back(experts_part(*o, mlps, tokens - 1, Judged::kYes));
  return prepare(request, request.catalog->experts, &experts::judge, std::move(o));
}

}  // namespace

void add_feed_forward(const Request& request, std::vector<Case>& cases) {
  const Shape& s = request.shape;
  const auto add_router = [&](const char* name, const char* by, Choice choice) {
    for (const int64_t tokens : request.tokens_or({1, 8, 512}))
      cases.push_back({"router", name, fmt::format("{}x{} bf16{}", s.experts, s.hidden, by), tokens,
                       2 * s.experts * s.hidden + tokens * s.hidden * 4,
                       [=, &request] { return make_router(request, choice, tokens); }});
  };
  add_router("", "", Choice::kScores);
  if (s.hash_layers) add_router("hashed", ", chosen by token id", Choice::kHashed);
  const char* const formats = s.fp4_experts ? "mxfp4 + e4m3" : "e4m3";
  for (const int64_t tokens : request.tokens_or({1, 8, 128}))
    cases.push_back(
        {"experts", "moe",
         fmt::format("{} of {} + 1, width {} {}", s.experts_per_token, s.experts, s.expert_width, formats),
         tokens,
         owning_experts(s) * expert_bytes(s) + shared_bytes(s, s.expert_width) + tokens * s.hidden * 8,
         [=, &request] { return make_experts(request, Layer::kExperts, tokens); }});
  if (s.kv != 0) return;  // every layer has experts
  for (const int64_t tokens : request.tokens_or({1, 8, 512}))
    cases.push_back({"experts", "dense", fmt::format("width {} e4m3", s.dense_width), tokens,
                     shared_bytes(s, s.dense_width) + shared_bytes(s, kJudgedWidth) + tokens * s.hidden * 8,
                     [=, &request] { return make_experts(request, Layer::kDense, tokens); }});
}

}  // namespace fulgurite::bench
