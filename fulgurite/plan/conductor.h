#pragma once
// Stands between the steps of a pass and their implementations: sees every call with all its inputs, and has to
// carry it out. An audit runs other implementations on the same inputs before it does.

#include <variant>

#include "fulgurite/plan/catalog.h"
#include "fulgurite/plan/step.h"

namespace fulgurite::plan {

// A call of any operation of the catalog.
using AnyCall = std::variant<
    const StepCall<embedding::Problem, embedding::Args>*, const StepCall<norm::Problem, norm::Args>*,
    const StepCall<linear::Problem, linear::Args>*, const StepCall<rotary::Problem, rotary::Args>*,
    const StepCall<latent_prepare::Problem, latent_prepare::Args>*,
    const StepCall<indexer_projection::Problem, indexer_projection::Args>*,
    const StepCall<indexer_prepare::Problem, indexer_prepare::Args>*,
    const StepCall<index_select::Problem, index_select::Args>*,
    const StepCall<head_projection::Problem, head_projection::Args>*,
    const StepCall<sparse_attention::Problem, sparse_attention::Args>*,
    const StepCall<expanded_attention::Problem, expanded_attention::Args>*,
    const StepCall<router::Problem, router::Args>*, const StepCall<experts::Problem, experts::Args>*,
    const StepCall<hyper_connection::Problem, hyper_connection::Args>*,
    const StepCall<query_prepare::Problem, query_prepare::Args>*,
    const StepCall<kv_prepare::Problem, kv_prepare::Args>*,
    const StepCall<compressor::Problem, compressor::Args>*,
    const StepCall<compressed_attention::Problem, compressed_attention::Args>*,
    const StepCall<largest_logits::Problem, largest_logits::Args>*>;

class Conductor {
 public:
  virtual ~Conductor() = default;

  // Has to leave what call.run() leaves.
  virtual void run(const AnyCall& call) = 0;
};

}  // namespace fulgurite::plan
