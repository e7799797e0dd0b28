#include "fulgurite/audit/audit.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

namespace fulgurite::audit {
namespace {

// Share of the run that the references take.
constexpr double kReferenceShare = 0.95;

std::vector<Gate> gates_of(const Divergence& whole, const Divergence& noise) {
  std::vector<Gate> gates;
  if (noise.worst_hidden() == 0.0) return gates;
  const auto add = [&](std::string name, double value, double reach) {
    gates.push_back({std::move(name), value, reach, kGateFactor * reach});
  };
  add("last layer's hidden, relative L2", whole.layers.back().hidden.relative_l2(),
      noise.layers.back().hidden.relative_l2());
  add("mean KL divergence", whole.likelihood.kl.mean(), noise.likelihood.kl.mean());
  return gates;
}

}  // namespace

bool AuditReport::within() const {
  return std::ranges::all_of(operations, [](const OperationResult& op) { return op.within(); }) &&
         std::ranges::all_of(gates, [](const Gate& gate) { return gate.within(); }) &&
         whole.likelihood.not_finite == 0;
}

Numerics other_order(const Numerics& numerics) {
  Numerics other = numerics;
  other.softmax_tile = numerics.softmax_tile == SoftmaxTile::kNone ? SoftmaxTile::k64 : SoftmaxTile::kNone;
  return other;
}

plan::Options audit_options(plan::Options options, int64_t positions) {
  options.context = positions;
  options.chunk_tokens = std::min(positions, kAuditChunk);
  options.logits = plan::LogitRows::kAll;
  options.tracing = plan::Tracing::kOn;
  return options;
}

AuditReport run_audit(const model::Model& model, const Device& device, const plan::Options& options,
                      std::span<const int32_t> ids, const AuditOptions& what, const Progress& progress) {
  const auto positions = static_cast<int64_t>(ids.size()) - 1;
  const plan::Options ours = audit_options(options, positions);
  plan::Options theirs = ours;
  theirs.candidates = plan::Candidates::kReferencesOfRows;
  const plan::Plan planned = plan::make(model, device, ours), references = plan::make(model, device, theirs);

  AuditReport report{positions, ours.chunk_tokens, planned.rows, {}, {}, {}, {}};
  OperationAudit operations(planned, references, what.judged_tokens);
  report.whole = compare_plans(model, planned, references, ids, &operations, [&](double share) {
    if (progress) progress(share * (what.noise ? kReferenceShare : 1.0));
  });
  report.operations = operations.results();
  if (!what.noise) return report;

  plan::Options other = ours;
  other.numerics = other_order(ours.numerics);
  report.noise =
      compare_plans(model, plan::make(model, device, other), planned, ids, nullptr, [&](double share) {
        if (progress) progress(kReferenceShare + share * (1.0 - kReferenceShare));
      });
  report.gates = gates_of(report.whole, report.noise);
  return report;
}

}  // namespace fulgurite::audit
