// fp32 operands. Weights stay as stored: eight rows at a time are decoded to fp32 (at most a second-level
// cache full) and met by all tokens of a chunk.

#include <algorithm>

#include "fulgurite/cpu/matmul.h"
#include "fulgurite/cpu/parallel_for.h"
#include "fulgurite/cpu/rows.h"
#include "fulgurite/cpu/workspace.h"
#include "fulgurite/ops/linear/linear.h"

namespace fulgurite::linear {
namespace {

constexpr int64_t kChunk = 256;  // tokens: bounds the workspace

Support supports(const Problem& problem) {
  Support quantization;
  if (quantizes(problem))
    quantization = takes(problem.setting.numerics.activation_quant, {ActivationQuant::kNone});
  return first_refusal(
      {quantization, takes(problem.setting.numerics.mma, {Mma::kExact}), kReference.supports(problem)});
}

struct Scratch {
  float* x;        // [chunk, in]: rows that are not fp32, widened
  float* decoded;  // of each thread, matmul_scratch(in)
  float* tiles;    // of each thread, [chunk, kWeightTile]
};

int64_t chunk_of(const Problem& problem) { return std::clamp<int64_t>(problem.largest_batch, 1, kChunk); }

Scratch cut_scratch(const Problem& problem, int threads, cpu::Cutter& cutter) {
  const bool widens = problem.setting.numerics.activation != Activation::kFp32;
  return {cutter.take<float>(widens ? chunk_of(problem) * problem.in : 0),
          cutter.take<float>(threads * cpu::matmul_scratch(problem.in)),
          cutter.take<float>(threads * chunk_of(problem) * cpu::kWeightTile)};
}

int64_t workspace_bytes(const Problem& problem, int threads) {
  cpu::Cutter cutter(nullptr);
  cut_scratch(problem, threads, cutter);
  return cutter.bytes();
}

// The tokens of one chunk.
void multiply(const Problem& problem, const Args& args, const Lane& lane, const Scratch& scratch) {
  const cpu::Kernels& kernels = cpu::kernels(problem.setting.target.isa);
  const cpu::Rows x = cpu::fp32_rows(kernels, args.x, scratch.x);
  const int64_t tiles = (problem.out + cpu::kWeightTile - 1) / cpu::kWeightTile;
  cpu::parallel_for(lane, tiles, [&](int64_t begin, int64_t end, int thread) {
    float* const sums = scratch.tiles + thread * chunk_of(problem) * cpu::kWeightTile;
    float* const decoded = scratch.decoded + thread * cpu::matmul_scratch(problem.in);
    for (int64_t n = begin * cpu::kWeightTile; n < std::min(problem.out, end * cpu::kWeightTile);
         n += cpu::kWeightTile) {
      const int64_t count = std::min(cpu::kWeightTile, problem.out - n);
      const cpu::Rows w = cpu::weight_rows(kernels, *args.weight, n, count, decoded, reading_of(problem));
      kernels.dot_rows(x, w, problem.in, sums, cpu::kWeightTile);
      for (int64_t t = 0; t < x.count; ++t)
        cpu::write_floats(kernels, sums + t * cpu::kWeightTile, n, count, args.y[t]);
    }
  });
}

void run(const Problem& problem, const Args& args, const Lane& lane) {
  check(problem, args);
  cpu::Cutter cutter(lane.workspace.data());
  const Scratch scratch = cut_scratch(problem, lane.threads, cutter);
  const int64_t tokens = args.x.extent[0], chunk = chunk_of(problem);
  for (int64_t t = 0; t < tokens; t += chunk) {
    const int64_t count = std::min(chunk, tokens - t);
    multiply(problem, {args.x.slice(0, t, count), args.weight, args.y.slice(0, t, count)}, lane, scratch);
  }
}

}  // namespace

const Implementation kCpu{"cpu", supports, workspace_bytes, run};

}  // namespace fulgurite::linear
