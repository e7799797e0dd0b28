#pragma once
// The best keys so far, in ascending order of position, for whoever sees keys in that order: codes of
// scores (cpu::Kernels::admit) beside positions. A full buffer is cut back to the best `wanted`, in time
// proportional to what the buffer holds; so a key costs constant time whatever the scores are, and memory
// knows no context.

#include <cstdint>

#include "fulgurite/core/numerics.h"
#include "fulgurite/cpu/kernels.h"

namespace fulgurite::index_select {

// What a choice of the best does not learn from its keys.
struct Wanted {
  int64_t count;     // keys to choose
  int64_t capacity;  // of a buffer; a batch of added keys is smaller than capacity - count
  Ties ties;
  const cpu::Kernels& kernels;
};

struct Candidates {
  uint32_t* codes;
  int32_t* positions;
  int64_t count;
  uint32_t least;  // a smaller code is not among the best

  void add(const Wanted& wanted, const float* scores, int64_t added, int64_t first) {
    if (count + added > wanted.capacity) cut(wanted);
    count += wanted.kernels.admit(scores, added, static_cast<int32_t>(first), least, codes + count,
                                  positions + count);
  }

  // The candidates of later positions; cut already.
  void add(const Wanted& wanted, const Candidates& later) {
    if (count + later.count > wanted.capacity) cut(wanted);
    for (int64_t i = 0; i < later.count; ++i) {
      codes[count] = later.codes[i];
      positions[count] = later.positions[i];
      count += later.codes[i] >= least ? 1 : 0;
    }
  }

  // Leaves the best. Where ties go to the lower position, a later key must be better than the worst of them.
  void cut(const Wanted& wanted) {
    if (count <= wanted.count) return;
    const uint32_t worst = code_of_rank(wanted);
    const int64_t better = wanted.kernels.count_at_least(codes, count, worst + 1);
    const int64_t equal = wanted.kernels.count_at_least(codes, count, worst) - better;
    const int64_t needed = wanted.count - better;
    const bool lower = wanted.ties == Ties::kLower;
    keep(worst, lower ? 0 : equal - needed, needed);
    least = lower ? worst + 1 : worst;
  }

 private:
  // The code of the worst of the best, bit by bit: as large as leaves enough codes that are not smaller.
  uint32_t code_of_rank(const Wanted& wanted) const {
    uint32_t code = 0;
    for (uint32_t bit = 0x80000000u; bit != 0; bit >>= 1)
      if (wanted.kernels.count_at_least(codes, count, code | bit) >= wanted.count) code |= bit;
    return code;
  }

  // What is better than `worst`, and of its equals `needed`, after skipping some.
  void keep(uint32_t worst, int64_t skipped, int64_t needed) {
    int64_t kept = 0, equals = 0;
    for (int64_t i = 0; i < count; ++i) {
      const uint32_t code = codes[i];
      const bool equal = code == worst, taken = (equals >= skipped) & (equals < skipped + needed);
      codes[kept] = code;
      positions[kept] = positions[i];
      kept += ((code > worst) | (equal & taken)) ? 1 : 0;
      equals += equal ? 1 : 0;
    }
    count = kept;
  }
};

}  // namespace fulgurite::index_select
