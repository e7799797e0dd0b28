#pragma once
// What stands before a block: the residual stream, or streams, take up the block before, and a norm makes of them what the block
// reads. So a layer's output arises in the first site of the next layer.

#include "fulgurite/execute/activations.h"
#include "fulgurite/execute/tap.h"
#include "fulgurite/plan/prepare.h"

namespace fulgurite::execute {

struct Site {
  const plan::SitePlan& plan;
  View<const float, 1> norm;
  const plan::PreparedStreams& streams;    // of hyper-connections
  int64_t left = model::kNoLayer;          // the layer whose output arises here; kNoLayer: of none
  bool first = false;                      // nothing precedes but the embedding
  int64_t attention_of = model::kNoLayer;  // the layer whose attention reads what arises here
};

// at.stream (or at.streams, at.post and at.mix) and at.block -> the same, and at.normed.
void enter_block(const Site& site, const Activations& at, const plan::CountedLane& lane, Tap* tap);

}  // namespace fulgurite::execute
