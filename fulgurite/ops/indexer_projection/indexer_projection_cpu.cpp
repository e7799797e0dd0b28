// fp32 operands: two products over the same rows of x, widened once, which stay in the cache between them.

#include <algorithm>

#include "fulgurite/cpu/matmul.h"
#include "fulgurite/cpu/rows.h"
#include "fulgurite/cpu/workspace.h"
#include "fulgurite/ops/indexer_projection/indexer_projection.h"

namespace fulgurite::indexer_projection {
namespace {

constexpr int64_t kChunk = 256;  // tokens: bounds the workspace

Support supports(const Problem& problem) {
  const Numerics& n = problem.setting.numerics;
  return first_refusal({takes(n.indexer_wk, {IndexerWk::kFp32, IndexerWk::kBf16}),
                        takes(n.gate_weight, {GateWeight::kStored}),
                        takes(problem.setting.numerics.mma, {Mma::kExact}), kReference.supports(problem)});
}

struct Scratch {
  float* x;        // [chunk, hidden]: rows that are not fp32, widened
  float* k;        // [chunk, head_dim]
  float* decoded;  // of each thread, matmul_scratch(hidden)
};

int64_t chunk_of(const Problem& problem) { return std::clamp<int64_t>(problem.largest_batch, 1, kChunk); }

Scratch cut_scratch(const Problem& problem, int threads, cpu::Cutter& cutter) {
  const int64_t chunk = chunk_of(problem);
  return {cutter.take<float>(chunk * problem.hidden), cutter.take<float>(chunk * problem.head_dim),
          cutter.take<float>(threads * cpu::matmul_scratch(problem.hidden))};
}

int64_t workspace_bytes(const Problem& problem, int threads) {
  cpu::Cutter cutter(nullptr);
  cut_scratch(problem, threads, cutter);
  return cutter.bytes();
}

// The tokens of one chunk.
void project(const Problem& problem, const Args& args, const Lane& lane, const Scratch& scratch) {
  const cpu::Kernels& kernels = cpu::kernels(problem.setting.target.isa);
  const cpu::Rows x = cpu::fp32_rows(kernels, args.x, scratch.x);
  cpu::matmul(
      kernels, lane,
      {x, args.wk, 0, problem.head_dim, scratch.k, problem.head_dim, linear::reading_of(key_linear(problem))},
      scratch.decoded);
  cpu::matmul(kernels, lane,
              {x, args.gate_weight, 0, problem.heads, args.gate.data, args.gate.stride[0],
               linear::reading_of(gate_linear(problem))},
              scratch.decoded);
  const bool rounds_gate = problem.setting.numerics.gate == Gate::kBf16;
  for (int64_t t = 0; t < x.count; ++t) {
    cpu::write_floats(kernels, scratch.k + t * problem.head_dim, 0, problem.head_dim, args.k[t]);
    for (int64_t h = 0; h < (rounds_gate ? problem.heads : 0); ++h)
      args.gate(t, h) = round_to_bf16(args.gate(t, h));
  }
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

const Implementation kCpu{"cpu", supports, workspace_bytes, run};

}  // namespace fulgurite::indexer_projection
