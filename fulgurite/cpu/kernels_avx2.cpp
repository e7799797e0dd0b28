// AVX2: 16 registers of 8 floats. Flags: cmake/isa.cmake.

#include <cstdint>

namespace {
constexpr int kRegisterBytes = 32;
constexpr int kTileRows = 4;
constexpr int kTileColumns = 2;
}  // namespace

#include "fulgurite/cpu/kernels_body.h"
#include "fulgurite/cpu/kernels_table.h"

namespace fulgurite::cpu {
const Kernels& kernels_avx2() { return kTable; }
}  // namespace fulgurite::cpu
