#pragma once
// What is known at load of the device that a plan is made for.

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "fulgurite/core/memory.h"
#include "fulgurite/core/workers.h"

namespace fulgurite {

enum class DeviceKind { kCpu, kCuda };

// The instruction sets that the CPU kernels are built for; each later one includes the earlier. kAvx512Bf16
// has dot products of bf16 pairs, kAmx tiles of them.
enum class Isa { kPortable, kAvx2, kAvx512, kAvx512Bf16, kAmx };
std::string_view name(Isa isa);
// Do its products of bf16 pairs take denormal operands, products and sums as zeros? fp32 arithmetic never
// does.
bool flushes_denormals(Isa isa);

// What a load on a GPU finds there; 0 where a plan is made without a device.
struct CudaVersions {
  int driver = 0;    // of CUDA: 12090 is 12.9
  int cublaslt = 0;  // cublasLtGetVersion: 120900 is that of CUDA 12.9
};

// What an implementation's rule may ask about the device.
struct Target {
  DeviceKind kind = DeviceKind::kCpu;
  Isa isa = Isa::kPortable;  // of a CPU
  int sm = 0;                // of a GPU: its compute capability, 90 for 9.0
  CudaVersions cuda = {};
  int multiprocessors = 132;  // of a GPU that kernels may spread over; no bit depends on it
};

// "cpu", "sm80", "sm90", "sm100", "sm120": what a plan can be made for. A CPU by that name has the
// instruction set that every x86-64 has. Throws Error{kRequest}.
Target target_named(std::string_view name);
std::string name(const Target& target);
std::string_view name(DeviceKind kind);

struct Device {
  Target target;
  std::string model;  // "AMD EPYC ..."
  int threads = 1;    // that a session runs on
  std::unique_ptr<Workers> (*make_workers)(int threads) = nullptr;
  int64_t available_bytes = 0;               // memory that can still be had
  const Accelerator* accelerator = nullptr;  // of a GPU that is here
};

// One that need not be here, to plan for: a thread, no memory known.
Device device_of(const Target& target);

}  // namespace fulgurite
