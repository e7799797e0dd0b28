#pragma once
// A sequence of calls on a GPU's stream, captured once and replayed: what a decoding engine does with a layer.

#include <functional>
#include <vector>

#include "fulgurite/core/memory.h"

namespace fulgurite::bench {

// Seconds of each replay of what calls() puts into the stream: `fewest` of them, then more until `seconds` have
// passed. Replays stand in the stream one behind the other with the clock's events between them, so that the
// host's time to launch is in none but the first, which is left out. Where there is no GPU (a build without
// FULGURITE_CUDA) calls() is called as often.
// Throws Error{kDevice} where calls() does what a capture forbids.
std::vector<double> replay_times(const Accelerator& gpu, void* stream, const std::function<void()>& calls,
                                 int fewest, double seconds);

}  // namespace fulgurite::bench
