#include "fulgurite/audit/bisect.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "fulgurite/audit/knob_search.h"
#include "fulgurite/audit/stage_judge.h"
#include "fulgurite/audit/trace.h"

namespace fulgurite::audit {
namespace {

using execute::TapPoint;

// A choice is clearly better than another that explains a stage too, if it leaves so many times less.
constexpr double kClearly = 4.0;

bool clearly_better(const Explanation& a, const Explanation& b) {
  if (a.explains_all() != b.explains_all()) return a.explains_all();
  return kClearly * a.distance.relative_l2 < b.distance.relative_l2;
}

// Kinds of tensors that a layer of this model has and that a dump may lack, before `until`.
std::vector<std::string> missing_before(const Dump& dump, const model::Config& config,
                                        const StageKey& until) {
  static constexpr TapPoint kOfV32[] = {TapPoint::kQLatent,      TapPoint::kQ,      TapPoint::kKvLatent,
                                        TapPoint::kKRope,        TapPoint::kIndexQ, TapPoint::kIndexK,
                                        TapPoint::kIndexWeights, TapPoint::kTopk,   TapPoint::kAttnHeads,
                                        TapPoint::kAttnOut};
  static constexpr TapPoint kOfV4[] = {TapPoint::kAttnIn,    TapPoint::kQLatent,      TapPoint::kQ,
                                       TapPoint::kKv,        TapPoint::kEntries,      TapPoint::kIndexQ,
                                       TapPoint::kIndexK,    TapPoint::kIndexWeights, TapPoint::kTopk,
                                       TapPoint::kAttnHeads, TapPoint::kAttnOut};
  std::vector<std::string> missing;
  if (until.first >= config.layers) return missing;
  const auto points = config.window ? std::span<const TapPoint>(kOfV4) : std::span<const TapPoint>(kOfV32);
  for (const TapPoint point : points) {
    if (point >= until.second) break;
    const bool of_indexer = point == TapPoint::kIndexQ || point == TapPoint::kIndexK ||
                            point == TapPoint::kIndexWeights || point == TapPoint::kTopk;
    if (of_indexer && !config.has_indexer(until.first)) continue;
    const int64_t ratio = config.ratio(until.first);
    if (point == TapPoint::kEntries && (ratio == 0 || dump.positions() < ratio)) continue;
    if (dump.find(point, until.first) != nullptr)
      missing.clear();
    else
      missing.push_back(trace_name(point, until.first));
  }
  return missing;
}

}  // namespace

const Explanation* BisectReport::single() const {
  if (explanations.empty()) return nullptr;
  for (size_t i = 1; i < explanations.size(); ++i)
    if (!clearly_better(explanations[0], explanations[i])) return nullptr;
  return &explanations[0];
}

BisectReport bisect(const model::Model& model, const Device& device, const plan::Options& options,
                    const Dump& dump, const BisectOptions& what, const Progress& progress) {
  const auto report_progress = [&](double share) {
    if (progress) progress(share);
  };
  report_progress(0.0);
  const StageJudge judge(model, device, options, dump);
  BisectReport report;
  report.stages = judge.judge();
  const auto bad = std::ranges::find_if(report.stages, [](const StageResult& s) { return !s.within(); });
  if (bad == report.stages.end()) return report;
  report.first_bad = &*bad;
  report.not_in_dump = missing_before(dump, model.config, bad->key);
  report_progress(0.3);
  if (what.search)
    search_choices(judge, model, device, options, dump, *bad, report,
                   [&](double share) { report_progress(0.3 + 0.7 * share); });
  return report;
}

}  // namespace fulgurite::audit
