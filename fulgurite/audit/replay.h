#pragma once
// One pass over a dump's prompt in which every stage reads the dump's own inputs, where it has them, and
// ours otherwise: so no difference of one stage reaches the next.

#include <map>
#include <optional>
#include <vector>

#include "fulgurite/audit/dump.h"
#include "fulgurite/execute/session.h"
#include "fulgurite/plan/conductor.h"

namespace fulgurite::audit {

// What a stage computed, of the rows that the dump has.
struct ComputedRows {
  std::vector<float> f32;  // one of these
  std::vector<int32_t> i32;
};
using Computed = std::map<StageKey, ComputedRows>;

// Residual sums as the next norm reads them, of the rows that the dump has of a layer's output: ours, moved
// the nearest that is stored as the dump's value. Storage in bf16 hides what the norm read.
using Sums = std::map<int64_t, std::vector<float>>;

struct ReplayOptions {
  // Another legitimate order of the same sums: the last so many tokens by references, which sum as contracts
  // define it also where a row states an order of its own (mma = hopper).
  int64_t last_by_reference = 0;
  // Every frequency and every fp32 input about a unit in the last place off.
  bool units_off = false;
  // Compute this stage alone, and what it needs; `sums` are those of a whole pass.
  std::optional<StageKey> until;
  const Sums* sums = nullptr;
  bool find_undecided = false;
  // Of what runs by reference and writes no cache, only these tokens.
  int64_t first_token = 0, last_token = INT64_MAX;
};

struct ReplayResult {
  Computed computed;
  Sums sums;
  // Of each layer with a router: tokens whose experts another rounding of what it reads may change.
  std::map<int64_t, std::vector<bool>> undecided;
};

// Plan options for it: a pass of all positions, traced.
plan::Options replay_options(plan::Options options, int64_t positions);

ReplayResult replay(const model::Model& model, const plan::Plan& plan, const Dump& dump,
                    const ReplayOptions& options = {});

// The min(count, scores) candidates of the largest scores, ascending, as the contract of index_select chooses.
std::vector<int32_t> chosen_by(std::span<const float> scores, int64_t count, Ties ties);

}  // namespace fulgurite::audit
