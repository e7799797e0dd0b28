// For measuring what absorption costs in accuracy, not for speed: each head of each token expands the keys
// and values that it reads, in fp32, and rounds where the contract does.

#include <algorithm>
#include <cmath>
#include <limits>

#include "fulgurite/cpu/matmul.h"
#include "fulgurite/cpu/parallel_for.h"
#include "fulgurite/cpu/rows.h"
#include "fulgurite/cpu/softmax.h"
#include "fulgurite/cpu/workspace.h"
#include "fulgurite/ops/expanded_attention/expanded_attention.h"
#include "fulgurite/ops/sparse_attention/sparse_attention.h"

namespace fulgurite::expanded_attention {
namespace {

constexpr int64_t kRows = 64;    // of the cache that are decoded at once
constexpr int64_t kWeights = 8;  // rows of kv_b likewise
constexpr float kInfinity = std::numeric_limits<float>::infinity();

Support takes_weight(const MatrixFormat& weight) {
  if (!is_fp4(weight)) return std::nullopt;
  return Refusal{"weight in " + describe(weight) + ", takes f32, bf16 or e4m3 blocks"};
}

// bf16 operands are what a bf16 activation gives anyway, where rows of the cache have no more bits; those of
// an fp16 activation are made.
Support supports(const Problem& problem) {
  const Numerics& numerics = problem.setting.numerics;
  Support operands;
  if (numerics.activation == Activation::kFp32) operands = takes(numerics.qk_operands, {QkOperands::kFp32});
  if (numerics.activation == Activation::kBf16)
    operands = takes(numerics.latent_cache, {LatentCache::kBf16, LatentCache::kFp8});
  return first_refusal({takes(numerics.activation, {Activation::kFp32, Activation::kBf16, Activation::kFp16}),
                        takes(numerics.mla, {Mla::kExpanded}), operands,
                        takes(numerics.softmax_merge, {SoftmaxMerge::kRunning}),
                        takes(numerics.mma, {Mma::kExact}), takes_weight(problem.weight)});
}

struct Scratch {
  float* keys;     // [topk, nope + rope]
  float* values;   // [topk, value]
  float* p;        // [topk]
  float* query;    // [nope + rope]
  float* sums;     // [value]
  float* tile;     // [value]
  float* rows;     // [kRows, latent + rope]
  float* weights;  // [kWeights, latent]
};

Scratch cut_scratch(const Problem& problem, cpu::Cutter& cutter) {
  const int64_t key_width = problem.nope + problem.rope;
  return {cutter.take<float>(problem.topk * key_width),
          cutter.take<float>(problem.topk * problem.value),
          cutter.take<float>(problem.topk),
          cutter.take<float>(key_width),
          cutter.take<float>(problem.value),
          cutter.take<float>(problem.value),
          cutter.take<float>(kRows * (problem.latent + problem.rope)),
          cutter.take<float>(kWeights * problem.latent)};
}

int64_t bytes_per_thread(const Problem& problem) {
  cpu::Cutter cutter(nullptr);
  cut_scratch(problem, cutter);
  return cutter.bytes();
}

int64_t workspace_bytes(const Problem& problem, int threads) { return threads * bytes_per_thread(problem); }

// One head of one token.
struct Head {
  const Problem& problem;
  const Args& args;
  const cpu::Kernels& kernels;
  const Scratch& scratch;
  int64_t t, h, count;

  bool rounds_operands() const {
    return args.q.dtype == DType::kF16 && problem.setting.numerics.qk_operands == QkOperands::kBf16;
  }
  int64_t key_width() const { return problem.nope + problem.rope; }
  void round(float* values, int64_t n) const { cpu::round_floats(kernels, args.q.dtype, values, n); }

  void decode_row(int64_t j, float* to) const {
    const LatentRow& form = args.cache.row;
    const std::byte* const row = args.cache.at(args.places(t).sequence, args.selected(t, j));
    for (int64_t c = 0; c < problem.latent; ++c) to[c] = form.latent_value(row, c);
    for (int64_t r = 0; r < problem.rope; ++r) to[problem.latent + r] = form.rope_value(row, r);
  }

  // out row j [stride] = rows of the cache with rows [first, first + n) of the head's part of kv_b.
  void expand(int64_t rows, int64_t first, int64_t n, float* out, int64_t stride) const {
    const int64_t base = h * (problem.nope + problem.value) + first;
    for (int64_t d = 0; d < n; d += kWeights) {
      const int64_t some = std::min(kWeights, n - d);
      for (int64_t i = 0; i < some; ++i)
        cpu::read_weight(kernels, *args.weight, reading_of(problem.setting.numerics), base + d + i, 0,
                         problem.latent, scratch.weights + i * problem.latent);
      kernels.dot_rows({scratch.rows, problem.latent + problem.rope, rows},
                       {scratch.weights, problem.latent, some}, problem.latent, out + d, stride);
    }
    for (int64_t j = 0; j < rows; ++j) round(out + j * stride, n);
  }

