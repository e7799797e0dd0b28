#pragma once
// Looks into a forward pass: sees tensors as they arise, and may replace them. A session without a tap does
// none of this. Tensors are views of the session's buffers, one row a token of the forward pass; they are
// valid during the call.

#include <array>
#include <span>

#include "fulgurite/core/any_view.h"
#include "fulgurite/core/token_place.h"

namespace fulgurite::execute {

// In the order of the computation within a layer; shapes are those of the model.
enum class TapPoint {
  kAttnIn,    // [tokens, hidden], what the streams collapse to before the attention's norm
  kQLatent,   // [tokens, q_lora]
  kQNormed,   // [tokens, heads, head_dim], after the heads' norm, before RoPE
  kQ,         // [tokens, heads, nope + rope], rotated
  kKvLatent,  // [tokens, kv_lora], as attention reads it
  kKRope,     // [tokens, rope], as attention reads it
  kKv,        // [tokens, head_dim], key and value in one, as attention reads it
  kEntries,   // [tokens, head_dim], the entry that a token completes, as attention reads it
  kIndexQ,    // [tokens, index_heads, index_dim], rotated, before Hadamard
  kIndexK,  // [tokens, index_dim], the same; of entries: as the selection reads it, at the token that completes it
  kIndexWeights,   // [tokens, index_heads]
  kIndexScores,    // [tokens, index keys of a sequence], -infinity where not visible
  kTopk,           // i32 [tokens, selected], ascending, then -1
  kAttnHeads,      // [tokens, heads, value], before the output projection
  kAttnOut,        // [tokens, hidden]
  kExpertIds,      // i32 [tokens, experts_per_token], ascending
  kExpertWeights,  // [tokens, experts_per_token]
  kHidden,         // [tokens, hidden] or [tokens, streams, hidden], as stored; see replaced_hidden
  kLogits,         // [logit rows, vocabulary]
};

struct TapTensor {
  int rank = 2;
  Tensor<3> view;             // rank 2: [tokens, 1, width]
  int64_t every = 1;          // only tokens at positions every - 1, 2 * every - 1, ... have a row
  int64_t column_tokens = 1;  // of index scores: positions that a column stands for
};

class Tap {
 public:
  virtual ~Tap() = default;

  // Before anything else of a forward pass: where its tokens stand.
  virtual void begin(std::span<const TokenPlace> places) = 0;

  // A tensor that has just arisen; the bytes of kTopk and kAttnOut may be written.
  virtual void at(TapPoint point, int64_t layer, const TapTensor& tensor) = 0;

  // After at(): may write what the steps that follow read in the place of the tensor (caches and operands are
  // made of it anew), and says whether it did. Of no effect on q_normed, index scores, hidden and logits,
  // which no step reads as they stand.
  virtual bool replace(TapPoint, int64_t, const TapTensor&) { return false; }

  // Before a layer's output arises: the stream and the block that are added, of one residual stream.
  virtual void before_sum(int64_t, const Tensor<2>& /*stream*/, const Tensor<2>& /*block*/) {}
  // Of several streams: is at(kHidden) to see what the layer computed (true), or what stands in its place?
  virtual bool compares_hidden() const { return false; }

  // Values for layer's output: they stand for the residual sum of the tokens from `first_token` on.
  struct Replacement {
    int64_t first_token = 0;
    View<const float, 2> rows;  // [., hidden], of all streams side by side; no data: nothing is replaced
  };
  virtual Replacement replaced_hidden(int64_t) { return {}; }
};

inline TapTensor tap_tensor(const Tensor<3>& tensor) { return {3, tensor}; }
inline TapTensor tap_tensor(const Tensor<2>& tensor) {
  Tensor<3> view;
  view.data = tensor.data;
  view.dtype = tensor.dtype;
  view.extent = {tensor.extent[0], 1, tensor.extent[1]};
  view.stride = {tensor.stride[0], tensor.extent[1], tensor.stride[1]};
  return {2, view};
}

}  // namespace fulgurite::execute
