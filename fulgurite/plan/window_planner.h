#pragma once
// The plan of DeepSeek-V4's attention: a window, and compressed entries where the layer has a ratio.

#include "fulgurite/plan/chooser.h"

namespace fulgurite::plan {

WindowAttentionPlan plan_window_attention(Chooser& chooser, const model::Config& config, const Caches& caches,
                                          int64_t layer, const model::StoredLayer& weights);

}  // namespace fulgurite::plan
