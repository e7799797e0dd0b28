#include "fulgurite/cpu/parallel_for.h"
#include "fulgurite/cpu/rows.h"
#include "fulgurite/cpu/workspace.h"
#include "fulgurite/ops/rotary/rotary.h"

namespace fulgurite::rotary {
namespace {

Support supports(const Problem& problem) { return kReference.supports(problem); }

bool in_place(const Problem& problem) { return problem.setting.numerics.activation == Activation::kFp32; }

int64_t workspace_bytes(const Problem& problem, int threads) {
  cpu::Cutter cut(nullptr);
  if (!in_place(problem)) cut.take<float>(threads * problem.dim);
  return cut.bytes();
}

void run(const Problem& problem, const Args& args, const Lane& lane) {
  check(problem, args);
  const cpu::Kernels& kernels = cpu::kernels(problem.setting.target.isa);
  const int64_t dim = problem.dim, vectors = args.x.extent[0] * problem.heads;
  float* const scratch = reinterpret_cast<float*>(lane.workspace.data());
  cpu::parallel_for(cpu::worth_splitting(lane, 2 * vectors * dim), vectors,
                    [&](int64_t begin, int64_t end, int thread) {
                      for (int64_t v = begin; v < end; ++v) {
                        const int64_t t = v / problem.heads, p = args.places(t).position;
                        const Tensor<1> vector = args.x[t][v % problem.heads];
                        float* const x = in_place(problem) ? vector.as<float>().data : scratch + thread * dim;
                        cpu::as_floats(kernels, vector, 0, dim, x);
                        rotate(problem.layout, args.table.cosine[p].data, args.table.sine[p].data, dim, x);
                        cpu::write_floats(kernels, x, 0, dim, vector);
                      }
                    });
}

}  // namespace

const Implementation kCpu{"cpu", supports, workspace_bytes, run};

}  // namespace fulgurite::rotary
