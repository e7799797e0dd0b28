// Operands in fp32: keys meet all heads where they lie; a second loop sums the heads.

#include <algorithm>

#include "fulgurite/core/cache_clauses.h"
#include "fulgurite/ops/index_select/index_select_cpu_blocks.h"

namespace fulgurite::index_select {
namespace {

constexpr int64_t kNearKeys = 64;  // 32 KiB of keys of 128: they stay in the first-level cache

Support supports(const Problem& problem) {
  const Numerics& numerics = problem.setting.numerics;
  return first_refusal({takes(numerics.activation, {Activation::kFp32}),
                        takes(numerics.index_quant, {IndexQuant::kNone}), takes(numerics.mma, {Mma::kExact}),
                        takes_no_pages(problem.page_tokens)});
}

// The scratch memory: products [heads, kTileKeys].
int64_t scratch_bytes(const Problem& problem, int64_t) { return problem.heads * kTileKeys * 4; }

void take_query(const Call&, int64_t, int64_t, std::byte*) {}
void take_keys(const Call&, const Keys&, std::byte*) {}

void score(const Call& call, int64_t token, int64_t, const Keys& keys, int64_t count, std::byte* scratch,
           float* scores) {
  const Problem& problem = call.problem;
  auto* const products = reinterpret_cast<float*>(scratch);
  const View<const float, 2> q = call.args.q.as<float>()[token];
  const View<const float, 2> cache = call.args.key_cache.keys.as<float>()[keys.sequence];
  const cpu::Rows heads{q.data, q.stride[0], problem.heads};
  for (int64_t i = 0; i < count; i += kNearKeys) {
    const cpu::Rows rows{cache.data + (keys.first + i) * cache.stride[0], cache.stride[0],
                         std::min(kNearKeys, count - i)};
    call.kernels.dot_rows(heads, rows, problem.head_dim, products + i, kTileKeys);
  }
  call.kernels.head_sums(products, kTileKeys, call.args.weights[token].data, problem.heads, count, scores);
}

constexpr Scoring kScoring{scratch_bytes, take_query, take_keys, score};

int64_t workspace_bytes(const Problem& problem, int threads) {
  return workspace_bytes(kScoring, problem, threads);
}
void run(const Problem& problem, const Args& args, const Lane& lane) {
  select(kScoring, problem, args, lane);
}

}  // namespace

const Implementation kCpu{"cpu", supports, workspace_bytes, run};

}  // namespace fulgurite::index_select
