#pragma once
// Two plans of one model run the same text, pass by pass, and what they compute is compared as it arises: of
// neither more is kept than a pass, so memory grows with the context and not with its square.

#include <functional>
#include <span>
#include <vector>

#include "fulgurite/audit/likelihood.h"
#include "fulgurite/audit/selection.h"
#include "fulgurite/execute/session.h"
#include "fulgurite/plan/conductor.h"

namespace fulgurite::audit {

struct LayerDivergence {
  int64_t layer = 0;
  bool selects = false;  // has an indexer: selection says something
  SelectionStatistics selection;
  TensorStatistics attention;  // attn_out
  TensorStatistics hidden;
};

// Of the other plan from the base.
struct Divergence {
  std::vector<LayerDivergence> layers;
  LikelihoodStatistics likelihood;

  // Over all layers; empty of those without a choice.
  Mean changed_sets() const;
  Mean recall() const;
  double attention() const;     // relative L2, the mean of the layers
  double worst_hidden() const;  // relative L2 of the worst layer
};

// From 0 to 1; called after every pass.
using Progress = std::function<void(double)>;

// `ids` are the text's tokens and the one that follows, so as many positions as ids less one; both plans have a
// context of at least that, one sequence, the same chunk_tokens, LogitRows::kAll, and the base traces. The
// conductor, if any, carries out the base's passes.
Divergence compare_plans(const model::Model& model, const plan::Plan& other, const plan::Plan& base,
                         std::span<const int32_t> ids, plan::Conductor* conductor = nullptr,
                         const Progress& progress = {});

}  // namespace fulgurite::audit
