#pragma once
// Programmatic dependent launch: a kernel begins while the one before it in the stream still runs.
//
// What a kernel reads before wait_for_predecessor() must have been complete before the first launch of the
// whole chain of such kernels (weights, tables, a step's places): predecessors of the predecessor may run as
// well. It writes nothing before.

#include <cuda_runtime_api.h>

namespace fulgurite::cuda {

// Lets the next kernel begin. It still waits for all of this one: where this is called is a matter of speed.
__device__ inline void release_successor() { asm volatile("griddepcontrol.launch_dependents;" ::: "memory"); }

// All writes of the kernels before are visible after. Costs nothing in a launch that is not dependent.
__device__ inline void wait_for_predecessor() { asm volatile("griddepcontrol.wait;" ::: "memory"); }

inline cudaLaunchAttribute dependent_launch(bool on) {
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = on ? 1 : 0;
  return attribute;
}

inline cudaLaunchAttribute cluster_of(unsigned blocks) {
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeClusterDimension;
  attribute.val.clusterDim = {blocks, 1, 1};
  return attribute;
}

}  // namespace fulgurite::cuda
