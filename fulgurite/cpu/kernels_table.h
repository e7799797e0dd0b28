#pragma once
// The builds of the kernels, one function an instruction set. Only kernels.cpp chooses.

#include "fulgurite/cpu/kernels.h"

namespace fulgurite::cpu {

const Kernels& kernels_portable();
#if defined(__x86_64__)
const Kernels& kernels_avx2();
const Kernels& kernels_avx512();
const Kernels& kernels_avx512_bf16();
const Kernels& kernels_amx();
#endif

}  // namespace fulgurite::cpu
