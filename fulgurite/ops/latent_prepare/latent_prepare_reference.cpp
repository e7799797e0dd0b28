#include "fulgurite/core/rounding.h"
#include "fulgurite/ops/latent_prepare/latent_prepare.h"
#include "fulgurite/ops/norm/norm.h"

namespace fulgurite::latent_prepare {
namespace {

Support supports(const Problem& problem) {
  const Numerics& numerics = problem.setting.numerics;
  return first_refusal({takes(numerics.activation, {Activation::kFp32}), takes_rsqrt(numerics.rsqrt),
                        takes(numerics.latent_cache, {LatentCache::kFp32})});
}

void run(const Problem& problem, const Args& args, const Lane& lane) {
  check(problem, args);
  const View<const float, 2> kv = args.kv.as<float>();
  const norm::Problem norm_problem{problem.setting, problem.latent, problem.eps};
  for (int64_t t = 0; t < kv.extent[0]; ++t) {
    const TokenPlace place = args.places(t);
    const View<float, 2> row = args.cache.as<float>()[place.sequence].slice(0, place.position, 1);
    const View<const float, 2> latent = kv.slice(0, t, 1).slice(1, 0, problem.latent);
    norm::kReference.run(norm_problem, {latent, {}, {}, args.weight, {}, row.slice(1, 0, problem.latent)},
                         lane);
    for (int64_t i = problem.latent; i < kv.extent[1]; ++i) row(0, i) = kv(t, i);
    rotary::rotate(rotary::Layout::kInterleaved, args.table.cosine[place.position].data,
                   args.table.sine[place.position].data, problem.rope, row.data + problem.latent);
  }
}

}  // namespace

const Implementation kReference{"reference", supports, no_workspace<Problem>, run};

}  // namespace fulgurite::latent_prepare
