#pragma once
// What it costs that some rows of a plan read scales as powers of two alone: each of their weights is
// requantized here as it will be for the row, and held against what the checkpoint stores. Reads the weights,
// which planning never does; holds one of them anew at a time.

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "fulgurite/core/encoding_error.h"
#include "fulgurite/plan/plan.h"

namespace fulgurite::plan {

// Does a row that reads `read` need other codes than those that are stored, since its scales have to be
// powers of two?
bool requantizes(const MatrixFormat& stored, const MatrixFormat& read);

struct RequantizedWeight {
  int64_t layer = model::kNoLayer;
  std::string operation;       // of the row, "linear q_a"
  std::string implementation;  // "cuda_fp8"
  std::string tensor;          // "model.layers.0.self_attn.q_a_proj.weight"
  std::string from, to;        // "e4m3 128x128, scales f32"
  int64_t blocks = 0;          // that share a scale
  int64_t kept_blocks = 0;     // whose scale is a power of two: they keep it, and their codes
  EncodingError error;         // against the stored weight
};

// Of every weight that the plan requantizes, in its order. `progress` is called after each, with its bytes.
// The model is one that bind() made.
std::vector<RequantizedWeight> measure_requantization(
    const model::Model& model, const Plan& plan,
    const std::function<void(int64_t done_bytes, int64_t total_bytes)>& progress = {});

}  // namespace fulgurite::plan
