#pragma once
// The plan of a short context on Hopper, made without one.

#include "fulgurite/fulgurite.h"

namespace fulgurite::test {

inline plan::Plan hopper_plan(const model::Model& model) {
  plan::Options options;
  options.context = 64;
  return plan::make(model, device_of(target_named("sm90")), options);
}

}  // namespace fulgurite::test
