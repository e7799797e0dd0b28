#include "fulgurite/model/finding.h"

#include <array>

namespace fulgurite::model {
namespace {

struct Entry {
  Rule rule;
  std::string_view name;
  Severity severity;
  std::string_view remedy;
};

constexpr Severity kError = Severity::kError, kWarning = Severity::kWarning;

constexpr std::array<Entry, kRules> kTable{{
    {Rule::kConfig, "config", kError, "correct config.json, or take it from the model's publisher"},
    {Rule::kConfigContradiction, "config-contradiction", kError,
     "config.json belongs to another checkpoint than the tensors: fetch both from one revision"},
    {Rule::kIndexerRopeStyle, "indexer-rope-style", kError,
     "a family rotates its indexer in one way: remove indexer_rope_interleave, or take the model's own "
     "config.json"},
    {Rule::kMissingShard, "missing-shard", kError, "fetch the shard again"},
    {Rule::kUnreadableShard, "unreadable-shard", kError, "fetch the shard again and compare its size"},
    {Rule::kShardIndex, "shard-index", kError,
     "fetch index and shards from one revision, or write the index anew"},
    {Rule::kStrayShard, "stray-shard", kWarning,
     "remove the file if it is of another revision; nothing reads it"},
    {Rule::kMissingTensor, "missing-tensor", kError, "write the tensor; nothing else can stand for it"},
    {Rule::kDuplicateTensor, "duplicate-tensor", kError, "keep one of the two"},
    {Rule::kUnknownTensor, "unknown-tensor", kError,
     "rename it to the name that the model has, or leave it out when the checkpoint is written"},
    {Rule::kTransposedTensor, "transposed-tensor", kError, "write it as [out, in]"},
    {Rule::kTiedTensor, "tied-tensor", kError,
     "write lm_head.weight as a tensor of its own; the family does not tie"},
    {Rule::kTensorShape, "tensor-shape", kError,
     "compare with config.json, which the expected shape comes from"},
    {Rule::kTensorType, "tensor-type", kError, "write the tensor in one of the expected types"},
    {Rule::kMisalignedTensor, "misaligned-tensor", kError, "rewrite the file with an aligned header"},
    {Rule::kWeightWithoutScale, "weight-without-scale", kError,
     "write the scales beside the weight; codes without scales are no weights"},
    {Rule::kScaleWithoutWeight, "scale-without-weight", kError,
     "write the quantized weight of these scales, or leave the scales out"},
    {Rule::kScaleShape, "scale-shape", kError, "write one scale a block, blocks as config.json says"},
    {Rule::kExpertForms, "expert-forms", kError, "write all experts of a layer in one form"},
    {Rule::kMtpTensors, "mtp-tensors", kWarning,
     "ship all tensors of the MTP layer and num_nextn_predict_layers, or neither"},
    {Rule::kSharedIndexer, "shared-indexer", kWarning,
     "ship all tensors of the indexer or none, or correct indexer_types: a shared layer reads none"},
    {Rule::kRouterBiasPrecision, "router-bias-precision", kWarning,
     "store the bias in F32: in BF16 its values fall together and other experts are chosen"},
    {Rule::kScaleBytesAsNumbers, "scale-bytes-as-numbers", kError,
     "the bytes of e8m0 scales were converted as integers: write 2^(byte - 127)"},
    {Rule::kScaleNotPowerOfTwo, "scale-not-power-of-two", kWarning,
     "requantize codes and scales together, or remove scale_fmt; rounding the scale alone changes the "
     "weights"},
    {Rule::kSaturatedCodes, "saturated-codes", kWarning,
     "quantize again with a scale that covers the block's largest value"},
    {Rule::kBlockOutlier, "block-outlier", kWarning,
     "compare this block with the source: a scale of another block or another format stands here"},
    {Rule::kNotANumber, "not-a-number", kError, "write the tensor again from its source"},
    {Rule::kExpertTable, "expert-table", kError,
     "write the table again from its source: its numbers choose experts"},
}};

constexpr bool table_follows_enum() {
  for (size_t i = 0; i < kTable.size(); ++i)
    if (static_cast<size_t>(kTable[i].rule) != i) return false;
  return true;
}
static_assert(table_follows_enum());

const Entry& entry(Rule rule) { return kTable[static_cast<size_t>(rule)]; }

}  // namespace

std::string_view name(Severity severity) { return severity == Severity::kError ? "error" : "warning"; }
std::string_view name(Rule rule) { return entry(rule).name; }
Severity severity(Rule rule) { return entry(rule).severity; }
std::string_view remedy(Rule rule) { return entry(rule).remedy; }

}  // namespace fulgurite::model
