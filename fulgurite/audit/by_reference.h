#pragma once
// Calls carried out by implementations of the catalog that the plan did not choose, and by parts of their
// tokens.

#include <algorithm>
#include <string_view>
#include <tuple>

#include "fulgurite/audit/token_tensors.h"
#include "fulgurite/core/error.h"
#include "fulgurite/plan/conductor.h"

namespace fulgurite::audit {

template <class Row>
plan::Rows<Row> rows_of() {
  const plan::Catalog& c = plan::catalog();
  return std::get<const plan::Rows<Row>&>(
      std::tie(c.embedding, c.norm, c.linear, c.rotary, c.latent_prepare, c.indexer_projection,
               c.indexer_prepare, c.index_select, c.head_projection, c.sparse_attention, c.expanded_attention,
               c.router, c.experts, c.hyper_connection, c.query_prepare, c.kv_prepare, c.compressor,
               c.compressed_attention, c.largest_logits));
}

template <class Row>
const Row& row_named(std::string_view name) {
  for (const Row* const row : rows_of<Row>())
    if (row->name == name && row->run != nullptr) return *row;
  fail(ErrorKind::kPlan, "audit: this build has no kernel {}", name);
}

// Do its tokens stand alone? The compressor's read what those before them left.
template <class Args>
constexpr bool kTokensStandAlone = !std::is_same_v<Args, compressor::Args>;

// The call, each thread a part of the tokens: a reference computes each from its inputs alone.
template <class Problem, class Args>
void run_in_parts(const Implementation<Problem, Args>& implementation, const Problem& problem,
                  const Args& args, int64_t tokens, const Lane& lane) {
  const int64_t parts = std::min<int64_t>(lane.threads, tokens);
  if (!kTokensStandAlone<Args> || parts < 2 || lane.workers == nullptr)
    return implementation.run(problem, args, lane);
  struct Job {
    const Implementation<Problem, Args>& implementation;
    const Problem& problem;
    const Args& args;
    int64_t tokens, parts;
  } job{implementation, problem, args, tokens, parts};
  lane.workers->run(
      [](void* context, int thread) {
        const Job& j = *static_cast<const Job*>(context);
        const int64_t first = j.tokens * thread / j.parts, last = j.tokens * (thread + 1) / j.parts;
        if (thread >= j.parts || first == last) return;
        j.implementation.run(j.problem, tokens_of(j.args, first, last - first), {});
      },
      &job);
}

}  // namespace fulgurite::audit
