#pragma once
// May the weights of one model stand in for those of another, without planning anew?

#include "fulgurite/model/bind.h"

namespace fulgurite::model {

// Throws Error{kModel}, with the first tensor that differs in name, dtype or shape (scales are tensors too),
// else the first key of config.json that differs. What no model reads (MTP tensors, indexers of layers that
// share a selection) may differ, or not be there.
void require_interchangeable(const Model& expected, const Model& found);

}  // namespace fulgurite::model
