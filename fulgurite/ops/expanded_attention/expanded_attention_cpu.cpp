// For measuring what absorption costs in accuracy, not for speed: each head of each token expands the keys
// and values that it reads.

#include <algorithm>

#include "fulgurite/cpu/matmul.h"
#include "fulgurite/cpu/parallel_for.h"
#include "fulgurite/cpu/softmax.h"
#include "fulgurite/cpu/workspace.h"
#include "fulgurite/ops/expanded_attention/expanded_attention.h"
#include "fulgurite/ops/sparse_attention/sparse_attention.h"

namespace fulgurite::expanded_attention {
namespace {

Support supports(const Problem& problem) {
  const Numerics& numerics = problem.setting.numerics;
  return first_refusal(
      {takes(numerics.activation, {Activation::kFp32}), takes(numerics.mla, {Mla::kExpanded}),
       takes(numerics.latent_cache, {LatentCache::kFp32}), takes(numerics.softmax_tile, {SoftmaxTile::kNone}),
       takes(numerics.softmax_p, {SoftmaxP::kFp32}), takes(numerics.qk_operands, {QkOperands::kFp32}),
       takes(numerics.mma, {Mma::kExact})});
}

struct Scratch {
  float* keys;    // [topk, nope + rope]
  float* values;  // [topk, value]
  float* p;       // [topk]
  float* decoded;
};

Scratch cut_scratch(const Problem& problem, cpu::Cutter& cutter) {
  return {cutter.take<float>(problem.topk * (problem.nope + problem.rope)),
          cutter.take<float>(problem.topk * problem.value), cutter.take<float>(problem.topk),
          cutter.take<float>(cpu::matmul_scratch(problem.latent))};
}

int64_t bytes_per_thread(const Problem& problem) {
  cpu::Cutter cutter(nullptr);
  cut_scratch(problem, cutter);
  return cutter.bytes();
}

int64_t workspace_bytes(const Problem& problem, int threads) { return threads * bytes_per_thread(problem); }

// out row j [count] = the cache's row j with weight rows [first, first + count).
struct Expansion {
  cpu::Rows rows;
  int64_t first, count;
  float* out;
  int64_t out_stride;
};

void expand(const cpu::Kernels& kernels, const PreparedMatrix& weight, const Expansion& expansion,
            float* decoded) {
  for (int64_t d = 0; d < expansion.count; d += cpu::kWeightTile) {
    const int64_t count = std::min(cpu::kWeightTile, expansion.count - d);
    const cpu::Rows w = cpu::weight_rows(kernels, weight, expansion.first + d, count, decoded);
    kernels.dot_rows(expansion.rows, w, weight.in, expansion.out + d, expansion.out_stride);
  }
}

void attend(const Problem& problem, const Args& args, int64_t t, int64_t h, const Scratch& scratch) {
  const cpu::Kernels& kernels = cpu::kernels(problem.setting.target.isa);
  const View<const int32_t, 1> selected = args.selected[t];
  const View<const float, 2> cache = args.cache.as<float>()[args.places(t).sequence];
  const int64_t count = sparse_attention::selected_rows(selected);
  const cpu::Rows rows{cache.data, cache.stride[0], count, selected.data};

  const int64_t key_width = problem.nope + problem.rope;
  const int64_t first = h * (problem.nope + problem.value);
  expand(kernels, *args.weight, {rows, first, problem.nope, scratch.keys, key_width}, scratch.decoded);
  expand(kernels, *args.weight, {rows, first + problem.nope, problem.value, scratch.values, problem.value},
         scratch.decoded);
  for (int64_t j = 0; j < count; ++j)
    std::copy_n(cache[selected(j)].data + problem.latent, problem.rope,
                scratch.keys + j * key_width + problem.nope);

  const cpu::Rows query{args.q.as<float>()[t][h].data, 0, 1};
  kernels.dot_rows(query, {scratch.keys, key_width, count}, key_width, scratch.p, 0);
  for (int64_t j = 0; j < count; ++j) scratch.p[j] *= problem.scale;
  const float sum = cpu::softmax(scratch.p, count);
  const View<float, 1> out = args.out.as<float>()[t][h];
  kernels.combine_rows(scratch.p, 0, 1, 1, {scratch.values, problem.value, count}, problem.value, out.data,
                       0);
  for (int64_t d = 0; d < problem.value; ++d) out(d) /= sum;
}

void run(const Problem& problem, const Args& args, const Lane& lane) {
  check(problem, args);
  cpu::parallel_for(lane, args.q.extent[0] * problem.heads, [&](int64_t begin, int64_t end, int thread) {
    cpu::Cutter cutter(lane.workspace.data() + thread * bytes_per_thread(problem));
    const Scratch scratch = cut_scratch(problem, cutter);
    for (int64_t i = begin; i < end; ++i)
      attend(problem, args, i / problem.heads, i % problem.heads, scratch);
  });
}

}  // namespace

const Implementation kCpu{"cpu", supports, workspace_bytes, run};

}  // namespace fulgurite::expanded_attention
