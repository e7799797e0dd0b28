#pragma once
// Every call of the C allocator and every mapping in this process, counted (operator new comes to malloc as
// well). Not under sanitizers, which own the allocator.

#include <cstdint>

#if defined(__SANITIZE_ADDRESS__) || !defined(__GLIBC__)
#define FULGURITE_COUNTS_MEMORY 0
#else
#define FULGURITE_COUNTS_MEMORY 1
#endif

namespace fulgurite::test {

struct CountedMemory {
  int64_t allocations = 0;  // and mappings
  int64_t bytes = 0;        // held now, mapped files too
  int64_t most_bytes = 0;   // held at any time since begin_most()
};
CountedMemory counted_memory();
void begin_most();

}  // namespace fulgurite::test
