// AVX-512 with dot products of bf16 pairs and look-ups of bytes. Flags: cmake/isa.cmake.

#include "fulgurite/cpu/kernels_avx512_bf16_body.h"
#include "fulgurite/cpu/kernels_table.h"

namespace fulgurite::cpu {

const Kernels& kernels_avx512_bf16() {
  static constexpr Kernels kOwn = table_with_pairs();
  return kOwn;
}

}  // namespace fulgurite::cpu
