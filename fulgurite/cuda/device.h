#pragma once
// The GPU of this machine, for a plan and its session.

#include "fulgurite/core/device.h"

namespace fulgurite::cuda {

// Were the kernels compiled for a GPU (FULGURITE_CUDA = ON)? Without, the generic rows are loops that tests run
// on the host.
bool is_built();

// The first GPU. Throws Error{kDevice} in one line: a build without CUDA, no driver or one that is too old, no
// GPU, or one below compute capability 8.0.
Device device();

}  // namespace fulgurite::cuda
