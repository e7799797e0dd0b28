#pragma once
// One decoder layer. The residual sum that follows a block is made by the norm that reads it: the first norm
// of a layer adds what the layer before left in at.block, so a layer's output (`hidden`) arises in the next
// layer.

#include "fulgurite/execute/layer_context.h"

namespace fulgurite::execute {

// at.stream + at.block -> at.stream, normed with `weight` -> at.normed; `layer` is the one whose output the
// sum is (model::kNoLayer: of none, the block's sum is inside a layer).
void add_and_norm(const plan::NormStep& step, View<const float, 1> weight, int64_t layer,
                  const Activations& at, const plan::CountedLane& lane, Tap* tap);

// at.normed and at.stream -> at.block and at.stream.
void run_layer(const LayerContext& c);

}  // namespace fulgurite::execute
