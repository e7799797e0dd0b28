#pragma once
// Weights as the plan's rows read them, made once. Matrices are viewed as stored, but the head gate where gate_weight = fp8
// quantizes it, what a row reads rounded to bf16, and two weights that the plan has as one (joined.h). Vectors become fp32,
// exactly; the rotary tables are computed. Nothing is made on the way that is not kept, but one block of a
// matrix: preparing holds the prepared weights, and never one tensor more.

#include <vector>

#include "fulgurite/core/host_buffer.h"
#include "fulgurite/ops/experts/experts.h"
#include "fulgurite/ops/rotary/rotary.h"
#include "fulgurite/plan/plan.h"

namespace fulgurite::plan {

struct PreparedCompressor {
  PreparedMatrix kv, gate;
  View<const float, 2> ape;
  View<const float, 1> norm;
};

struct PreparedStreams {
  View<const float, 2> fn;
  View<const float, 1> base;
  View<const float, 1> scale;
};

struct PreparedWindowAttention {
  PreparedMatrix kv;
  View<const float, 1> kv_norm;
  View<const float, 1> sink;
  PreparedMatrix o_a;
  PreparedMatrix o_b;
  PreparedCompressor compressor;  // of layers with a ratio
  PreparedCompressor index_keys;  // of layers with an indexer
};

struct PreparedLayer {
  View<const float, 1> attention_norm;
  PreparedMatrix qkv_a;  // a copy, where the plan has one product in the place of q_a and kv_a (or kv)
  PreparedMatrix q_a;
  View<const float, 1> q_a_norm;
  PreparedMatrix q_b;
  PreparedMatrix kv_a;
  View<const float, 1> kv_a_norm;
  PreparedMatrix kv_b;
  PreparedMatrix o;
  PreparedMatrix index_q;
  PreparedMatrix index_k;
  View<const float, 1> index_k_norm_weight;
  View<const float, 1> index_k_norm_bias;
  PreparedMatrix index_gate;
  PreparedWindowAttention window;  // DeepSeek-V4, in the place of kv_a to o
  PreparedStreams attention_streams;
  PreparedStreams feed_forward_streams;
  View<const float, 1> feed_forward_norm;
  PreparedMatrix router;
  View<const float, 1> router_bias;
  View<const int64_t, 2> expert_table;
  std::vector<experts::Mlp> experts;
  experts::Mlp shared;
};

struct PreparedWeights {
  HostBuffer memory;
  PreparedMatrix embedding;
  std::vector<PreparedLayer> layers;
  PreparedStreams head_streams;
  View<const float, 1> final_norm;
  PreparedMatrix head;
  rotary::Table rope;
  rotary::Table compressed_rope;  // of layers with compressed entries; nothing where no layer has them
};

// The bytes that prepare() takes, found by doing all of it but the writing, and those of all weights in the
// memory of a device that does not read the host's.
struct PreparedBytes {
  int64_t prepared = 0;
  int64_t uploaded = 0;
};
PreparedBytes prepared_bytes(const model::Model& model, const Plan& plan);

PreparedWeights prepare(const model::Model& model, const Plan& plan);

// The same of another model that is interchangeable with the one that `weights` were prepared of, in the same
// memory: allocates nothing, cannot fail.
void prepare_again(const model::Model& model, const Plan& plan, PreparedWeights& weights);

// Whether the head gate's weight is quantized here: gate_weight = fp8, and it is not stored in codes.
bool quantizes_gate(const StoredMatrix& gate, const Numerics& numerics);
// The format that it then has, in blocks of 128x128, or the stored one.
MatrixFormat gate_format(const StoredMatrix& gate, const Numerics& numerics);

}  // namespace fulgurite::plan
