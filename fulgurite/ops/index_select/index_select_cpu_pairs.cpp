// Operands in bf16 and e4m3: the keys of a tile become panels of bf16 pairs, once, and every token of the
// block meets them with its heads, widened to bf16 once; a second loop sums the heads. Codes are exact in
// bf16, and so are their products in fp32. The limit is the machine's rate of bf16 dot products, even of
// one token: each key is 132 bytes and 2 * heads * head_dim operations.

#include <algorithm>
#include <cstring>

#include "fulgurite/core/cache_clauses.h"
#include "fulgurite/ops/index_select/index_select_cpu_blocks.h"

namespace fulgurite::index_select {
namespace {

constexpr int64_t kPanel = 16;
constexpr int64_t kHeads = 16;  // between two requests for keys of the next tile

Support supports(const Problem& problem) {
  const Numerics& numerics = problem.setting.numerics;
  if (index_operand(numerics) == DType::kF32)
    return Refusal{"index_quant = none with activation = fp32, takes operands of bf16 or e4m3"};
  return first_refusal({takes(numerics.activation, {Activation::kFp32, Activation::kBf16, Activation::kFp16}),
                        takes(numerics.mma, {Mma::kExact}), takes_no_pages(problem.page_tokens)});
}

int64_t pairs_of(const Problem& problem) { return (problem.head_dim + 1) / 2; }

struct Scratch {
  uint16_t* queries;  // [block tokens, heads, pairs, 2]
  uint32_t* panels;   // [kTileKeys / kPanel, pairs, kPanel]
  float* products;    // [heads, kTileKeys]
};

Scratch cut_scratch(const Problem& problem, int64_t block_tokens, cpu::Cutter& cutter) {
  const int64_t pairs = pairs_of(problem);
  return {cutter.take<uint16_t>(block_tokens * problem.heads * pairs * 2),
          cutter.take<uint32_t>(kTileKeys * pairs), cutter.take<float>(problem.heads * kTileKeys)};
}

Scratch scratch_at(const Call& call, std::byte* memory) {
  cpu::Cutter cutter(memory);
  return cut_scratch(call.problem, block_tokens(call.problem), cutter);
}

int64_t scratch_bytes(const Problem& problem, int64_t block_tokens) {
  cpu::Cutter cutter(nullptr);
  cut_scratch(problem, block_tokens, cutter);
  return cutter.bytes();
}

const uint8_t* codes_at(const ConstTensor<1>& row) {
  return reinterpret_cast<const uint8_t*>(row.as<e4m3>().data);
}

// A head of an odd number of elements ends with a zero.
void take_query(const Call& call, int64_t token, int64_t slot, std::byte* memory) {
  const Problem& problem = call.problem;
  const int64_t row = 2 * pairs_of(problem);
  uint16_t* to = scratch_at(call, memory).queries + slot * problem.heads * row;
  for (int64_t h = 0; h < problem.heads; ++h, to += row) {
    const ConstTensor<1> from = call.args.q[token][h];
    to[row - 1] = 0;
    if (from.dtype == DType::kF8_E4M3)
      call.kernels.widen_e4m3(codes_at(from), problem.head_dim, 1.0f, to);
    else
      std::memcpy(to, from.as<bf16>().data, static_cast<size_t>(problem.head_dim) * sizeof(bf16));
  }
}

void take_keys(const Call& call, const Keys& keys, std::byte* memory) {
  const int64_t dim = call.problem.head_dim;
  const ConstTensor<2> cache = call.args.key_cache.keys[keys.sequence];
  uint32_t* panel = scratch_at(call, memory).panels;
  for (int64_t first = 0; first < keys.count; first += kPanel, panel += pairs_of(call.problem) * kPanel) {
    const int64_t lanes = std::min(kPanel, keys.count - first);
    const ConstTensor<1> row = cache[keys.first + first];
    if (row.dtype == DType::kF8_E4M3)
      call.kernels.pack_e4m3(codes_at(row), cache.stride[0], lanes, dim, panel);
    else
      call.kernels.pack_bf16(reinterpret_cast<const uint16_t*>(row.as<bf16>().data), cache.stride[0], lanes,
                             dim, panel);
  }
}

// Asks for the share of the next tile's keys that heads [h, h + heads) have of all heads: a part of a
// cache is read too seldom for the processor to foresee it.
void prefetch_next(const Call& call, const Keys& keys, int64_t h, int64_t heads) {
  const ConstTensor<2> cache = call.args.key_cache.keys[keys.sequence];
  const int64_t bytes = cache.element_bytes(), total = call.problem.heads;
  const int64_t first = keys.first + kTileKeys + kTileKeys * h / total;
  const int64_t last =
      std::min(keys.first + kTileKeys + kTileKeys * (h + heads) / total, call.problem.context);
  for (int64_t s = first; s < last; ++s)
    for (int64_t byte = 0; byte < call.problem.head_dim * bytes; byte += 64)
      __builtin_prefetch(cache.data + s * cache.stride[0] * bytes + byte, 0, 2);
}

void score(const Call& call, int64_t token, int64_t slot, const Keys& keys, int64_t count, std::byte* memory,
           float* scores) {
  const Problem& problem = call.problem;
  const Scratch scratch = scratch_at(call, memory);
  const int64_t pairs = pairs_of(problem);
  const cpu::Panels panels{scratch.panels, pairs * kPanel, kPanel, (count + kPanel - 1) / kPanel};
  for (int64_t h = 0; h < problem.heads; h += kHeads) {
    const int64_t heads = std::min(kHeads, problem.heads - h);
    if (slot == 0) prefetch_next(call, keys, h, heads);
    const cpu::PairRows rows{scratch.queries + (slot * problem.heads + h) * pairs * 2, 2 * pairs, 2, heads};
    call.kernels.products(
        rows, pairs, panels,
        {scratch.products + h * kTileKeys, kTileKeys, cpu::Ending::kStore, nullptr, 1, nullptr});
  }
  call.kernels.head_sums(scratch.products, kTileKeys, call.args.weights[token].data, problem.heads,
                         panels.count * kPanel, scores);
  if (call.args.q.dtype != DType::kF8_E4M3) return;
  const View<const float, 1> k_scale = call.args.key_cache.scales[keys.sequence];
  for (int64_t i = 0; i < count; ++i) scores[i] = scores[i] * k_scale.data[keys.first + i];
}

constexpr Scoring kScoring{scratch_bytes, take_query, take_keys, score};

int64_t workspace_bytes(const Problem& problem, int threads) {
  return workspace_bytes(kScoring, problem, threads);
}
void run(const Problem& problem, const Args& args, const Lane& lane) {
  select(kScoring, problem, args, lane);
}

}  // namespace

const Implementation kCpuPairs{"cpu_pairs", supports, workspace_bytes, run};

}  // namespace fulgurite::index_select
