// Four heads of a token read the selected rows together, in place, once for the scores and once for the
// output.

#include <algorithm>

#include "fulgurite/cpu/kernels.h"
#include "fulgurite/cpu/parallel_for.h"
#include "fulgurite/cpu/softmax.h"
#include "fulgurite/cpu/workspace.h"
#include "fulgurite/ops/sparse_attention/sparse_attention.h"

namespace fulgurite::sparse_attention {
namespace {

constexpr int64_t kGroup = 4;  // heads; as many as the kernels' largest register tile has rows

// With one tile and p in fp32, softmax_merge and softmax_denominator change nothing.
Support supports(const Problem& problem) {
  const Numerics& numerics = problem.setting.numerics;
  return first_refusal(
      {takes(numerics.activation, {Activation::kFp32}), takes(numerics.mla, {Mla::kAbsorbed}),
       takes(numerics.latent_cache, {LatentCache::kFp32}), takes(numerics.softmax_tile, {SoftmaxTile::kNone}),
       takes(numerics.softmax_p, {SoftmaxP::kFp32}), takes(numerics.qk_operands, {QkOperands::kFp32}),
       takes(numerics.mma, {Mma::kExact})});
}

struct Scratch {
  float* queries;  // [kGroup, latent + rope]
  float* scores;   // [kGroup, topk]
};

Scratch cut_scratch(const Problem& problem, cpu::Cutter& cutter) {
  return {cutter.take<float>(kGroup * (problem.latent + problem.rope)),
          cutter.take<float>(kGroup * problem.topk)};
}

int64_t bytes_per_thread(const Problem& problem) {
  cpu::Cutter cutter(nullptr);
  cut_scratch(problem, cutter);
  return cutter.bytes();
}

int64_t workspace_bytes(const Problem& problem, int threads) { return threads * bytes_per_thread(problem); }

// Heads [first, first + count) of token t.
struct Group {
  int64_t t, first, count;
};

cpu::Rows gather_queries(const Problem& problem, const Args& args, const Group& group, float* queries) {
  const View<const float, 2> q = args.q.as<float>()[group.t];
  const View<const float, 2> q_rope = args.q_rope.as<float>()[group.t];
  const int64_t width = problem.latent + problem.rope;
  for (int64_t a = 0; a < group.count; ++a) {
    std::copy_n(q[group.first + a].data, problem.latent, queries + a * width);
    std::copy_n(q_rope[group.first + a].data, problem.rope, queries + a * width + problem.latent);
  }
  return {queries, width, group.count};
}

void attend(const Problem& problem, const Args& args, const Group& group, const Scratch& scratch) {
  const cpu::Kernels& kernels = cpu::kernels(problem.setting.target.isa);
  const View<const int32_t, 1> selected = args.selected[group.t];
  const View<const std::byte, 2> cache = args.cache.rows[args.places(group.t).sequence];
  constexpr int64_t kBytes = sizeof(float);
  const cpu::Rows rows{reinterpret_cast<const float*>(cache.data), cache.stride[0] / kBytes,
                       selected_rows(selected), selected.data};
  const cpu::Rows queries = gather_queries(problem, args, group, scratch.queries);
  kernels.dot_rows(queries, rows, problem.latent + problem.rope, scratch.scores, rows.count);
  for (int64_t j = 0; j < group.count * rows.count; ++j) scratch.scores[j] *= problem.scale;

  float sum[kGroup];
  for (int64_t a = 0; a < group.count; ++a)
    sum[a] = cpu::softmax(scratch.scores + a * rows.count, rows.count);
  const View<float, 2> out = args.out.as<float>()[group.t];
  kernels.combine_rows(scratch.scores, rows.count, 1, group.count, rows, problem.latent,
                       out.data + group.first * out.stride[0], out.stride[0]);
  for (int64_t a = 0; a < group.count; ++a)
    for (int64_t c = 0; c < problem.latent; ++c) out(group.first + a, c) /= sum[a];
}

void run(const Problem& problem, const Args& args, const Lane& lane) {
  check(problem, args);
  const int64_t groups = (problem.heads + kGroup - 1) / kGroup;
  cpu::parallel_for(lane, args.q.extent[0] * groups, [&](int64_t begin, int64_t end, int thread) {
    cpu::Cutter cutter(lane.workspace.data() + thread * bytes_per_thread(problem));
    const Scratch scratch = cut_scratch(problem, cutter);
    for (int64_t i = begin; i < end; ++i) {
      const int64_t first = i % groups * kGroup;
      attend(problem, args, {i / groups, first, std::min(kGroup, problem.heads - first)}, scratch);
    }
  });
}

}  // namespace

const Implementation kCpu{"cpu", supports, workspace_bytes, run};

}  // namespace fulgurite::sparse_attention
