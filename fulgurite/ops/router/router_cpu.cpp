// The logits of a few dozen tokens at a time, split over the experts; then the choice, split over the tokens.

#include <algorithm>
#include <cmath>
#include <utility>

#include "fulgurite/cpu/matmul.h"
#include "fulgurite/cpu/parallel_for.h"
#include "fulgurite/cpu/workspace.h"
#include "fulgurite/ops/router/router.h"

namespace fulgurite::router {
namespace {

constexpr int64_t kChunk = 64;  // tokens

Support supports(const Problem& problem) {
  const Numerics& numerics = problem.setting.numerics;
  if (problem.weight.form == MatrixForm::kE4M3Blocks)
    return Refusal{"weight = " + describe(problem.weight) + ", takes f32 or bf16"};
  return first_refusal({takes(numerics.activation, {Activation::kFp32}), takes(numerics.mma, {Mma::kExact})});
}

// What the choice of one token works in.
struct Choice {
  float* s;             // [experts]
  float* z;             // [experts]
  float* group_scores;  // [groups]
  bool* group_kept;     // [groups]
  bool* chosen;         // [experts]
};

Choice cut_choice(const Problem& problem, cpu::Cutter& cutter) {
  return {cutter.take<float>(problem.experts), cutter.take<float>(problem.experts),
          cutter.take<float>(problem.groups), cutter.take<bool>(problem.groups),
          cutter.take<bool>(problem.experts)};
}

int64_t choice_bytes(const Problem& problem) {
  cpu::Cutter cutter(nullptr);
  cut_choice(problem, cutter);
  return cutter.bytes();
}

struct Scratch {
  float* logits;       // [kChunk, experts]
  float* decoded;      // of each thread
  std::byte* choices;  // of each thread
};

Scratch cut_scratch(const Problem& problem, int threads, cpu::Cutter& cutter) {
  return {cutter.take<float>(kChunk * problem.experts),
          cutter.take<float>(threads * cpu::matmul_scratch(problem.hidden)),
          cutter.take<std::byte>(threads * choice_bytes(problem))};
}

int64_t workspace_bytes(const Problem& problem, int threads) {
  cpu::Cutter cutter(nullptr);
  cut_scratch(problem, threads, cutter);
  return cutter.bytes();
}

bool ranks_above(float a, float b) { return a > b || (std::isnan(b) && !std::isnan(a)); }

// Marks the `wanted` best of values[0, count) that `may` allows, ties to the lower.
template <class May>
void mark_best(const float* values, int64_t count, int64_t wanted, const May& may, bool* marked) {
  std::fill_n(marked, count, false);
  for (int64_t i = 0; i < wanted; ++i) {
    int64_t best = -1;
    for (int64_t e = 0; e < count; ++e)
      if (!marked[e] && may(e) && (best < 0 || ranks_above(values[e], values[best]))) best = e;
    marked[best] = true;
  }
}

// The sum of the two largest.
float group_score(const float* z, int64_t size) {
  if (size == 1) return z[0];
  float first = z[0], second = z[1];
  if (ranks_above(second, first)) std::swap(first, second);
  for (int64_t e = 2; e < size; ++e) {
    if (ranks_above(z[e], first)) {
      second = first;
      first = z[e];
    } else if (ranks_above(z[e], second)) {
      second = z[e];
    }
  }
  return first + second;
}

void choose(const Problem& problem, const Args& args, const float* logits, const Choice& choice) {
  const int64_t size = problem.experts / problem.groups;
  for (int64_t e = 0; e < problem.experts; ++e) {
    choice.s[e] = static_cast<float>(1.0 / (1.0 + std::exp(-static_cast<double>(logits[e]))));
    choice.z[e] = choice.s[e] + args.bias(e);
  }
  for (int64_t g = 0; g < problem.groups; ++g)
    choice.group_scores[g] = group_score(choice.z + g * size, size);
  mark_best(
      choice.group_scores, problem.groups, problem.groups_kept, [](int64_t) { return true; },
      choice.group_kept);
  mark_best(
      choice.z, problem.experts, problem.experts_per_token,
      [&](int64_t e) { return choice.group_kept[e / size]; }, choice.chosen);
}

void write_choice(const Problem& problem, const Args& args, int64_t t, const Choice& choice) {
  float sum = 0.0f;
  for (int64_t e = 0; e < problem.experts; ++e)
    if (choice.chosen[e]) sum += choice.s[e];
  int64_t j = 0;
  for (int64_t e = 0; e < problem.experts; ++e) {
    if (!choice.chosen[e]) continue;
    args.expert_ids(t, j) = static_cast<int32_t>(e);
    args.expert_weights(t, j) = (choice.s[e] / sum) * problem.factor;
    ++j;
  }
}

void run(const Problem& problem, const Args& args, const Lane& lane) {
  check(problem, args);
  cpu::Cutter cutter(lane.workspace.data());
  const Scratch scratch = cut_scratch(problem, lane.threads, cutter);
  const View<const float, 2> x = args.x.as<float>();
  for (int64_t first = 0; first < x.extent[0]; first += kChunk) {
    const int64_t count = std::min(kChunk, x.extent[0] - first);
    const cpu::Rows rows{x.data + first * x.stride[0], x.stride[0], count};
    cpu::matmul(cpu::kernels(problem.setting.target.isa), lane,
                {rows, args.weight, 0, problem.experts, scratch.logits, problem.experts}, scratch.decoded);
    cpu::parallel_for(lane, count, [&](int64_t begin, int64_t end, int thread) {
      cpu::Cutter own(scratch.choices + thread * choice_bytes(problem));
      const Choice choice = cut_choice(problem, own);
      for (int64_t i = begin; i < end; ++i) {
        choose(problem, args, scratch.logits + i * problem.experts, choice);
        write_choice(problem, args, first + i, choice);
      }
    });
  }
}

}  // namespace

const Implementation kCpu{"cpu", supports, workspace_bytes, run};

}  // namespace fulgurite::router