  void expand_all() const {
    const int64_t width = problem.latent + problem.rope;
    for (int64_t first = 0; first < count; first += kRows) {
      const int64_t rows = std::min(kRows, count - first);
      float* const keys = scratch.keys + first * key_width();
      for (int64_t j = 0; j < rows; ++j) decode_row(first + j, scratch.rows + j * width);
      expand(rows, 0, problem.nope, keys, key_width());
      expand(rows, problem.nope, problem.value, scratch.values + first * problem.value, problem.value);
      for (int64_t j = 0; j < rows; ++j)
        std::copy_n(scratch.rows + j * width + problem.latent, problem.rope,
                    keys + j * key_width() + problem.nope);
    }
  }

  void score_all() const {
    const float* const query = cpu::as_floats(kernels, args.q[t][h], 0, key_width(), scratch.query);
    if (rounds_operands()) {
      kernels.round_bf16(scratch.query, key_width());
      kernels.round_bf16(scratch.keys, count * key_width());
    }
    kernels.dot_rows({query, 0, 1}, {scratch.keys, key_width(), count}, key_width(), scratch.p, 0);
    for (int64_t j = 0; j < count; ++j) scratch.p[j] *= problem.scale;
  }

  // Scores [first, first + n) to p, relative to `largest`; returns what they add to the denominator.
  float weigh(int64_t first, int64_t n, float largest) const {
    const Numerics& numerics = problem.setting.numerics;
    float sum = 0.0f;
    for (float* p = scratch.p + first; p < scratch.p + first + n; ++p) {
      const float e = *p == -kInfinity ? 0.0f : cpu::exp_not_positive(*p - largest);
      *p = numerics.softmax_p == SoftmaxP::kBf16 ? round_to_bf16(e) : e;
      sum += numerics.softmax_denominator == SoftmaxDenominator::kRounded ? *p : e;
    }
    return sum;
  }

  void attend() const {
    expand_all();
    score_all();
    const SoftmaxTile knob = problem.setting.numerics.softmax_tile;
    const int64_t keys = knob == SoftmaxTile::kNone ? count : knob == SoftmaxTile::k64 ? 64 : 128;
    float largest = -kInfinity, denominator = 0.0f;
    std::fill_n(scratch.sums, problem.value, 0.0f);
    for (int64_t first = 0; first < count; first += keys) {
      const int64_t n = std::min(keys, count - first);
      const float before = largest;
      for (int64_t j = first; j < first + n; ++j) largest = scratch.p[j] > largest ? scratch.p[j] : largest;
      const float rescale = before == -kInfinity ? 0.0f : cpu::exp_not_positive(before - largest);
      denominator = std::fma(denominator, rescale, weigh(first, n, largest));
      kernels.combine_rows(scratch.p + first, 0, 1, 1,
                           {scratch.values + first * problem.value, problem.value, n}, problem.value,
                           scratch.tile, 0);
      for (int64_t d = 0; d < problem.value; ++d)
        scratch.sums[d] = scratch.sums[d] * rescale + scratch.tile[d];
    }
    write(denominator);
  }

  void write(float denominator) const {
    for (int64_t d = 0; d < problem.value; ++d) scratch.sums[d] = scratch.sums[d] / denominator;
    cpu::write_floats(kernels, scratch.sums, 0, problem.value, args.out[t][h]);
  }
};

void run(const Problem& problem, const Args& args, const Lane& lane) {
  check(problem, args);
  cpu::parallel_for(lane, args.q.extent[0] * problem.heads, [&](int64_t begin, int64_t end, int thread) {
    cpu::Cutter cutter(lane.workspace.data() + thread * bytes_per_thread(problem));
    const Scratch scratch = cut_scratch(problem, cutter);
    for (int64_t i = begin; i < end; ++i) {
      const int64_t t = i / problem.heads, count = sparse_attention::selected_rows(args.selected[t]);
      Head{problem, args, cpu::kernels(problem.setting.target.isa), scratch, t, i % problem.heads, count}
          .attend();
    }
  });
}

}  // namespace

const Implementation kCpu{"cpu", supports, workspace_bytes, run};

}  // namespace fulgurite::expanded_attention
