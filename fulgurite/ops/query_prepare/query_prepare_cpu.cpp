// A head is held in fp32, in its own place where that is fp32. Its squares are summed in double, so that the
// mean is at most a step from the reference's.

#include <algorithm>

#include "fulgurite/core/rounding.h"
#include "fulgurite/cpu/parallel_for.h"
#include "fulgurite/cpu/rows.h"
#include "fulgurite/cpu/workspace.h"
#include "fulgurite/ops/query_prepare/query_prepare.h"

namespace fulgurite::query_prepare {
namespace {

Support supports(const Problem& problem) { return kReference.supports(problem); }

bool in_place(const Problem& problem) { return problem.setting.numerics.activation == Activation::kFp32; }

int64_t workspace_bytes(const Problem& problem, int threads) {
  cpu::Cutter cut(nullptr);
  if (!in_place(problem)) cut.take<float>(threads * problem.head_dim);
  return cut.bytes();
}

// `values` is the head in fp32, or has room for it.
void prepare_head(const cpu::Kernels& kernels, const Problem& problem, const Args& args, int64_t t, int64_t h,
                  float* values) {
  const Tensor<1> head = args.q[t][h];
  const int64_t dim = problem.head_dim;
  cpu::as_floats(kernels, head, 0, dim, values);
  const float mean =
      static_cast<float>(kernels.sum_squares(values, dim) / static_cast<double>(problem.head_dim));
  kernels.multiply(values, reciprocal_sqrt(mean + problem.eps, problem.setting.numerics), dim);
  float* const last = values + dim - problem.rope;
  if (args.normed) {
    cpu::round_floats(kernels, head.dtype, values, dim);
    std::copy_n(values, dim, args.normed[t][h].data);
  } else {
    cpu::round_floats(kernels, head.dtype, last,
                      problem.rope);  // the rest are rounded where they are written
  }
  const int64_t p = args.places(t).position;
  kernels.rotate(args.table.cosine[p].data, args.table.sine[p].data, problem.rope / 2, true, last);
  cpu::write_floats(kernels, values, 0, dim, head);
}

void run(const Problem& problem, const Args& args, const Lane& lane) {
  check(problem, args);
  const int64_t heads = problem.heads, count = args.q.extent[0] * heads, dim = problem.head_dim;
  const cpu::Kernels& kernels = cpu::kernels(problem.setting.target.isa);
  float* const scratch = reinterpret_cast<float*>(lane.workspace.data());
  cpu::parallel_for(
      cpu::worth_splitting(lane, 2 * count * dim), count, [&](int64_t begin, int64_t end, int thread) {
        for (int64_t i = begin; i < end; ++i) {
          const int64_t t = i / heads, h = i % heads;
          float* const values = in_place(problem) ? args.q[t][h].as<float>().data : scratch + thread * dim;
          prepare_head(kernels, problem, args, t, h, values);
        }
      });
}

}  // namespace

const Implementation kCpu{"cpu", supports, workspace_bytes, run};

}  // namespace fulgurite::query_prepare
