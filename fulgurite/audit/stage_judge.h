#pragma once
// All stages of a dump under one value of numerics: the replay, the noise of each kind, and verdicts.

#include <map>

#include "fulgurite/audit/bisect.h"

namespace fulgurite::audit {

class StageJudge {
 public:
  StageJudge(const model::Model& model, const Device& device, const plan::Options& options, const Dump& dump);

  const Numerics& numerics() const { return options_.numerics; }
  const ReplayResult& base() const { return base_; }
  std::vector<StageResult> judge() const;
  StageResult judge(const StageKey& key) const;

  // The same stage under other numerics: what they compute of it, and how far that is from the dump.
  struct Trial {
    Computed computed;
    StageDistance distance;
  };
  Trial try_numerics(const Numerics& numerics, const StageKey& key, RowRange rows) const;
  StageDistance distance_under(const StageKey& key, const Computed& computed, const StageGate& gate,
                               const Numerics& numerics, RowRange rows) const {
    return distance(key, computed, gate, numerics, rows);
  }
  const DumpTensor& tensor(const StageKey& key) const { return dump_.tensors().at(key); }
  // The gate of a trial: as that of the base, with its own noise and storage.
  StageGate trial_gate(const Numerics& numerics, const StageKey& key, const Trial& trial,
                       RowRange rows) const;

 private:
  plan::Plan plan_for(const Numerics& numerics) const;
  ReplayOptions part(const StageKey& key, RowRange rows) const;
  StageDistance distance(const StageKey& key, const Computed& computed, const StageGate& gate,
                         const Numerics& numerics, RowRange rows) const;
  StageGate gate_of(const StageKey& key) const;
  // What differs from the base, of this token and later ones.
  void add_noise(const Computed& other, int64_t first_token);
  int64_t tokens_a_column(const StageKey& key) const;
  std::vector<bool> excused(const StageKey& key) const;

  const model::Model& model_;
  const Device& device_;
  plan::Options options_;
  const Dump& dump_;
  ReplayResult base_;
  std::map<execute::TapPoint, StageGate> noise_;
};

}  // namespace fulgurite::audit
