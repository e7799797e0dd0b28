#pragma once
// Planned implementations against the references, operation by operation: it conducts a pass of a plan of
// references, and before each call gives its inputs to the planned row. So no error of one operation reaches
// the next.
//
// Of every token, statistics of what the row leaves against what the reference leaves; of some tokens of each
// pass, the operation's own audit (X_audit.h) with its bounds derived from the arithmetic.

#include <any>
#include <map>
#include <string>
#include <vector>

#include "fulgurite/audit/compare.h"
#include "fulgurite/audit/report.h"
#include "fulgurite/audit/statistics.h"
#include "fulgurite/core/host_buffer.h"
#include "fulgurite/plan/conductor.h"
#include "fulgurite/plan/plan.h"

namespace fulgurite::audit {

// An output held against its bounds, all passes together.
struct Judged {
  std::string name;
  int64_t elements = 0, beyond = 0, mask_mismatches = 0;
  double worst_share = 0.0;  // of its bound
  double relative_l2 = 0.0;  // of the worst pass
};

struct OutputStatistics {
  std::string name;
  TensorStatistics statistics;
};

// A row of the plan.
struct OperationResult {
  int64_t layer = 0;
  std::string operation, implementation;
  int64_t judged_tokens = 0;
  std::vector<Judged> judged;
  std::vector<OutputStatistics> outputs;

  bool within() const;
  double worst_share() const;
};

class OperationAudit : public plan::Conductor {
 public:
  // Both of the same model and options but for the candidates. Of each pass at most `tokens` are judged.
  OperationAudit(const plan::Plan& planned, const plan::Plan& references, int64_t tokens);

  // Audits this implementation in the place of the one that the plan's row names: one that no catalog lists.
  template <class Problem, class Args>
  void stand_in(int64_t row, const Implementation<Problem, Args>& implementation) {
    stand_ins_[row] = &implementation;
  }

  void run(const plan::AnyCall& call) override;

  const std::vector<OperationResult>& results() const { return results_; }  // a row of the plan each

 private:
  template <class Problem, class Args>
  void take(const plan::StepCall<Problem, Args>& call);
  template <class Problem, class Args>
  void judge_some(const plan::StepCall<Problem, Args>& call, const Implementation<Problem, Args>& row,
                  OperationResult& result);

  Lane lane_of(Lane lane) const;
  template <class Row>
  const Row& audited(int64_t row) const;

  std::map<int64_t, std::any> stand_ins_;  // const Implementation<., .>*
  const Memory& memory_;                   // that the audited rows read, and the host
  Buffer workspace_;
  int64_t tokens_;
  std::vector<OperationResult> results_;
};

}  // namespace fulgurite::audit
