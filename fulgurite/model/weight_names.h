#pragma once
// The tensors of a model, whole names, one table: what the checkpoint must hold, as what and in which shape.
// The last place where a string names a tensor.

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "fulgurite/core/dtype.h"
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
  kWindowKv,    // DeepSeek-V4's attention
  kWindowKvNorm,
  kSink,
  kOA,
  kOB,
  kCompressorKv,  // of the layer's own entries
  kCompressorGate,
  kCompressorApe,
  kCompressorNorm,
  kIndexCompressorKv,  // of the indexer's keys
  kIndexCompressorGate,
  kIndexCompressorApe,
  kIndexCompressorNorm,
  kAttentionStreamsFn,  // mixing of streams, before each block and before the head
  kAttentionStreamsBase,
  kAttentionStreamsScale,
  kFeedForwardStreamsFn,
  kFeedForwardStreamsBase,
  kFeedForwardStreamsScale,
  kHeadStreamsFn,
  kHeadStreamsBase,
  kHeadStreamsScale,
  kRouter,
  kRouterBias,
  kExpertTable,
  kMlpGate,  // of a routed expert, of the shared expert or of a dense layer: TensorName::expert tells
  kMlpUp,
  kMlpDown,
  kExpertsGateUp,  // of all experts in one tensor: of each first the rows of gate, then those of up
  kExpertsDown,
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
  kStack,   // a matrix an expert, [experts, rows / experts, columns]: BF16 or F32
  kTable,   // I64
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
  Role part = role;            // of what is left out: what it would be
  DType plain = DType::kBF16;  // what is not quantized, in the family's own files
};

// DeepSeek-V4 has three spellings; a checkpoint holds one of them.
enum class Spelling {
  kOfficial,  // "layers.0.attn.wq_a.weight"
  kSaved,     // "model.layers.0.attn.wq_a.weight": what Hugging Face's save_pretrained writes
  kModules,   // "model.layers.0.self_attn.q_a_proj.weight": the parameters of Hugging Face's modules
};

// Every tensor that a checkpoint of this configuration holds, in the order of the computation; scales are not
// listed, they go with their weight. Indexers of layers that share another's selection are not required; nor
// are MTP tensors, which follow at the end.
std::vector<TensorName> tensor_names(const Config& config, Spelling spelling = Spelling::kOfficial);

// Where a layer's wk and weights_proj are one tensor [index_dim + index_heads, hidden], it stands in their
// place.
TensorName fused_indexer(const Config& config, int64_t layer);

// The name of a linear's scales in the official checkpoints: F32 or E8M0.
std::string scale_name(const TensorName& weight, ScaleFormat format = ScaleFormat::kF32);

// A name begins with "mtp." and the number of a stage, which follows the last layer: its layer, else kNoLayer.
int64_t mtp_stage_layer(const Config& config, std::string_view name);

// The names of all tensors that may belong to a weight; of `scales` one at most is there.
struct PartNames {
  std::array<std::string, 3> scales;  // .weight_scale_inv, .weight_scale, .scale
  std::string global;                 // .weight_scale_2, of NVFP4
  std::string input;                  // .input_scale: of activations, left out
};
PartNames part_names(const TensorName& weight);

}  // namespace fulgurite::model
