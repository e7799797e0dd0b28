#pragma once
// The prepared weights in the memory of a device that does not read the host's: every view copied, in the
// form that it has.

#include "fulgurite/core/memory.h"
#include "fulgurite/plan/prepare.h"

namespace fulgurite::plan {

struct DeviceWeights {
  Buffer memory;
  PreparedWeights weights;  // views of `memory`
};

// The bytes that they take there; the views' extents are all that is read.
int64_t device_bytes(const PreparedWeights& host);

DeviceWeights upload(const PreparedWeights& host, const Memory& memory, void* stream);
// The same into the memory of weights that were uploaded from a model of the same shapes.
void upload_again(const PreparedWeights& host, void* stream, DeviceWeights& to);

}  // namespace fulgurite::plan
