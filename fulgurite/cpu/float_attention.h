#pragma once
// Attention of fp32 operands, whatever the rows of the caches: scores, a running softmax over tiles, weighted
// sums. An operation says what its tokens' queries, keys and values are, and ends their sums.

#include <cstdint>

#include "fulgurite/core/implementation.h"
#include "fulgurite/cpu/kernels.h"
#include "fulgurite/cpu/pair_attention.h"
#include "fulgurite/cpu/token_keys.h"

namespace fulgurite::cpu {

inline constexpr int64_t kWidenedRows = 64;  // of a cache, at once

struct FloatAttention {
  Isa isa = Isa::kPortable;
  int64_t heads = 0;
  int64_t width = 0;      // of a key
  int64_t columns = 0;    // of a value: the first of a key's
  int64_t tile = 0;       // slots; 0: all are one tile
  int64_t most_keys = 0;  // of a token
  float scale = 1.0f;
  bool rounded_weights = false;  // to bf16
  bool rounded_denominator = false;
  bool in_place = false;  // no rows are ever written to a buffer
};

// What the tokens of a call attend to. Every method may be called by any thread.
class FloatTokens {
 public:
  virtual TokenKeys keys(int64_t t) const = 0;
  virtual void read_query(int64_t t, int64_t head, float* to) const = 0;

  // Keys from `first` on, `count` of them or fewer: where they stand, or as rows of `width` in `buffer`, which
  // has room for kWidenedRows, and as many in `indices`. As values: of softmax_p = bf16.
  enum class Use { kKeys, kValues };
  struct Buffers {
    float* rows;
    int32_t* indices;
  };
  virtual Rows rows(int64_t t, Use use, int64_t first, int64_t count, const Buffers& buffers) const = 0;

  // Writes a head from its sums, which it may change.
  virtual void finish(int64_t t, int64_t head, const EndedSoftmax& softmax, float* sums) const = 0;

 protected:
  ~FloatTokens() = default;
};

int64_t workspace_bytes(const FloatAttention& shape, int threads);
void attend(const FloatAttention& shape, const FloatTokens& tokens, int64_t count, const Lane& lane);

}  // namespace fulgurite::cpu
