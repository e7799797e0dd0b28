// bf16 operands: a tile of the weight's rows, a group of its columns at a time, is packed into panels in the
// first cache and met by all tokens of a chunk. The threads share the rows, or many tokens of few rows. What
// limits: a few tokens, reading the weight; many, the products.

#include "fulgurite/cpu/bf16_matmul.h"
#include "fulgurite/ops/linear/linear.h"

namespace fulgurite::linear {
namespace {

Support takes_reading(const Problem& problem) {
  if (reading_of(problem) == WeightReading::kBf16 || problem.weight.form == MatrixForm::kBF16)
    return std::nullopt;
  return Refusal{"weight in " + describe(problem.weight) + " read at its exact value, takes bf16"};
}

Support supports(const Problem& problem) {
  Support quantization;
  if (quantizes(problem))
    quantization = takes(problem.setting.numerics.activation_quant, {ActivationQuant::kNone});
  return first_refusal({quantization, takes(problem.setting.numerics.activation, {Activation::kBf16}),
                        takes(problem.setting.numerics.mma, {Mma::kExact}), kReference.supports(problem),
                        takes_reading(problem), cpu::takes_bf16_weight(problem.weight)});
}

constexpr int64_t kWorthPacking = 32;  // tokens

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

// A tile of the weight's rows with tokens [first, first + x.rows).
void multiply(const Problem& problem, const Args& args, const cpu::OperandRows& x, int64_t first,
              cpu::RowRange rows, const cpu::SumTile& tile) {
  const cpu::Kernels& kernels = cpu::kernels(problem.setting.target.isa);
  cpu::bf16_sums(kernels, x, *args.weight, rows, tile);
  cpu::store_sums(kernels, tile.sums, rows.count, args.y.slice(0, first, x.rows), rows.first);
}

void share_rows(const Problem& problem, const Args& args, const Lane& lane, const Scratch& scratch) {
  const int64_t tokens = args.x.extent[0], chunk = chunk_of(problem);
  for (int64_t t = 0; t < tokens; t += chunk) {
    const int64_t count = std::min(chunk, tokens - t);
    const cpu::OperandRows x = cpu::copy_rows({args.x.slice(0, t, count), count}, scratch.x);
    cpu::share_tiles(lane, count, problem.out, problem.in, [&](cpu::RowRange rows, int thread) {
      multiply(problem, args, x, t, rows, scratch.tiles[thread]);
    });
  }
}

// Many tokens of few rows: each thread copies tokens of its own and meets all rows with them, so that none reads
// what another copied.
void share_tokens(const Problem& problem, const Args& args, const Lane& lane, const Scratch& scratch) {
  const int64_t own = chunk_of(problem) / lane.threads;  // of one thread's at a time
  cpu::parallel_for(lane, args.x.extent[0], [&](int64_t begin, int64_t end, int thread) {
    constexpr int64_t kGroup = kActivationGroup;
    const int64_t values = (problem.in + kGroup - 1) / kGroup * kGroup * own;
    const cpu::OperandMemory memory{scratch.x.values + thread * values, nullptr};
    for (int64_t t = begin; t < end; t += own) {
      const int64_t count = std::min(own, end - t);
      const cpu::OperandRows x = cpu::copy_rows({args.x.slice(0, t, count), count}, memory);
      cpu::for_tiles_of_panels(0, cpu::panels_of(problem.out), problem.out, count, [&](cpu::RowRange rows) {
        multiply(problem, args, x, t, rows, scratch.tiles[thread]);
      });
    }
  });
}

void run(const Problem& problem, const Args& args, const Lane& lane) {
  check(problem, args);
  cpu::Cutter cutter(lane.workspace.data());
  const Scratch scratch = cut_scratch(problem, lane.threads, cutter);
  // So many tokens that a thread's meet the rows as often as copying and packing both pays for.
  const int64_t each = std::min(chunk_of(problem), args.x.extent[0]) / lane.threads;
  const bool by_tokens = lane.threads > 1 && each >= kWorthPacking && problem.out <= each;
  (by_tokens ? share_tokens : share_rows)(problem, args, lane, scratch);
}

}  // namespace

const Implementation kCpuBf16{"cpu_bf16", supports, workspace_bytes, run};

}  // namespace fulgurite::linear
