#pragma once
// What follows once the products of a chunk of tokens are known: ape, the averages of the windows that end, their
// rows, and the state. One launch, a block a token, a thread a channel.

#include "fulgurite/ops/compressor/compressor_rules.h"

namespace fulgurite::compressor {

// products [tokens, 2, width]: u, and g before ape.
void launch_windows(const Problem& problem, const Args& args, const float* products, const Lane& lane);

}  // namespace fulgurite::compressor
