#pragma once
// Two weights that read the same activations, as one: the rows of the upper, then those of the lower. One product in the place of
// two quantizes the activations once, and has rows for more processors. What engines call fused_qkv_a_proj.

#include "fulgurite/core/implementation.h"
#include "fulgurite/core/matrix.h"

namespace fulgurite::plan {

// Nothing, or why they are not to be one: e4m3 in blocks of one format, where no block of scales has rows of both.
Support joins(const StoredMatrix& upper, const StoredMatrix& lower);

// Both together, without bytes: what a plan is made of.
StoredMatrix outline_of_joined(const StoredMatrix& upper, const StoredMatrix& lower);

}  // namespace fulgurite::plan
