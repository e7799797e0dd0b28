// Each token's row is made in its place in the cache, the latent by the CPU's norm.

#include <algorithm>

#include "fulgurite/cpu/parallel_for.h"
#include "fulgurite/ops/latent_prepare/latent_prepare.h"
#include "fulgurite/ops/norm/norm.h"

namespace fulgurite::latent_prepare {
namespace {

norm::Problem norm_of(const Problem& problem) { return {problem.setting, problem.latent, problem.eps}; }

Support supports(const Problem& problem) {
  return first_refusal({norm::kCpu.supports(norm_of(problem)),
                        takes(problem.setting.numerics.latent_cache, {LatentCache::kFp32})});
}

void prepare_row(const Problem& problem, const Args& args, int64_t t) {
  const TokenPlace place = args.places(t);
  const View<const float, 2> kv = args.kv.as<float>().slice(0, t, 1);
  float* const row = args.cache.as<float>()[place.sequence][place.position].data;
  norm::Args norm_args;
  norm_args.x = kv.slice(1, 0, problem.latent);
  norm_args.weight = args.weight;
  norm_args.out = View<float, 2>(row, {1, problem.latent});
  norm::kCpu.run(norm_of(problem), norm_args, Lane{});

  std::copy_n(kv.data + problem.latent, problem.rope, row + problem.latent);
  rotary::rotate(rotary::Layout::kInterleaved, args.table.cosine[place.position].data,
                 args.table.sine[place.position].data, problem.rope, row + problem.latent);
}

void run(const Problem& problem, const Args& args, const Lane& lane) {
  check(problem, args);
  cpu::parallel_for(lane, args.kv.extent[0], [&](int64_t begin, int64_t end, int) {
    for (int64_t t = begin; t < end; ++t) prepare_row(problem, args, t);
  });
}

}  // namespace

const Implementation kCpu{"cpu", supports, no_workspace<Problem>, run};

}  // namespace fulgurite::latent_prepare
