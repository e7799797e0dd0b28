#pragma once
// Weights as the plan's rows read them, made once. Matrices are viewed as stored: every row that has a kernel
// reads them so, but the head gate where gate_weight = fp8 quantizes it. Vectors become fp32,
// exactly; the rotary tables are computed. Nothing is made on the way that is not kept, but one block of a
// matrix: preparing holds the prepared weights, and never one tensor more.

#include <vector>

#include "fulgurite/core/host_buffer.h"
#include "fulgurite/ops/experts/experts.h"
#include "fulgurite/ops/rotary/rotary.h"
#include "fulgurite/plan/plan.h"

namespace fulgurite::plan {

struct PreparedLayer {
  View<const float, 1> attention_norm;
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
  View<const float, 1> feed_forward_norm;
  PreparedMatrix router;
  View<const float, 1> router_bias;
  std::vector<experts::Mlp> experts;
  experts::Mlp shared;
};

struct PreparedWeights {
  HostBuffer memory;
  PreparedMatrix embedding;
  std::vector<PreparedLayer> layers;
  View<const float, 1> final_norm;
  PreparedMatrix head;
  rotary::Table rope;
};

PreparedWeights prepare(const model::Model& model, const Plan& plan);

// The same of another model that is interchangeable with the one that `weights` were prepared of, in the same
// memory: allocates nothing, cannot fail.
void prepare_again(const model::Model& model, const Plan& plan, PreparedWeights& weights);

// Whether the head gate's weight is quantized here: gate_weight = fp8, and it is not stored in codes.
bool quantizes_gate(const StoredMatrix& gate, const Numerics& numerics);

// Floats of prepared memory that a matrix quantized to e4m3 in blocks of 128x128 takes.
int64_t quantized_floats(int64_t out, int64_t in);

}  // namespace fulgurite::plan
