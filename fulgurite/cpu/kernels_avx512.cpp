// AVX-512: 32 registers of 16 floats. Flags: cmake/isa.cmake.

#include <cstdint>

namespace {
constexpr int kRegisterBytes = 64;
constexpr int kTileRows = 4;
constexpr int kTileColumns = 4;
}  // namespace

#include "fulgurite/cpu/kernels_body.h"
#include "fulgurite/cpu/kernels_table.h"

namespace fulgurite::cpu {
const Kernels& kernels_avx512() { return kTable; }
}  // namespace fulgurite::cpu
