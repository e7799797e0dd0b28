#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <vector>

#include "fulgurite/ops/index_select/index_select.h"

namespace fulgurite::index_select {
namespace {

Support supports(const Problem& problem) {
  const Numerics& numerics = problem.setting.numerics;
  return first_refusal({takes(numerics.activation, {Activation::kFp32}),
                        takes(numerics.index_quant, {IndexQuant::kNone}),
                        takes(numerics.mma, {Mma::kExact})});
}

// max(0, x); a NaN stays.
float relu(float x) { return x < 0.0f ? 0.0f : x; }

float dot(View<const float, 1> a, View<const float, 1> b) {
  double sum = 0.0;
  for (int64_t d = 0; d < a.extent[0]; ++d) sum += static_cast<double>(a(d)) * static_cast<double>(b(d));
  return static_cast<float>(sum);
}

float index_logit(View<const float, 2> q, View<const float, 1> weights, View<const float, 1> key) {
  float sum = 0.0f;
  for (int64_t h = 0; h < q.extent[0]; ++h) sum = std::fma(weights(h), relu(dot(q[h], key)), sum);
  return sum;
}

void select(std::vector<uint64_t> keys, Ties ties, View<int32_t, 1> selected) {
  std::sort(keys.begin(), keys.end(), std::greater<>());
  std::vector<int32_t> chosen;
  for (const uint64_t key : keys)
    if (static_cast<int64_t>(chosen.size()) < selected.extent[0]) chosen.push_back(position_of(key, ties));
  std::sort(chosen.begin(), chosen.end());
  chosen.resize(static_cast<size_t>(selected.extent[0]), -1);
  for (int64_t j = 0; j < selected.extent[0]; ++j) selected(j) = chosen[static_cast<size_t>(j)];
}

void run(const Problem& problem, const Args& args, const Lane&) {
  check(problem, args);
  const View<const float, 3> q = args.q.as<float>();
  const View<const float, 3> cache = args.key_cache.as<float>();
  const Ties ties = problem.setting.numerics.ties;
  for (int64_t t = 0; t < q.extent[0]; ++t) {
    const TokenPlace place = args.places(t);
    std::vector<uint64_t> keys;
    for (int32_t s = 0; s < problem.context; ++s) {
      float score = -std::numeric_limits<float>::infinity();
      if (s <= place.position) {
        score = index_logit(q[t], args.weights[t], cache[place.sequence][s]);
        keys.push_back(rank_key(score, s, ties));
      }
      if (args.scores) args.scores(t, s) = score;
    }
    select(keys, ties, args.selected[t]);
  }
}

}  // namespace

const Implementation kReference{"reference", supports, no_workspace<Problem>, run};

}  // namespace fulgurite::index_select
