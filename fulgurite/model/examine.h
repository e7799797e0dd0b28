#pragma once
// One weight of the table against the tensors of a checkpoint: in which form it is there, or what is wrong.
// Reads headers only. Every form that a matrix may have is decided here and nowhere else.

#include <span>
#include <variant>
#include <vector>

#include "fulgurite/checkpoint/tensor_view.h"
#include "fulgurite/model/config.h"
#include "fulgurite/model/finding.h"
#include "fulgurite/model/weight_names.h"
#include "fulgurite/model/weights.h"

namespace fulgurite::model {

using TensorList = std::span<const checkpoint::TensorView>;  // sorted by name

struct Bound {
  std::variant<StoredVector, StoredMatrix, StoredTable> as;
  std::vector<const checkpoint::TensorView*> parts;  // the weight, then what belongs to it
};
std::variant<Bound, Finding> examine(TensorList tensors, const Config& config, const TensorName& want);

// Every tensor that stands under a name of this weight, whether they fit together or not.
std::vector<const checkpoint::TensorView*> parts_of(TensorList tensors, const TensorName& weight);

// tensor_names(config) in the spelling of the checkpoint, with the fused tensor in the place of wk and
// weights_proj in each layer that has it. What stands in both forms is a finding. Tensors of MTP stages that
// config.json does not announce are known and left out.
struct Names {
  std::vector<TensorName> names;
  std::vector<Finding> findings;
};
Names names_in(TensorList tensors, const Config& config);

// The configuration with the form of its experts as the tensors have it, where no key tells.
Config with_stored_experts(Config config, TensorList tensors);

}  // namespace fulgurite::model
