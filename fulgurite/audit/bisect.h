#pragma once
// Which stage of another engine's dump went wrong first, and which single choice of numerics explains it?
//
// Every stage reads the dump's own inputs (replay.h) and is judged alone. Its gate is kGateFactor times the
// noise, the farthest that two legitimate orders of the same sums are apart at this kind of stage, and never
// less than the storage's own rounding. Every value of every knob is tried on the first stage beyond its gate,
// alone, and those that explain it on all stages from there on.

#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "fulgurite/audit/audit.h"
#include "fulgurite/audit/stage.h"

namespace fulgurite::audit {

struct StageResult {
  StageKey key;
  std::string name;       // "layer2.index_scores"
  int64_t first_row = 0;  // position of the tensor's first row; of entries, its number
  bool entries = false;
  StageDistance distance;
  StageGate gate;
  bool within() const { return distance.within(gate); }
};

// A choice that puts the first bad stage within its gate.
struct Explanation {
  std::string knobs;   // "gate=bf16"
  std::string source;  // public report, or nothing
  StageDistance distance;
  StageGate gate;
  std::string next_bad;  // with it, the first stage from there on that is beyond its gate; empty: none
  bool explains_all() const { return next_bad.empty(); }
};

struct BisectReport {
  std::vector<StageResult> stages;         // in the order of the computation
  const StageResult* first_bad = nullptr;  // of stages
  // The dump has no tensor of these, which the first bad one is made of.
  std::vector<std::string> not_in_dump;
  int64_t tried = 0;
  std::vector<std::string> refused;       // "knobs: reason"
  std::vector<Explanation> explanations;  // the best first; empty: no single choice explains it
  std::string nearest;                    // where none does: the choice that comes nearest
  double nearest_share = 1.0;             // its distance by that of the base

  bool within() const { return first_bad == nullptr; }
  // The one choice that explains it, clearly better than every other; nullptr: none, or several.
  const Explanation* single() const;
};

struct BisectOptions {
  bool search = true;  // for the choice that explains the first bad stage
};
// `options.numerics` are what the engine claims. Throws Error{kPlan} for numerics that cannot be planned.
BisectReport bisect(const model::Model& model, const Device& device, const plan::Options& options,
                    const Dump& dump, const BisectOptions& what = {}, const Progress& progress = {});

// Every single value of every knob that is not the base's, and the choices that reports name; each as
// "KNOB=VALUE[,...]".
std::vector<std::string> single_choices(const Numerics& base, const model::Config& config);

}  // namespace fulgurite::audit
