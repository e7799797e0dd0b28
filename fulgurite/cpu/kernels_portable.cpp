// Any x86-64, or any other machine that the compiler knows. Flags: cmake/isa.cmake.

#include <cstdint>

namespace {
constexpr int kRegisterBytes = 16;
constexpr int kTileRows = 4;
constexpr int kTileColumns = 2;
}  // namespace

#include "fulgurite/cpu/kernels_body.h"
#include "fulgurite/cpu/kernels_table.h"

namespace fulgurite::cpu {
const Kernels& kernels_portable() { return kTable; }
}  // namespace fulgurite::cpu
