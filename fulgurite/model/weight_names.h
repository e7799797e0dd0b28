#pragma once
// The tensors of a model, whole names, one table: what the checkpoint must hold, as what and in which shape.
// The last place where a string names a tensor.

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "fulgurite/model/config.h"

namespace fulgurite::model {

enum class Role {
  kEmbedding,
  kFinalNorm,
  kHead,
  kAttentionNorm,
  kFeedForwardNorm,
  kQA,
  kQANorm,
  kQB,
  kKvA,
  kKvANorm,
  kKvB,
  kO,
  kIndexQ,
  kIndexK,
  kIndexKNormWeight,
  kIndexKNormBias,
  kIndexGate,
  kRouter,
  kRouterBias,
  kMlpGate,  // of a routed expert, of the shared expert or of a dense layer: TensorName::expert tells
  kMlpUp,
  kMlpDown,
  kMtp,  // multi-token prediction: known and left out
};
std::string_view name(Role role);

// How a tensor may be stored.
enum class Form {
  kLinear,  // quantized: F8_E4M3 with `NAME_scale_inv` F32, a scale a block; else BF16 or F32
  kPlain,   // a matrix that is never quantized: BF16 or F32
  kVector,  // BF16 or F32
  kAny,     // not read
};

constexpr int64_t kNoLayer = -1;
constexpr int64_t kNotRouted = -1;

struct TensorName {
  std::string name;
  Role role = Role::kMtp;
  Form form = Form::kAny;
  int64_t layer = kNoLayer;
  int64_t expert = kNotRouted;
  int64_t rows = 0;  // of a vector: 1
  int64_t columns = 0;
  bool required = true;
};

// Every tensor that a checkpoint of this configuration holds, in the order of the computation; scales are not
// listed, they go with their weight. MTP tensors follow at the end, not required.
std::vector<TensorName> tensor_names(const Config& config);

// The name of a linear's scales.
std::string scale_name(const TensorName& weight);

}  // namespace fulgurite::model
