// A token's row is made in fp32 scratch by the CPU's norm, rotated, and written in the form of the cache.

#include <algorithm>

#include "fulgurite/cpu/kv_rows.h"
#include "fulgurite/cpu/parallel_for.h"
#include "fulgurite/cpu/rows.h"
#include "fulgurite/cpu/workspace.h"
#include "fulgurite/ops/kv_prepare/kv_prepare.h"
#include "fulgurite/ops/norm/norm.h"

namespace fulgurite::kv_prepare {
namespace {

Support supports(const Problem& problem) { return kReference.supports(problem); }

// In place in the scratch; it is rounded to the activation's type afterwards.
norm::Problem norm_of(const Problem& problem) {
  norm::Problem norm{problem.setting, problem.head_dim, problem.eps};
  norm.setting.numerics.activation = Activation::kFp32;
  return norm;
}

int64_t workspace_bytes(const Problem& problem, int threads) {
  cpu::Cutter cutter(nullptr);
  cutter.take<float>(threads * problem.head_dim);
  return cutter.bytes();
}

void prepare_row(const cpu::Kernels& kernels, const Problem& problem, const Args& args, int64_t t,
                 float* values) {
  const int64_t dim = problem.head_dim;
  const ConstTensor<1> kv = args.kv[t];
  const float* const from = cpu::as_floats(kernels, kv, 0, dim, values);
  if (from != values) std::copy_n(from, dim, values);

  const View<float, 2> row(values, {1, dim});
  norm::Args norm_args;
  norm_args.x = row;
  norm_args.weight = args.weight;
  norm_args.out = row;
  norm::kCpu.run(norm_of(problem), norm_args, {});
  cpu::round_floats(kernels, kv.dtype, values, dim);

  const TokenPlace place = args.places(t);
  float* const last = values + dim - problem.rope;
  kernels.rotate(args.table.cosine[place.position].data, args.table.sine[place.position].data,
                 problem.rope / 2, true, last);
  cpu::round_floats(kernels, kv.dtype, last, problem.rope);
  cpu::write_kv_row(kernels, args.cache, place.sequence, place.position % problem.ring,
                    problem.setting.numerics.kv_quant, values);
}

void run(const Problem& problem, const Args& args, const Lane& lane) {
  check(problem, args);
  const int64_t tokens = args.kv.extent[0];
  const cpu::Kernels& kernels = cpu::kernels(problem.setting.target.isa);
  float* const scratch = reinterpret_cast<float*>(lane.workspace.data());
  cpu::parallel_for(cpu::worth_splitting(lane, 8 * tokens * problem.head_dim), tokens,
                    [&](int64_t begin, int64_t end, int thread) {
                      for (int64_t t = begin; t < end; ++t)
                        prepare_row(kernels, problem, args, t, scratch + thread * problem.head_dim);
                    });
}

}  // namespace

const Implementation kCpu{"cpu", supports, workspace_bytes, run};

}  // namespace fulgurite::kv_prepare
