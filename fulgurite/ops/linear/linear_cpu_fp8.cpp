// The fp8 linear: activations are coded once a call; a tile of the weight's rows, a group of its columns at a
// time, is packed into panels in the first cache and met by all tokens of a chunk, then promoted. What
// limits: a few tokens, reading the weight; many, the products.

#include "fulgurite/cpu/fp8_matmul.h"
#include "fulgurite/ops/linear/linear.h"

namespace fulgurite::linear {
namespace {

Support supports(const Problem& problem) {
  Support quantization;
  if (has_scales(problem.weight))
    quantization = takes(problem.setting.numerics.activation_quant, {ActivationQuant::kE4m3});
  return first_refusal({cpu::takes_fp8_weight(problem.weight), quantization,
                        takes(problem.setting.numerics.mma, {Mma::kExact}), kReference.supports(problem)});
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
  return {cpu::cut_operand_memory(cutter, chunk, problem.in), cpu::cut_sum_tiles(cutter, threads, chunk)};
}

int64_t workspace_bytes(const Problem& problem, int threads) {
  cpu::Cutter cutter(nullptr);
  cut_scratch(problem, threads, cutter);
  return cutter.bytes();
}

void run(const Problem& problem, const Args& args, const Lane& lane) {
  check(problem, args);
  cpu::Cutter cutter(lane.workspace.data());
  const Scratch scratch = cut_scratch(problem, lane.threads, cutter);
  const cpu::Kernels& kernels = cpu::kernels(problem.setting.target.isa);
  const int64_t tokens = args.x.extent[0], chunk = chunk_of(problem);
  for (int64_t t = 0; t < tokens; t += chunk) {
    const int64_t count = std::min(chunk, tokens - t);
    const cpu::OperandRows x = cpu::code_rows(
        kernels, lane, {args.x.slice(0, t, count), count}, activation_rounding(problem.setting.numerics),
        scratch.x, is_fp4(problem.weight) ? cpu::ColumnOrder::kFp4 : cpu::ColumnOrder::kNatural);
    const Tensor<2> y = args.y.slice(0, t, count);
    cpu::share_tiles(lane, count, problem.out, problem.in, [&](cpu::RowRange rows, int thread) {
      const cpu::SumTile tile = scratch.tiles[thread];
      cpu::fp8_sums(kernels, x, *args.weight, rows, tile);
      cpu::store_sums(kernels, tile.sums, rows.count, y, rows.first);
    });
  }
}

}  // namespace

const Implementation kCpuFp8{"cpu_fp8", supports, workspace_bytes, run};

}  // namespace fulgurite::linear
