#pragma once
// What is known at load of the device that a plan is made for.

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "fulgurite/core/workers.h"

namespace fulgurite {

enum class DeviceKind { kCpu };

// The instruction sets that the CPU kernels are built for; each later one includes the earlier. kAvx512Bf16
// has dot products of bf16 pairs, kAmx tiles of them.
enum class Isa { kPortable, kAvx2, kAvx512, kAvx512Bf16, kAmx };
std::string_view name(Isa isa);

// What an implementation's rule may ask about the device.
struct Target {
  DeviceKind kind = DeviceKind::kCpu;
  Isa isa = Isa::kPortable;
};

struct Device {
  Target target;
  std::string model;  // "AMD EPYC ..."
  int threads = 1;    // that a session runs on
  std::unique_ptr<Workers> (*make_workers)(int threads) = nullptr;
  int64_t available_bytes = 0;  // memory that can still be had
};

}  // namespace fulgurite
