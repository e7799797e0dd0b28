#pragma once
// What the m of a token become: the few values that its streams are mixed with. A handful of operations,
// which reference and CPU make alike.

#include "fulgurite/ops/hyper_connection/hyper_connection.h"

namespace fulgurite::hyper_connection {

struct Coefficients {
  float pre[kStreams];
  float post[kStreams];           // of a layer
  float mix[kStreams][kStreams];  // of a layer
};

// m: outputs(problem) values, as the contract has them.
Coefficients coefficients_of(const Problem& problem, const Args& args, const float* m);

}  // namespace fulgurite::hyper_connection
