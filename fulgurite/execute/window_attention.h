#pragma once
// DeepSeek-V4's attention: a window of positions, and in layers with a ratio compressed entries, all of them or those that the
// indexer chooses.

#include "fulgurite/execute/layer_context.h"

namespace fulgurite::execute {

// at.normed -> at.block; writes these tokens' rows of the window, and the entries and index keys that they complete.
void run_window_attention(const LayerContext& c);

}  // namespace fulgurite::execute
