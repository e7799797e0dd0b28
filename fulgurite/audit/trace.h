#pragma once
// Named tensors out of a forward pass, and into it. The names and shapes are those of docs/formats/trace.md;
// rows are the last positions of one sequence.

#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "fulgurite/checkpoint/safetensors.h"
#include "fulgurite/execute/tap.h"
#include "fulgurite/model/config.h"
#include "fulgurite/plan/counts.h"

namespace fulgurite::audit {

// Tensors that replace what a pass computes: layerL.topk, layerL.attn_out and layerL.hidden; their rows are
// the last positions of the sequence.
class Injection {
 public:
  Injection() = default;
  // Takes every tensor of `file` whose name is `prefix` and one of those above; `only` (empty: all) names the
  // kinds to take ("hidden"). Throws Error{kRequest} for a shape, type or position that the model cannot
  // have, a name that trace_name() would write in another way, or if there is none.
  Injection(const checkpoint::SafetensorsFile& file, const std::string& prefix,
            const std::vector<std::string>& only, const model::Config& config, int64_t positions);

  const std::vector<std::string>& names() const { return names_; }

  // Layers whose output is replaced from a token within a pass of `tokens` that begins at position `begin`.
  std::vector<plan::Pass::Split> splits(int64_t begin, int64_t tokens) const;

 private:
  friend class Trace;
  struct Rows {
    int64_t first_position = 0;
    int64_t width = 0;
    std::vector<float> f32;
    std::vector<int32_t> i32;
  };
  void take(const std::string& name, const checkpoint::TensorView& tensor, const model::Config& config,
            int64_t positions);

  std::map<std::pair<execute::TapPoint, int64_t>, Rows> rows_;
  std::vector<std::string> names_;
};

class Trace : public execute::Tap {
 public:
  // Of `sequence`, which will hold `positions` positions in the end, the last `last`.
  Trace(int32_t sequence, int64_t positions, int64_t last, Injection injection = {});

  void begin(std::span<const TokenPlace> places) override;
  void at(execute::TapPoint point, int64_t layer, const execute::TapTensor& tensor) override;
  Replacement replaced_hidden(int64_t layer) override;

  // Writes what was seen. Throws Error{kFile}.
  void write(const std::filesystem::path& path) const;

 private:
  struct Kept {
    DType dtype = DType::kF32;
    std::vector<int64_t> shape;  // of a row
    std::vector<std::byte> bytes;
  };
  void inject(execute::TapPoint point, int64_t layer, const execute::TapTensor& tensor) const;
  void keep(execute::TapPoint point, int64_t layer, const execute::TapTensor& tensor);

  int32_t sequence_;
  int64_t positions_;
  int64_t first_;  // position
  Injection injection_;
  std::span<const TokenPlace> places_;
  std::map<std::string, Kept> kept_;
};

// "layer3.attn_out"; "logits" has no layer.
std::string trace_name(execute::TapPoint point, int64_t layer);

// The point and layer of such a name; nothing for other text, or what trace_name() writes otherwise.
std::optional<std::pair<execute::TapPoint, int64_t>> parse_trace_name(std::string_view name);

// Sorts names of a trace by the order of the computation: input_ids, layer by layer, logits; unknown names
// last.
bool computed_before(const std::string& a, const std::string& b);

}  // namespace fulgurite::audit
