#pragma once
// Checkpoint -> model: every name exact, every dtype and shape proven, every unknown tensor an error. Which
// form a weight has, its own tensors tell (examine.h); a fused indexer projection is bound as two ranges of
// its rows. The model views the checkpoint's bytes, so the checkpoint outlives it.

#include <vector>

#include "fulgurite/checkpoint/checkpoint.h"
#include "fulgurite/model/config.h"
#include "fulgurite/model/examine.h"
#include "fulgurite/model/weight_names.h"
#include "fulgurite/model/weights.h"

namespace fulgurite::model {

struct Model {
  Config config;
  StoredWeights weights;
  std::vector<TensorName> names;  // what was bound, in the order of the computation; then what was left out
  std::vector<std::vector<const checkpoint::TensorView*>> parts;  // of each name; none where it is not there
  int64_t bound_bytes = 0;  // of the tensors that the model reads, scales included
  int64_t left_out_bytes = 0;
};

// Throws Error{kConfig} or Error{kModel}; reads headers only.
Model bind(const checkpoint::Checkpoint& checkpoint);

// What bind() makes of a checkpoint that config.json alone speaks of: each weight in the form that
// quantization_config says, without bytes. For planning; nothing of it can be read.
Model outline(Config config);

}  // namespace fulgurite::model
