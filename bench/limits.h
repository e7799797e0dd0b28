#pragma once
// What the machine can do at most, measured here and now: reading memory, and arithmetic in registers.

#include <cstdint>
#include <span>

#include "fulgurite/core/host_buffer.h"
#include "fulgurite/core/implementation.h"

namespace fulgurite::bench {

// The arithmetic that an operation's products are made with: of bf16 pairs, of e4m3 codes (which a CPU takes for
// pairs), or in fp32.
enum class Arithmetic { kPairs, kCodes, kFp32 };

struct Limits {
  int threads = 1;
  double read_bytes = 0.0;  // a second
  double pairs_flops = 0.0;
  double fp32_flops = 0.0;
  double codes_flops = 0.0;  // of a GPU

  double flops(Arithmetic arithmetic) const {
    if (arithmetic == Arithmetic::kCodes) return codes_flops;
    return arithmetic == Arithmetic::kPairs ? pairs_flops : fp32_flops;
  }
};

// Bytes of all last-level and second-level caches of the machine; 64 MiB where the system does not tell.
int64_t cache_bytes();

// A buffer larger than every cache: what bandwidth is measured on, and what a cold run finds in the caches.
class LargeBuffer {
 public:
  explicit LargeBuffer(const Lane& lane);  // touched by the lane's threads

  // Reads flushed_bytes(), three times what the caches hold: nothing else is left in them.
  void flush(const Lane& lane) const;
  std::span<const std::byte> bytes() const { return memory_.bytes(); }
  static int64_t size();
  static int64_t flushed_bytes();

 private:
  HostBuffer memory_;
};

// The best of several passes each, on the lane's threads.
Limits measure_limits(const LargeBuffer& buffer, Isa isa, const Lane& lane);

}  // namespace fulgurite::bench
