#pragma once
// Is a plan right, and how far off? Its rows against the references on a text: each operation on the reference's
// inputs, within bounds derived from the arithmetic; and the whole, within a multiple of the distance between two
// legitimate orders of the same sums.

#include <string>

#include "fulgurite/audit/operation_audit.h"
#include "fulgurite/audit/side_by_side.h"

namespace fulgurite::audit {

struct AuditOptions {
  int64_t judged_tokens = 8;  // of each pass and operation, held against bounds
  // Run the plan with its sums in another order too: what the whole is held against. Off: nothing is said of the
  // whole but how far it is.
  bool noise = true;
};

// A number of the whole, and what it may be.
struct Gate {
  std::string name;
  double value = 0.0;
  double noise = 0.0;  // the same number between two orders of the same sums
  double limit = 0.0;
  bool within() const { return value <= limit; }  // NaN is not
};

struct AuditReport {
  int64_t positions = 0;
  int64_t chunk_tokens = 0;
  std::vector<plan::Row> rows;              // of the plan
  std::vector<OperationResult> operations;  // a row of the plan each
  Divergence whole;                         // of the plan from the references
  Divergence noise;                         // of the plan in another order from the plan
  std::vector<Gate> gates;                  // none where the other order changes nothing

  bool within() const;
};

// The whole may be so many times as far from the references as two orders of the same sums are from each other.
inline constexpr double kGateFactor = 4.0;

// The same numerics with attention's sums in another order: one softmax tile in the place of several, or tiles of
// 64 entries in the place of one.
Numerics other_order(const Numerics& numerics);

// What audits ask of a plan: logits of every token, traced, in passes of at most so many tokens.
inline constexpr int64_t kAuditChunk = 128;
plan::Options audit_options(plan::Options options, int64_t positions);

// `ids` are the text's tokens and the one that follows.
AuditReport run_audit(const model::Model& model, const Device& device, const plan::Options& options,
                      std::span<const int32_t> ids, const AuditOptions& what = {},
                      const Progress& progress = {});

}  // namespace fulgurite::audit
