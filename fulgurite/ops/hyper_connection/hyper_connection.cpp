#include "fulgurite/ops/hyper_connection/hyper_connection.h"

#include "fulgurite/core/check.h"

namespace fulgurite::hyper_connection {

void check(const Problem& problem, const Args& args) {
  FULGURITE_ASSERT(problem.sinkhorn_iterations >= 1, "hyper_connection: {} Sinkhorn iterations",
                   problem.sinkhorn_iterations);
  const int64_t tokens = args.streams.extent[0], hidden = problem.hidden, flat = kStreams * hidden;
  const DType type = activation_type(problem.setting.numerics);
  const Check clause("hyper_connection");
  clause.tensor("streams", args.streams, type, {tokens, kStreams, hidden});
  if (args.block)
    clause.tensor("block", args.block, type, {tokens, hidden})
        .tensor("post", args.post, {tokens, kStreams})
        .tensor("mix", args.mix, {tokens, kStreams, kStreams});
  if (args.replaced) clause.tensor("replaced", args.replaced, {tokens, flat});
  clause.tensor("fn", args.fn, {outputs(problem), flat})
      .tensor("base", args.base, {outputs(problem)})
      .tensor("scale", args.scale, {problem.kind == Kind::kHead ? 1 : 3});
  if (updates(args)) clause.tensor("streams_out", args.streams_out, type, {tokens, kStreams, hidden});
  if (problem.kind == Kind::kLayer)
    clause.tensor("post_out", args.post_out, {tokens, kStreams})
        .tensor("mix_out", args.mix_out, {tokens, kStreams, kStreams});
  clause.tensor("collapsed", args.collapsed, type, {tokens, hidden});
}

}  // namespace fulgurite::hyper_connection
