#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "fulgurite/core/element.h"
#include "fulgurite/core/tensor_core.h"
#include "fulgurite/ops/router/router.h"

namespace fulgurite::router {
namespace {

using Floats = std::vector<float>;
using Ids = std::vector<int32_t>;

Support takes_mma(const Numerics& numerics) {
  if (numerics.mma != Mma::kHopper) return std::nullopt;
  return fulgurite::on_tensor_cores(takes(numerics.activation, {Activation::kBf16}));
}

Support supports(const Problem& problem) {
  const Numerics& numerics = problem.setting.numerics;
  if (has_scales(problem.weight))
    return Refusal{"weight = " + describe(problem.weight) + ", takes f32 or bf16"};
  return first_refusal({takes(numerics.activation, {Activation::kFp32, Activation::kBf16, Activation::kFp16}),
                        takes(numerics.mma, {Mma::kExact, Mma::kHopper}), takes_mma(numerics)});
}

// Both operands as they are stored: bf16 alone makes products for tensor cores.
bool on_tensor_cores(const Args& args) {
  return args.x.dtype == DType::kBF16 && format_of(*args.weight).form == MatrixForm::kBF16;
}

float mma_logit(const Args& args, int64_t t, int64_t expert) {
  const int64_t in = args.x.extent[1];
  const auto x = mma_factors(MmaType::kBf16, in, [&](int64_t i) { return load(args.x, t, i); });
  const auto weight = mma_factors(MmaType::kBf16, in, [&](int64_t i) {
    return static_cast<float>(exact_element(*args.weight, expert, i));
  });
  return mma_sum(MmaType::kBf16, x, weight);
}

float logit(const Problem& problem, const Args& args, int64_t t, int64_t expert) {
  if (problem.setting.numerics.mma == Mma::kHopper && on_tensor_cores(args))
    return mma_logit(args, t, expert);
  double sum = 0.0;
  for (int64_t i = 0; i < args.x.extent[1]; ++i)
    sum += static_cast<double>(load(args.x, t, i)) * exact_element(*args.weight, expert, i);
  return static_cast<float>(sum);
}

float sigmoid(float l) { return static_cast<float>(1.0 / (1.0 + std::exp(-static_cast<double>(l)))); }

float softplus(float l) {
  if (l > 20.0f) return l;
  const auto e = static_cast<float>(std::exp(static_cast<double>(l)));
  return static_cast<float>(std::log1p(static_cast<double>(e)));
}

float score(Scoring scoring, float l) {
  if (scoring == Scoring::kSigmoid) return sigmoid(l);
  return static_cast<float>(std::sqrt(static_cast<double>(softplus(l))));
}

// `ids` by falling value: NaN last, equal values by rising id.
Ids ranked(Ids ids, const Floats& values) {
  std::stable_sort(ids.begin(), ids.end(), [&](int32_t a, int32_t b) {
    const float left = values[static_cast<size_t>(a)], right = values[static_cast<size_t>(b)];
    return left > right || (std::isnan(right) && !std::isnan(left));
  });
  return ids;
}

Ids range(int64_t first, int64_t count) {
  Ids ids(static_cast<size_t>(count));
  std::iota(ids.begin(), ids.end(), static_cast<int32_t>(first));
  return ids;
}

float group_score(const Ids& members, const Floats& z) {
  const Ids best = ranked(members, z);
  const float first = z[static_cast<size_t>(best[0])];
  return best.size() == 1 ? first : first + z[static_cast<size_t>(best[1])];
}

Ids members_of_kept_groups(const Problem& problem, const Floats& z) {
  const int64_t size = problem.experts / problem.groups;
  Floats scores;
  for (int64_t g = 0; g < problem.groups; ++g) scores.push_back(group_score(range(g * size, size), z));
  Ids groups = ranked(range(0, problem.groups), scores);
  groups.resize(static_cast<size_t>(problem.groups_kept));
  std::sort(groups.begin(), groups.end());
  Ids members;
  for (const int32_t g : groups)
    for (const int32_t expert : range(g * size, size)) members.push_back(expert);
  return members;
}

Ids chosen_by_score(const Problem& problem, const Args& args, const Floats& s) {
  Floats z;
  for (int64_t e = 0; e < problem.experts; ++e) z.push_back(s[static_cast<size_t>(e)] + args.bias(e));
  Ids chosen = ranked(members_of_kept_groups(problem, z), z);
  chosen.resize(static_cast<size_t>(problem.experts_per_token));
  return chosen;
}

Ids chosen_by_table(const Problem& problem, const Args& args, int64_t t) {
  Ids chosen;
  for (int64_t j = 0; j < problem.experts_per_token; ++j)
    chosen.push_back(static_cast<int32_t>(args.hash_table(args.ids(t), j)));
  return chosen;
}

void route(const Problem& problem, const Args& args, int64_t t) {
  Floats s;
  for (int64_t e = 0; e < problem.experts; ++e)
    s.push_back(score(problem.scoring, logit(problem, args, t, e)));
  Ids chosen = problem.hashed ? chosen_by_table(problem, args, t) : chosen_by_score(problem, args, s);
  std::sort(chosen.begin(), chosen.end());
  float sum = 0.0f;
  for (const int32_t expert : chosen) sum += s[static_cast<size_t>(expert)];
  for (int64_t j = 0; j < problem.experts_per_token; ++j) {
    const int32_t expert = chosen[static_cast<size_t>(j)];
    args.expert_ids(t, j) = expert;
    args.expert_weights(t, j) = (s[static_cast<size_t>(expert)] / sum) * problem.factor;
  }
}

void run(const Problem& problem, const Args& args, const Lane&) {
  check(problem, args);
  for (int64_t t = 0; t < args.x.extent[0]; ++t) route(problem, args, t);
}

}  // namespace

const Implementation kReference{"reference", supports, no_workspace<Problem>, run};

}  // namespace fulgurite::router
