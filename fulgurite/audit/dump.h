#pragma once
// What another engine dumped of one pass over a prompt, under the names and in the layouts of
// docs/formats/trace.md: every tensor checked against the model before anything runs.

#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "fulgurite/audit/dump_map.h"
#include "fulgurite/checkpoint/tensor_files.h"
#include "fulgurite/execute/tap.h"
#include "fulgurite/model/config.h"
#include "fulgurite/model/weight_names.h"

namespace fulgurite::audit {

// In the order of the computation: a layer, then a point; the logits have the layer after the last one.
using StageKey = std::pair<int64_t, execute::TapPoint>;

struct DumpTensor {
  std::string name;                // ours: "layer3.q"
  DType stored = DType::kF32;      // by the other engine
  std::vector<int64_t> row_shape;  // of a row, as the model has it; of a selection as wide as it is
  int64_t rows = 0;
  int64_t first_row = 0;   // position of the first one; of entries, its number: 0
  int64_t every = 1;       // positions that a row stands for
  std::vector<float> f32;  // one of these
  std::vector<int32_t> i32;

  bool indices() const { return !i32.empty(); }
  int64_t width() const;
  const float* row(int64_t r) const { return f32.data() + r * width(); }
  const int32_t* index_row(int64_t r) const { return i32.data() + r * width(); }
};

class Dump {
 public:
  // `prefix` stands before every name of the files. `ids` are the prompt; empty: the dump has input_ids.
  // Throws Error{kRequest} that names the first tensor that is wrong, missing, twice there or not finite, or
  // if there is nothing to compare.
  Dump(const checkpoint::TensorFiles& files, const std::string& prefix, const DumpMap& map,
       const model::Config& config, std::vector<int32_t> ids = {});

  int64_t positions() const { return static_cast<int64_t>(ids_.size()); }
  const std::vector<int32_t>& ids() const { return ids_; }
  const std::map<StageKey, DumpTensor>& tensors() const { return tensors_; }
  const DumpTensor* find(execute::TapPoint point, int64_t layer) const;
  // Does it hold a row for every position?
  bool whole(execute::TapPoint point, int64_t layer) const;
  const std::vector<std::string>& unread() const { return unread_; }  // names that say nothing here

  StageKey key(execute::TapPoint point, int64_t layer) const {
    return {layer == model::kNoLayer ? layers_ : layer, point};
  }

 private:
  int64_t layers_ = 0;
  std::vector<int32_t> ids_;
  std::map<StageKey, DumpTensor> tensors_;
  std::vector<std::string> unread_;
};

}  // namespace fulgurite::audit
