#pragma once
// A GPU to test with: the machine's, where the build has its kernels; otherwise the generic rows as loops on the
// host, with memory that the host must not read but through the device's table.

#include "fulgurite/core/host_buffer.h"
#include "fulgurite/cpu/machine.h"
#include "fulgurite/cuda/device.h"
#include "fulgurite/ops/index_select/index_select.h"

namespace fulgurite::test {

inline Device emulated_gpu() {
  static constexpr auto as_own = [](const Memory& memory) {
    Memory own = memory;
    own.name = "emulated";
    own.host_reads = false;
    return own;
  };
  static const Memory kOwn = as_own(kHostMemory);
  static int stream;
  static const Accelerator kEmulated{&kOwn, &kHostMemory, [] { return static_cast<void*>(&stream); },
                                     [](void*) {}, [](void*) {}};
  Device device = cpu::machine();  // its workers carry the loops
  device.target = {DeviceKind::kCuda, Isa::kPortable, 90, {13000, 0}};
  device.model = "emulated";
  device.accelerator = &kEmulated;
  return device;
}

inline Device gpu() { return cuda::is_built() ? cuda::device() : emulated_gpu(); }

// Are the kernels of Hopper built, and is the GPU one?
inline bool has_hopper() { return index_select::kCudaHopper.run != nullptr && gpu().target.sm == 90; }

}  // namespace fulgurite::test
