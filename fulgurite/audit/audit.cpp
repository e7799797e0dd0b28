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
  const auto add = [&](std::string name, double value, double reach) {
    gates.push_back({std::move(name), value, reach, kGateFactor * reach});
  };
  for (size_t i = 0; i < whole.layers.size(); ++i)
    add(fmt::format("layer {} hidden, relative L2", whole.layers[i].layer),
        whole.layers[i].hidden.relative_l2(), noise.layers[i].hidden.relative_l2());
  add("mean KL divergence", whole.likelihood.kl.mean(), noise.likelihood.kl.mean());
  return gates;
}

}  // namespace

bool AuditReport::within() const {
  return std::ranges::all_of(operations, [](const OperationResult& op) { return op.within(); }) &&
         std::ranges::all_of(gates, [](const Gate& gate) { return gate.within(); }) &&
         whole.likelihood.not_finite == 0;
}

Isa other_isa(Isa isa) { return isa > Isa::kAvx2 ? Isa::kAvx2 : Isa::kPortable; }

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
  theirs.candidates = plan::Candidates::kReferencesOnly;
  theirs.demands.clear();
  const plan::Plan planned = plan::make(model, device, ours), references = plan::make(model, device, theirs);

  AuditReport report{positions, ours.chunk_tokens, {}, {}, "", {}, {}};
  OperationAudit operations(planned, references, what.judged_tokens);
  report.whole = compare_plans(model, planned, references, ids, &operations, [&](double share) {
    if (progress) progress(share * (what.noise ? kReferenceShare : 1.0));
  });
  report.operations = operations.results();
  if (!what.noise || device.target.isa == Isa::kPortable) return report;

  Device other = device;
  other.target.isa = other_isa(device.target.isa);
  report.other_order = fmt::format("{} beside {}", name(other.target.isa), name(device.target.isa));
  report.noise =
      compare_plans(model, plan::make(model, other, ours), planned, ids, nullptr, [&](double share) {
        if (progress) progress(kReferenceShare + share * (1.0 - kReferenceShare));
      });
  report.gates = gates_of(report.whole, report.noise);
  return report;
}

}  // namespace fulgurite::audit
