#pragma once
// Multi-head latent attention over the rows that the indexer chooses.

#include "fulgurite/execute/layer_context.h"

namespace fulgurite::execute {

// at.normed -> at.block; writes these tokens' rows of both caches.
void run_latent_attention(const LayerContext& c);

}  // namespace fulgurite::execute
