#pragma once
// The rules that look at data. Of each weight at most 4096 scales and four blocks of codes are read (of a
// weight without blocks four rows), of at most 4096 routed experts' weights, evenly over the model, and of
// every other weight: an indexer that is no number spoils no logit. Norms and biases are read whole.

#include "fulgurite/model/lint.h"

namespace fulgurite::model {

void sample(Inspection& inspection);

}  // namespace fulgurite::model
