#pragma once
// Attention of bf16 pairs, whatever the rows of the caches: scores, a running softmax over tiles, weighted
// sums. An operation says what its tokens' queries, keys and values are, and ends their sums.

#include <cstddef>
#include <cstdint>

#include "fulgurite/core/any_view.h"
#include "fulgurite/core/implementation.h"
#include "fulgurite/cpu/kernels.h"
#include "fulgurite/cpu/token_keys.h"

namespace fulgurite::cpu {

struct PairAttention {
  Isa isa = Isa::kPortable;
  int64_t heads = 0;
  int64_t key_pairs = 0;      // of a key
  int64_t columns = 0;        // of a value
  int64_t tile = 64;          // slots: 64 or 128
  int64_t most_slots = 0;     // of a token
  int64_t row_bytes = 0;      // of the cache: asked for ahead
  int64_t largest_batch = 0;  // tokens that one call may bring; 0: any
  float scale = 1.0f;
  bool rounded_denominator = false;
};

// A head's softmax at its end.
struct EndedSoftmax {
  float largest = 0.0f;  // score
  float denominator = 0.0f;
};

// What the tokens of a call attend to. Every method may be called by any thread.
class PairTokens {
 public:
  virtual TokenKeys keys(int64_t t) const = 0;
  virtual const std::byte* row(int64_t t, int64_t key) const = 0;

  // Queries of `heads` <= 16 heads from `first` on, as a panel: [key_pairs][16].
  virtual void pack_queries(int64_t t, int64_t first, int64_t heads, uint32_t* panel) const = 0;

  // Two keys: as rows of 2 * key_pairs, and their values in pairs of the two, `columns` of them.
  struct TwoKeys {
    uint16_t* first;
    uint16_t* second;
    uint32_t* pairs;
  };
  virtual void read_two(int64_t t, int64_t first, int64_t second, const TwoKeys& to) const = 0;

  // Writes columns [column, column + count) of a head from their sums, which it may change.
  virtual void finish(int64_t t, int64_t head, const EndedSoftmax& softmax, int64_t column, int64_t count,
                      float* sums) const = 0;

 protected:
  ~PairTokens() = default;
};

int64_t workspace_bytes(const PairAttention& shape, int threads);
void attend(const PairAttention& shape, const PairTokens& tokens, int64_t count, const Lane& lane);

// What most tokens do: packs up to 16 rows as they are, or rounded to bf16 once where they are fp16; writes
// sums / denominator, rounded once, to `count` elements of `out` from `column` on.
void pack_query_rows(const Kernels& kernels, const ConstTensor<2>& rows, uint32_t* panel);
void write_quotients(const Kernels& kernels, float* sums, float denominator, int64_t column, int64_t count,
                     const Tensor<1>& out);

}  // namespace fulgurite::cpu
