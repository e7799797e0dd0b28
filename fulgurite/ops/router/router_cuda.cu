#include <algorithm>
#include <cmath>

#include "fulgurite/cuda/linear_sum.h"
#include "fulgurite/ops/router/router.h"

namespace fulgurite::router {
namespace {

using cuda::kChunk;

Support supports(const Problem& problem) {
  return first_refusal({cuda::takes_generic(problem.setting), kReference.supports(problem)});
}

// Of a chunk of tokens.
struct Scores {
  float* experts = nullptr;  // [tokens, experts]
  float* groups = nullptr;   // [tokens, groups]
};

Scores scores_of(const Problem& problem, cuda::Scratch& scratch) {
  Scores scores;
  scores.experts = scratch.take<float>(kChunk * problem.experts);
  scores.groups = scratch.take<float>(kChunk * problem.groups);
  return scores;
}

FULGURITE_HOST_DEVICE float sigmoid(float l) {
  return static_cast<float>(1.0 / (1.0 + std::exp(-static_cast<double>(l))));
}

FULGURITE_HOST_DEVICE float softplus(float l) {
  if (l > 20.0f) return l;
  const auto e = static_cast<float>(std::exp(static_cast<double>(l)));
  return static_cast<float>(std::log1p(static_cast<double>(e)));
}

FULGURITE_HOST_DEVICE float score(Scoring scoring, float l) {
  if (scoring == Scoring::kSigmoid) return sigmoid(l);
  return static_cast<float>(std::sqrt(static_cast<double>(softplus(l))));
}

// Index: an expert of a token, counted from `first`.
struct Score {
  Problem problem;
  ConstTensor<2> x;
  cuda::Matrix weight;
  int64_t first;
  Scores scores;

  FULGURITE_HOST_DEVICE void operator()(int64_t index) const {
    const int64_t t = first + index / problem.experts, expert = index % problem.experts;
    const float l = cuda::sum_of_products(x, t, weight, expert, WeightReading::kExact);
    scores.experts[index] = score(problem.scoring, l);
  }
};

// Falling values, NaN last, equal ones by rising id: what stands in a ranking.
struct Ranked {
  float value = 0.0f;
  int64_t id = -1;  // none

  FULGURITE_HOST_DEVICE bool before(const Ranked& other) const {
    if (other.id < 0) return true;
    if (value > other.value || (std::isnan(other.value) && !std::isnan(value))) return true;
    if (other.value > value || (std::isnan(value) && !std::isnan(other.value))) return false;
    return id < other.id;
  }
};

// Index: a token's group, its score.
struct ScoreGroup {
  Problem problem;
  View<const float, 1> bias;
  Scores scores;

  FULGURITE_HOST_DEVICE void operator()(int64_t index) const {
    const int64_t t = index / problem.groups, size = problem.experts / problem.groups;
    const int64_t first = index % problem.groups * size;
    Ranked best, second;
    for (int64_t e = first; e < first + size; ++e) {
      const Ranked expert{scores.experts[t * problem.experts + e] + bias(e), e};
      if (expert.before(best)) {
        second = best;
        best = expert;
      } else if (expert.before(second)) {
        second = expert;
      }
    }
    scores.groups[index] = size == 1 ? best.value : best.value + second.value;
  }
};

// Index: a token, counted from `first`.
struct Choose {
  Problem problem;
  Args args;
  int64_t first;
  Scores scores;

  // Is the group among the best groups_kept?
  FULGURITE_HOST_DEVICE bool kept(int64_t index, int64_t group) const {
    const float* const values = scores.groups + index * problem.groups;
    int64_t better = 0;
    for (int64_t g = 0; g < problem.groups; ++g)
      if (g != group && Ranked{values[g], g}.before({values[group], group})) ++better;
    return better < problem.groups_kept;
  }

  // The best expert after `last` in the ranking of those that stay; `last` none: the best.
  FULGURITE_HOST_DEVICE Ranked next(int64_t index, const Ranked& last) const {
    const int64_t size = problem.experts / problem.groups;
    Ranked best;
    for (int64_t g = 0; g < problem.groups; ++g) {
      if (!kept(index, g)) continue;
      for (int64_t e = g * size; e < (g + 1) * size; ++e) {
        const Ranked expert{scores.experts[index * problem.experts + e] + args.bias(e), e};
        const bool open = last.id < 0 || (expert.id != last.id && last.before(expert));
        if (open && expert.before(best)) best = expert;
      }
    }
    return best;
  }

  // Ascending, where the ids are written.
  FULGURITE_HOST_DEVICE void insert(int64_t t, int64_t count, int32_t expert) const {
    int64_t j = count;
    for (; j > 0 && args.expert_ids(t, j - 1) > expert; --j)
      args.expert_ids(t, j) = args.expert_ids(t, j - 1);
    args.expert_ids(t, j) = expert;
  }

  FULGURITE_HOST_DEVICE void operator()(int64_t index) const {
    const int64_t t = first + index, chosen = problem.experts_per_token;
    Ranked last;
    for (int64_t j = 0; j < chosen; ++j) {
      if (!problem.hashed) last = next(index, last);
      insert(t, j, static_cast<int32_t>(problem.hashed ? args.hash_table(args.ids(t), j) : last.id));
    }
    const float* const s = scores.experts + index * problem.experts;
    float sum = 0.0f;
    for (int64_t j = 0; j < chosen; ++j) sum += s[args.expert_ids(t, j)];
    for (int64_t j = 0; j < chosen; ++j)
      args.expert_weights(t, j) = (s[args.expert_ids(t, j)] / sum) * problem.factor;
  }
};

int64_t workspace_bytes(const Problem& problem, int) {
  cuda::Scratch scratch;
  scores_of(problem, scratch);
  return scratch.used();
}

void run(const Problem& problem, const Args& args, const Lane& lane) {
  check(problem, args);
  cuda::Scratch scratch(lane);
  const Scores scores = scores_of(problem, scratch);
  const cuda::Matrix weight(*args.weight);
  cuda::for_each_chunk(args.x.extent[0], kChunk, [&](int64_t first, int64_t count) {
    cuda::for_each(lane, count * problem.experts, Score{problem, args.x, weight, first, scores});
    if (!problem.hashed) cuda::for_each(lane, count * problem.groups, ScoreGroup{problem, args.bias, scores});
    cuda::for_each(lane, count, Choose{problem, args, first, scores});
  });
}

}  // namespace

const Implementation kCuda{"cuda", supports, workspace_bytes, run, DeviceKind::kCuda};

}  // namespace fulgurite::router
