#pragma once
// A model's weights, bound to fields: names are gone, shapes are proven, bytes stay where the checkpoint
// mapped them. Shapes are [out, in] of y = x W^T; the names in comments are those of Config.

#include <variant>
#include <vector>

#include "fulgurite/core/matrix.h"

namespace fulgurite::model {

using StoredVector = std::variant<View<const float, 1>, View<const bf16, 1>>;

struct StoredMlp {
  StoredMatrix gate, up;  // [width, hidden]
  StoredMatrix down;      // [hidden, width]
};

struct StoredIndexer {
  StoredMatrix q;              // wq_b [index_heads * index_dim, q_lora]
  StoredMatrix k;              // wk [index_dim, hidden]
  StoredVector k_norm_weight;  // [index_dim]
  StoredVector k_norm_bias;    // [index_dim]
  StoredMatrix gate;           // weights_proj [index_heads, hidden]
};

struct StoredLayer {
  StoredVector attention_norm;     // [hidden]
  StoredMatrix q_a;                // [q_lora, hidden]
  StoredVector q_a_norm;           // [q_lora]
  StoredMatrix q_b;                // [heads * (nope + rope), q_lora]
  StoredMatrix kv_a;               // [kv_lora + rope, hidden]
  StoredVector kv_a_norm;          // [kv_lora]
  StoredMatrix kv_b;               // [heads * (nope + value), kv_lora]
  StoredMatrix o;                  // [hidden, heads * value]
  StoredIndexer indexer;           // empty in a layer that shares the selection of the one before
  StoredVector feed_forward_norm;  // [hidden]
  StoredMatrix router;             // [experts, hidden]; empty in a dense layer
  StoredVector router_bias;        // [experts]; empty in a dense layer
  std::vector<StoredMlp> experts;  // empty in a dense layer
  StoredMlp shared;                // the shared expert, or the dense layer's MLP
};

struct StoredWeights {
  StoredMatrix embedding;  // [vocabulary, hidden]
  std::vector<StoredLayer> layers;
  StoredVector final_norm;  // [hidden]
  StoredMatrix head;        // [vocabulary, hidden]
};

}  // namespace fulgurite::model
