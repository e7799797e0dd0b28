// The logits of a few dozen tokens at a time, split over the experts, in fp32 or from bf16 pairs; then the
// choice, split over the tokens.

#include <algorithm>
#include <cmath>
#include <utility>

#include "fulgurite/cpu/bf16_matmul.h"
#include "fulgurite/cpu/matmul.h"
#include "fulgurite/cpu/rows.h"
#include "fulgurite/ops/router/router.h"

namespace fulgurite::router {
namespace {

constexpr int64_t kChunk = 64;             // tokens
constexpr int64_t kWorthSplitting = 1024;  // choices, each with an exp

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

enum class Operands { kFp32, kBf16 };  // of the row's products

struct Scratch {
  float* logits;         // [kChunk, experts]
  float* widened;        // kFp32: [kChunk, hidden] of rows that are not fp32
  float* decoded;        // kFp32: of each thread
  cpu::OperandMemory x;  // kBf16
  cpu::SumTiles tiles;   // kBf16
  std::byte* choices;    // of each thread
};

Scratch cut_scratch(const Problem& problem, Operands operands, int threads, cpu::Cutter& cutter) {
  Scratch scratch{};
  scratch.logits = cutter.take<float>(kChunk * problem.experts);
  if (operands == Operands::kBf16) {
    scratch.x = cpu::cut_operand_memory(cutter, kChunk, problem.hidden);
    scratch.tiles = cpu::cut_sum_tiles(cutter, threads, kChunk);
  } else {
    const bool widens = problem.setting.numerics.activation != Activation::kFp32;
    scratch.widened = cutter.take<float>(widens ? kChunk * problem.hidden : 0);
    scratch.decoded = cutter.take<float>(threads * cpu::matmul_scratch(problem.hidden));
  }
  scratch.choices = cutter.take<std::byte>(threads * choice_bytes(problem));
  return scratch;
}

template <Operands operands>
int64_t workspace_bytes(const Problem& problem, int threads) {
  cpu::Cutter cutter(nullptr);
  cut_scratch(problem, operands, threads, cutter);
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

float sigmoid(float l) { return static_cast<float>(1.0 / (1.0 + std::exp(-static_cast<double>(l)))); }

float sqrt_softplus(float l) {
  if (l > 20.0f) return std::sqrt(l);  // correctly rounded, as through double
  const auto e = static_cast<float>(std::exp(static_cast<double>(l)));
  return std::sqrt(static_cast<float>(std::log1p(static_cast<double>(e))));
}

void make_scores(const Problem& problem, const float* logits, float* s) {
  const auto score = problem.scoring == Scoring::kSigmoid ? sigmoid : sqrt_softplus;
  for (int64_t e = 0; e < problem.experts; ++e) s[e] = score(logits[e]);
}

void choose_by_table(const Problem& problem, const Args& args, int64_t t, const Choice& choice) {
  std::fill_n(choice.chosen, problem.experts, false);
  for (int64_t j = 0; j < problem.experts_per_token; ++j)
    choice.chosen[args.hash_table(args.ids(t), j)] = true;
}

void choose_by_score(const Problem& problem, const Args& args, const Choice& choice) {
  const int64_t size = problem.experts / problem.groups;
  for (int64_t e = 0; e < problem.experts; ++e) choice.z[e] = choice.s[e] + args.bias(e);
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

void multiply_fp32(const Problem& problem, const Args& args, const Scratch& scratch, const Lane& lane) {
  const cpu::Kernels& kernels = cpu::kernels(problem.setting.target.isa);
  const cpu::Rows rows = cpu::fp32_rows(kernels, args.x, scratch.widened);
  cpu::matmul(kernels, cpu::lane_worth(lane, rows.count, problem.experts, problem.hidden),
              {rows, args.weight, 0, problem.experts, scratch.logits, problem.experts}, scratch.decoded);
}

void multiply_bf16(const Problem& problem, const Args& args, const Scratch& scratch, const Lane& lane) {
  const cpu::Kernels& kernels = cpu::kernels(problem.setting.target.isa);
  const int64_t tokens = args.x.extent[0], stride = cpu::tile_lanes(tokens);
  const cpu::OperandRows x = cpu::copy_rows({args.x, tokens}, scratch.x);
  cpu::share_tiles(lane, tokens, problem.experts, problem.hidden, [&](cpu::RowRange rows, int thread) {
    const cpu::SumTile tile = scratch.tiles[thread];
    cpu::bf16_sums(kernels, x, *args.weight, rows, tile);
    for (int64_t t = 0; t < tokens; ++t)
      std::copy_n(tile.sums + t * stride, rows.count, scratch.logits + t * problem.experts + rows.first);
  });
}

void choose_all(const Problem& problem, const Args& args, const Scratch& scratch, const Lane& lane) {
  const int64_t tokens = args.x.extent[0];
  const Lane split = tokens * problem.experts >= kWorthSplitting ? lane : Lane{};
  cpu::parallel_for(split, tokens, [&](int64_t begin, int64_t end, int thread) {
    cpu::Cutter own(scratch.choices + thread * choice_bytes(problem));
    const Choice choice = cut_choice(problem, own);
    for (int64_t t = begin; t < end; ++t) {
      make_scores(problem, scratch.logits + t * problem.experts, choice.s);
      if (problem.hashed)
        choose_by_table(problem, args, t, choice);
      else
        choose_by_score(problem, args, choice);
      write_choice(problem, args, t, choice);
    }
  });
}

template <Operands operands>
void run(const Problem& problem, const Args& args, const Lane& lane) {
  check(problem, args);
  cpu::Cutter cutter(lane.workspace.data());
  const Scratch scratch = cut_scratch(problem, operands, lane.threads, cutter);
  for (int64_t first = 0; first < args.x.extent[0]; first += kChunk) {
    const int64_t count = std::min(kChunk, args.x.extent[0] - first);
    Args chunk = args;
    chunk.x = args.x.slice(0, first, count);
    if (problem.hashed) chunk.ids = args.ids.slice(0, first, count);
    chunk.expert_ids = args.expert_ids.slice(0, first, count);
    chunk.expert_weights = args.expert_weights.slice(0, first, count);
    (operands == Operands::kBf16 ? multiply_bf16 : multiply_fp32)(problem, chunk, scratch, lane);
    choose_all(problem, chunk, scratch, lane);
  }
}

Support takes_fp32_operands(const Problem& problem) {
  return first_refusal({takes(problem.setting.numerics.mma, {Mma::kExact}), kReference.supports(problem)});
}

Support takes_bf16_operands(const Problem& problem) {
  if (problem.weight.form != MatrixForm::kBF16)
    return Refusal{"weight = " + describe(problem.weight) + ", takes bf16"};
  return first_refusal({takes(problem.setting.numerics.activation, {Activation::kBf16}),
                        takes(problem.setting.numerics.mma, {Mma::kExact})});
}

}  // namespace

const Implementation kCpu{"cpu", takes_fp32_operands, workspace_bytes<Operands::kFp32>, run<Operands::kFp32>};
const Implementation kCpuBf16{"cpu_bf16", takes_bf16_operands, workspace_bytes<Operands::kBf16>,
                              run<Operands::kBf16>};

}  // namespace fulgurite::router
