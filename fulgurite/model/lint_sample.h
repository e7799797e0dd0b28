#pragma once
// The rules that look at data. Of each weight at most 4096 scales and four blocks of codes are read, of at
// most 4096 weights, evenly over the model.

#include "fulgurite/model/lint.h"

namespace fulgurite::model {

void sample(Inspection& inspection);

}  // namespace fulgurite::model
