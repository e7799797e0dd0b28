#include "fulgurite/plan/conductor.h"

namespace fulgurite::plan {

template <class Problem, class Args>
void conduct(Conductor& conductor, const StepCall<Problem, Args>& call) {
  conductor.run(&call);
}

template void conduct(Conductor&, const StepCall<embedding::Problem, embedding::Args>&);
template void conduct(Conductor&, const StepCall<norm::Problem, norm::Args>&);
template void conduct(Conductor&, const StepCall<linear::Problem, linear::Args>&);
template void conduct(Conductor&, const StepCall<rotary::Problem, rotary::Args>&);
template void conduct(Conductor&, const StepCall<latent_prepare::Problem, latent_prepare::Args>&);
template void conduct(Conductor&, const StepCall<indexer_projection::Problem, indexer_projection::Args>&);
template void conduct(Conductor&, const StepCall<indexer_prepare::Problem, indexer_prepare::Args>&);
template void conduct(Conductor&, const StepCall<index_select::Problem, index_select::Args>&);
template void conduct(Conductor&, const StepCall<head_projection::Problem, head_projection::Args>&);
template void conduct(Conductor&, const StepCall<sparse_attention::Problem, sparse_attention::Args>&);
template void conduct(Conductor&, const StepCall<expanded_attention::Problem, expanded_attention::Args>&);
template void conduct(Conductor&, const StepCall<router::Problem, router::Args>&);
template void conduct(Conductor&, const StepCall<experts::Problem, experts::Args>&);
template void conduct(Conductor&, const StepCall<hyper_connection::Problem, hyper_connection::Args>&);
template void conduct(Conductor&, const StepCall<query_prepare::Problem, query_prepare::Args>&);
template void conduct(Conductor&, const StepCall<kv_prepare::Problem, kv_prepare::Args>&);
template void conduct(Conductor&, const StepCall<compressor::Problem, compressor::Args>&);
template void conduct(Conductor&, const StepCall<compressed_attention::Problem, compressed_attention::Args>&);
template void conduct(Conductor&, const StepCall<largest_logits::Problem, largest_logits::Args>&);

}  // namespace fulgurite::plan
