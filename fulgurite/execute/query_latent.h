#pragma once
// How every family's queries begin: a small latent that the indexer reads as well, and from it all heads.

#include "fulgurite/execute/layer_context.h"

namespace fulgurite::execute {

// at.normed -> at.q_latent, at.q; where the plan has one product of both, at.kv too.
template <class AttentionPlan>
void project_query_latent(const LayerContext& c, const AttentionPlan& p) {
  const Activations& at = c.at;
  if (p.qkv_a)
    p.qkv_a->run({at.normed, &c.weights.qkv_a, at.qkv}, at.tokens, c.lane);
  else
    p.q_a.run({at.normed, &c.weights.q_a, at.q_raw}, at.tokens, c.lane);
  p.q_a_norm.run({at.q_raw, {}, {}, c.weights.q_a_norm, {}, at.q_latent}, at.tokens, c.lane);
  c.show(TapPoint::kQLatent, at.q_latent);
  p.q_b.run({at.q_latent, &c.weights.q_b, flat(at.q)}, at.tokens, c.lane);
}

}  // namespace fulgurite::execute
