#include "fulgurite/execute/decoder_layer.h"

#include "fulgurite/execute/latent_attention.h"
#include "fulgurite/execute/site.h"
#include "fulgurite/execute/window_attention.h"

namespace fulgurite::execute {
namespace {

void run_attention(const LayerContext& c) {
  enter_block({c.plan.attention_site, c.weights.attention_norm, c.weights.attention_streams, c.layer - 1,
               c.layer == 0, c.layer},
              c.at, c.lane, c.tap);
  c.plan.window ? run_window_attention(c) : run_latent_attention(c);
}

void run_experts(const LayerContext& c) {
  const Activations& at = c.at;
  enter_block({c.plan.feed_forward_site, c.weights.feed_forward_norm, c.weights.feed_forward_streams}, at,
              c.lane, c.tap);
  View<const int32_t, 2> expert_ids;  // none in a dense layer
  View<const float, 2> expert_weights;
  if (c.plan.router) {
    c.plan.router->run({at.normed, &c.weights.router, c.weights.router_bias, at.expert_ids, at.expert_weights,
                        at.ids, c.weights.expert_table},
                       at.tokens, c.lane);
    c.show(TapPoint::kExpertIds, at.expert_ids);
    c.show(TapPoint::kExpertWeights, at.expert_weights);
    expert_ids = at.expert_ids;
    expert_weights = at.expert_weights;
  }
  c.plan.experts.run({at.normed, expert_ids, expert_weights, c.weights.experts, &c.weights.shared, at.block},
                     at.tokens, c.lane);
}

}  // namespace

void run_layer(const LayerContext& c) {
  run_attention(c);
  run_experts(c);
}

}  // namespace fulgurite::execute
