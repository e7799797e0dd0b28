#include "fulgurite/execute/latent_attention.h"

#include "fulgurite/core/element.h"
#include "fulgurite/execute/index_queries.h"
#include "fulgurite/execute/query_latent.h"
#include "fulgurite/ops/indexer_prepare/index_row.h"
#include "fulgurite/ops/latent_prepare/latent_row.h"

namespace fulgurite::execute {
namespace {

// The tokens' own cache rows, gathered for the tap: what attention reads of them.
void show_latent(const LayerContext& c) {
  if (c.tap == nullptr) return;
  const int64_t latent = c.caches.latent.row.latent, rope = c.caches.latent.row.rope;
  const Tensor<2> kv = c.at.kv;  // its values are in the cache: free to be overwritten
  for (int64_t t = 0; t < c.at.tokens; ++t) {
    const TokenPlace place = c.at.places(t);
    const std::byte* const row = c.caches.latent.at(place);
    for (int64_t i = 0; i < latent; ++i) store(kv, c.caches.latent.row.latent_value(row, i), t, i);
    for (int64_t i = 0; i < rope; ++i) store(kv, c.caches.latent.row.rope_value(row, i), t, latent + i);
  }
  const bool new_latent = c.show(TapPoint::kKvLatent, kv.slice(1, 0, latent));
  const bool new_rope = c.show(TapPoint::kKRope, kv.slice(1, latent, rope));
  if (!new_latent && !new_rope) return;
  for (int64_t t = 0; t < c.at.tokens; ++t) latent_prepare::store_row(c.caches.latent, c.at.places(t), kv[t]);
}

void project_query(const LayerContext& c) {
  const plan::LatentAttentionPlan& p = *c.plan.attention;
  const Activations& at = c.at;
  project_query_latent(c, p);
  const int64_t rope = p.q_rope.problem.dim;
  p.q_rope.run({columns(at.q, at.q.extent[2] - rope, rope), at.places, c.rope}, at.tokens, c.lane);
  c.show(TapPoint::kQ, at.q);
}

void cache_latent(const LayerContext& c) {
  const plan::LatentAttentionPlan& p = *c.plan.attention;
  const Activations& at = c.at;
  if (!p.qkv_a) p.kv_a.run({at.normed, &c.weights.kv_a, at.kv}, at.tokens, c.lane);
  p.latent.run({at.kv, c.weights.kv_a_norm, at.places, c.rope, c.caches.latent}, at.tokens, c.lane);
  show_latent(c);
}

void select_rows(const LayerContext& c) {
  const plan::IndexerPlan& p = *c.plan.attention->indexer;
  const Activations& at = c.at;
  p.q.run({at.q_latent, &c.weights.index_q, flat(at.index_q)}, at.tokens, c.lane);
  p.projection.run({at.normed, &c.weights.index_k, &c.weights.index_gate, at.index_k, at.index_gate},
                   at.tokens, c.lane);
  p.prepare.run(
      {at.index_q, at.index_k, at.index_gate, c.weights.index_k_norm_weight, c.weights.index_k_norm_bias,
       at.places, c.rope, at.index_weights, c.caches.index, at.index_operand, at.rotated_q, at.rotated_k},
      at.tokens, c.lane);
  if (at.rotated_q) {
    if (c.show(TapPoint::kIndexQ, at.rotated_q)) remake_index_queries(c, p.prepare.problem);
    if (c.show(TapPoint::kIndexK, at.rotated_k))
      for (int64_t t = 0; t < at.tokens; ++t)
        indexer_prepare::store_rotated_key(p.prepare.problem, Tensor<1>(at.rotated_k[t]), at.places(t),
                                           c.caches.index);
  }
  c.show(TapPoint::kIndexWeights, at.index_weights);
  p.select.run(
      {at.index_operand, at.index_weights, c.caches.index, at.places, at.selected, at.index_scores, at.slots},
      at.tokens, c.lane);
  if (at.index_scores) c.show(TapPoint::kIndexScores, at.index_scores);
}

// Of a selection that was replaced, the slots too.
void show_selection(const LayerContext& c) {
  const Activations& at = c.at;
  if (!c.show(TapPoint::kTopk, at.selected) || !at.slots) return;
  for (int64_t t = 0; t < at.tokens; ++t)
    for (int64_t j = 0; j < at.selected.extent[1]; ++j)
      at.slots(t, j) = index_select::slot_of(c.caches.latent.pages, at.places(t).sequence, at.selected(t, j));
}

void attend(const LayerContext& c) {
  const Activations& at = c.at;
  if (const auto& expanded = c.plan.attention->expanded)
    return expanded->run({at.q, &c.weights.kv_b, c.caches.latent, at.selected, at.places, at.head_outputs},
                         at.tokens, c.lane);
  const plan::AbsorbedPlan& p = *c.plan.attention->absorbed;
  const int64_t nope = p.query.problem.rows;
  const Tensor<3> q_nope = columns(at.q, 0, nope), q_rope = columns(at.q, nope, p.attention.problem.rope);
  p.query.run({q_nope, &c.weights.kv_b, at.absorbed}, at.tokens, c.lane);
  p.attention.run({at.absorbed, q_rope, c.caches.latent, at.selected, at.places, at.attended, at.slots},
                  at.tokens, c.lane);
  p.value.run({at.attended, &c.weights.kv_b, at.head_outputs}, at.tokens, c.lane);
}

}  // namespace

void run_latent_attention(const LayerContext& c) {
  project_query(c);
  cache_latent(c);
  if (c.plan.attention->indexer) select_rows(c);
  show_selection(c);
  attend(c);
  c.show(TapPoint::kAttnHeads, c.at.head_outputs);
  c.plan.attention->o.run({flat(c.at.head_outputs), &c.weights.o, c.at.block}, c.at.tokens, c.lane);
  c.show(TapPoint::kAttnOut, c.at.block);
}

}  // namespace fulgurite::execute
