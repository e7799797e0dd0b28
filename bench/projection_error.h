#pragma once
// What each form of the indexer's projection costs in accuracy, at the dimensions of a model: its outputs
// against sums in double over the same x and the stored weights, and the positions that are chosen from them.
//
//   x         drawn_activations
//   weights   deviation 0.02; wk in e4m3 blocks of 128x128 with power-of-two scales, weights_proj in bf16
//   choice    the last `queries` tokens among all tokens, by indexer_prepare and index_select of the preset
//             serving, queries drawn at random

#include <string>
#include <vector>

#include "bench/experiment.h"

namespace fulgurite::bench {

// Beside the choice that exact sums, rounded once to the types of the outputs, lead to.
struct ChoiceChange {
  int64_t sets = 0;        // queries whose set is another
  double positions = 0.0;  // of a set, that are others; the mean over all queries
  int64_t ties = 0;        // queries whose last chosen and first left out position have equal scores
};

struct FormError {
  std::string what;            // "one pass, bf16"
  std::string numerics;        // "serving,gate=bf16"
  std::string implementation;  // "cpu_bf16"
  Deviation gate, key;
  ChoiceChange by_gate;  // of this form's gate with exact keys
  ChoiceChange by_both;
};

struct ProjectionErrors {
  int64_t tokens = 0, queries = 0, topk = 0;
  std::vector<FormError> forms;
};

// The request's shape, target and catalog; its numerics are the forms'.
ProjectionErrors projection_errors(const Request& request, const Lane& lane);

}  // namespace fulgurite::bench
