#pragma once
// A model's weights, bound to fields: names are gone, shapes are proven, bytes stay where the checkpoint
// mapped them. Shapes are [out, in] of y = x W^T; the names in comments are those of Config.

#include <optional>
#include <variant>
#include <vector>

#include "fulgurite/core/matrix.h"

namespace fulgurite::model {

using StoredVector = std::variant<View<const float, 1>, View<const bf16, 1>>;
using StoredTable = View<const int64_t, 2>;

struct StoredMlp {
  StoredMatrix gate, up;  // [width, hidden]
  StoredMatrix down;      // [hidden, width]
};

// Makes an entry of `ratio` positions. Of ratio 4 each position has two halves, one for its own entry and one
// for the next: width = 2 * dim; otherwise width = dim. dim: head_dim, of the indexer's index_dim.
struct StoredCompressor {
  StoredMatrix kv, gate;  // [width, hidden]
  StoredMatrix ape;       // [ratio, width], plain: added to the gate
  StoredVector norm;      // [dim]
};

struct StoredIndexer {
  StoredMatrix q;                              // wq_b [index_heads * index_dim, q_lora]
  StoredMatrix k;                              // wk [index_dim, hidden]
  StoredVector k_norm_weight;                  // [index_dim]
  StoredVector k_norm_bias;                    // [index_dim]
  StoredMatrix gate;                           // weights_proj [index_heads, hidden]
  std::optional<StoredCompressor> compressor;  // makes the keys, in the place of k and k_norm
};

// What WindowAttention has in the place of kv_a, kv_b and o.
struct StoredWindowAttention {
  StoredMatrix kv;       // [head_dim, hidden]
  StoredVector kv_norm;  // [head_dim]
  StoredVector sink;     // [heads]
  StoredMatrix o_a;      // [o_groups * o_lora, heads * head_dim / o_groups]: a matrix of o_lora rows a group
  StoredMatrix o_b;      // [hidden, o_groups * o_lora]
  std::optional<StoredCompressor> compressor;  // of a layer with a ratio
};

// The mixing of streams at one site: n = count * (count + 2) before a block, n = count before the head.
struct StoredStreams {
  StoredMatrix fn;     // [n, count * hidden], plain
  StoredVector base;   // [n]
  StoredVector scale;  // [3] before a block (pre, post, mix), [1] before the head
};

struct StoredLayer {
  StoredVector attention_norm;                  // [hidden]
  StoredMatrix q_a;                             // [q_lora, hidden]
  StoredVector q_a_norm;                        // [q_lora]
  StoredMatrix q_b;                             // [heads * (nope + rope), q_lora]
  StoredMatrix kv_a;                            // [kv_lora + rope, hidden]
  StoredVector kv_a_norm;                       // [kv_lora]
  StoredMatrix kv_b;                            // [heads * (nope + value), kv_lora]
  StoredMatrix o;                               // [hidden, heads * value]
  StoredIndexer indexer;                        // empty in a layer that has none of its own
  std::optional<StoredWindowAttention> window;  // in the place of kv_a to o, which are empty then
  std::optional<StoredStreams> attention_streams, feed_forward_streams;
  StoredVector feed_forward_norm;  // [hidden]
  StoredMatrix router;             // [experts, hidden]; empty in a dense layer
  StoredVector router_bias;        // [experts]; empty in a dense and in a hashed layer
  StoredTable expert_table;        // [vocabulary, experts_per_token]; empty but in a hashed layer
  std::vector<StoredMlp> experts;  // empty in a dense layer
  StoredMlp shared;                // the shared expert, or the dense layer's MLP
};

struct StoredWeights {
  StoredMatrix embedding;  // [vocabulary, hidden]
  std::vector<StoredLayer> layers;
  std::optional<StoredStreams> head_streams;
  StoredVector final_norm;  // [hidden]
  StoredMatrix head;        // [vocabulary, hidden]
};

}  // namespace fulgurite::model
