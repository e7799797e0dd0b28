#pragma once
// What a numeric choice costs: a text run with it and without it, side by side.

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "fulgurite/audit/side_by_side.h"

namespace fulgurite::audit {

// A choice that an engine was reported to make.
struct KnownChoice {
  std::string_view what;    // "the head gate rounded to bf16"
  std::string_view knobs;   // "gate=bf16"; empty: no knob says it
  std::string_view source;  // the public report
  enum class Families { kAll, kV32, kV4 } families = Families::kAll;
};
std::span<const KnownChoice> known_choices();
// Those that speak of the model.
std::vector<KnownChoice> choices_for(const model::Config& config);
// The report behind knobs that are asked for; empty: none is known here.
std::string_view source_of(std::string_view knobs);

// `base` with "KNOB=VALUE[,...]" in the place of its own. Throws Error{kRequest} as parse_numerics does.
Numerics changed(const Numerics& base, std::string_view knobs);

// What is compared, of two runs.
struct Effect {
  Mean changed_sets;       // of queries with a choice: 1 where the set of rows differs
  Mean recall;             // of the same: share of the attention that lies on rows of both sets
  double attention = 0.0;  // relative L2 of attention's output, the mean of the layers
  Mean kl;
  Mean nll_difference;
  double top_agreement = 1.0;
};
Effect effect_of(const Divergence& divergence);

// Is it more than another order of the same sums does: do the intervals of the changed sets, or of the KL
// divergence, lie above those of the noise?
bool measurable(const Effect& effect, const Effect& noise);

struct WhatIf {
  KnownChoice choice;
  std::string refusal;  // why it could not be run; empty: it was
  Effect effect;
  bool measurable = false;
};

class WhatIfAudit {
 public:
  // `ids` are the text's tokens and the one that follows. The noise is the distance between two orders of the
  // same sums (audit.h's other_order).
  WhatIfAudit(const model::Model& model, const Device& device, const plan::Options& options,
              std::vector<int32_t> ids);

  const Effect& noise() const { return noise_; }
  WhatIf run(const KnownChoice& choice) const;

 private:
  plan::Plan plan_for(const Numerics& numerics) const;

  const model::Model& model_;
  Device device_;
  plan::Options options_;
  std::vector<int32_t> ids_;
  Effect noise_;
};

}  // namespace fulgurite::audit
