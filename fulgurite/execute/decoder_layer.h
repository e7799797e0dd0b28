#pragma once
// One decoder layer: attention, then experts, each behind its site.

#include "fulgurite/execute/layer_context.h"

namespace fulgurite::execute {

// The residual stream and at.block (what the layer before left) -> the same; writes these tokens' rows of the layer's caches.
void run_layer(const LayerContext& c);

}  // namespace fulgurite::execute
