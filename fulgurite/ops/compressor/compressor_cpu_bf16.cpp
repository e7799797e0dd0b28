// bf16 operands, whose products are exact in fp32: the rows of wkv and wgate are the lanes of one product with
// x, shared among the threads together. What limits: a few tokens, reading the weights, once a call.

#include "fulgurite/cpu/bf16_matmul.h"
#include "fulgurite/ops/compressor/compressor_cpu_windows.h"

namespace fulgurite::compressor {
namespace {

Support takes_weight(const char* what, const MatrixFormat& weight) {
  if (weight.form == MatrixForm::kBF16) return std::nullopt;
  return Refusal{what + (" in " + describe(weight)) + " read at its exact value, takes bf16"};
}

Support supports(const Problem& problem) {
  return first_refusal({takes(problem.setting.numerics.mma, {Mma::kExact}),
                        takes(problem.setting.numerics.activation, {Activation::kBf16}),
                        takes_weight("wkv", problem.wkv), takes_weight("wgate", problem.wgate),
                        kReference.supports(problem)});
}

struct Scratch {
  Windows windows;
  cpu::OperandMemory x;
  cpu::SumTiles tiles;
};

Scratch cut_scratch(const Problem& problem, int threads, cpu::Cutter& cutter) {
  const int64_t chunk = chunk_of(problem);
  return {cut_windows(problem, cutter), cpu::cut_operand_memory(cutter, chunk, problem.hidden),
          cpu::cut_sum_tiles(cutter, threads, chunk)};
}

int64_t workspace_bytes(const Problem& problem, int threads) {
  cpu::Cutter cutter(nullptr);
  cut_scratch(problem, threads, cutter);
  return cutter.bytes();
}

// u and g of the tokens of one chunk.
void project(const Problem& problem, const Args& args, const Lane& lane, const Scratch& scratch) {
  const cpu::Kernels& kernels = cpu::kernels(problem.setting.target.isa);
  const int64_t tokens = args.x.extent[0], columns = width(problem), panels = cpu::panels_of(columns);
  const cpu::OperandRows x = cpu::copy_rows({args.x, tokens}, scratch.x);
  const PreparedMatrix* const weights[] = {args.wkv, args.wgate};
  const Lane split = cpu::lane_worth(lane, tokens, 2 * columns, problem.hidden);
  cpu::parallel_for(split, 2 * panels, [&](int64_t begin, int64_t end, int thread) {
    const cpu::SumTile tile = scratch.tiles[thread];
    for (int64_t part = 0; part < 2; ++part) {
      const int64_t first = std::clamp(begin - part * panels, int64_t{0}, panels);
      const int64_t last = std::clamp(end - part * panels, int64_t{0}, panels);
      cpu::for_tiles_of_panels(first, last, columns, tokens, [&](cpu::RowRange rows) {
        cpu::bf16_sums(kernels, x, *weights[part], rows, tile);
        cpu::store_sums(kernels, tile.sums, rows.count, part_of(args, part), rows.first);
        for (int64_t t = 0; t < (part == 1 ? tokens : 0); ++t)
          add_ape(kernels, problem, args, t, rows.first, rows.count);
      });
    }
  });
}

void run(const Problem& problem, const Args& args, const Lane& lane) {
  check(problem, args);
  cpu::Cutter cutter(lane.workspace.data());
  const Scratch scratch = cut_scratch(problem, lane.threads, cutter);
  run_in_chunks(problem, args, lane, scratch.windows,
                [&](const Args& part) { project(problem, part, lane, scratch); });
}

}  // namespace

const Implementation kCpuBf16{"cpu_bf16", supports, workspace_bytes, run};

}  // namespace fulgurite::compressor
