#include "fulgurite/cpu/kernels.h"

#include "fulgurite/core/assert.h"
#include "fulgurite/cpu/kernels_table.h"

namespace fulgurite::cpu {

Isa best_isa() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq"))
    return Isa::kAvx512;
  if (__builtin_cpu_supports("avx2")) return Isa::kAvx2;
#endif
  return Isa::kPortable;
}

const Kernels& kernels(Isa isa) {
  switch (isa) {
    case Isa::kPortable:
      return kernels_portable();
#if defined(__x86_64__)
    case Isa::kAvx2:
      return kernels_avx2();
    case Isa::kAvx512:
      return kernels_avx512();
#else
    default:
      break;
#endif
  }
  FULGURITE_ASSERT(false, "no kernels for instruction set {}", name(isa));
}

}  // namespace fulgurite::cpu
