#include "fulgurite/execute/decoder_layer.h"

#include "fulgurite/execute/attention_layer.h"

namespace fulgurite::execute {
namespace {

void norm_rows(const plan::NormStep& step, View<const float, 1> weight, const Activations& at, int64_t first,
               int64_t count, View<const float, 2> replaced, const plan::CountedLane& lane) {
  if (count == 0) return;
  const Tensor<2> stream = rows(at.stream, first, count);
  step.run({stream, rows(at.block, first, count), replaced, weight, stream, rows(at.normed, first, count)},
           count, lane);
}

}  // namespace

void add_and_norm(const plan::NormStep& step, View<const float, 1> weight, int64_t layer,
                  const Activations& at, const plan::CountedLane& lane, Tap* tap) {
  if (tap == nullptr || layer == model::kNoLayer) return norm_rows(step, weight, at, 0, at.tokens, {}, lane);
  const Tap::Replacement replacement = tap->replaced_hidden(layer);
  const int64_t kept = replacement.rows ? replacement.first_token : at.tokens;
  norm_rows(step, weight, at, 0, kept, {}, lane);
  norm_rows(step, weight, at, kept, at.tokens - kept, replacement.rows, lane);
}

void run_layer(const LayerContext& c) {
  const Activations& at = c.at;
  run_attention(c);
  add_and_norm(c.plan.feed_forward_norm, c.weights.feed_forward_norm, model::kNoLayer, at, c.lane, c.tap);
  View<const int32_t, 2> expert_ids;  // none in a dense layer
  View<const float, 2> expert_weights;
  if (c.plan.router) {
    c.plan.router->run(
        {at.normed, &c.weights.router, c.weights.router_bias, at.expert_ids, at.expert_weights}, at.tokens,
        c.lane);
    c.show(TapPoint::kExpertIds, at.expert_ids);
    c.show(TapPoint::kExpertWeights, at.expert_weights);
    expert_ids = at.expert_ids;
    expert_weights = at.expert_weights;
  }
  c.plan.experts.run({at.normed, expert_ids, expert_weights, c.weights.experts, &c.weights.shared, at.block},
                     at.tokens, c.lane);
}

}  // namespace fulgurite::execute
