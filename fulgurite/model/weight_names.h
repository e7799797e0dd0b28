#pragma once
// The tensors of a model, whole names, one table: what the checkpoint must hold, as what and in which shape.
// The last place where a string names a tensor.

#include <array>
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
  kIndexFused,  // wk and weights_proj in one tensor: first the rows of wk
  kRouter,
  kRouterBias,
  kMlpGate,  // of a routed expert, of the shared expert or of a dense layer: TensorName::expert tells
  kMlpUp,
  kMlpDown,
  kSharedIndexer,  // of a layer that shares the selection of another: known and left out
  kMtp,            // multi-token prediction: known and left out
};
std::string_view name(Role role);

// How a tensor may be stored.
enum class Form {
  kLinear,  // quantized where the checkpoint is: F8_E4M3 or fp4 with scales; else BF16 or F32
  kGate,    // BF16 or F32; some repacked checkpoints quantize it as they do linears
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
  Role part = role;  // of what is left out: what it would be
};

// Every tensor that a checkpoint of this configuration holds, in the order of the computation; scales are not
// listed, they go with their weight. Indexers of layers that share another's selection are not required; nor
// are MTP tensors, which follow at the end.
std::vector<TensorName> tensor_names(const Config& config);

// Where a layer's wk and weights_proj are one tensor [index_dim + index_heads, hidden], it stands in their
// place.
TensorName fused_indexer(const Config& config, int64_t layer);

// The name of a linear's scales in the official checkpoints.
std::string scale_name(const TensorName& weight);

// The names of all tensors that may belong to a weight; of `scales` one at most is there.
struct PartNames {
  std::array<std::string, 3> scales;  // .weight_scale_inv, .weight_scale, .scale
  std::string global;                 // .weight_scale_2, of NVFP4
  std::string input;                  // .input_scale: of activations, left out
};
PartNames part_names(const TensorName& weight);

}  // namespace fulgurite::model
