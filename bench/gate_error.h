#pragma once
// What the precision of the head gate costs: gates of [queries, hidden] x [heads, hidden] in three forms, and
// the rows that each form chooses among as many candidates as a context of 128k tokens has.
//
//   double     the sum, its product with the other factors of the weight and the sum over heads, all in double
//   fp32       the sum as the row of the catalog makes it, and as a sum in double rounded once; weights and
//              scores by indexer_prepare and index_select of the preset serving
//   bf16       the same row with gate = bf16
//
//   x, w       realistic: drawn_activations, and weights of deviation 0.02 in bf16. Adversarial: the second half
//              of the columns takes back what the first half adds, but for one column in 64
//   choice     random queries and keys, through RoPE, Hadamard and the quantizer: e4m3 operands with
//              power-of-two scales. Products of codes and their sums are exact in double

#include <string>
#include <vector>

#include "bench/experiment.h"

namespace fulgurite::bench {

struct GateForm {
  std::string what;            // "rounded to bf16"
  std::string implementation;  // of the gate: "cpu_bf16"; empty: sums in double
  Deviation gate;              // from the sums in double
  int64_t sets = 0;            // queries whose set is another than that of double
  double positions = 0.0;      // of a set, that are others; the mean over all queries
  double tied = 0.0;           // candidates whose score another has too; the mean over all queries
  int64_t decided_by_tie = 0;  // queries whose last chosen and first left out candidate have equal scores
};

struct GateInput {
  std::string what;  // "realistic"
  std::vector<GateForm> forms;
};

struct GateErrors {
  int64_t queries = 0, candidates = 0, topk = 0;
  std::vector<GateInput> inputs;
};

// The request's shape, target and catalog; its numerics are the forms'.
GateErrors gate_errors(const Request& request, const Lane& lane);

}  // namespace fulgurite::bench
