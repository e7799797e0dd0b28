// bf16 operands, one pass: the rows of wk and of the gate's weight are the lanes of one product with x,
// shared among the threads together; only where the sums go differs.

#include "fulgurite/cpu/bf16_matmul.h"
#include "fulgurite/ops/indexer_projection/indexer_projection.h"

namespace fulgurite::indexer_projection {
namespace {

// What this kernel can read as bf16.
Support takes_weight(const char* what, const MatrixFormat& weight) {
  const Support refusal = cpu::takes_bf16_weight(weight);
  if (!refusal) return std::nullopt;
  return Refusal{what + (": " + refusal->reason)};
}

Support supports(const Problem& problem) {
  return first_refusal({one_pass(problem), takes(problem.setting.numerics.mma, {Mma::kExact}),
                        kReference.supports(problem), takes_weight("wk", problem.wk),
                        takes_weight("gate weight", problem.gate_weight)});
}

struct Scratch {
  cpu::OperandMemory x;
  cpu::SumTiles tiles;
};

int64_t chunk_of(const Problem& problem) {
  return std::clamp<int64_t>(problem.largest_batch, 1, cpu::kLargestChunk);
}

Scratch cut_scratch(const Problem& problem, int threads, cpu::Cutter& cutter) {
  const int64_t chunk = chunk_of(problem);
  return {cpu::cut_operand_memory(cutter, chunk, problem.hidden), cpu::cut_sum_tiles(cutter, threads, chunk)};
}

int64_t workspace_bytes(const Problem& problem, int threads) {
  cpu::Cutter cutter(nullptr);
  cut_scratch(problem, threads, cutter);
  return cutter.bytes();
}

void round_sums(float* sums, int64_t stride, int64_t lanes, int64_t tokens) {
  for (int64_t t = 0; t < tokens; ++t)
    for (int64_t l = 0; l < lanes; ++l) sums[t * stride + l] = round_to_bf16(sums[t * stride + l]);
}

// The tokens of one chunk.
void project(const Problem& problem, const Args& args, const Lane& lane, const Scratch& scratch) {
  const cpu::Kernels& kernels = cpu::kernels(problem.setting.target.isa);
  const int64_t tokens = args.x.extent[0], key_panels = cpu::panels_of(problem.head_dim);
  const cpu::OperandRows x = cpu::copy_rows({args.x, tokens}, scratch.x);
  const bool rounds_gate = problem.setting.numerics.gate == Gate::kBf16;
  const Lane split = cpu::lane_worth(lane, tokens, problem.head_dim + problem.heads, problem.hidden);
  const int64_t panels = key_panels + cpu::panels_of(problem.heads);
  cpu::parallel_for(split, panels, [&](int64_t begin, int64_t end, int thread) {
    const cpu::SumTile tile = scratch.tiles[thread];
    cpu::for_tiles_of_panels(std::min(begin, key_panels), std::min(end, key_panels), problem.head_dim, tokens,
                             [&](cpu::RowRange rows) {
                               cpu::bf16_sums(kernels, x, *args.wk, rows, tile);
                               cpu::store_sums(kernels, tile.sums, rows.count, args.k, rows.first);
                             });
    cpu::for_tiles_of_panels(std::max(begin, key_panels) - key_panels, std::max(end, key_panels) - key_panels,
                             problem.heads, tokens, [&](cpu::RowRange rows) {
                               cpu::bf16_sums(kernels, x, *args.gate_weight, rows, tile);
                               if (rounds_gate)
                                 round_sums(tile.sums, cpu::tile_lanes(tokens), rows.count, tokens);
                               cpu::store_sums(kernels, tile.sums, rows.count, args.gate, rows.first);
                             });
  });
}

void run(const Problem& problem, const Args& args, const Lane& lane) {
  check(problem, args);
  cpu::Cutter cutter(lane.workspace.data());
  const Scratch scratch = cut_scratch(problem, lane.threads, cutter);
  const int64_t tokens = args.x.extent[0], chunk = chunk_of(problem);
  for (int64_t t = 0; t < tokens; t += chunk) {
    const int64_t count = std::min(chunk, tokens - t);
    project(problem,
            {args.x.slice(0, t, count), args.wk, args.gate_weight, args.k.slice(0, t, count),
             args.gate.slice(0, t, count)},
            lane, scratch);
  }
}

}  // namespace

const Implementation kCpuBf16{"cpu_bf16", supports, workspace_bytes, run};

}  // namespace fulgurite::indexer_projection
