#pragma once
// What can be wrong with a checkpoint: rules with a name each. Binding refuses with the first error, the lint
// lists all findings. docs/lint.md says of each rule which report it comes from.

#include <string>
#include <string_view>

namespace fulgurite::model {

enum class Severity { kError, kWarning };  // an error cannot be loaded, or computes something else
std::string_view name(Severity severity);

enum class Rule {
  kConfig,
  kConfigContradiction,
  kIndexerRopeStyle,
  kMissingShard,
  kUnreadableShard,
  kShardIndex,
  kStrayShard,
  kMissingTensor,
  kDuplicateTensor,
  kUnknownTensor,
  kTransposedTensor,
  kTiedTensor,
  kTensorShape,
  kTensorType,
  kMisalignedTensor,
  kWeightWithoutScale,
  kScaleWithoutWeight,
  kScaleShape,
  kExpertForms,
  kMtpTensors,
  kSharedIndexer,
  kRouterBiasPrecision,
  // Of the data, by sample:
  kScaleBytesAsNumbers,
  kScaleNotPowerOfTwo,
  kSaturatedCodes,
  kBlockOutlier,
  kNotANumber,
  kExpertTable,
};
inline constexpr int kRules = static_cast<int>(Rule::kExpertTable) + 1;

std::string_view name(Rule rule);  // "missing-tensor"
Severity severity(Rule rule);
std::string_view remedy(Rule rule);

struct Finding {
  Rule rule = Rule::kConfig;
  std::string subject;  // a tensor's name, else a file's
  std::string message;  // one line that names the object, what was expected and what was found
};

}  // namespace fulgurite::model
