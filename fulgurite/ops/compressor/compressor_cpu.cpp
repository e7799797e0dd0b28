// fp32 operands: two products over the same rows of x, widened once.

#include "fulgurite/cpu/matmul.h"
#include "fulgurite/cpu/parallel_for.h"
#include "fulgurite/cpu/rows.h"
#include "fulgurite/ops/compressor/compressor_cpu_windows.h"

namespace fulgurite::compressor {
namespace {

Support supports(const Problem& problem) {
  return first_refusal({takes(problem.setting.numerics.mma, {Mma::kExact}), kReference.supports(problem)});
}

struct Scratch {
  Windows windows;
  float* x;        // [chunk, hidden]: rows that are not fp32, widened
  float* decoded;  // of each thread, matmul_scratch(hidden)
};

Scratch cut_scratch(const Problem& problem, int threads, cpu::Cutter& cutter) {
  const bool widens = problem.setting.numerics.activation != Activation::kFp32;
  return {cut_windows(problem, cutter), cutter.take<float>(widens ? chunk_of(problem) * problem.hidden : 0),
          cutter.take<float>(threads * cpu::matmul_scratch(problem.hidden))};
}

int64_t workspace_bytes(const Problem& problem, int threads) {
  cpu::Cutter cutter(nullptr);
  cut_scratch(problem, threads, cutter);
  return cutter.bytes();
}

// u and g of the tokens of one chunk.
void project(const Problem& problem, const Args& args, const Lane& lane, const Scratch& scratch) {
  const cpu::Kernels& kernels = cpu::kernels(problem.setting.target.isa);
  const cpu::Rows x = cpu::fp32_rows(kernels, args.x, scratch.x);
  const PreparedMatrix* const weights[] = {args.wkv, args.wgate};
  for (int64_t part = 0; part < 2; ++part)
    cpu::matmul(kernels, lane,
                {x, weights[part], 0, width(problem), part_of(args, part).data, args.projected.stride[0],
                 WeightReading::kExact},
                scratch.decoded);
  cpu::parallel_for(cpu::worth_splitting(lane, x.count * width(problem)), x.count,
                    [&](int64_t begin, int64_t end, int) {
                      for (int64_t t = begin; t < end; ++t)
                        add_ape(kernels, problem, args, t, 0, width(problem));
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

const Implementation kCpu{"cpu", supports, workspace_bytes, run};

}  // namespace fulgurite::compressor
