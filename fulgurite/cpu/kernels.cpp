#include "fulgurite/cpu/kernels.h"

#if defined(__x86_64__) && defined(__linux__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include "fulgurite/core/assert.h"
#include "fulgurite/cpu/kernels_table.h"

namespace fulgurite::cpu {
namespace {

#if defined(__x86_64__) && defined(__linux__)

// The state that the system saves between threads (XCR0) includes tiles.
bool system_saves_tiles() {
  constexpr unsigned kOsxsave = 1u << 27, kTileStates = 3u << 17;
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  if (__get_cpuid(1, &eax, &ebx, &ecx, &edx) == 0 || (ecx & kOsxsave) == 0) return false;
  unsigned low = 0, high = 0;
  asm volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return (low & kTileStates) == kTileStates;
}

// Linux gives a process the large state of tiles only if it asks (Documentation/arch/x86/xstate.rst).
bool may_use_tiles() {
  constexpr long kRequestPermission = 0x1023, kTileData = 18;
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}

bool has_tiles() {
  constexpr unsigned kBf16 = 1u << 22, kTile = 1u << 24;
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  if (__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) == 0) return false;
  return (edx & kBf16) != 0 && (edx & kTile) != 0 && system_saves_tiles() && may_use_tiles();
}

#else

bool has_tiles() { return false; }

#endif

Isa find_best_isa() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  const bool has_avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool has_avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                          __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
  const bool has_pairs = __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512vbmi");
  if (has_avx2 && has_avx512 && has_pairs) return has_tiles() ? Isa::kAmx : Isa::kAvx512Bf16;
  if (has_avx2 && has_avx512) return Isa::kAvx512;
  if (has_avx2) return Isa::kAvx2;
#endif
  return Isa::kPortable;
}

}  // namespace

Isa best_isa() {
  static const Isa best = find_best_isa();
  return best;
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
    case Isa::kAvx512Bf16:
      return kernels_avx512_bf16();
    case Isa::kAmx:
      return kernels_amx();
#else
    default:
      break;
#endif
  }
  FULGURITE_ASSERT(false, "no kernels for instruction set {}", name(isa));
}

}  // namespace fulgurite::cpu
